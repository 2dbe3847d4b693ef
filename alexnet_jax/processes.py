"""Several JAX processes as one run: `jax.distributed`."""

import atexit
import ctypes
import os
import signal
import sys
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils

from alexnet.config import DevicesConfig
from alexnet.errors import UserError
from alexnet.processes import Processes

CODE = 128 + signal.SIGTERM  # exit code after all processes agreed to stop
HEARTBEAT_SECONDS = 30  # a process silent for this long counts as dead, and ends the others
CHECK = (
    "check that the same command runs on every worker (gcloud: --worker=all), each with its own "
    "--process where that is given, and that all can reach the coordinator's port"
)
LOST = (
    "failed: JAX stopped this process, for the reason above; most likely another process of the "
    "run has ended. Start all of them again with --resume: they go on from the last checkpoint"
)
_kept: list[object] = []  # handlers, kept alive because C holds only their addresses


class Distributed(Processes):
    """One of the processes that `jax.distributed` joins.

    JAX handles SIGTERM itself: its preemption service notifies all processes and makes them agree
    on a step. Other signals are turned into SIGTERM.
    """

    stop_signals = (signal.SIGINT, signal.SIGHUP)

    def __init__(self) -> None:
        self.index, self.count = jax.process_index(), jax.process_count()
        self._passed_on = False

    def gather(self, numbers: Sequence[int]) -> np.ndarray:
        return np.asarray(multihost_utils.process_allgather(np.array(numbers, np.int32)), np.int64)

    def agreed_stop(self, step: int, received: int) -> int:
        if received and not self._passed_on:
            self._passed_on = True
            os.kill(os.getpid(), signal.SIGTERM)
        return CODE if multihost_utils.reached_preemption_sync_point(step) else 0

    def describe(self) -> str:
        return f"process {self.index} of {self.count}, {jax.local_device_count()} local devices"

    def explain(self, error: Exception) -> str | None:
        if not isinstance(error, jax.errors.JaxRuntimeError):
            return None
        return f"another process of this run has ended or can't be reached: {_first_line(error)}"

    def leave(self, code: int) -> None:
        if code not in (1, 2):
            jax.distributed.shutdown()
            return

        def end() -> None:  # before JAX's own atexit function, which would wait for the others
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

        atexit.register(end)


def connect(devices: DevicesConfig) -> Distributed | None:
    """Join the run's other processes if `--distributed` asks for it.

    Raises:
        UserError: where they can't be found, saying what to check.
    """
    if not devices.distributed:
        return None
    where = devices.coordinator or "the coordinator that JAX finds"
    print(f"joining the other processes at {where}; if this hangs, {CHECK}", file=sys.stderr)
    late = f"the other processes did not come within {devices.join_seconds} s (--join-seconds)"
    _end_aborts_with(f"error: {late}: {CHECK}", 2)
    try:
        jax.distributed.initialize(
            devices.coordinator,
            devices.processes,
            devices.process,
            initialization_timeout=devices.join_seconds,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except ValueError as error:
        raise UserError(
            f"--distributed finds no cluster here ({_first_line(error)}): outside a TPU slice or "
            "Slurm give --coordinator HOST:PORT --processes N --process I"
        ) from error
    except RuntimeError as error:
        raise UserError(f"--distributed can't begin: {_first_line(error)}; {CHECK}") from error
    _end_aborts_with(LOST, 1)
    return Distributed()


def _end_aborts_with(sentence: str, code: int) -> None:
    """End with a sentence and an exit code when JAX aborts this process.

    It does so when the others can't be joined and, from a thread of its own, when one of them is
    found dead (docs.jax.dev, fault_tolerance). Python runs signal handlers only on the main
    thread, which is waiting for the dead process; hence a C handler.
    """

    def end(_: int) -> None:
        os.write(2, f"{sentence}\n".encode())
        os._exit(code)

    _kept.append(handler := ctypes.CFUNCTYPE(None, ctypes.c_int)(end))
    ctypes.CDLL(None).signal(int(signal.SIGABRT), handler)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
