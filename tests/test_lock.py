"""One writer for a work directory."""

import json
import os
import socket
import subprocess
import sys
import threading

import pytest

from alexnet import lock
from alexnet.errors import UserError
from tests.conftest import NARROW, ROOT, run_train

HOLD = """
import sys, time
from pathlib import Path
from alexnet.lock import acquire
lock = acquire(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_the_second_is_told_of_the_first(holder, tmp_path):
    with pytest.raises(UserError) as refused:
        lock.acquire(tmp_path)
    assert f"process {holder.pid} on host {socket.gethostname()}" in str(refused.value)


def test_a_lock_ends_with_its_process(holder, tmp_path):
    holder.kill()
    holder.wait()
    held = lock.acquire(tmp_path)
    assert json.loads((tmp_path / lock.LOCK).read_bytes())["process"] == os.getpid()
    held.release()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"[" * 2000, b'{"process": "\x1b[31m"}'])
def test_what_a_lock_says_is_not_trusted(content, holder, tmp_path):
    (tmp_path / lock.LOCK).write_bytes(content)
    with pytest.raises(UserError, match="another run is writing"):
        lock.acquire(tmp_path)


def test_of_many_at_once_one_has_it(tmp_path):
    """Also where the one before has just deleted the file that the others wait for."""
    holding, most, refused = [], [], []

    def compete():
        for _ in range(200):
            try:
                held = lock.acquire(tmp_path)
            except UserError:
                refused.append(1)
                continue
            holding.append(1)
            most.append(len(holding))
            holding.pop()
            held.release()

    threads = [threading.Thread(target=compete) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(most) == {1}
    assert refused
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", [None, "--resume", "--overwrite"])
def test_a_second_run_in_a_work_directory_is_refused(option, tmp_path):
    options = ("--framework", "torch", *NARROW, "--steps", 2, "--workdir", tmp_path)
    run_train(*options)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    held = lock.acquire(tmp_path)
    again = run_train(*options, *([option] if option else []), check=2)
    held.release()
    assert f"another run is writing to {tmp_path}: process {os.getpid()} on host" in again.stderr
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
