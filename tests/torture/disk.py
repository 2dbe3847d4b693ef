"""A disk that is full, read-only or gone while a run writes to it.

The command ends soon, with exit code 1, one sentence and no traceback; the last good checkpoint is
whole, and once there is space the run is resumed exactly. Where no file system may be mounted, a
limit on the size of files stands in for a full disk.
"""

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

from alexnet.checkpoints import checkpoint_path, read_meta, saved_steps
from alexnet.trained import open_weights
from tests.torture.cases import Case, Skip
from tests.torture.examine import equal
from tests.torture.runs import (
    FRAMEWORKS,
    assert_same_run,
    begin_or_resume,
    changes,
    finish,
    make_references,
    reference,
    tail,
)
from tests.torture.zygote import Zygote

SIZE = 8 << 20  # bytes of a small disk; a run writes three
FORMATS = (".safetensors", ".pth", ".msgpack", ".onnx")

prepare = make_references


class _Disk:
    """A small file system, mounted for as long as the block lasts."""

    def __init__(self, case: Case):
        self.path = case.folder / "disk"
        self.ballast = self.path / "ballast"
        self.path.mkdir()

    def __enter__(self) -> "_Disk":
        words = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "none", self.path]
        try:
            done = subprocess.run(words, capture_output=True, text=True)
        except OSError as error:
            raise Skip(f"no file system can be mounted ({error.strerror})") from error
        if done.returncode:
            raise Skip(f"no file system can be mounted ({done.stderr.strip().splitlines()[-1]})")
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", "-l", self.path], check=True)

    def fill(self, leave: int) -> None:
        """Leave so many bytes free."""
        free = os.statvfs(self.path)
        self.ballast.write_bytes(bytes(max(0, free.f_bavail * free.f_frsize - leave)))

    def read_only(self, yes: bool) -> None:
        """Allow no writing, or allow it again."""
        words = ["mount", "-o", f"remount,{'ro' if yes else 'rw'}", self.path]
        subprocess.run(words, check=True, capture_output=True)


def begin(folder: Path):
    """A function that takes the disk away from a run in one way."""
    zygotes = {framework: Zygote(framework) for framework in FRAMEWORKS}
    ways: tuple[Callable, ...] = (_full, _full, _limited, _full_weights, _read_only, _vanishing)

    def attempt(case: Case) -> str:
        framework = FRAMEWORKS[case.index % len(FRAMEWORKS)]
        way = ways[case.index // len(FRAMEWORKS) % len(ways)]
        try:
            return way(case, zygotes[framework], framework, folder)
        except Exception as error:
            error.add_note(f"{way.__name__.strip('_')}, {framework}")
            raise

    return attempt


def _run(
    case: Case, zygote: Zygote, words: list, codes: tuple[int, ...] = (0, 1), **fault
) -> tuple[int, str]:
    """Run a command that has a right to fail: in one sentence."""
    log = case.folder / f"log-{time.monotonic_ns()}"
    code = zygote.run(words, log, **fault)
    text = log.read_text()
    assert "Traceback" not in text, f"a traceback: {tail(log)}"
    assert code in codes, f"it ended with {code}: {tail(log)}"
    if code:
        told = [line for line in text.splitlines() if line.startswith(("failed: ", "error: "))]
        assert len(told) == 1, f"{len(told)} sentences: {text[-1500:]}"
    return code, text


def _assert_whole(path: Path) -> None:
    """Assert that whatever counts as a checkpoint is whole."""
    directory = path / "checkpoints"
    for step in saved_steps(directory) if directory.is_dir() else ():
        read_meta(checkpoint_path(directory, step))
    stray = [one.name for one in path.rglob("*.tmp")]
    assert not stray, f"left behind: {stray}"


def _full(case: Case, zygote: Zygote, framework: str, folder: Path) -> str:
    """Space for a part of what a run writes."""
    with _Disk(case) as disk:
        path = disk.path / "run"
        disk.fill(leave=int(10 ** case.random.uniform(3.5, 6.5)))
        code, _ = _run(case, zygote, begin_or_resume(path, framework))
        _assert_whole(path)
        disk.ballast.unlink()
        finish(zygote, path, framework, case.folder / "log")
        assert_same_run(path, reference(folder, framework))
    return "full disk" if code else "enough space"


def _limited(case: Case, zygote: Zygote, framework: str, folder: Path) -> str:
    """A limit on the size of a file, as a quota is."""
    path = case.folder / "run"
    largest = int(10 ** case.random.uniform(2, 6))
    code, _ = _run(case, zygote, begin_or_resume(path, framework), largest=largest)
    _assert_whole(path)
    finish(zygote, path, framework, case.folder / "log")
    assert_same_run(path, reference(folder, framework))
    return "files too large" if code else "enough space"


def _full_weights(case: Case, zygote: Zygote, framework: str, folder: Path) -> str:
    """A conversion to a full disk; what was there stays."""
    source = reference(folder, framework) / "weights.safetensors"
    with _Disk(case) as disk:
        target = disk.path / f"w{FORMATS[case.random.integers(len(FORMATS))]}"
        there = bool(case.random.integers(2))
        if there:
            _run(case, zygote, ["convert", source, target])
        before = target.read_bytes() if there else None
        disk.fill(leave=int(10 ** case.random.uniform(0, 5.5)))
        code, _ = _run(case, zygote, ["convert", source, target], (0, 1))
        if code:
            assert (target.read_bytes() if target.exists() else None) == before
        names = {one.name for one in disk.path.iterdir()} - {target.name, "ballast"}
        assert not names, f"left behind: {names}"
        disk.ballast.unlink()
        _run(case, zygote, ["convert", source, target], (0,))
        assert equal(open_weights(target).arrays, open_weights(source).arrays)
    return "full disk, weights" if code else "enough space"


def _read_only(case: Case, zygote: Zygote, framework: str, folder: Path) -> str:
    """A run is killed, and resumed where nothing can be written any more."""
    with _Disk(case) as disk:
        path = disk.path / "run"
        count = len(changes(folder, framework).read_text().splitlines())
        at = int(case.random.integers(1, count))
        words = begin_or_resume(path, framework)
        fault = {"at": at, "delay": 0, "folder": str(path)}
        zygote.run(words, case.folder / "first", **fault)
        disk.read_only(True)
        code, _ = _run(case, zygote, begin_or_resume(path, framework), (1, 2))
        disk.read_only(False)
        finish(zygote, path, framework, case.folder / "log")
        assert_same_run(path, reference(folder, framework))
    return f"read-only disk, exit code {code}"


def _vanishing(case: Case, zygote: Zygote, framework: str, folder: Path) -> str:
    """The work directory is deleted while the run goes on."""
    path = case.folder / "run"
    delay = float(case.random.uniform(0.2, 2.5))

    def delete() -> None:
        while not path.exists():
            time.sleep(0.01)
        time.sleep(delay)
        for _ in range(3):  # the run may be making files in it
            shutil.rmtree(path, ignore_errors=True)

    deleting = threading.Thread(target=delete)
    deleting.start()
    code, _ = _run(case, zygote, begin_or_resume(path, framework))
    deleting.join()
    return "vanished directory" if code else "the run ended first"
