"""Worker processes: started afresh, quiet at Ctrl-C, and gone when their parent is."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing.connection import wait
from typing import TypeVar

from alexnet.errors import RunError

T = TypeVar("T")
R = TypeVar("R")


def cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_processes(
    work: Callable[[T], R], tasks: Iterable[T], workers: int
) -> Generator[R, None, None]:
    """Yield `work` of each task, in order, computed ahead by processes; one works right here.

    `work`, tasks and results are pickled. An error is raised in its task's place.

    Raises:
        RunError: where a worker has died.
    """
    if workers == 1:
        yield from map(work, tasks)
        return
    tasks = iter(tasks)
    # Spawned, as a copy of a process with threads may hang.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin)
    ahead: deque[Future[R]] = deque(pool.submit(work, task) for task in islice(tasks, workers + 2))
    try:
        while ahead:
            result = ahead.popleft().result()
            ahead.extend(pool.submit(work, task) for task in islice(tasks, 1))
            yield result
    except BrokenProcessPool as error:
        raise RunError(
            "a worker process has died, killed perhaps for want of memory: give fewer --workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _begin() -> None:
    """Leave Ctrl-C to the parent, and end with it: a pool's workers would wait for ever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
