"""MATLAB's .mat files of version 5 to 7, read by SciPy within bounds.

SciPy believes the sizes that a file states and unpacks whatever is compressed. So each variable is
unpacked here, and its parts are held against their sizes, before SciPy sees it.
(Format: "MAT-File Format", The MathWorks; version 7.3 is HDF5 and refused.)
"""

import io
import math
import struct
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import scipy.io

from alexnet.errors import UserError

_SLACK, _MAX_RATIO = 8 << 20, 4  # the most that is unpacked, in bytes and in times the file
_MAX_PARTS = 20_000  # matrices and field names; a model with names for 1000 classes has some 3000
_MAX_VARIABLES, _MAX_DEPTH = 100, 8
_MAX_FIELDS, _MAX_NAME = 100, 64  # of a struct, and bytes of a name with the zero at its end
_PIECE = 1 << 14  # bytes that are unpacked at a time, to a thousand times as many at most
_MATRIX, _COMPRESSED = 14, 15
_FLAGS = struct.pack("<2I", 6, 8)  # how a matrix begins
_CELL, _STRUCT, _CHAR = 1, 2, 4  # classes of matrices; those of numbers and text are in _READ
# Bytes of one number or character: as stored, by the element's type, and as read, by the class.
# SciPy looks types up in tables without checking that they are in them.
_STORED = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 4, 9: 8, 12: 8, 13: 8}
_TEXT = {1: 1, 2: 1, 4: 2, 16: 1, 17: 2, 18: 4}  # UTF-8 (16) at least
_READ = {_CHAR: 4, 6: 8, 7: 4, 8: 1, 9: 1, 10: 2, 11: 2, 12: 4, 13: 4}


def read(file: BinaryIO) -> dict[str, Any]:
    """The variables by name: arrays, strings, structs as dicts (or lists of them), cells as lists.

    Raises:
        UserError: for a file that is damaged, of another version, or unpacks to too much.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    header = file.read(128)
    if len(header) < 128 or header[126:128] != b"IM" or header[125] != 1:
        raise UserError("it is not a MATLAB file of version 5 to 7 (7.3 is HDF5: save with -v7)")
    left = _Left(_SLACK + _MAX_RATIO * size, _SLACK + _MAX_RATIO * size)
    variables: dict[str, Any] = {}
    while file.tell() < size:
        content = io.BytesIO()
        content.write(header)
        for piece in _variable(file, size - file.tell()):
            left.take(unpacked=content.write(piece))
        with content.getbuffer() as data:
            kind, matrix, end = _element(data, len(header))
            if kind != _MATRIX or end != len(data):
                raise UserError("it is damaged: a variable is no matrix, or does not end")
            left.take(parts=_MAX_PARTS // _MAX_VARIABLES)
            _check(matrix, left)
        variables |= _read(content)
    return variables


def _variable(file: BinaryIO, rest: int) -> Iterator[bytes]:
    """The next variable, unpacked, in pieces; `rest` bytes of the file are to come."""
    tag = file.read(8)
    kind, length = struct.unpack("<2I", tag) if len(tag) == 8 else (0, 0)
    if kind not in (_MATRIX, _COMPRESSED) or length > rest - 8:
        raise UserError("it is cut short or damaged: a variable is no matrix, or does not end")
    stream = zlib.decompressobj() if kind == _COMPRESSED else None
    if not stream:
        yield tag
    try:
        for start in range(0, length, _PIECE):
            if stream and stream.eof:
                raise UserError("it is damaged: a variable's compressed data ends too early")
            piece = file.read(min(_PIECE, length - start))
            yield stream.decompress(piece) if stream else piece
    except zlib.error as error:
        raise UserError(f"it is damaged: a variable can't be unpacked: {error}") from error
    if stream and not stream.eof:
        raise UserError("it is cut short: a variable's compressed data does not end")


def _read(content: BinaryIO) -> dict[str, Any]:
    """The variable in a file that was scanned."""
    try:
        with warnings.catch_warnings(action="error"):  # an unreadable variable is a warning
            found = scipy.io.loadmat(content, mat_dtype=True, uint16_codec="utf-16-le")
    except Exception as error:  # of any kind: SciPy checks little by itself
        reason = str(error)[:200] or type(error).__name__
        raise UserError(f"it is damaged: SciPy can't read it: {reason!a}") from error
    return {name: _plain(value) for name, value in found.items() if not name.startswith("__")}


def _plain(value: Any) -> Any:
    """SciPy's arrays of records, objects and characters as dicts, lists and strings."""
    if not isinstance(value, np.ndarray):
        return value
    if value.dtype.names:
        structs = [
            {name: _plain(item) for name, item in zip(value.dtype.names, record, strict=True)}
            for record in value.reshape(-1, order="F")
        ]
        return structs[0] if len(structs) == 1 else structs
    if value.dtype.kind == "O":
        return [_plain(item) for item in value.reshape(-1, order="F")]
    return "".join(value.reshape(-1)) if value.dtype.kind == "U" else value


