"""Standard output that is closed, full, or read by nobody: no traceback, and no run is lost."""

import os
import signal
import subprocess
import sys
import time

import pytest

from alexnet.output import lasting, say
from tests.conftest import NARROW, ROOT

ALEXNET = (sys.executable, "-m", "alexnet")
RUN = ("--framework", "torch", *NARROW, "--log-every", "1", "--steps")


def test_a_full_disk_is_a_sentence(tmp_path):
    command = f"ulimit -f 1; {sys.executable} -m alexnet recipes > {tmp_path / 'log'}"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT)
    told = "failed: standard output can't be written to: File too large\n"
    assert (result.returncode, result.stderr) == (1, told)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_lead_nowhere(closed):
    command = f"{sys.executable} -m alexnet recipes {closed}"
    result = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=ROOT)
    assert (result.returncode, result.stderr) == (0, "")
    assert ("cifar-18pct" in result.stdout) is (" >" not in f" {closed}".replace(" 2>", ""))


def test_an_error_is_no_output():
    command = f"{sys.executable} -m alexnet nosuch 2>&-"
    result = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=ROOT)
    assert (result.returncode, result.stdout) == (2, "")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_is_saved_although_its_reader_ended_first(number, code, tmp_path):
    """As a Ctrl-C ends `train | tee log`: both get the signal."""
    command = [*ALEXNET, "train", *RUN, "100000", "--workdir", tmp_path / "run"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        while not process.stdout.readline().startswith("step "):
            assert process.poll() is None
        process.stdout.close()
        time.sleep(0.2)  # lines without a reader
        process.send_signal(number)
        assert process.wait(60) == code
        said = process.stderr.read()
    assert said == "nobody reads standard output any more: going on without it\n"
    assert len(os.listdir(tmp_path / "run" / "checkpoints")) == 1


def test_other_errors_are_not_taken_for_it():
    with pytest.raises(FileNotFoundError), lasting():
        os.stat("/nowhere/at/all")
    with pytest.raises(OSError, match="whatever"), lasting():
        raise OSError("whatever")


def test_a_thread_that_comes_second_is_no_error(tmp_path):
    """Two threads print on a pipe whose reader has left; the first puts nothing in its place."""
    program = """if True:
        import os, sys
        from alexnet.output import lasting, say
        say("one")
        os.write(2, b"said|")
        with lasting():
            raise BrokenPipeError(32, "Broken pipe")
        os.write(2, b"twice")
    """
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    os.close(write)
    told = "nobody reads standard output any more: going on without it\nsaid|twice"
    assert (result.returncode, result.stderr) == (0, told)


def test_errors_of_other_files_are_not_blamed_on_a_pipe():
    program = """if True:
        import errno, os
        from alexnet.output import lost
        for number in (errno.EIO, errno.ENOSPC, errno.ECONNRESET, errno.EPIPE):
            assert lost(OSError(number, os.strerror(number))) is None, number
    """
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr


def test_a_line_is_shown(capsys):
    say("one")
    assert capsys.readouterr().out == "one\n"


@pytest.mark.parametrize("command", ["bench", "doctor"])
def test_no_file_of_the_current_folder_is_run(command, tmp_path):
    """As `queue.py` would be, which somebody has there, by `python -m` in a child process."""
    for name in ("queue", "numpy", "grp"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('run')")
    short = ("--what", "convert", "--width", "0.0625", "--image-size", "67", "--blocks", "1")
    options = {"bench": (*short, "--block-seconds", "0.1"), "doctor": ("--framework", "torch")}
    program = f"import sys; sys.path.append({str(ROOT)!r}); from alexnet.cli import main; main()"
    result = subprocess.run(
        [sys.executable, "-P", "-c", program, command, *options[command]],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert "torch to safetensors" in result.stdout or "cpu" in result.stdout, result.stderr
    assert "run" not in result.stderr.split()
    assert "ended before" not in result.stdout
