"""Huge pages: who gets them, and a restart for them that loses no signal."""

import os
import signal
import subprocess
import sys

import pytest

from alexnet import memory
from tests.conftest import ROOT

NAME = "GLIBC_TUNABLES"
WISH = "glibc.malloc.hugetlb=1"
# Read by every Python that starts: says so, and sends a signal to one that restarts.
STARTING = """
import os
os.write(1, b"begun\\n")
restart = os.execve
def execve(*words):
    if {number}:
        os.kill(os.getpid(), {number})
    restart(*words)
os.execve = execve
"""


@pytest.fixture
def system(tmp_path, monkeypatch):
    """Pretends that the C library and the kernel are so."""

    def pretend(library="glibc 2.36", choice="always [madvise] never"):
        (tmp_path / "enabled").write_text(choice)
        monkeypatch.setattr(memory, "_CHOICE", tmp_path / "enabled")
        monkeypatch.setattr(os, "confstr", lambda _: library)

    return pretend


def test_an_environment_gets_the_wish_beside_others(system):
    system()
    assert memory.with_huge_pages({"A": "1"}) == {"A": "1", NAME: WISH}
    other = {NAME: "glibc.malloc.arena_max=2"}
    assert memory.with_huge_pages(other) == {NAME: f"glibc.malloc.arena_max=2:{WISH}"}


@pytest.mark.parametrize(
    ("library", "choice", "given"),
    [
        ("glibc 2.36", "always [madvise] never", {NAME: "glibc.malloc.hugetlb=0"}),
        ("glibc 2.36", "[always] madvise never", {}),
        ("glibc 2.36", "always madvise [never]", {}),
        ("glibc 2.34", "always [madvise] never", {}),
        ("musl", "always [madvise] never", {}),
        (None, "always [madvise] never", {}),
    ],
)
def test_or_stays_as_it_is(system, library, choice, given):
    system(library, choice)
    assert memory.with_huge_pages(given) == given


def test_or_stays_where_the_kernel_says_nothing(system, tmp_path):
    system()
    (tmp_path / "enabled").unlink()
    assert memory.with_huge_pages({}) == {}


def started(tmp_path, *program, number=0, **environment):
    (tmp_path / "sitecustomize.py").write_text(STARTING.format(number=int(number)))
    clean = {name: value for name, value in os.environ.items() if name != NAME}
    return subprocess.run(
        [sys.executable, *program], cwd=ROOT, capture_output=True, text=True,
        env=clean | {"PYTHONPATH": f"{tmp_path}:{ROOT}"} | environment, timeout=120, check=False,
    )  # fmt: skip


def restarts():
    return memory.with_huge_pages({}) != {}


@pytest.mark.parametrize(
    "program", [("train.py",), ("-u", str(ROOT / "train.py")), ("-m", "alexnet", "train")]
)
def test_a_program_restarts_once(program, tmp_path):
    found = started(tmp_path, *program, "--help")
    assert found.returncode == 0
    assert found.stdout.count("begun") == 1 + restarts()
    assert "--learning-rate" in found.stdout
    again = started(tmp_path, *program, "--help", **{NAME: "glibc.malloc.hugetlb=0"})
    assert again.stdout.count("begun") == 1


def test_not_twice_where_the_environment_is_changed(tmp_path, monkeypatch):
    """As glibc does for a Python with capabilities."""
    monkeypatch.setattr(sys.modules[__name__], "STARTING", f"{STARTING}os.environ.pop('{NAME}', 0)")
    found = started(tmp_path, "train.py", "--help")
    assert found.stdout.count("begun") == 1 + restarts()
    assert found.returncode == 0


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)]
)
def test_a_signal_in_between_waits_for_the_new_process(number, code, tmp_path):
    if not restarts():
        pytest.skip("this system gives huge pages to everybody or to nobody: nothing restarts")
    found = started(tmp_path, "train.py", "--help", number=number)
    assert (found.returncode, found.stderr) == (code, "")
    assert found.stdout == "begun\nbegun\n"


@pytest.mark.parametrize(
    ("words", "place", "restarted"),
    [
        (["python", "-u", "train.py", "--steps", "3"], 2, True),
        (["python", "/bin/alexnet", "train"], 1, True),
        (["python", "-m", "alexnet", "train"], 2, True),
        (["python", "-m", "debugpy", "train.py"], 3, False),
        (["python", "/bin/memray", "run", "train.py"], 3, False),
        (["python", "sweep.py", "--workdir", "runs/alexnet"], 1, False),
        (["python", "-", "--workdir", "runs/alexnet"], 1, False),
        (["python", "-c", "import runpy", "train.py"], 2, False),
    ],
)
def test_nobody_elses_program_is_restarted(words, place, restarted, monkeypatch):
    calls = []

    def refuse(*words):
        calls.append(words)
        raise OSError

    monkeypatch.setattr(os, "execve", refuse)
    monkeypatch.setattr(memory, "with_huge_pages", lambda _: {NAME: WISH})
    monkeypatch.setattr(sys, "orig_argv", words)
    monkeypatch.setattr(sys, "argv", words[place:])  # as Python and the debuggers set it
    memory.restart_with_huge_pages()
    here = {NAME: WISH, "ALEXNET_RESTARTED": str(os.getpid())}
    assert calls == [(sys.executable, [sys.executable, *words[1:]], here)] * restarted
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, [])  # it goes on, with signals
