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
# Becomes train.py as `python train.py` does, says so, and gets a signal while it restarts.
PROGRAM = """
import os, sys
print("begun", flush=True)
restart = os.execve
def execve(*words):
    if {number}:
        os.kill(os.getpid(), {number})
    restart(*words)
os.execve = execve
exec(compile(open(sys.argv[1]).read(), sys.argv.pop(1), "exec"))
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


def started(number=0, **environment):
    clean = {name: value for name, value in os.environ.items() if name != NAME}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(number=int(number)), "train.py", "--help"],
        cwd=ROOT, capture_output=True, text=True, env=clean | environment, timeout=120, check=False,
    )  # fmt: skip


def restarts():
    return memory.with_huge_pages({}) != {}


def test_the_program_restarts_once():
    found = started()
    assert found.returncode == 0
    assert found.stdout.count("begun") == 1 + restarts()
    assert "--learning-rate" in found.stdout
    assert started(**{NAME: "glibc.malloc.hugetlb=0"}).stdout.count("begun") == 1


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)]
)
def test_a_signal_in_between_waits_for_the_new_process(number, code):
    if not restarts():
        pytest.skip("this system gives huge pages to everybody or to nobody: nothing restarts")
    found = started(number)
    assert (found.returncode, found.stderr) == (code, "")
    assert found.stdout == "begun\nbegun\n"


def test_nobody_elses_program_is_restarted(monkeypatch):
    calls = []

    def refuse(*words):
        calls.append(words)
        raise OSError

    monkeypatch.setattr(os, "execve", refuse)
    monkeypatch.setattr(memory, "with_huge_pages", lambda _: {NAME: WISH})
    memory.restart_with_huge_pages()  # by pytest
    assert not calls
    monkeypatch.setattr(sys, "orig_argv", ["python", "-u", "train.py", "--steps", "3"])
    memory.restart_with_huge_pages()
    assert calls == [
        (sys.executable, [sys.executable, "-u", "train.py", "--steps", "3"], {NAME: WISH})
    ]
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, [])  # it goes on, with signals
