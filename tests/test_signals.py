"""Signals at any moment: what a process does, seen from outside."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 143}
# A command that imports nothing heavy, and does what the test says in the place of a framework.
PROGRAM = """
import os, signal, sys, threading, time
from pathlib import Path
from alexnet.signals import graceful, watch
watch()
"""
IN_C = "import hashlib; hashlib.pbkdf2_hmac('sha256', b'x', b'y', 50_000_000)"  # for half a minute


def _heed_sighup() -> None:
    """What `nohup` makes processes ignore is theirs again, though the tests run below it."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def begun(body: str) -> subprocess.Popen:
    """A process that runs the program, once it has printed its first line."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM + "print('begun', flush=True)\n" + body],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": ""}, preexec_fn=_heed_sighup,
    )  # fmt: skip
    assert process.stdout.readline() == "begun\n"
    time.sleep(0.3)
    return process


def ended(process: subprocess.Popen) -> tuple[int, str, str]:
    code = process.wait(timeout=60)  # what it prints is little, and partly read ahead by now
    with process:
        return code, process.stdout.read(), process.stderr.read()


@pytest.mark.parametrize("number", CODES)
@pytest.mark.parametrize("body", ["time.sleep(60)", IN_C], ids=["python", "in C"])
def test_a_command_ends_at_once(number, body):
    process = begun(f"print('kept')\n{body}")
    process.send_signal(number)
    code, output, errors = ended(process)
    assert (code, output) == (CODES[number], "kept\n")
    assert errors in ("interrupted\n", "terminated\n")


def test_what_is_half_written_is_deleted(tmp_path):
    process = begun(
        f"""
from alexnet.files import atomic_write
from alexnet.staging import staging
with staging(Path({str(tmp_path / "folder")!r})) as folder:
    (folder / "x").touch()
    with atomic_write({str(tmp_path / "file")!r}) as file:
        file.write(b"x")
        print(len(os.listdir({str(tmp_path)!r})), flush=True)
        time.sleep(60)
"""
    )
    assert process.stdout.readline() == "2\n"
    process.send_signal(signal.SIGTERM)
    assert ended(process)[0] == 143
    assert os.listdir(tmp_path) == []


SAVING = """
def note(text): print(text, flush=True)
with graceful(note) as received:
    print('training', flush=True)
    while not received: time.sleep(0.01)
    {then}
    os._exit(received[0])
"""


@pytest.mark.parametrize("number", CODES)
def test_a_run_that_saves_is_let(number):
    process = begun(SAVING.format(then="note('saved')"))
    assert process.stdout.readline() == "training\n"
    process.send_signal(number)
    code, output, errors = ended(process)
    assert code == CODES[number]
    assert output == f"{signal.Signals(number).name}: saving, then stopping\nsaved\n"
    assert errors == ""


def test_a_second_signal_ends_it_even_inside_a_library():
    process = begun(SAVING.format(then=IN_C))
    assert process.stdout.readline() == "training\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "SIGINT: saving, then stopping\n"
    process.send_signal(signal.SIGTERM)
    assert ended(process)[0] == 143


SLOW_IMPORT = """
import sys, time
class Finder:
    def find_spec(self, name, *_):
        if name == "{name}":
            print("begun", flush=True)
            time.sleep(60)
sys.meta_path.insert(0, Finder())
"""
PROGRAMS = {
    "train.py": (ROOT / "train.py").read_text(),
    "alexnet": "import runpy; runpy.run_module('alexnet', run_name='__main__')",
}


@pytest.mark.parametrize("number", CODES)
@pytest.mark.parametrize(
    ("program", "name"),
    [("train.py", "alexnet"), ("train.py", "signal"), ("alexnet", "alexnet.signals")],
)
def test_while_a_program_imports(program, name, number):
    """In the middle of the first imports, one of which waits."""
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_IMPORT.format(name=name) + PROGRAMS[program]],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        preexec_fn=_heed_sighup,
    )  # fmt: skip
    assert process.stdout.readline() == "begun\n"
    process.send_signal(number)
    code, _, errors = ended(process)
    assert (code, errors) == (CODES[number], "")


def test_nohup_is_left_alone():
    process = subprocess.Popen(
        ["nohup", sys.executable, "-c", PROGRAM + "print('begun', flush=True)\ntime.sleep(0.5)"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGHUP)
    assert ended(process)[0] == 0


def test_a_forked_child_has_signals_of_its_own():
    """Its Ctrl-C, which a terminal sends to both, is no second one for the parent."""
    process = begun(
        """
with graceful(lambda text: None) as received:
    child = os.fork()
    if not child:
        signal.signal(signal.SIGINT, lambda *_: os._exit(7))
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    time.sleep(0.1)
    print(status, received)
"""
    )
    assert ended(process)[:2] == (0, "7 []\n")


@pytest.mark.parametrize("delay", [0.0, 0.02, 0.05, 0.1, 0.2, 0.4])
def test_from_the_first_line_on(delay, tmp_path):
    """Python itself takes a moment before the program's first line: that moment is let pass."""
    marked = f"open({str(tmp_path / 'begun')!r}, 'w').close()\n"
    program = tmp_path / "train.py"
    text, first = (ROOT / "train.py").read_text(), "import _signal"
    assert first in text
    program.write_text(text.replace(first, marked + first, 1))
    process = subprocess.Popen(
        [sys.executable, program, "--framework", "torch", "--workdir", tmp_path / "run"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    while not (tmp_path / "begun").exists():
        time.sleep(0.001)
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    code, _, errors = ended(process)
    assert code == 130
    assert "Traceback" not in errors


def test_the_note_does_not_come_into_what_is_being_printed():
    """Within the handler it would, and rich prints a line twice that is interrupted so."""
    process = begun(
        """
said = []
with graceful(lambda text: said.append(threading.current_thread())) as received:
    os.kill(os.getpid(), signal.SIGTERM)
    while not received:
        time.sleep(0.01)
print(len(said), said[0] is threading.main_thread())
"""
    )
    assert ended(process)[:2] == (0, "1 False\n")
