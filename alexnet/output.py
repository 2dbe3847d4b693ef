"""Standard streams that are closed, lead to a full disk, or that nobody reads any more."""

import contextlib
import errno
import os
import select
import sys
from collections.abc import Iterator

_UNWRITABLE = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO)


def open_closed() -> None:
    """Have streams that a shell closed (`>&-`) lead nowhere.

    Python leaves them None, and the next file that is opened would get a standard stream's number.
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
        setattr(sys, name, open(nowhere, mode, closefd=False))  # noqa: SIM115  (as long as we run)


def lost(error: OSError) -> OSError | None:
    """The reason why standard output can't be written to, None where `error` is of something else.

    It leads nowhere from then on, so that what is left in its buffer does no harm.
    """
    found = error if error.filename is None and error.errno in _UNWRITABLE else None
    try:
        number = sys.stdout.fileno()
    except OSError:  # no file at all, as in tests
        return None
    try:
        sys.stdout.flush()
    except OSError as again:
        found = again
    if _reader_left(number):
        found = BrokenPipeError()
    if found:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)
    return found


@contextlib.contextmanager
def lasting() -> Iterator[None]:
    """Go on without standard output where it is lost, and say so once on standard error.

    For a run that is to be saved whoever reads along: the log's disk may be full, and a Ctrl-C ends
    the `tee` of `| tee log` first.
    """
    try:
        yield
    except OSError as error:
        reason = lost(error)
        if reason is None:
            raise
        with contextlib.suppress(OSError):
            print(f"{sentence(reason)}: going on without it", file=sys.stderr, flush=True)


def say(text: str) -> None:
    """Print a line, which may be lost."""
    with lasting():
        print(text, flush=True)


def sentence(reason: OSError) -> str:
    """The loss of standard output in words."""
    if isinstance(reason, BrokenPipeError):
        return "nobody reads standard output any more"
    return f"standard output can't be written to: {reason.strerror}"


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def _reader_left(number: int) -> bool:
    """True where nobody reads standard output any more, as after `| head`."""
    pipe = select.poll()
    pipe.register(number, 0)  # an error is reported whatever is asked for
    return bool(pipe.poll(0))