@dataclass
class _Left:
    """The bytes that may still be unpacked, or stand in arrays, and the parts that may come."""

    unpacked: int
    values: int
    parts: int = _MAX_PARTS

    def take(self, unpacked: int = 0, values: int = 0, parts: int = 0) -> None:
        self.unpacked -= unpacked
        self.values -= values
        self.parts -= parts
        if min(self.unpacked, self.values) < 0:
            raise UserError("it unpacks to far more than its size, as no weights do")
        if self.parts < 0:
            raise UserError(f"it has more than the {_MAX_PARTS} parts that a model can have")


def _check(data: memoryview, left: _Left, depth: int = 0) -> None:
    """Refuse a matrix that its parts don't fill exactly, or that holds what weights don't need."""
    if not data:
        return
    kind, sizes, at = _element(data, 16)
    _, _, at = _element(data, at)  # the name
    shape = np.frombuffer(sizes[: len(sizes) // 4 * 4], "<i4").tolist()
    if data[:8] != _FLAGS or kind != 5 or not 2 <= len(shape) <= 8 or min(shape) < 0:
        raise UserError("it is damaged: a matrix has no shape")
    count, class_, is_complex = math.prod(shape), data[8], data[9] & 8
    if is_complex or class_ not in (_CELL, _STRUCT, *_READ):
        raise UserError(f"it holds values of a kind that weights don't have (class {class_})")
    if class_ in _READ:
        left.take(values=count * _READ[class_])
        kind, content, at = _element(data, at)
        stored = (_TEXT if class_ == _CHAR else _STORED).get(kind, 0)
        utf8 = stored == 1 and class_ == _CHAR and count <= len(content)
        if not stored or not (utf8 or count * stored == len(content)):
            raise UserError("it is damaged: a matrix's shape is not its size")
    else:
        left.take(parts=count)
        if class_ == _STRUCT:
            fields, at = _fields(data, at)
            count *= fields
            left.take(parts=fields + count)
        if depth == _MAX_DEPTH:
            raise UserError("it is nested too deeply")
        for _ in range(count):
            kind, content, at = _element(data, at)
            if kind != _MATRIX:
                raise UserError("it is damaged: a cell is no matrix")
            _check(content, left, depth + 1)
    if at != len(data):
        raise UserError("it is damaged: a matrix is longer than its parts")


def _fields(data: memoryview, at: int) -> tuple[int, int]:
    """The number of a struct's fields, and where its cells begin."""
    _, width, at = _element(data, at)
    _, names, at = _element(data, at)
    length = int.from_bytes(width[:4], "little")
    if not 0 < length <= _MAX_NAME or len(names) % length or any(names[length - 1 :: length]):
        raise UserError("it is damaged: a struct has no field names")
    if len(names) > _MAX_FIELDS * length:
        raise UserError(f"it has a struct of more than {_MAX_FIELDS} fields")
    return len(names) // length, at


def _element(data: memoryview, at: int) -> tuple[int, memoryview, int]:
    """An element's type and content, and where the next one begins."""
    if len(data) - at < 8:
        raise UserError("it is cut short or damaged: an element is missing")
    kind, size = struct.unpack_from("<2I", data, at)
    start, end = at + 8, at + 8 + -(-size // 8) * 8
    if kind >> 16:  # up to four bytes stand in the tag itself
        kind, size, start, end = kind & 0xFFFF, kind >> 16, at + 4, at + 8
    if start + size > end or end > len(data):
        raise UserError("it is cut short or damaged: an element is longer than its place")
    return kind, data[start : start + size], end
