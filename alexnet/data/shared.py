"""Arrays from worker processes in memory that both have: they are copied once, by the worker.

The memory belongs to files that have no name, of the parent, which its workers open by number
below /proc. So however processes end, nothing is left behind. It is used again when nobody holds
the arrays in it any more.
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
    """Arrays in shared memory: the memory, and of each array its shape, type and first byte."""

    path: str
    layout: dict[str, tuple[tuple[int, ...], str, int]]


class _Slot:
    """Memory for the arrays of one task at a time; a file, and where it is mapped to here."""

    def __init__(self) -> None:
        self.file = os.memfd_create("alexnet")
        weakref.finalize(self, os.close, self.file)
        self.path = f"/proc/{os.getpid()}/fd/{self.file}"
        self.memory = np.zeros(0, np.uint8)
        self.waits = False  # for a worker

    def is_free(self) -> bool:
        """Tell whether no array in it is held: each holds the memory that it is a view of."""
        return not self.waits and sys.getrefcount(self.memory) == _FREE


class Slots:
    """The parent's side: memory for tasks to put their arrays into."""

    def __init__(self) -> None:
        self._slots: dict[str, _Slot] = {}

    def take(self) -> str:
        """Memory that is free, for `pack` in a worker."""
        for slot in self._slots.values():
            if slot.is_free():
                break
        else:
            slot = _Slot()
            self._slots[slot.path] = slot
        slot.waits = True
        return slot.path

    def open(self, parcel: Parcel) -> dict[str, np.ndarray]:
        """The arrays that a worker has packed; its memory is free again when they are gone."""
        slot = self._slots[parcel.path]
        size = os.fstat(slot.file).st_size
        if slot.memory.nbytes != size:
            slot.memory = np.frombuffer(mmap.mmap(slot.file, size), np.uint8)
        slot.waits = False
        return _views(slot.memory, parcel.layout)


def pack(arrays: Mapping[str, np.ndarray], path: str) -> Parcel:
    """Copy arrays into memory of the parent's."""
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
    """The memory, made as large as it has to be."""
    found = os.stat(path)
    if found.st_size < size or size == 0:
        size = max(size, 1)
        os.truncate(path, size)
    return _map(path, found.st_ino, max(size, found.st_size))


@functools.lru_cache(maxsize=1024)  # more than a worker meets
def _map(path: str, inode: int, size: int) -> np.ndarray:
    """A file's memory, mapped once: a number below /proc alone might be another file's by now."""
    file = os.open(path, os.O_RDWR)
    try:
        return np.frombuffer(mmap.mmap(file, size), np.uint8)
    finally:
        os.close(file)


def _views(
    memory: np.ndarray, layout: Mapping[str, tuple[tuple[int, ...], str, int]]
) -> dict[str, np.ndarray]:
    return {name: np.ndarray(*one[:2], memory, one[2]) for name, one in layout.items()}
