"""Worker processes, which decode past Python's lock, and the shared memory that arrays come in.

They are started afresh, since a copy of a process with threads may hang; they leave signals to
their parent, and end when it does.
"""

import multiprocessing
import os
import secrets
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing.connection import wait
from multiprocessing.shared_memory import SharedMemory
from typing import Any, NamedTuple, TypeVar

import numpy as np

from alexnet.errors import RunError

T = TypeVar("T")
R = TypeVar("R")
_ALIGNED = 64  # bytes
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # the parent hears them, and ends all
_work: Any = None  # a worker's


def cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_processes(
    work: Callable[[T], R],
    tasks: Iterable[T],
    workers: int,
    discard: Callable[[R], object] = lambda _: None,
) -> Generator[R, None, None]:
    """Yield `work` of each task, in order, computed ahead by processes.

    `work` is pickled once for each process, tasks and results each time. An error is raised in its
    task's place. `discard` is called with results that nobody took.

    Raises:
        RunError: where a worker has died.
    """
    tasks = iter(tasks)
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(work,))
    ahead = deque[Future[R]]()
    try:
        ahead.extend(_submitted(pool, islice(tasks, workers + 2)))
        while ahead:
            result = ahead.popleft().result()
            ahead.extend(_submitted(pool, islice(tasks, 1)))
            yield result
    except BrokenProcessPool as error:
        raise RunError(
            "a worker process has died, killed perhaps for want of memory: try fewer of them"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
        for left in ahead:
            if not left.cancelled() and not left.exception():
                discard(left.result())


def _submitted(pool: ProcessPoolExecutor, tasks: Iterable[Any]) -> list[Future]:
    """Hand tasks over. What starts here starts with signals held back, to be ignored there."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _IGNORED)
    try:
        return [pool.submit(_call, task) for task in tasks]
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(work: Any) -> None:
    """Take the work over, and end with the parent: a pool's workers would wait for ever."""
    global _work
    _work = work
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _call(task: Any) -> Any:
    return _work(task)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


class Parcel(NamedTuple):
    """Arrays in shared memory: its name, and of each array its shape, type and first byte."""

    name: str
    layout: dict[str, tuple[tuple[int, ...], str, int]]


def pack(arrays: Mapping[str, np.ndarray]) -> Parcel:
    """Copy arrays into shared memory, which lasts until it is unpacked.

    Raises:
        RunError: where there is not enough of it.
    """
    layout, size = {}, 0
    for key, array in arrays.items():
        layout[key] = array.shape, array.dtype.str, size
        size += -(-array.nbytes // _ALIGNED) * _ALIGNED
    # The parent's number tells whose it is.
    name = f"alexnet-{os.getppid()}-{secrets.token_hex(8)}"
    memory: Any = SharedMemory(name, create=True, size=max(size, 1))
    try:
        os.posix_fallocate(memory._fd, 0, memory.size)  # or a lack of it would be a SIGBUS
    except OSError as error:
        memory.close()
        memory.unlink()
        raise RunError(
            f"{size:,} bytes of shared memory can't be had ({error.strerror}): make /dev/shm "
            "larger (docker run --shm-size), or take threads instead of worker processes"
        ) from error
    _fill(memory, layout, arrays)
    memory.close()
    return Parcel(name, layout)


def _fill(memory: Any, layout: Mapping[str, tuple], arrays: Mapping[str, np.ndarray]) -> None:
    """Copy arrays to their places; no view is left, or the memory could not be closed."""
    for key, view in _views(memory, layout).items():
        view[...] = arrays[key]


def unpack(parcel: Parcel) -> dict[str, np.ndarray]:
    """Copies of the arrays in a parcel, whose memory is given back."""
    memory = SharedMemory(parcel.name)
    arrays = {name: array.copy() for name, array in _views(memory, parcel.layout).items()}
    memory.close()
    memory.unlink()
    return arrays


def _views(memory: Any, layout: Mapping[str, tuple]) -> dict[str, np.ndarray]:
    return {
        name: np.ndarray(shape, kind, memory.buf, place)
        for name, (shape, kind, place) in layout.items()
    }
