"""Several JAX processes as one run: `jax.distributed`."""

import ctypes
import os
import signal
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils

from alexnet.config import DevicesConfig, TrainConfig
from alexnet.errors import UserError
from alexnet.processes import Processes

JOIN_SECONDS = 300
# A process that is silent for this long counts as dead, and its end ends the others.
HEARTBEAT_SECONDS = 30
# How long a process that is done waits for the others before it ends.
SHUTDOWN_SECONDS = 60

LOST = (
    b"failed: JAX stopped this process, for the reason above; most likely another process of the "
    b"run has ended. Start all of them again with --resume: they go on from the last checkpoint\n"
)


class Distributed(Processes):
    """One of the processes that `jax.distributed` joins.

    SIGTERM is left to JAX: its preemption service tells all processes and makes them agree on a
    step. Ctrl-C is turned into SIGTERM.
    """

    stop_signals = (signal.SIGINT,)

    def __init__(self) -> None:
        self.index, self.count = jax.process_index(), jax.process_count()
        self._passed_on = False

    def gather(self, numbers: Sequence[int]) -> np.ndarray:
        return np.asarray(multihost_utils.process_allgather(np.array(numbers, np.int32)), np.int64)

    def agreed_stop(self, step: int, received: int) -> int:
        if received and not self._passed_on:
            self._passed_on = True
            os.kill(os.getpid(), signal.SIGTERM)
        return signal.SIGTERM if multihost_utils.reached_preemption_sync_point(step) else 0

    def describe(self) -> str:
        return f"process {self.index} of {self.count}, {jax.local_device_count()} local devices"

    def explain(self, error: Exception) -> str | None:
        if not isinstance(error, jax.errors.JaxRuntimeError):
            return None
        return f"another process of this run has ended or can't be reached: {_first_line(error)}"

    def leave(self, failed: bool) -> None:
        if not failed:
            jax.distributed.shutdown()


def connect(config: TrainConfig) -> Distributed | None:
    """Join the others where `--distributed` asks for it.

    Raises:
        UserError: where they can't be found, with what to check.
    """
    devices = config.devices
    if not devices.distributed:
        return None
    try:
        jax.distributed.initialize(
            devices.coordinator,
            devices.processes,
            devices.process,
            initialization_timeout=JOIN_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        )
    except (ValueError, RuntimeError) as error:
        raise UserError(_why(devices, error)) from error
    ctypes.CDLL(None).signal(int(signal.SIGABRT), _on_abort)
    return Distributed()


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _on_abort(_: int) -> None:
    """End with a sentence and exit code 1.

    When JAX's coordination service finds a process dead, a thread of its own aborts this one
    (docs.jax.dev, fault_tolerance). Python's handlers run only when the main thread gets to them,
    which then waits for the dead one in a collective, hence a handler in C's sense.
    """
    os.write(2, LOST)
    os._exit(1)


def _why(devices: DevicesConfig, error: Exception) -> str:
    if devices.coordinator is None and isinstance(error, ValueError):
        return (
            f"--distributed found no cluster here ({_first_line(error)}): outside a TPU slice or "
            "Slurm give --coordinator HOST:PORT --processes N --process I"
        )
    where = devices.coordinator or "process 0"
    return (
        f"--distributed could not join the other processes through {where} within "
        f"{JOIN_SECONDS} seconds: {_first_line(error)}. Check that the same command runs on every "
        "worker (gcloud: --worker=all), each with its own --process where that is given, and that "
        "the coordinator's port can be reached from all of them"
    )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
