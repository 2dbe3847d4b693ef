"""Progress of work on a data set: a bar on a terminal, now and then a line anywhere else."""

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from alexnet.data.cache_writer import Observer
from alexnet.text import printable

LINES = 30  # seconds between two lines


class Preparing(Observer):
    """Progress of `cache_writer.prepare` on standard error; use it as a context manager."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(compact=True),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("opening", total=None, rate="")
        self._begun: tuple[str, int, float] = ("", 0, 0.0)  # what, the first count and its time
        self._said = time.monotonic()

    def __enter__(self) -> "Preparing":
        self._bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._bar.stop()

    def note(self, text: str) -> None:
        """Show a sentence on its own line."""
        self._console.print(printable(text), markup=False)

    def progress(self, what: str, done: int, total: int) -> None:
        """Show how many of the examples are done, and the rate."""
        now = time.monotonic()
        if self._begun[0] != what:
            self._begun = (what, done, now)
        _, first, since = self._begun
        rate = f"{(done - first) / (now - since):,.0f} img/s" if now > since else ""
        self._bar.update(self._task, description=what, completed=done, total=total, rate=rate)
        if not self._console.is_terminal and now - self._said >= LINES:
            self._said = now
            self.note(f"{what}: {done:,} of {total:,}  {rate}")
