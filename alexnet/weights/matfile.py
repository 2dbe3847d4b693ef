"""MATLAB's .mat files of version 5 to 7, as far as MatConvNet's models need them.

Arrays stay views of the file or of the unpacked variable they are in. (Format: "MAT-File Format",
The MathWorks; version 7.3 is HDF5 and refused.)
"""

import io
import math
import struct
from typing import Any, BinaryIO

import numpy as np
from isal import isal_zlib  # inflates in two thirds of zlib's time

from alexnet.errors import UserError

MAX_UNPACKED = 1 << 30  # bytes of all compressed variables together
_MAX_RATIO = 20  # a compressed file's unpacked size to its own; weights reach 1.1, zip bombs 1000
_MAX_DEPTH = 8
_PIECE = 1 << 16  # bytes read at a time; what they usually unpack to stays in the cache
_MOST = 1 << 20  # bytes that one step may unpack to
_MAX_ELEMENTS = 100_000
_MATRIX, _COMPRESSED = 14, 15
_NUMERIC = {
    1: "|i1", 2: "|u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4", 7: "<f4", 9: "<f8",
    12: "<i8", 13: "<u8",
}  # fmt: skip
_TEXT = {16: "utf-8", 17: "utf-16-le", 18: "utf-32-le", 1: "latin-1", 2: "latin-1", 4: "utf-16-le"}
_CELL, _STRUCT, _CHAR = 1, 2, 4
_CLASSES = {6: "<f8", 7: "<f4", 8: "|i1", 9: "|u1", 10: "<i2", 11: "<u2", 12: "<i4", 13: "<u4"}


