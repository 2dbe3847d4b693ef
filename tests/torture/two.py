"""Two or more processes at once in one place: one of them writes, the others are told why not."""

import os
import shutil
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

from alexnet.trained import open_weights
from tests.torture.cases import Case
from tests.torture.examine import Whole, equal
from tests.torture.runs import (
    OPTIONS,
    SMALL,
    assert_same_run,
    begin_or_resume,
    finish,
    make_references,
    tail,
)
from tests.torture.zygote import Zygote

FRAMEWORK = "torch"  # it starts sooner; the lock is the same
AT_ONCE = 3

prepare = make_references


def begin(folder: Path):
    """A function that lets processes meet."""
    zygotes = [Zygote(FRAMEWORK) for _ in range(AT_ONCE)]
    whole = Whole.of(folder, FRAMEWORK)
    ways: tuple[Callable, ...] = (_second, _second, _after_a_kill, _starts, _converts, _runs)

    def attempt(case: Case) -> str:
        way = ways[case.index // 2 % len(ways)]
        try:
            return way(case, zygotes, whole)
        except Exception as error:
            error.add_note(way.__name__.strip("_"))
            raise

    return attempt


def _start(words: list) -> list:
    return [*words, "--framework", FRAMEWORK, *OPTIONS, *SMALL]


def _begun(case: Case, zygote: Zygote) -> tuple[Path, int]:
    """A work directory and the process that trains in it, stopped at some moment."""
    path, log = case.folder / "run", case.folder / "first.log"
    number = zygote.start(begin_or_resume(path, FRAMEWORK), log)
    lock, end = path / "lock", time.monotonic() + 60
    while not (lock.exists() and lock.stat().st_size):
        assert time.monotonic() < end, f"no lock: {tail(log)}"
        time.sleep(0.002)
    time.sleep(float(case.random.uniform(0, 0.5)))
    os.kill(number, signal.SIGSTOP)
    return path, number


def _second(case: Case, zygotes: list[Zygote], whole: Whole) -> str:
    """A second command for a work directory in which a run is training."""
    path, number = _begun(case, zygotes[0])
    log = case.folder / "second.log"
    try:
        if not (path / "lock").exists():  # it ended before it was stopped
            return "the run ended first"
        words = ["train", "--workdir", path]
        words = [
            [*words, "--resume"], _start([*words, "--overwrite"]), _start(words),
        ][case.random.integers(3)]  # fmt: skip
        code = zygotes[1].run(words, log)
    finally:
        os.kill(number, signal.SIGCONT)
        first = zygotes[0].wait()
    text = log.read_text()
    assert code == 2, f"the second ended with {code}: {tail(log)}"
    assert "Traceback" not in text
    expected = f"process {number} on host {socket.gethostname()}"
    assert expected in text, f"no {expected!r}: {tail(log)}"
    assert first == 0, f"the first ended with {first}: {tail(case.folder / 'first.log')}"
    assert_same_run(path, whole.path)
    return "the second is refused"


def _after_a_kill(case: Case, zygotes: list[Zygote], whole: Whole) -> str:
    """A run that is killed leaves no lock that holds."""
    path, number = _begun(case, zygotes[0])
    os.kill(number, signal.SIGKILL)
    zygotes[0].wait()
    finish(zygotes[1], path, FRAMEWORK, case.folder / "log")
    assert_same_run(path, whole.path)
    return "no lock is left"


def _together(case: Case, zygotes: list[Zygote], commands: list[list]) -> list[tuple[int, str]]:
    """Exit codes and outputs of commands that run at once."""
    logs = [case.folder / f"{number}.log" for number in range(len(commands))]
    for zygote, words, log in zip(zygotes, commands, logs, strict=True):
        zygote.start(words, log)
    codes = [zygote.wait() for zygote in zygotes]
    texts = [log.read_text() for log in logs]
    for code, text in zip(codes, texts, strict=True):
        assert code in (0, 2), f"it ended with {code}: {text[-300:]}"
        assert "Traceback" not in text, text[-600:]
        assert code == 0 or text.splitlines()[-1].startswith("error: "), text[-300:]
    return list(zip(codes, texts, strict=True))


def _starts(case: Case, zygotes: list[Zygote], whole: Whole) -> str:
    """Several runs started at once in one new work directory."""
    path = case.folder / "run"
    words = _start(["train", "--workdir", path])
    done = _together(case, zygotes, [words] * AT_ONCE)
    assert sorted(code for code, _ in done) == [0, 2, 2], done
    assert_same_run(path, whole.path)
    return "one run of several starts"


def _converts(case: Case, zygotes: list[Zygote], whole: Whole) -> str:
    """Several conversions to one file: it is whole, whoever was last."""
    target = case.folder / "there" / f"w{case.random.choice(['.pth', '.safetensors', '.msgpack'])}"
    target.parent.mkdir()
    words = ["convert", whole.path / "weights.safetensors", target]
    done = _together(case, zygotes, [words] * AT_ONCE)
    assert [code for code, _ in done] == [0] * AT_ONCE, done
    assert equal(open_weights(target).arrays, whole.weights.arrays)
    assert [one.name for one in target.parent.iterdir()] == [target.name]
    return "one file of several conversions"


def _runs(case: Case, zygotes: list[Zygote], whole: Whole) -> str:
    """Several conversions of a run to one new run."""
    target = case.folder / "there" / "new"
    target.parent.mkdir()
    words = ["convert", whole.path, target, "--to", FRAMEWORK]
    done = _together(case, zygotes, [words] * AT_ONCE)
    assert sorted(code for code, _ in done) == [0, 2, 2], done
    assert [one.name for one in target.parent.iterdir()] == [target.name]
    shutil.copyfile(whole.path / "weights.safetensors", target / "weights.safetensors")
    finish(zygotes[0], target, FRAMEWORK, case.folder / "log")
    equal_arrays = open_weights(target / "weights.safetensors").arrays
    assert equal(equal_arrays, whole.weights.arrays)
    return "one run of several conversions"
