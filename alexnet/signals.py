"""Signals that end a command: at once or, while a network trains, once everything is saved.

Python runs its signal handlers only in the main thread, between two instructions. While that thread
is inside a library that compiles or imports, a Ctrl-C waits; and a KeyboardInterrupt raised in a
library's callback is lost. So a thread watches for signals, on the pipe that Python's own C handler
writes to, and ends the process by itself.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from alexnet.files import remove_temporaries

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_FLUSH_SECONDS = 0.5  # for printed output, which nobody may be reading


class _Watch:
    """The pipe and the thread; `allowed` is the number of further signals that a run may get."""

    def __init__(self) -> None:
        self.allowed = 0
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        for number in filter(_is_wanted, ENDING):
            signal.signal(number, _leave_to_the_thread)
        # A forked child process gets the same pipe, but its signals are not ours.
        os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
        threading.Thread(target=self._watch, args=(reading,), daemon=True, name="signals").start()

    def _watch(self, reading: int) -> None:
        while True:
            for number in os.read(reading, 64):
                if number not in ENDING:
                    continue
                if self.allowed <= 0:
                    _end(signal.Signals(number))
                self.allowed -= 1


_watch: _Watch | None = None


def _is_wanted(number: signal.Signals) -> bool:
    """False for a terminal's hang-up that `nohup` has made the process ignore."""
    return number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN


def _code(number: int) -> int:
    """The exit code after a signal; closing the terminal ends a command as SIGTERM does."""
    return 128 + (signal.SIGTERM if number == signal.SIGHUP else number)


def _leave_to_the_thread(_: int, __: Any) -> None:
    """Do nothing in the main thread."""


def watch() -> None:
    """From now on, end this process at once on a signal; to be a command's first call.

    The exit code is 128 + the signal's number. Unfinished files are deleted.
    """
    global _watch
    if _watch is None:
        _watch = _Watch()


@contextlib.contextmanager
def graceful(
    note: Callable[[str], None], numbers: Sequence[signal.Signals] = ENDING, allowed: int = 1
) -> Iterator[list[int]]:
    """A list to which signals append their exit codes, so that a run can save and end.

    One more signal than `allowed` ends the process at once; without `watch`, the second signal of a
    kind gets its previous handler. Outside the main thread, signals keep their handlers.

    Args:
        note: shows a sentence.
        numbers: the signals.
        allowed: how many signals are allowed.
    """
    received: list[int] = []
    notes: list[threading.Thread] = []

    def on_signal(number: int, _: Any) -> None:
        received.append(_code(number))
        if len(received) == 1:
            # In a thread, as the main thread may be in the middle of printing a line, and would
            # print it twice.
            text = f"{signal.Signals(number).name}: saving, then stopping"
            notes.append(threading.Thread(target=note, args=(text,), daemon=True))
            notes[0].start()
        if not _watch:
            signal.signal(number, previous[signal.Signals(number)])

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    previous = {n: signal.getsignal(n) for n in filter(_is_wanted, numbers)}
    if _watch:
        _watch.allowed = allowed
    try:
        for number in previous:
            signal.signal(number, on_signal)
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        if _watch:
            _watch.allowed = 0
        for thread in notes:
            thread.join(_FLUSH_SECONDS)


def _end(number: signal.Signals) -> None:
    """End the process, from any thread."""
    with contextlib.suppress(Exception):
        remove_temporaries()
        if sys.stderr.isatty():
            os.write(2, b"\x1b[?25h\r\n")  # show the cursor, which a progress bar hides
        os.write(2, b"interrupted\n" if number == signal.SIGINT else b"terminated\n")
        flush = threading.Thread(target=sys.stdout.flush, daemon=True)
        flush.start()
        flush.join(_FLUSH_SECONDS)
    os._exit(_code(number))