def read(file: BinaryIO) -> dict[str, Any]:
    """The variables by name: arrays, strings, structs as dicts (or lists of them), cells as lists.

    The file is read piece by piece: of a compressed variable only the unpacked form is held.

    Raises:
        UserError: for a file that is damaged, of another version, or unpacks to too much.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    header = file.read(128)
    if len(header) < 128 or header[126:128] != b"IM" or header[125] != 1:
        raise UserError("it is not a MATLAB file of version 5 to 7 (7.3 is HDF5: save with -v7)")
    reader = _Reader(min(MAX_UNPACKED, (64 << 20) + _MAX_RATIO * size))
    variables: dict[str, Any] = {}
    while (left := size - file.tell()) > 0:
        tag = file.read(8)
        kind, length = struct.unpack("<2I", tag) if len(tag) == 8 else (0, 0)
        if kind not in (_MATRIX, _COMPRESSED):
            raise UserError("it is cut short or damaged: a variable is no matrix")
        if length > left - 8:
            raise UserError("it is cut short or damaged: an element is longer than the file")
        if kind == _COMPRESSED:
            kind, content, _ = reader.element(reader.unpack(file, length), 0)
        else:
            content = memoryview(np.empty(length, np.uint8))
            file.readinto(content)
            file.seek(-length % 8, io.SEEK_CUR)
        if kind != _MATRIX:
            raise UserError("it is damaged: a variable is no matrix")
        name, value = reader.matrix(content, 0)
        variables[name] = value
    return variables


class _Reader:
    """The limits that the parts of one file share."""

    def __init__(self, limit: int) -> None:
        self._bytes_left, self._elements_left = limit, _MAX_ELEMENTS

    def element(self, data: memoryview, at: int) -> tuple[int, memoryview, int]:
        """One element's type and content, and where the next one begins."""
        self._elements_left -= 1
        if len(data) - at < 8 or self._elements_left < 0:
            raise UserError(
                "it is cut short or damaged: an element is missing, or too many are there"
            )
        kind, size = struct.unpack_from("<2I", data, at)
        if kind >> 16:  # up to four bytes stand in the tag itself
            kind, size, start, end = kind & 0xFFFF, kind >> 16, at + 4, at + 8
            if size > 4:
                raise UserError("it is damaged: an element is larger than its place")
        else:
            start = at + 8
            # Compressed elements alone are not filled up to a multiple of eight.
            end = start + (size if kind == _COMPRESSED else -(-size // 8) * 8)
        if start + size > len(data):
            raise UserError("it is cut short or damaged: an element is longer than the file")
        return kind, data[start : start + size], end

    def unpack(self, file: BinaryIO, length: int) -> memoryview:
        """A compressed variable of `length` bytes, as long as all of them stay within the limit."""
        stream, end = isal_zlib.decompressobj(), file.tell() + length
        try:
            head = stream.decompress(file.read(min(256, length)), 8)
            if len(head) < 8:
                raise UserError("it is cut short: a variable's compressed data does not end")
            size = 8 + struct.unpack("<2I", head)[1]
            self._bytes_left -= size
            if self._bytes_left < 0:
                raise UserError("it unpacks to far more than its size, as no weights do")
            unpacked = memoryview(np.empty(size, np.uint8))  # in place: it may be 244 MB
            unpacked[:8], filled, part = head, 8, head
            while not stream.eof:
                piece = stream.unconsumed_tail or file.read(min(_PIECE, end - file.tell()))
                if not piece and not part:  # what went in may come out later
                    break
                part = stream.decompress(piece, min(_MOST, size - filled) or 1)
                if len(part) > size - filled:
                    raise UserError("it is damaged: a variable is longer than it says")
                unpacked[filled : filled + len(part)] = part
                filled += len(part)
        except isal_zlib.error as error:
            raise UserError(f"it is damaged: a variable can't be unpacked: {error}") from error
        if filled < size or not stream.eof:
            raise UserError("it is cut short: a variable's compressed data does not end")
        file.seek(end)
        return unpacked

    def matrix(self, data: memoryview, depth: int) -> tuple[str, Any]:
        """A matrix element's name and value."""
        if not data:
            return "", np.empty((0, 0))
        if depth > _MAX_DEPTH:
            raise UserError("it is nested too deeply")
        _, flags, at = self.element(data, 0)
        _, sizes, at = self.element(data, at)
        _, name, at = self.element(data, at)
        shape = tuple(map(int, np.frombuffer(sizes[: len(sizes) // 4 * 4], "<i4")))
        if len(flags) < 8 or len(shape) > 8 or not all(0 <= n < 1 << 31 for n in shape):
            raise UserError("it is damaged: a matrix has no shape")
        kind, complex_part = flags[0], flags[1] & 8
        if complex_part:
            raise UserError("it holds complex numbers, as no weights do")
        if kind == _CELL:
            value = self._cells(data, at, math.prod(shape), depth)[0]
        elif kind == _STRUCT:
            value = self._structs(data, at, math.prod(shape), depth)
        elif kind == _CHAR:
            value = self._text(data, at)
        elif kind in _CLASSES:
            value = self._numbers(data, at, shape, _CLASSES[kind])
        else:
            raise UserError(f"it holds a value of a kind that is not read (class {kind})")
        return bytes(name).decode("latin-1"), value

    def _cells(self, data: memoryview, at: int, count: int, depth: int) -> tuple[list[Any], int]:
        values = []
        for _ in range(min(count, _MAX_ELEMENTS + 1)):  # `element` refuses the one too many
            kind, content, at = self.element(data, at)
            if kind != _MATRIX:
                raise UserError("it is damaged: a cell is no matrix")
            values.append(self.matrix(content, depth + 1)[1])
        return values, at

    def _structs(self, data: memoryview, at: int, count: int, depth: int) -> Any:
        _, width, at = self.element(data, at)
        _, names, at = self.element(data, at)
        length = int.from_bytes(width[:4], "little")
        if not 0 < length <= 1024 or len(names) % length:
            raise UserError("it is damaged: a struct's field names are none")
        fields = [
            bytes(names[i : i + length]).partition(b"\0")[0].decode("latin-1")
            for i in range(0, len(names), length)
        ]
        structs = []
        for _ in range(min(count, _MAX_ELEMENTS + 1) if fields else 0):
            values, at = self._cells(data, at, len(fields), depth)
            structs.append(dict(zip(fields, values, strict=True)))
        return structs[0] if len(structs) == 1 else structs

    def _text(self, data: memoryview, at: int) -> str:
        kind, content, _ = self.element(data, at)
        return bytes(content).decode(_TEXT.get(kind, "latin-1"), errors="replace")

    def _numbers(self, data: memoryview, at: int, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        kind, content, _ = self.element(data, at)
        stored = _NUMERIC.get(kind)
        if stored is None or math.prod(shape) * np.dtype(stored).itemsize != len(content):
            raise UserError("it is damaged: a matrix's shape is not its size")
        array = np.frombuffer(content, stored).reshape(shape, order="F")
        # MATLAB stores whole numbers in the smallest type that holds them.
        return array.astype(dtype, copy=False)
