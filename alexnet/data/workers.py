"""Worker processes, which decode images without the limit of Python's interpreter lock.

They are spawned, since a fork of a process with threads may hang; they leave signals to their
parent, and end when it does.
"""

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
from typing import Any, TypeVar

from alexnet.errors import RunError

T = TypeVar("T")
R = TypeVar("R")
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # the parent handles these
_work: Any = None  # the work function, in a worker


def cpus() -> int:
    """Number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_processes(
    work: Callable[[T], R],
    tasks: Iterable[T],
    workers: int,
) -> Generator[R, None, None]:
    """Yield `work` of each task, in order, computed ahead by processes.

    `work` is pickled once for each process; tasks and results, each time. An error is raised at
    its task's position.

    Raises:
        RunError: if a worker has died.
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


def _submitted(pool: ProcessPoolExecutor, tasks: Iterable[Any]) -> list[Future]:
    """Submit tasks, with signals blocked, so that new workers can first set them to be ignored."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _IGNORED)
    try:
        return [pool.submit(_call, task) for task in tasks]
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(work: Any) -> None:
    """Set up a worker: keep `work`, and end with the parent, as a pool's workers never would."""
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
