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
    """The checkpoints in one directory, which is made if it is missing.

    Of several processes, all write and read states; process 0 does everything else.

    Args:
        directory: of all checkpoints.
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
        self._leads = self._processes.index == 0
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future | None = None
        if self._leads:
            directory.mkdir(parents=True, exist_ok=True)
            for path in directory.iterdir():
                if path.name.isdigit() and path.is_dir() and not _is_done(path):
                    remove_tree(path)

    def save(self, step: int, snapshot: Any, meta: dict[str, Any]) -> None:
        """Start writing a checkpoint; first waits for the one before, as `wait` does.

        `meta` may have a `score`, a list that compares larger when the network is better.
        """
        self.wait()
        state = checkpoint_path(self.directory, step) / STATE
        if self._leads:
            self._pending = self._writer.submit(self._save, step, snapshot, {"step": step, **meta})
        else:
            self._pending = self._writer.submit(self._write, state, snapshot)

    def wait(self) -> None:
        """Return when nothing is being written.

        Raises:
            RunError: if the last checkpoint could not be written, naming the last good one.
        """
        pending, self._pending = self._pending, None
        try:
            if pending:
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
        """A clause that names the checkpoint a run can go on from."""
        if not (steps := self.steps()):
            return "none was saved"
        return f"the last good checkpoint is {checkpoint_path(self.directory, steps[-1])}"

    def restore(
        self, read: Callable[[Path], None], warn: Callable[[str], None]
    ) -> dict[str, Any] | None:
        """Read the latest checkpoint that is whole, passing over damaged ones with a warning.

        Returns:
            Its `meta`, or None where there is no checkpoint.

        Raises:
            RunError: where there are checkpoints and all are damaged.
        """
        found = self._latest_whole(warn) if self._leads else -1
        step = int(self._processes.gather([found + 1])[0, 0]) - 1
        if step < 0:
            return None
        path = checkpoint_path(self.directory, step)
        read(path / STATE)
        return json.loads((path / _META).read_text())

    def _latest_whole(self, warn: Callable[[str], None]) -> int:
        """The step of the latest whole checkpoint, or -1; damaged later ones are put aside."""
        damaged = []
        for step in reversed(self.steps()):
            path = checkpoint_path(self.directory, step)
            try:
                read_meta(path)
            except ValueError as error:
                damaged.append(path)
                warn(f"{error}; it is passed over")
                continue
            for bad in damaged:
                bad.rename(bad.with_name(f"damaged-{bad.name}"))
            return step
        if damaged:
            raise RunError(f"no checkpoint in {self.directory} is whole: {len(damaged)} damaged")
        return -1

    def _save(self, step: int, snapshot: Any, meta: dict[str, Any]) -> None:
        path = checkpoint_path(self.directory, step)
        _remove(path)
        mark = path / _UNFINISHED
        path.mkdir()
        mark.touch()
        (path / STATE).mkdir()
        try:
            self._write(path / STATE, snapshot)
            write_json(path / _META, {**meta, "files": _digests(path / STATE)})
            for folder, _, names in walk(path):
                for name in names:
                    sync(as_path(folder) / name)
                sync(as_path(folder))
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
        steps, scores = self.steps(), {}
        for step in steps:
            with suppress(OSError, ValueError, AttributeError):  # a damaged one has no score
                meta = json.loads((checkpoint_path(self.directory, step) / _META).read_text())
                scores[step] = meta.get("score")
        best = max(filter(scores.get, scores), key=scores.__getitem__, default=None)
        for step in steps[: -self.keep]:
            if step != best:
                _remove(checkpoint_path(self.directory, step))


def _remove(path: Path) -> None:
    """Delete a checkpoint; from the first moment on it is none any more."""
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
    """Tell whether it was finished; one that is empty has not even got its mark."""
    names = {inside.name for inside in path.iterdir()} if path.is_dir() else set()
    return bool(names) and _UNFINISHED not in names


def checkpoint_path(directory: Path, step: int) -> Path:
    """The directory of a step's checkpoint."""
    return directory / f"{step:08d}"


def read_meta(path: Path) -> dict[str, Any]:
    """The loop's state in a checkpoint, once every file in it is found to be as it was written.

    Raises:
        ValueError: where the checkpoint is damaged.
    """
    try:
        meta = json.loads((path / _META).read_text())
        found, expected = _digests(path / STATE), meta["files"]
        names = sorted(found.keys() | expected.keys())
        if wrong := [name for name in names if found.get(name) != expected.get(name)]:
            raise ValueError(f"{', '.join(wrong[:3])} missing, extra or changed")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"checkpoint {path} is damaged: {error}") from error
    return meta


def _digests(directory: Path) -> dict[str, str]:
    """SHA-256 of every file, by its path beginning with the directory's own name."""
    digests = {}
    for path in list_files(directory):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        digests[path.relative_to(directory.parent).as_posix()] = digest
    return digests
