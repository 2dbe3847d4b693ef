"""Progress of a run: a bar on a terminal, plain lines anywhere else."""

import sys
from typing import Any

import rich.console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar
from rich.table import Column

from alexnet.output import lasting
from alexnet.scores import LISTED
from alexnet.text import counted, printable

_WIDE = 90  # terminal columns from which the bar has room for all numbers


class Console(rich.console.Console):
    """A console whose reader may close the pipe."""

    def on_broken_pipe(self) -> None:
        """Raise the BrokenPipeError that is being handled; rich would end the process."""
        raise


class Progress:
    """Shows a run's progress; use it as a context manager.

    Args:
        total_steps: of the run.
        steps_per_epoch: to compute the epoch.
        num_classes: of the data.
        process: which of the run's processes this is; all but process 0 only print notes.
    """

    def __init__(
        self, total_steps: int, steps_per_epoch: int, num_classes: int = 1000, process: int = 0
    ):
        self._steps_per_epoch, self._num_classes = steps_per_epoch, num_classes
        self._leads, self._prefix = process == 0, f"process {process}: " if process else ""
        self._console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
        self._bar = Bar(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(compact=True),
            console=self._console,
            disable=not (self._leads and self._console.is_terminal),
            expand=True,
        )
        self._task = self._bar.add_task("starting", total=total_steps, numbers="")
        self._rate: float | None = None

    def __enter__(self) -> "Progress":
        with lasting():
            self._bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        with lasting():
            self._bar.stop()

    def begin_at(self, step: int) -> None:
        """Start from a step other than 0."""
        self._bar.update(self._task, completed=step)

    def note(self, text: str) -> None:
        """Print a sentence on its own line."""
        with lasting():
            self._console.print(self._prefix + printable(text), markup=False)

    def train(self, record: dict[str, Any], logged: bool) -> None:
        """Show a step's metrics; `logged` if they went into the log."""
        self._rate = record.get("examples_per_second", self._rate)
        rate = f"{self._rate:.0f} img/s" if self._rate else ""
        loss = f"loss {record['loss']:.4f}"
        numbers = f"{loss}  top-1 {100 * record['top1']:5.1f} %"
        step, epoch = record["step"], self._epoch(record["step"])
        wide = self._console.width >= _WIDE
        self._bar.update(
            self._task,
            completed=step,
            description=f"epoch {epoch}" if wide else "",
            numbers=f"{numbers}  {rate}" if wide else f"{loss} {rate}",
        )
        if logged and self._leads and not self._console.is_terminal:
            self.note(
                f"step {step:6d}  epoch {epoch:3d}  {numbers}  "
                f"rate {record['learning_rate']:.6f}  {rate}"
            )

    def evaluating(self, done: int, total: int) -> None:
        """Show how far an evaluation is."""
        self._bar.update(self._task, description=f"evaluating {done}/{total}", numbers="")

    def evaluation(self, record: dict[str, Any]) -> None:
        """Print an evaluation's result."""
        if self._leads:
            self.note(f"step {record['step']:6d}  {summary(record, self._num_classes)}")

    def _epoch(self, step: int) -> int:
        return (step - 1) // self._steps_per_epoch + 1


def summary(record: dict[str, Any], num_classes: int) -> str:
    """An evaluation in words, without top-5 for five classes or fewer, where it is 100 %."""
    top5 = f"top-5 {100 * record['top5']:.2f} %  " if num_classes > LISTED else ""
    return (
        f"test top-1 {100 * record['top1']:.2f} %  {top5}loss {record['loss']:.4f}  "
        f"({counted(int(record['count']), 'example')})"
    )
