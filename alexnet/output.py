"""Handling of standard streams that are closed, go to a full disk, or have lost their reader."""

import contextlib
import errno
import os
import select
import stat
import sys
import threading
from collections.abc import Iterator

_lock = threading.Lock()
_gone: OSError | None = None  # the reason, once standard output is discarded


def open_closed() -> None:
    """Point streams that a shell closed (`>&-`) at the null device.

    Python leaves them None, and the next file opened would get a standard stream's number.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is not None:
            continue
        nowhere = os.open(os.devnull, os.O_RDWR)
        if nowhere != number and not _is_open(number):
            os.dup2(nowhere, number)
            os.close(nowhere)
            nowhere = number
        os.set_inheritable(nowhere, True)
        mode = "r" if name == "stdin" else "w"
        stream = open(nowhere, mode, errors="backslashreplace", closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)


def lost(error: OSError) -> OSError | None:
    """The reason why standard output can't be written to; None if `error` has another cause.

    From then on, output is discarded, so that what is left in the buffer does no harm.
    """
    global _gone
    try:
        number = sys.stdout.fileno()
    except OSError:  # not a file at all, as in tests
        return None
    found = error if _is_of(number, error) else None
    try:
        sys.stdout.flush()
    except OSError as again:
        found = again
    if found:
        _lead_nowhere(number)
        _gone = found
    return found


@contextlib.contextmanager
def lasting() -> Iterator[None]:
    """Continue without standard output if it is lost, and say so once on standard error.

    For a run that must be saved even if its output can't be: the log's disk may be full, and a
    Ctrl-C ends the `tee` of `| tee log` first.
    """
    try:
        yield
    except OSError as error:
        with _lock:  # a thread may print, too
            before = _gone
            reason = lost(error)
        if before or reason is None:
            if before is None or error.filename is not None:
                raise
            return
        try:
            print(f"{sentence(reason)}: going on without it", file=sys.stderr, flush=True)
        except OSError:  # `2>&1`: later messages must not end the run either
            _lead_nowhere(2)


def say(text: str) -> None:
    """Print a line; if standard output is gone, it is lost."""
    with lasting():
        print(text, flush=True)


def sentence(reason: OSError) -> str:
    """A sentence about the loss of standard output."""
    if isinstance(reason, BrokenPipeError):
        return "nobody reads standard output any more"
    return f"standard output can't be written to: {reason.strerror}"


def _is_of(number: int, error: OSError) -> bool:
    """Return True if an error may come from writing to this file."""
    if error.filename is not None:
        return False
    if isinstance(error, BrokenPipeError):
        return _reader_left(number)
    mode = os.fstat(number).st_mode
    if error.errno == errno.EIO:  # from a terminal that is gone
        return stat.S_ISCHR(mode)
    is_full = error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
    return is_full and (stat.S_ISREG(mode) or stat.S_ISCHR(mode))


def _lead_nowhere(number: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def _reader_left(number: int) -> bool:
    """True if nobody reads standard output any more, as after `| head`."""
    pipe = select.poll()
    pipe.register(number, 0)  # errors are reported whatever the event mask
    return bool(pipe.poll(0))
