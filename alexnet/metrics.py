"""A run's log: `metrics.jsonl`, written line by line, and the same numbers as TensorBoard events.

`metrics.digests` has a digest for each line, of that line and all before it, so that a changed line
is detected; a checkpoint holds the digest of the last line before it. Digests have a file of their
own because a line's speed differs from run to run, and so would a digest next to it.
"""

import contextlib
import json
import math
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from io import RawIOBase
from pathlib import Path
from typing import Any

from alexnet import files, sealed
from alexnet.errors import RunError, UserError

METRICS, DIGESTS, EVENTS = "metrics.jsonl", "metrics.digests", "tensorboard"
DAMAGED = "metrics-damaged.jsonl"
UPLOAD_EVERY = 30  # seconds; Google takes one version of an object a second
_EVENTS_EVERY = 60  # seconds between events that reach the disk
_DIGITS = 16  # of a digest: against accidents, not against forgers
_MAX_READ = 1 << 30  # bytes: five million lines
_NO_RECORD = (ValueError, ArithmeticError, RecursionError)

Record = dict[str, Any]


class MetricsLog:
    """The log of a run in training.

    An object on gs:// can't be appended to, so there both files are written in a temporary
    directory and uploaded whole, from time to time and by `flush`.

    Args:
        path: the work directory.
        kept: records to keep; they replace everything in the file.

    Raises:
        RunError: if nothing can be written; methods raise it, too.
    """

    def __init__(self, path: Path, kept: Iterable[Record]):
        self._path = path
        self._temporary = tempfile.TemporaryDirectory() if files.is_remote(path) else None
        self._local = Path(self._temporary.name) if self._temporary else path
        kept = list(kept)
        self.digest = write_all(self._local, kept)  # digest of the last line
        with _in_a_sentence(path):
            self._file = (self._local / METRICS).open("ab", buffering=0)
            self._digests = (self._local / DIGESTS).open("ab", buffering=0)
            self._events = _Events(self._local / EVENTS, max((r["step"] for r in kept), default=0))
        self._new, self._due = True, 0.0  # lines since the last upload, and when the next is due
        self.flush()

    def write(self, record: Record) -> None:
        """Append one record; it is in the file when this returns, on gs:// some time later."""
        with _in_a_sentence(self._path):
            self.digest = _chained(self.digest, record)
            _append(self._file, _encoded(record))
            _append(self._digests, f"{self.digest}\n".encode())
            self._events.write(record)
        self._new = True
        if time.monotonic() > self._due:
            self._upload()

    def flush(self) -> None:
        """Write all lines to the disk or the bucket, for instance before a checkpoint."""
        with _in_a_sentence(self._path):
            self._events.flush()
        for name in (METRICS, DIGESTS):
            files.sync(self._local / name)
        self._upload()

    def _upload(self) -> None:
        if not (self._temporary and self._new):
            return
        start = time.monotonic()
        for file in files.list_files(self._local):
            with files.staged(self._path / file.relative_to(self._local)) as copy:
                shutil.copyfile(file, copy)
        # A long run's files grow, so limit uploads to a fiftieth of the time.
        end = time.monotonic()
        self._new, self._due = False, end + max(UPLOAD_EVERY, 50 * (end - start))

    def close(self) -> None:
        """Flush and close both."""
        self._new = True  # the last events
        with self._temporary or contextlib.nullcontext():  # is deleted at the end
            try:
                self.flush()
            finally:
                self._events.close()
                self._file.close()
                self._digests.close()


