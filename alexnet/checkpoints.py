"""A run's checkpoints: written beside training, whole or absent, checked when read.

`checkpoints/00000120/` holds `state/`, in the framework's own format, and `meta.json`, with the
loop's state and a SHA-256 of every file: none of Orbax, torch and safetensors would notice a
flipped bit. While a directory is being written or deleted a file `unfinished` stands in it, and
no reader takes it for a checkpoint; on an object store, which has no renaming, that holds too.
"""

import hashlib
import json
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from alexnet.errors import RunError, UserError
from alexnet.files import as_path, list_files, remove_tree, sync, walk, write_json
from alexnet.processes import Processes

STATE = "state"
_META, _UNFINISHED = "meta.json", "unfinished"


class Checkpoints:
    """The checkpoints in one directory.

    Of several processes, all write and read states; process 0 does everything else.

    Args:
        directory: made if it is missing.
        keep: how many of the latest to keep; the one with the best evaluation stays besides.
        write: puts a snapshot into a directory, together with the other processes.
        processes: of the run.
    """

    def __init__(
        self,
        directory: Path,
        keep: int,
        write: Callable[[Path, Any], None],
        processes: Processes | None = None,
    ):
        self.directory, self.keep, self._write = directory, keep, write
        self._processes = processes or Processes()
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future | None = None
        if self._leads:
            directory.mkdir(parents=True, exist_ok=True)
            for path in directory.iterdir():
                if path.name.isdigit() and path.is_dir() and not _is_done(path):
                    remove_tree(path)

    @property
    def _leads(self) -> bool:
        return self._processes.index == 0

    def save(self, step: int, snapshot: Any, meta: dict[str, Any]) -> None:
        """Start writing a checkpoint; first waits for the one before.

        `meta` may have a `score`, a list that compares larger when the network is better.

        Raises:
            RunError: if the one before could not be written.
        """
        self.wait()
        if self._leads:
            work = (self._save, step, snapshot, {"step": step, **meta})
        else:
            work = (self._write, self._path(step) / STATE, snapshot)
        self._pending = self._writer.submit(*work)

    def wait(self) -> None:
        """Return when nothing is being written.

        Raises:
            RunError: if the last checkpoint could not be written, naming the last good one.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return
        try:
            pending.result()
        except (OSError, ValueError, RuntimeError, UserError, RunError) as error:
            raise RunError(
                f"a checkpoint could not be written to {self.directory}: {error}; "
                f"{self.last_good()}"
            ) from error

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, ascending."""
        return saved_steps(self.directory)

    def last_good(self) -> str:
        """In words: which checkpoint a run can go on from."""
        steps = self.steps()
        return f"the last good checkpoint is {self._path(steps[-1])}" if steps else "none was saved"

    def restore(
        self, read: Callable[[Path], None], warn: Callable[[str], None]
    ) -> dict[str, Any] | None:
        """Read the latest checkpoint that is whole, passing over damaged ones with a warning.

        Returns:
            Its `meta`, or None where there is no checkpoint.

        Raises:
            RunError: where there are checkpoints and all are damaged.
        """
        found = self._latest_whole(warn) if self._leads else None
        step = int(self._processes.gather([0 if found is None else found + 1])[0, 0]) - 1
        if step < 0:
            return None
        path = self._path(step)
        read(path / STATE)
        return json.loads((path / _META).read_text())

    def _latest_whole(self, warn: Callable[[str], None]) -> int | None:
        """The step of the latest checkpoint that is whole; damaged later ones are put aside."""
        damaged = []
        for step in reversed(self.steps()):
            try:
                read_meta(self._path(step))
            except ValueError as error:
                damaged.append(self._path(step))
                warn(f"{error}; it is passed over")
                continue
            for bad in damaged:
                bad.rename(bad.with_name(f"damaged-{bad.name}"))
            return step
        if damaged:
            raise RunError(f"no checkpoint in {self.directory} is whole: {len(damaged)} damaged")
        return None

    def _path(self, step: int) -> Path:
        return checkpoint_path(self.directory, step)

    def _save(self, step: int, snapshot: Any, meta: dict[str, Any]) -> None:
        path = self._path(step)
        self._remove(step)
        mark = path / _UNFINISHED
        path.mkdir()
        mark.touch()
        (path / STATE).mkdir()
        try:
            self._write(path / STATE, snapshot)
            write_json(path / _META, {**meta, "files": _digests(path / STATE)})
            sync(path)
            mark.unlink()
            sync(path)
            sync(self.directory)
        except BaseException:
            with suppress(OSError):
                remove_tree(path)
            raise
        self._forget_old()

    def _forget_old(self) -> None:
        """Delete all but the latest `keep` and the best."""
        steps = self.steps()
        scores = {step: self._score(step) for step in steps}
        scored = [step for step in steps if scores[step]]
        best = max(scored, key=lambda step: scores[step], default=None)
        for step in steps[: -self.keep]:
            if step != best:
                self._remove(step)

    def _score(self, step: int) -> list[float] | None:
        try:
            return json.loads((self._path(step) / _META).read_text()).get("score")
        except (OSError, ValueError):
            return None

    def _remove(self, step: int) -> None:
        """Delete one; from the first moment on it is no checkpoint any more."""
        path = self._path(step)
        if path.exists():
            (path / _UNFINISHED).touch()
            remove_tree(path / STATE)
            (path / _META).unlink(missing_ok=True)
            remove_tree(path)  # the mark last


def saved_steps(directory: Path) -> list[int]:
    """Steps that have a checkpoint in a directory, ascending."""
    return sorted(
        int(path.name) for path in directory.iterdir() if path.name.isdigit() and _is_done(path)
    )


def _is_done(path: Path) -> bool:
    """Whether it was finished; one that is empty has not even got its mark."""
    if not path.is_dir():
        return False
    names = {inside.name for inside in path.iterdir()}
    return bool(names) and _UNFINISHED not in names


def checkpoint_path(directory: Path, step: int) -> Path:
    """Where the checkpoint of a step is."""
    return directory / f"{step:08d}"


def read_meta(path: Path) -> dict[str, Any]:
    """The loop's state in a checkpoint, once every file in it is found to be as it was written.

    Raises:
        ValueError: where the checkpoint is damaged.
    """
    try:
        meta = json.loads((path / _META).read_text())
        _verify(path, meta["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"checkpoint {path} is damaged: {error}") from error
    return meta


def _digests(directory: Path) -> dict[str, str]:
    """SHA-256 of every file, by its path in the directory; each is flushed to disk."""
    digests = {}
    for path in list_files(directory):
        sync(path)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        digests[path.relative_to(directory.parent).as_posix()] = digest
    for folder, _, _ in walk(directory):
        sync(as_path(folder))
    return digests


def _verify(path: Path, expected: dict[str, str]) -> None:
    """Raise ValueError where files are missing, extra or changed."""
    found = _digests(path / STATE)
    if wrong := sorted(
        name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)
    ):
        raise ValueError(f"{', '.join(wrong[:3])} missing, extra or changed")
