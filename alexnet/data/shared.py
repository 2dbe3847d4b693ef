"""Arrays from worker processes in shared memory: they are copied only once, by the worker.

The memory belongs to the parent's unnamed files, which its workers open by number below /proc. So
nothing is left behind, however the processes end. Memory is reused once nothing refers to the
arrays in it any more.
"""

import functools
import itertools
import mmap
import os
import sys
import weakref
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

_ALIGNED = 64  # bytes
_FREE = 2  # references to memory whose arrays are gone: a slot's, and an argument


class Parcel(NamedTuple):
    """Arrays in shared memory: the memory, and each array's shape, type and offset."""

    path: str
    layout: dict[str, tuple[tuple[int, ...], str, int]]


class _Slot:
    """Memory for the arrays of one task at a time: a file, and its mapping in this process."""

    def __init__(self) -> None:
        self.file = os.memfd_create("alexnet")
        weakref.finalize(self, os.close, self.file)
        self.path = f"/proc/{os.getpid()}/fd/{self.file}"
        self.memory = np.zeros(0, np.uint8)
        self.waits = False  # True until the arrays that a worker packs here are opened

    def is_free(self) -> bool:
        """Return True if no array in it is in use: each refers to the memory it is a view of."""
        return not self.waits and sys.getrefcount(self.memory) == _FREE


class Slots:
    """The parent's side: memory for tasks to put their arrays into."""

    def __init__(self) -> None:
        self._slots: dict[str, _Slot] = {}

    def take(self) -> str:
        """The path of free memory, for `pack` in a worker."""
        for slot in self._slots.values():
            if slot.is_free():
                break
        else:
            slot = _Slot()
            self._slots[slot.path] = slot
        slot.waits = True
        return slot.path

    def open(self, parcel: Parcel) -> dict[str, np.ndarray]:
        """The arrays that a worker has packed; the memory is free again when they are gone."""
        slot = self._slots[parcel.path]
        size = os.fstat(slot.file).st_size
        if slot.memory.nbytes != size:
            slot.memory = np.frombuffer(mmap.mmap(slot.file, size), np.uint8)
        slot.waits = False
        return _views(slot.memory, parcel.layout)


def pack(arrays: Mapping[str, np.ndarray], path: str) -> Parcel:
    """Copy arrays into the parent's memory."""
    starts = itertools.accumulate(
        (-(-array.nbytes // _ALIGNED) * _ALIGNED for array in arrays.values()), initial=0
    )
    *places, size = starts
    layout = {
        name: (array.shape, array.dtype.str, place)
        for (name, array), place in zip(arrays.items(), places, strict=True)
    }
    for name, view in _views(_mapped(path, size), layout).items():
        view[...] = arrays[name]
    return Parcel(path, layout)


def _mapped(path: str, size: int) -> np.ndarray:
    """The mapped memory, enlarged if necessary."""
    found = os.stat(path)
    if found.st_size < size or size == 0:
        size = max(size, 1)
        os.truncate(path, size)
    return _map(path, found.st_ino, max(size, found.st_size))


@functools.lru_cache(maxsize=1024)  # more than a worker ever sees
def _map(path: str, inode: int, size: int) -> np.ndarray:
    """Map a file once; by its inode, too, since its number below /proc may have been reused."""
    file = os.open(path, os.O_RDWR)
    try:
        return np.frombuffer(mmap.mmap(file, size), np.uint8)
    finally:
        os.close(file)


def _views(
    memory: np.ndarray, layout: Mapping[str, tuple[tuple[int, ...], str, int]]
) -> dict[str, np.ndarray]:
    return {name: np.ndarray(*one[:2], memory, one[2]) for name, one in layout.items()}