class _Events:
    """TensorBoard's events, written in this thread.

    tensorboardX's own writer passes them to a thread through a queue of ten. If the disk is full,
    the thread dies, the queue fills up, and training hangs.
    """

    def __init__(self, folder: Path, last_step: int):
        from alexnet.imports import hidden

        # Imported by tensorboardX if installed, but not needed for files.
        with hidden("torch", "google.cloud.storage"):
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto import event_pb2
            from tensorboardX.summary import scalar
        self._event, self._scalar = event_pb2.Event, scalar
        folder.mkdir(exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"))
        self._flushed = time.monotonic()
        # Invalidates events of later steps, written before the run was resumed.
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._add(last_step + 1, session_log=start)

    def write(self, record: Record) -> None:
        """Add a record's numbers."""
        for name, value in record.items():
            if name not in ("step", "split"):
                summary = self._scalar(f"{record['split']}/{name}", value)
                self._add(record["step"], summary=summary)
        if time.monotonic() > self._flushed + _EVENTS_EVERY:
            self.flush()

    def _add(self, step: int, **what: Any) -> None:
        self._writer.write_event(self._event(wall_time=time.time(), step=step, **what))

    def flush(self) -> None:
        """Write all events to the disk."""
        self._writer.flush()
        self._flushed = time.monotonic()

    def close(self) -> None:
        """Close the file, even if the last events can't be written to the disk."""
        with contextlib.suppress(OSError):
            self._writer.close()
        with contextlib.suppress(OSError):
            self._writer._py_recordio_writer.close()


def write_all(path: Path, records: Iterable[Record]) -> str:
    """Write a log with these records, and return the digest of its last line."""
    chain, lines, digests = "", [], []
    for record in records:
        chain = _chained(chain, record)
        lines.append(_encoded(record))
        digests.append(f"{chain}\n".encode())
    # In this order, as digests of lines that no longer exist do no harm.
    for name, content in ((METRICS, lines), (DIGESTS, digests)):
        with files.atomic_write(path / name) as file:
            file.write(b"".join(content))
    return chain


def _append(file: RawIOBase, content: bytes) -> None:
    while content:
        content = content[file.write(content) or 0 :]


@contextlib.contextmanager
def _in_a_sentence(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(f"the log in {path} can't be written: {error.strerror or error}") from error


# --- reading -------------------------------------------------------------------------------------


def read(path: Path) -> list[Record]:
    """The records of a work directory; a truncated last line is left out.

    Raises:
        UserError: if a line is damaged, or is not a record.
    """
    records, problem = _read(path)
    if problem:
        raise UserError(problem)
    chain = ""
    digests = _lines(path / DIGESTS)
    if not (path / DIGESTS).exists():  # earlier versions wrote none
        return records
    for number, record in enumerate(records, 1):
        chain = _chained(chain, record)
        # A run that was killed may have written its last line but not the digest.
        expected = digests[number - 1] if number < len(digests) else None
        if expected != chain.encode() and not (expected is None and number == len(records)):
            raise UserError(
                f"{path / METRICS}, line {number} is not as it was written: its digest in "
                f"{DIGESTS} does not match"
            )
    return records


def kept(path: Path, step: int, last: str | None) -> tuple[list[Record], str]:
    """The records that a resumed run keeps, those before its checkpoint, and any problem with them.

    A damaged log doesn't prevent a run from resuming: a copy of the damaged file is kept.

    Args:
        path: the work directory.
        step: the checkpoint's step.
        last: the checkpoint's digest of the last line before it; None if an earlier version wrote
            the checkpoint.

    Returns:
        The records, and a sentence if lines are missing or damaged, else "".
    """
    records, problem = _read(path)
    chain = ""
    for number, record in enumerate(records):
        if chain == last:
            return records[:number], ""
        chain = _chained(chain, record)
    if chain == last:
        return records, ""
    found = [record for record in records if record["step"] <= step]
    if last is None and not problem:
        return found, ""
    problem = problem or f"{path / METRICS} is not as it was at step {step}"
    if (path / METRICS).exists():
        with files.open_file(path / METRICS) as old, files.atomic_write(path / DAMAGED) as copy:
            shutil.copyfileobj(old, copy)
        problem += f"; it is kept as {DAMAGED}"
    return found, f"{problem}, and the log goes on with the {len(found)} lines that can be read"


def _read(path: Path) -> tuple[list[Record], str]:
    """The records up to the first invalid line, and a sentence about that line."""
    records: list[Record] = []
    lines = _lines(path / METRICS)
    for number, line in enumerate(lines, 1):
        try:
            records.append(_record(line))
        except _NO_RECORD:
            if number == len(lines) and not _is_record(line[:-1]):
                break  # truncated, or empty
            return records, f"{path / METRICS}, line {number} is not a record of metrics"
    return records, ""


def _lines(file: Path) -> list[bytes]:
    """A file's lines; the last one is whatever follows the last newline."""
    if not file.exists():
        return [b""]
    with files.open_file(file, _MAX_READ) as opened:
        return opened.read().split(b"\n")


def _is_record(line: bytes) -> bool:
    """Return True if it is a whole line, which implies that a newline followed it."""
    try:
        _record(line)
    except _NO_RECORD:
        return False
    return True


def _record(line: bytes) -> Record:
    """Parse a line's record; raise a ValueError if it is not one."""
    record = json.loads(line.decode())
    if not isinstance(record, dict):
        raise ValueError
    numbers = [value for name, value in record.items() if name != "split"]
    if type(record.get("step")) is not int or record.get("split") not in ("train", "eval"):
        raise ValueError
    if not all(type(n) in (int, float) and math.isfinite(n) for n in numbers):
        raise ValueError
    return record


def _chained(chain: str, record: Record) -> str:
    return sealed.digest(record, after=chain)[:_DIGITS]


def _encoded(record: Record) -> bytes:
    return json.dumps(record, allow_nan=False).encode() + b"\n"
