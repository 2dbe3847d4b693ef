"""The processes that train one network together: who is who, and what they have to agree on."""

import signal
import zlib
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from alexnet.config import DevicesConfig
from alexnet.engine import import_framework
from alexnet.errors import RunError, UserError
from alexnet.signals import ENDING

T = TypeVar("T")


class Processes:
    """This process among those of its run: here, the only one; frameworks derive the others.

    All processes call `gather` and `agreed_stop` at the same points.
    """

    index, count = 0, 1  # process 0 writes what a run writes
    stop_signals: tuple[signal.Signals, ...] = ENDING  # for the loop to catch

    def describe(self) -> str:
        """This process's place among the others, in words."""
        return "process 0 of 1"

    def gather(self, numbers: Sequence[int]) -> np.ndarray:
        """The numbers, from 0 to 2^31 - 1, of every process: (count, len(numbers)) int64."""
        return np.array([numbers], np.int64)

    def agreed_stop(self, step: int, received: int) -> int:
        """The exit code with which all stop after `step` completed steps; 0 to go on.

        Called once for each step, ascending, with that of the signal this process got, or 0.
        """
        return received

    def explain(self, error: Exception) -> str | None:
        """A sentence for an error in a step that comes of another process's end, else None."""
        return None

    def leave(self, code: int) -> None:
        """Part from the others before this process exits with `code`.

        It waits for them, but not where it failed alone (1 or 2): they will notice.
        """


def listed(flags: np.ndarray) -> str:
    """The numbers of the processes whose flag is set, in words."""
    return ", ".join(map(str, np.flatnonzero(flags)))


def together(processes: Processes, work: Callable[[], T]) -> T:
    """Do the work, and wait until every process has; if it fails in one, none goes on.

    Raises:
        UserError, RunError: what the work raised; in the others, that it did.
    """
    try:
        result = work()
    except (UserError, RunError):
        processes.gather([True])
        raise
    if failed := listed(processes.gather([False])[:, 0]):
        raise UserError(f"process {failed} could not begin; its own message says why")
    return result


def check_alike(processes: Processes, what: str, value: object) -> None:
    """Refuse to go on where a process has another value.

    Raises:
        UserError: naming the processes that differ from process 0.
    """
    numbers = processes.gather([zlib.crc32(repr(value).encode()) >> 1])[:, 0]
    if others := listed(numbers != numbers[0]):
        raise UserError(
            f"process {others} has other {what} than process 0: start all with the same command"
        )


def part_with(processes: Processes, work: Callable[[], int]) -> int:
    """Do a command's work, and part from the other processes with its exit code, which it gives."""
    code = 1
    try:
        code = work()
        return code
    except UserError:
        code = 2
        raise
    finally:
        processes.leave(code)


def connect(framework: str, devices: DevicesConfig) -> Processes:
    """Join the other processes of the command; before anything else touches the framework.

    Raises:
        UserError: where the framework is missing, or the others can't be found.
    """
    return import_framework(framework, "processes").connect(devices) or Processes()
