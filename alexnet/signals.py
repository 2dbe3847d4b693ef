"""Signals that end a command: at once, or, while a network trains, once everything is saved.

Python runs its signal handlers in the main thread only, between two instructions. While that is
inside a library that compiles or imports, a Ctrl-C waits; and a KeyboardInterrupt raised in a
library's callback is lost. So a thread watches for signals, by the pipe that Python's own handler
in C writes to, and ends the process by itself.
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
_FLUSH_SECONDS = 0.5  # for what was printed; nobody may be reading it


class _Watch:
    """The pipe and the thread; `allowed` is how many more signals a run that saves may get."""

    def __init__(self) -> None:
        self.allowed = 0
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        for number in filter(_is_wanted, ENDING):
            signal.signal(number, _leave_to_the_thread)
        # A child process that is forked gets the same pipe; its signals are not ours.
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
    """False for the end of a terminal that `nohup` has made the process ignore."""
    return number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN


def _code(number: int) -> int:
    """The exit code after a signal; a terminal that is closed ends a command as SIGTERM does."""
    return 128 + (signal.SIGTERM if number == signal.SIGHUP else number)


def _leave_to_the_thread(_: int, __: Any) -> None:
    """Do nothing in the main thread."""


def watch() -> None:
    """End this process at once from now on when a signal asks for it; for a command's first line.

    It ends with 128 + the signal's number. Files that are half written are deleted.
    """
    global _watch
    if _watch is None:
        _watch = _Watch()


@contextlib.contextmanager
def graceful(
    note: Callable[[str], None], numbers: Sequence[signal.Signals] = ENDING, allowed: int = 1
) -> Iterator[list[int]]:
    """A list that signals put their exit codes in, for a run to save and end.

    One more than `allowed` ends the process at once; without `watch`, a second one of a kind does
    what it did before. In a thread other than the main one signals go on doing what they did.

    Args:
        note: shows a sentence.
        numbers: the signals.
        allowed: how many of them there may be.
    """
    received: list[int] = []
    notes: list[threading.Thread] = []

    def on_signal(number: int, _: Any) -> None:
        received.append(_code(number))
        if len(received) == 1:
            # The main thread may be in the middle of printing, and would print that line twice.
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
    """End the process, from whatever thread."""
    with contextlib.suppress(Exception):
        remove_temporaries()
        if sys.stderr.isatty():
            os.write(2, b"\x1b[?25h\r\n")  # the cursor, which a progress bar hides
        os.write(2, b"interrupted\n" if number == signal.SIGINT else b"terminated\n")
        flush = threading.Thread(target=sys.stdout.flush, daemon=True)
        flush.start()
        flush.join(_FLUSH_SECONDS)
    os._exit(_code(number))
