"""Progress of a run: a bar on a terminal, plain lines anywhere else."""

import sys
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar


class Progress:
    """Shows a run's progress; use it as a context manager.

    Args:
        total_steps: of the run.
        steps_per_epoch: to tell the epoch.
        process: which of the run's processes this is; all but process 0 only print notes.
    """

    def __init__(self, total_steps: int, steps_per_epoch: int, process: int = 0):
        self._steps_per_epoch = steps_per_epoch
        self._leads, self._prefix = process == 0, f"process {process}: " if process else ""
        self._console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
        self._bar = Bar(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not (self._leads and self._console.is_terminal),
            expand=True,
        )
        self._task = self._bar.add_task("starting", total=total_steps, numbers="")
        self._rate: float | None = None

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._bar.stop()

    def begin_at(self, step: int) -> None:
        """Start from a step other than 0."""
        self._bar.update(self._task, completed=step)

    def note(self, text: str) -> None:
        """A sentence of its own line."""
        self._console.print(self._prefix + text, markup=False)

    def train(self, record: dict[str, Any], logged: bool) -> None:
        """A step's metrics; `logged` where they went into the log."""
        self._rate = record.get("examples_per_second", self._rate)
        rate = f"{self._rate:.0f} img/s" if self._rate else ""
        numbers = f"loss {record['loss']:.4f}  top-1 {100 * record['top1']:5.1f} %"
        step, epoch = record["step"], self._epoch(record["step"])
        self._bar.update(
            self._task, completed=step, description=f"epoch {epoch}", numbers=f"{numbers}  {rate}"
        )
        if logged and self._leads and not self._console.is_terminal:
            self.note(
                f"step {step:6d}  epoch {epoch:3d}  {numbers}  "
                f"rate {record['learning_rate']:.6f}  {rate}"
            )

    def evaluating(self, done: int, total: int) -> None:
        """Show how far an evaluation is."""
        self._bar.update(self._task, description=f"evaluating {done}/{total}")

    def evaluation(self, record: dict[str, Any]) -> None:
        """An evaluation's result."""
        if self._leads:
            self.note(f"step {record['step']:6d}  {summary(record)}")

    def _epoch(self, step: int) -> int:
        return (step - 1) // self._steps_per_epoch + 1


def summary(record: dict[str, Any]) -> str:
    """An evaluation in words."""
    return (
        f"test top-1 {100 * record['top1']:.2f} %  top-5 {100 * record['top5']:.2f} %  "
        f"loss {record['loss']:.4f}  ({int(record['count'])} examples)"
    )
