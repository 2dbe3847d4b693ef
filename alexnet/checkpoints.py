"""A run's checkpoints: written in the background, complete or absent, and verified when read.

`checkpoints/00000120/` holds `state/`, in the framework's own format, and `meta.json`, with the
loop's state, a SHA-256 of every file and one of itself: none of Orbax, torch and safetensors would
notice a flipped bit. While a directory is being written or deleted, it contains a file
`unfinished`, and no reader takes it for a checkpoint. That works on object stores, too, which
can't rename.
"""

import errno
import hashlib
import itertools
import math
import os
import re
from collections.abc import Callable, Iterator
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from alexnet import sealed
from alexnet.errors import RunError, UserError
from alexnet.files import as_path, list_files, remove_tree, sync, walk
from alexnet.processes import Processes
from alexnet.text import is_text

STATE = "state"
_META, _UNFINISHED = "meta.json", "unfinished"
_NAME = re.compile("[0-9]{8,18}")
_LONGEST = 1 << 20  # characters of a class's name: any length
_SLOW = 30  # seconds that a checkpoint may take before a note says that training is waiting


class Checkpoints:
    """The checkpoints in one directory, which is made if it is missing.

    With several processes, all write and read states; process 0 does everything else.

    Args:
        directory: directory of all checkpoints.
        keep: how many of the latest to keep, besides the one with the best evaluation.
        write: writes a snapshot into a directory, together with the other processes.
        processes: the run's processes.
        note: shows a sentence.
    """

    def __init__(
        self,
        directory: Path,
        keep: int,
        write: Callable[[Path, Any], None],
        processes: Processes | None = None,
        note: Callable[[str], None] = lambda text: None,
    ):
        self.directory, self.keep, self._write, self._note = directory, keep, write, note
        self._processes = processes or Processes()
        self._leads = self._processes.index == 0
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future | None = None
        if self._leads:
            directory.mkdir(parents=True, exist_ok=True)
            for path in directory.iterdir():
                if _NAME.fullmatch(path.name) and path.is_dir() and not _is_done(path):
                    _remove(path)

    def save(self, step: int, snapshot: Any, meta: dict[str, Any]) -> None:
        """Start writing a checkpoint, after waiting for the previous one as `wait` does.

        `meta` may have a `score`, a list that compares greater when the network is better.
        """
        self.wait()
        state = checkpoint_path(self.directory, step) / STATE
        if self._leads:
            self._pending = self._writer.submit(self._save, step, snapshot, {"step": step, **meta})
        else:
            self._pending = self._writer.submit(self._write, state, snapshot)

    def amend(self, step: int, meta: dict[str, Any]) -> None:
        """Replace a checkpoint's `meta`, except for the digests of its files.

        Raises:
            RunError: if it can't be written, naming the last good checkpoint.
        """
        self.wait()
        if self._leads:
            path = checkpoint_path(self.directory, step)
            with self._in_a_sentence():
                old = read_meta(path)
                sealed.write(path / _META, {"step": step, **meta, "files": old["files"]})

    def check(self) -> None:
        """Raise, as `wait` does, if writing has already failed, but without waiting."""
        if self._pending and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Return when nothing is being written.

        Raises:
            RunError: if the last checkpoint could not be written, naming the last good one.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return
        while not futures.wait([pending], timeout=_SLOW).done:
            self._note(f"a checkpoint is still being written to {self.directory}: training waits")
        with self._in_a_sentence():
            pending.result()

    @contextmanager
    def _in_a_sentence(self) -> Iterator[None]:
        try:
            yield
        except _MISTAKES:
            raise
        except Exception as error:  # Orbax, torch and safetensors raise any kind for a full disk
            raise RunError(
                f"a checkpoint could not be written to {self.directory}: {_reason(error)}; "
                f"{self.last_good()}"
            ) from error

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, ascending."""
        return saved_steps(self.directory)

    def last_good(self) -> str:
        """A clause that names the checkpoint from which a run can resume."""
        try:
            steps = self.steps()
        except OSError as error:
            return f"{self.directory} can't be read: {error.strerror or error}"
        if not steps:
            return "none was saved"
        return f"the last good checkpoint is {checkpoint_path(self.directory, steps[-1])}"

    def restore(
        self, read: Callable[[Path], None], warn: Callable[[str], None]
    ) -> dict[str, Any] | None:
        """Read the latest intact checkpoint, skipping damaged ones with a warning.

        Returns:
            Its `meta`, or None if there is no checkpoint.

        Raises:
            RunError: if there are checkpoints and all are damaged.
        """
        found = self._latest_whole(warn) if self._leads else -1
        step = int(self._processes.gather([found + 1])[0, 0]) - 1
        if step < 0:
            return None
        path = checkpoint_path(self.directory, step)
        try:
            read(path / STATE)
        except (*_MISTAKES, UserError, RunError):
            raise
        except Exception as error:  # frameworks raise any kind for a state that was written badly
            raise RunError(f"checkpoint {path} can't be read: {_reason(error)}") from error
        return read_meta(path, check_files=False)

    def _latest_whole(self, warn: Callable[[str], None]) -> int:
        """The step of the latest intact checkpoint, or -1; damaged later ones are put aside."""
        damaged = []
        for step in reversed(self.steps()):
            path = checkpoint_path(self.directory, step)
            try:
                read_meta(path)
            except ValueError as error:
                damaged.append(path)
                warn(f"{error}; it is passed over")
                continue
            except OSError as error:  # no permission, or a network failure: it may be intact
                raise RunError(f"checkpoint {path} can't be read: {error.strerror}") from error
            for bad in damaged:
                _put_aside(bad)
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
            sealed.write(path / _META, {**meta, "files": _digests(path / STATE)})
            for folder, _, names in walk(path):
                for name in names:
                    sync(as_path(folder) / name)
                sync(as_path(folder))
            mark.unlink()
            sync(path)
            sync(self.directory)
        except BaseException:
            with suppress(OSError):
                _remove(path)
            raise
        self.forget_old()

    def forget_old(self) -> None:
        """Delete all but the latest `keep` and the best, unless another process does."""
        if not self._leads:
            return
        steps: list[int] = self.steps()
        best = best_step(self.directory)
        for step in steps[: -self.keep]:
            if step != best:
                _remove(checkpoint_path(self.directory, step))


# Exceptions from bugs in this project itself, whose traceback is wanted.
_MISTAKES = (TypeError, AttributeError, NameError, LookupError, AssertionError)


def _reason(error: BaseException | None) -> str:
    """The system's or a library's description of what went wrong, in one line."""
    text = str(error).strip()
    while error:
        if isinstance(error, OSError) and error.strerror:
            return error.strerror
        error = error.__cause__ or error.__context__
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES):
        if (words := os.strerror(number)) in text:  # somewhere in a message from C++ or Rust
            return words
    return text.partition("\n")[0][:300] or "an error without words"


def _put_aside(path: Path) -> None:
    """Rename a damaged checkpoint, to keep it for inspection."""
    for number in itertools.count(1):
        aside = path.with_name(f"damaged-{path.name}" + (f"-{number}" if number > 1 else ""))
        if not aside.exists():
            path.rename(aside)
            return


def _remove(path: Path) -> None:
    """Delete a checkpoint; it stops counting as one before its first file is deleted."""
    if path.exists():
        (path / _UNFINISHED).touch()
        remove_tree(path / STATE)
        (path / _META).unlink(missing_ok=True)
        remove_tree(path)  # the mark last


def saved_steps(directory: Path) -> list[int]:
    """Steps that have a checkpoint in a directory, ascending."""
    return sorted(
        int(path.name)
        for path in directory.iterdir()
        if _NAME.fullmatch(path.name) and _is_done(path)
    )


def best_step(directory: Path) -> int | None:
    """The step of the checkpoint with the best evaluation, if any had one."""
    scores: dict[int, list[float]] = {}
    for step in saved_steps(directory):
        with suppress(OSError, ValueError):  # ignore damaged ones
            meta = read_meta(checkpoint_path(directory, step), check_files=False)
            if score := meta.get("score"):
                scores[step] = score
    return max(scores, key=scores.__getitem__, default=None)


def _is_done(path: Path) -> bool:
    """Return True if it was finished; an empty one doesn't even have its `unfinished` mark yet."""
    names = {inside.name for inside in path.iterdir()} if path.is_dir() else set()
    return bool(names) and _UNFINISHED not in names


