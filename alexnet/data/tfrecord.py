"""Random access to TFRecord files, without TensorFlow: an index of where each record begins.

A record is its length (8 bytes), a checksum of the length, its content, and a checksum of the
content (tensorflow/core/lib/io/record_writer.h). So a file has to be scanned once. The index is
kept in the user's cache folder, under a name made of the file's path, size and modification time.
"""

import bisect
import contextlib
import itertools
import os
import struct
import sys
import threading
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from alexnet.data.cache import checksum
from alexnet.errors import UserError
from alexnet.files import atomic_write, open_file
from alexnet.text import counted
from alexnet.user_cache import own_folder, user_cache

HEADER, FOOTER = 12, 4  # bytes before and after a record's content
MOST = (1 << 31) - 1  # bytes of a record; protobuf's own limit
_SCANS = 16  # files scanned at a time: most of the time goes into waiting for a disk
_SLOW = 3  # seconds
_LENGTH, _CRC = struct.Struct("<Q"), struct.Struct("<I")


class RecordFiles:
    """The records of several files, or of a part of each, as one sequence of bytes objects.

    A record's checksum is verified only on its first read, as that takes longer than reading it.

    Args:
        parts: path, number of records to skip at the start, and number of records to take.

    Raises:
        UserError: for a file that is missing, damaged, or has fewer records.
    """

    def __init__(self, parts: Sequence[tuple[Path, int, int]]):
        with ThreadPoolExecutor(_SCANS) as pool, _said_if_slow(len(parts)):
            starts = list(pool.map(record_starts, [path for path, _, _ in parts]))
        for (path, skip, take), found in zip(parts, starts, strict=True):
            if skip + take > len(found) - 1:
                raise UserError(
                    f"{path} has {len(found) - 1:,} records, not the {skip + take:,} that "
                    "dataset_info.json says: copy it again, or prepare the data set again"
                )
        self._starts = [
            found[skip : skip + take + 1]
            for (_, skip, take), found in zip(parts, starts, strict=True)
        ]
        self._firsts = list(itertools.accumulate((take for _, _, take in parts), initial=0))
        self._files = [os.open(path, os.O_RDONLY) for path, _, _ in parts]
        self._seen = np.zeros(len(self), bool)  # records whose checksums were verified
        weakref.finalize(self, _close, self._files)

    def __len__(self) -> int:
        return self._firsts[-1]

    def __getitem__(self, index: int) -> bytes:
        """A record's content.

        Raises:
            IndexError: if there is no such record.
            ValueError: for one that is damaged.
            OSError: if it can't be read.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        part = bisect.bisect_right(self._firsts, index) - 1
        place = index - self._firsts[part]
        start, end = self._starts[part][place].item(), self._starts[part][place + 1].item()
        size = end - start - HEADER - FOOTER
        data = os.pread(self._files[part], size, start + HEADER)
        if len(data) != size:
            raise ValueError("the file has become shorter")
        if not self._seen[index]:
            if os.pread(self._files[part], FOOTER, end - FOOTER) != _CRC.pack(masked(data)):
                raise ValueError("its checksum is another")
            self._seen[index] = True
        return data


@contextlib.contextmanager
def _said_if_slow(files: int) -> Iterator[None]:
    """Print a message if indexing takes long, as it may the first time."""
    sentence = f"finding the records in {counted(files, 'TFRecord file')}, which is done once"
    notice = threading.Timer(_SLOW, print, [sentence], {"file": sys.stderr})
    notice.start()
    try:
        yield
    finally:
        notice.cancel()


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def masked(data: np.ndarray | bytes) -> int:
    """CRC-32C of bytes, masked as TFRecord does: rotated, plus a constant."""
    crc = checksum(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def record_starts(path: Path) -> np.ndarray:
    """The offsets at which a file's records begin, and the last one ends: int64 [records + 1].

    Raises:
        UserError: for a file that can't be read, or isn't TFRecord from beginning to end.
    """
    with open_file(path, 2**62) as file:
        status = os.fstat(file.fileno())
        key = repr((os.path.realpath(path), status.st_size, status.st_mtime_ns))
        kept = user_cache("tfrecord") / f"{sha256(os.fsencode(key)).hexdigest()}.npy"
        found = _kept(kept, status.st_size)
        if found is None:
            found = _scan(path, file.fileno(), status.st_size)
            with contextlib.suppress(Exception):  # if it can't be kept, it is made again next time
                own_folder("tfrecord")
                with atomic_write(kept) as target:
                    np.save(target, found)
    return found


def _kept(path: Path, size: int) -> np.ndarray | None:
    """An index from the cache folder; None if there is no plausible one."""
    try:
        found: Any = np.load(path, allow_pickle=False)
    except Exception:  # on damaged files NumPy raises nearly anything
        return None
    if found.dtype != np.int64 or found.ndim != 1 or len(found) < 1:
        return None
    apart = np.diff(found)
    least, most = HEADER + FOOTER, HEADER + MOST + FOOTER
    whole = found[0] == 0 and found[-1] == size and ((least <= apart) & (apart <= most)).all()
    return found if whole else None


def _scan(path: Path, descriptor: int, size: int) -> np.ndarray:
    """Scan a file from header to header."""
    starts, place = [0], 0
    while place < size:
        header = os.pread(descriptor, HEADER, place)
        length = _LENGTH.unpack_from(header)[0] if len(header) == HEADER else size
        after = place + HEADER + length + FOOTER
        checked, check = header[: _LENGTH.size], header[_LENGTH.size :]
        if after > size or length > MOST or masked(checked) != _CRC.unpack(check)[0]:
            raise UserError(
                f"{path} is damaged at byte {place:,}, or no TFRecord file: copy it again, or "
                "prepare the data set again"
            )
        starts.append(place := after)
    return np.array(starts, np.int64)
