"""Reuse of batch memory: arrays that nothing refers to any more serve the next batches.

The system hands out new memory page by page, zeroed, and takes it back as soon as a batch is
freed. That costs half as much again as copying the images.
"""

import sys
import threading

import numpy as np

_FREE = 3  # references to an array not in use: the list, a variable and an argument


class Buffers:
    """uint8 arrays of one shape at a time; safe to share between threads.

    An array is in use as long as anything refers to it: a batch, a view, or a framework's tensor
    or transfer on that memory, all of which hold a reference.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: list[np.ndarray] = []

    def take(self, shape: tuple[int, ...]) -> np.ndarray:
        """A free array; its contents are arbitrary."""
        with self._lock:
            for array in self._kept:
                if array.shape == shape and sys.getrefcount(array) == _FREE:
                    return array
            # Those of another shape are of an evaluation that is over, or will be.
            self._kept = [array for array in self._kept if array.shape == shape]
            self._kept.append(array := np.empty(shape, np.uint8))
            return array
