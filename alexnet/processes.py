"""The processes that train one network together: their numbers, and how they reach agreement."""

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
    """This process among those of its run: here, the only one; frameworks subclass it for more.

    All processes must call `gather` and `agreed_stop` at the same points.
    """

    index, count = 0, 1  # process 0 writes the run's files
    stop_signals: tuple[signal.Signals, ...] = ENDING  # for the loop to catch

    def describe(self) -> str:
        """A description of this process's place among the others."""
        return "process 0 of 1"

    def gather(self, numbers: Sequence[int]) -> np.ndarray:
        """The numbers, from 0 to 2^31 - 1, of every process: (count, len(numbers)) int64."""
        return np.array([numbers], np.int64)

    def agreed_stop(self, step: int, received: int) -> int:
        """The exit code with which all stop after `step` completed steps, or 0 to continue.

        Call it once for each step, ascending, with the exit code of this process's signal, or 0.
        """
        return received

    def explain(self, error: Exception) -> str | None:
        """A sentence for an error in a step caused by another process's end; None for others."""
        return None

    def leave(self, code: int) -> None:
        """Disconnect from the others before this process exits with `code`.

        This waits for them, unless this process failed by itself (1 or 2): they will notice.
        """


def listed(flags: np.ndarray) -> str:
    """A description of the processes whose flag is set, by number."""
    return ", ".join(map(str, np.flatnonzero(flags)))


def together(processes: Processes, work: Callable[[], T]) -> T:
    """Do the work, and wait until every process has done it; if one fails, none continues.

    Raises:
        UserError, RunError: the work's own error; in the other processes, one that reports it.
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
    """Refuse to continue if any process has a different value.

    Raises:
        UserError: naming the processes that differ from process 0.
    """
    numbers = processes.gather([zlib.crc32(repr(value).encode()) >> 1])[:, 0]
    if others := listed(numbers != numbers[0]):
        raise UserError(
            f"process {others} has other {what} than process 0: start all with the same command"
        )


def part_with(processes: Processes, work: Callable[[], int]) -> int:
    """Do a command's work, disconnect from the other processes, and return the exit code."""
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
    """Join the other processes of the command; call it before anything else uses the framework.

    Raises:
        UserError: if the framework is missing, or the others can't be found.
    """
    return import_framework(framework, "processes").connect(devices) or Processes()
