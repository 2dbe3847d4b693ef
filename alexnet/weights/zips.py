"""Zip files as torch writes them: stored, never compressed, so that nothing can swell.

Reading gives views of the file, every one of them held against its CRC.
(Format: PKWARE's APPNOTE.TXT, sections 4.3.7, 4.3.12 and 4.3.16.)
"""

import struct
import zipfile
import zlib
from collections.abc import Iterable
from typing import BinaryIO

from alexnet.errors import UserError

MAX_ENTRIES = 10_000
_END, _ENTRY, _LOCAL = b"PK\5\6", b"PK\1\2", b"PK\3\4"


def entries(data: memoryview) -> dict[str, memoryview]:
    """Every file in the archive by its name.

    Raises:
        UserError: for an archive that is damaged, compressed, encrypted or over 4 GiB.
    """
    tail = bytes(data[-(22 + 0xFFFF) :])
    end = tail.rfind(_END)
    if end < 0 or len(tail) - end < 22:
        raise UserError("it is cut short: a zip file's end is missing")
    count, size, start = struct.unpack_from("<H2I", tail, end + 10)
    if count > MAX_ENTRIES or start + size > len(data):
        raise UserError("it is damaged: the zip directory lies outside of the file")
    directory = data[start : start + size]
    found: dict[str, memoryview] = {}
    position = 0
    for _ in range(count):
        name, content, position = _entry(data, directory, position)
        if name in found:
            raise UserError(f"it is damaged: {name!r} is in it twice")
        found[name] = content
    if sum(map(len, found.values())) > len(data):
        raise UserError("it is damaged: its parts overlap")
    return found


def _entry(data: memoryview, directory: memoryview, at: int) -> tuple[str, memoryview, int]:
    """One entry's name and content, and where the next entry begins."""
    if len(directory) - at < 46 or directory[at : at + 4] != _ENTRY:
        raise UserError("it is damaged: the zip directory is cut short")
    flags, method = struct.unpack_from("<2H", directory, at + 8)
    crc, packed, size, name_size, extra, comment = struct.unpack_from("<3I3H", directory, at + 16)
    (start,) = struct.unpack_from("<I", directory, at + 42)
    name = bytes(directory[at + 46 : at + 46 + name_size]).decode(errors="replace")
    if method != 0 or flags & 1 or packed != size:
        raise UserError(f"{name[:100]!r} in it is compressed or encrypted, as torch never writes")
    if start + 30 > len(data) or data[start : start + 4] != _LOCAL:
        raise UserError(f"it is damaged: {name[:100]!r} is not where the zip directory says")
    # The name and the padding before the content may have another length here.
    start += 30 + sum(struct.unpack_from("<2H", data, start + 26))
    if start + size > len(data):
        raise UserError(f"it is damaged: {name[:100]!r} reaches past the end of the file")
    content = data[start : start + size]
    if zlib.crc32(content) != crc:
        raise UserError(f"it is damaged: the checksum of {name[:100]!r} does not match")
    return name, content, at + 46 + name_size + extra + comment


def write(file: BinaryIO, parts: Iterable[tuple[str, int, Iterable[bytes | memoryview]]]) -> None:
    """Write an archive of stored files, each starting at a multiple of 64 bytes as torch's do.

    Args:
        file: open for writing, at its start.
        parts: for each file its name, size in bytes, and the bytes in pieces.
    """
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, size, pieces in parts:
            info = zipfile.ZipInfo(name)  # dated 1980: the same weights give the same file
            info.file_size = size
            start = file.tell() + 30 + len(name.encode()) + 4
            padding = -start % 64
            info.extra = struct.pack("<2s H", b"FB", padding) + b"Z" * padding
            with archive.open(info, "w") as target:
                for piece in pieces:
                    target.write(piece)
