"""A run's checkpoints: written beside training, whole or absent, checked when read.

`checkpoints/00000120/` holds `state/`, in the framework's own format, and `meta.json`, with the
loop's state and a SHA-256 of every file: none of Orbax, torch and safetensors would notice a
flipped bit. A directory gets its final name only when everything in it is on disk.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from alexnet.errors import RunError
from alexnet.files import sync, write_json

STATE = "state"
_META, _WRITING, _DELETING = "meta.json", ".writing", ".deleting"


class Checkpoints:
    """The checkpoints in one directory.

    Args:
        directory: made if it is missing.
        keep: how many of the latest to keep; the one with the best evaluation stays besides.
        write: puts a snapshot into an empty directory.
    """

    def __init__(self, directory: Path, keep: int, write: Callable[[Path, Any], None]):
        directory.mkdir(parents=True, exist_ok=True)
        self.directory, self.keep, self._write = directory, keep, write
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future | None = None
        for leftover in directory.iterdir():
            if leftover.suffix in (_WRITING, _DELETING):
                shutil.rmtree(leftover)

    def save(self, step: int, snapshot: Any, meta: dict[str, Any]) -> None:
        """Start writing a checkpoint; first waits for the one before.

        `meta` may have a `score`, a list that compares larger when the network is better.

        Raises:
            RunError: if the one before could not be written.
        """
        self.wait()
        self._pending = self._writer.submit(self._save, step, snapshot, {"step": step, **meta})

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
        except OSError as error:
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
        damaged = []
        for step in reversed(self.steps()):
            path = self._path(step)
            try:
                meta = read_meta(path)
            except ValueError as error:
                damaged.append(path)
                warn(f"{error}; it is passed over")
                continue
            read(path / STATE)
            for bad in damaged:
                bad.rename(bad.with_name(f"damaged-{bad.name}"))
            return meta
        if damaged:
            raise RunError(f"no checkpoint in {self.directory} is whole: {len(damaged)} damaged")
        return None

    def _path(self, step: int) -> Path:
        return checkpoint_path(self.directory, step)

    def _save(self, step: int, snapshot: Any, meta: dict[str, Any]) -> None:
        final = self._path(step)
        temporary = final.with_suffix(_WRITING)
        state = temporary / STATE
        state.mkdir(parents=True)
        try:
            self._write(state, snapshot)
            write_json(temporary / _META, {**meta, "files": _digests(state)})
            sync(temporary)
            self._remove(step)
            temporary.rename(final)
            sync(self.directory)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
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
        """Delete one, under a name that no reader takes for a checkpoint."""
        path = self._path(step)
        if path.exists():
            doomed = path.with_suffix(_DELETING)
            path.rename(doomed)
            shutil.rmtree(doomed)


def saved_steps(directory: Path) -> list[int]:
    """Steps that have a checkpoint in a directory, ascending."""
    return sorted(int(path.name) for path in directory.iterdir() if path.name.isdigit())


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
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            sync(path)
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            digests[path.relative_to(directory.parent).as_posix()] = digest
        else:
            sync(path)
    return digests


def _verify(path: Path, expected: dict[str, str]) -> None:
    """Raise ValueError where files are missing, extra or changed."""
    found = _digests(path / STATE)
    if wrong := sorted(
        name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)
    ):
        raise ValueError(f"{', '.join(wrong[:3])} missing, extra or changed")
