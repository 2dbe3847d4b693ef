"""A lock that gives a work directory a single writer, and ends with the process that holds it.

On a disk it is the system's own lock on a file, `lock`, which says who holds it. On gs:// there are
no such locks, so `lock` is an object that its holder keeps renewing. A process that finds one
waits: if the lock is renewed, its holder is alive; if it isn't for long enough, it has expired.
"""

import contextlib
import fcntl
import json
import os
import secrets
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any, BinaryIO

from alexnet import files
from alexnet.errors import RunError, UserError
from alexnet.text import printable

LOCK = "lock"
RENEW_SECONDS = 20
EXPIRE_SECONDS = 120  # since the last renewal
_TRIES = 100  # at a lock file that is deleted again and again
_MOST = 1000  # characters of a lock file
_LENGTH = 400  # bytes of a lock in a bucket, whatever is in it
_READS, _READ_AGAIN = 4, 0.5  # while it is being replaced


class Lock:
    """A lock on a work directory: no other process of this project may write there meanwhile."""

    def release(self) -> None:
        """Release the lock."""


def acquire(path: Path) -> Lock:
    """Lock an existing work directory.

    Raises:
        UserError: naming the process that holds it.
        OSError: if nothing can be written there.
    """
    return _RemoteLock(path) if files.is_remote(path) else _LocalLock(path)


def _myself() -> dict[str, Any]:
    return {"host": socket.gethostname(), "process": os.getpid()}


def _refusal(path: Path, holder: dict[str, Any]) -> UserError:
    """The error for a second process that wants the lock."""
    process, host = holder.get("process", "?"), holder.get("host", "?")
    return UserError(
        f"another run is writing to {path}: process {process!s:.20} on host {host!s:.80}; "
        "wait for its end, stop it, or choose another directory"
    )


def _parsed(text: bytes) -> dict[str, Any]:
    """A lock's information about its holder; empty if it is unreadable, or not written yet."""
    with contextlib.suppress(ValueError, RecursionError):
        values = json.loads(text[:_MOST])
        return values if isinstance(values, dict) else {}
    return {}


class _LocalLock(Lock):
    def __init__(self, path: Path):
        self._path = path / LOCK
        for _ in range(_TRIES):
            self._file: BinaryIO = open(self._path, "a+b")  # noqa: SIM115  (held until `release`)
            if self._try(path):
                return
            self._file.close()
        raise UserError(f"{self._path} can't be locked: it is deleted again and again")

    def _try(self, path: Path) -> bool:
        """Lock the file; return False if its holder has just deleted it."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            holder = _parsed(self._file.read(_MOST))
            self._file.close()
            raise _refusal(path, holder) from None
        except OSError as error:  # on some clusters' file systems, for example
            print(
                f"warning: a second run in {path} would not be noticed: {error.strerror}",
                file=sys.stderr,
            )
        try:
            if os.fstat(self._file.fileno()).st_ino != self._path.stat().st_ino:
                return False
        except FileNotFoundError:
            return False
        self._file.truncate(0)
        self._file.write(json.dumps(_myself()).encode())
        self._file.flush()
        return True

    def release(self) -> None:
        """Delete the file, then unlock it; others check that it still exists after locking it."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._file.close()


class _RemoteLock(Lock):
    def __init__(self, path: Path):
        self._path, self._token, self._over = path / LOCK, secrets.token_hex(8), threading.Event()
        while not self._create():
            self._refuse_if_held(path)
            with contextlib.suppress(FileNotFoundError):
                self._path.unlink()
        if self._holder().get("token") != self._token:  # two took it over at once
            raise _refusal(path, self._holder())
        threading.Thread(target=self._renew, daemon=True, name="lock").start()

    def _create(self) -> bool:
        """Create the object, unless there is one: Google decides who is first."""
        storage: Any = files.storage_of(self._path)
        with contextlib.suppress(FileExistsError):
            storage.pipe_file(str(self._path), self._text(), mode="create")
            return True
        return False

    def _text(self) -> bytes:
        values = {**_myself(), "token": self._token, "renewed": int(time.time())}
        return json.dumps(values).ljust(_LENGTH).encode()  # readers ask for the size first

    def _holder(self) -> dict[str, Any]:
        """The object's content; empty if it is gone, or can't be read after several tries."""
        for _ in range(_READS):
            try:
                if values := _parsed(self._path.read_bytes()):
                    return values
            except FileNotFoundError:
                return {}
            time.sleep(_READ_AGAIN)
        return {}

    def _refuse_if_held(self, path: Path) -> None:
        """Wait until the holder is known to be gone; refuse if it renews its lock."""
        first, waits = self._holder(), False
        holder = first
        while self._counts(holder):
            if holder != first:
                raise _refusal(path, holder)
            if not waits:
                words = f"process {holder.get('process')!s:.20} on {holder.get('host')!s:.80}"
                sentence = f"waiting to see if {words}, which holds {path}, is alive"
                print(printable(sentence), file=sys.stderr, flush=True)
            waits = True
            time.sleep(_READ_AGAIN)
            holder = self._holder()

    @staticmethod
    def _counts(holder: dict[str, Any]) -> bool:
        """Return True if a holder may be alive: not expired, nor a dead process on this host."""
        renewed, process = holder.get("renewed"), holder.get("process")
        if not isinstance(renewed, int | float) or time.time() - renewed >= EXPIRE_SECONDS:
            return False
        here = holder.get("host") == socket.gethostname()
        return not (here and isinstance(process, int) and not files.is_alive(process))

    def _renew(self) -> None:
        while not self._over.wait(RENEW_SECONDS):
            with contextlib.suppress(OSError, RunError, UserError):  # the network may come back
                holder = self._holder()
                if holder and holder.get("token") != self._token:
                    sentence = f"failed: another run has taken over {self._path.parent}"
                    with contextlib.suppress(OSError):
                        print(sentence, file=sys.stderr, flush=True)
                    os._exit(1)  # this process must not write there any more
                self._path.write_bytes(self._text())

    def release(self) -> None:
        """Delete the object."""
        self._over.set()
        with contextlib.suppress(OSError):
            self._path.unlink()