def checkpoint_path(directory: Path, step: int) -> Path:
    """The directory of a step's checkpoint."""
    return directory / f"{step:08d}"


def read_meta(path: Path, *, check_files: bool = True) -> dict[str, Any]:
    """The loop's state in a checkpoint, after verifying every file in it.

    Args:
        path: the checkpoint's directory.
        check_files: read and verify the other files, too.

    Raises:
        ValueError: if the checkpoint is damaged.
        OSError: if it can't be read, though it may be intact.
    """
    try:
        meta = sealed.read(path / _META)
        _check_meta(meta, path)
        found, expected = _digests(path / STATE) if check_files else {}, meta["files"]
        names = sorted(found.keys() | expected.keys()) if check_files else []
        if wrong := [name for name in names if found.get(name) != expected.get(name)]:
            raise ValueError(f"{', '.join(wrong[:3])} missing, extra or changed")
    except ValueError as error:
        raise ValueError(f"checkpoint {path} is damaged: {error}") from error
    except OSError as error:
        if error.errno not in _NO_FILE:
            raise
        raise ValueError(f"checkpoint {path} is damaged: {error.strerror}") from error
    return meta


_NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)


def _check_meta(meta: dict[str, Any], path: Path) -> None:
    """Raise a ValueError for content that no version of this project wrote."""
    evals, names, score = meta.get("evals", []), meta.get("class_names"), meta.get("score")
    has_evals = isinstance(evals, list) and all(
        isinstance(one, dict) and type(one.get("step")) is int and _is_number(one.get("loss"))
        for one in evals
    )
    fits = {
        "step": type(meta.get("step")) is int and f"{meta['step']:08d}" == path.name,
        "evals": has_evals,
        "class_names": names is None
        or (isinstance(names, list) and all(is_text(name, _LONGEST) for name in names)),
        "score": score is None or (isinstance(score, list) and all(map(_is_number, score))),
        "num_classes": type(meta.get("num_classes", 1)) is int and meta.get("num_classes", 1) > 0,
        "files": isinstance(meta.get("files"), dict),
        "log": meta.get("log") is None or is_text(meta["log"], _LONGEST),
        "data": meta.get("data") is None or isinstance(meta["data"], dict),
    }
    if unknown := [name for name in meta if name not in fits]:
        raise ValueError(f"{_META} has a field {unknown[0]!r:.40}, which no version wrote")
    if wrong := [name for name, fit in fits.items() if not fit]:
        raise ValueError(f"{_META} has no {', '.join(wrong)} that can be used")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < math.inf


def _digests(directory: Path) -> dict[str, str]:
    """SHA-256 of every file, keyed by its path, which begins with the directory's own name."""
    digests = {}
    for path in list_files(directory):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        digests[path.relative_to(directory.parent).as_posix()] = digest
    return digests
