"""MATLAB's .mat files of version 5 to 7, within bounds.

(Format: "MAT-File Format", The MathWorks; version 7.3 is HDF5 and refused.)
"""

import io
import math
import struct
import zlib
from typing import Any, BinaryIO

import numpy as np

from alexnet.errors import UserError

_SLACK, _MAX_RATIO = 8 << 20, 3  # limit on unpacked data: bytes, plus times the file's size
_MAX_PARTS = 20_000  # matrices and field names; a model with names for 1000 classes has some 3000
_MAX_VARIABLES, _MAX_DEPTH = 100, 8
_MAX_FIELDS, _MAX_NAME = 100, 64  # of a struct, and bytes of a name with the zero at its end
_PIECE = 1 << 14  # bytes that are unpacked at a time, to a thousand times as many at most
_MATRIX, _COMPRESSED = 14, 15
_FLAGS = struct.pack("<2I", 6, 8)  # how a matrix begins
_CELL, _STRUCT, _CHAR = 1, 2, 4  # classes of matrices
# Numbers as stored, by the element's type, and as read, by the class; both little-endian.
_STORED = {1: "i1", 2: "u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4", 7: "<f4", 9: "<f8",
           12: "<i8", 13: "<u8"}  # fmt: skip
_READ = {
    _CHAR: "<u4",
    6: "<f8",
    7: "<f4",
    8: "i1",
    9: "u1",
    10: "<i2",
    11: "<u2",
    12: "<i4",
    13: "<u4",
}
_TEXT = {1: "utf-8", 2: "utf-8", 4: "utf-16-le", 16: "utf-8", 17: "utf-16-le", 18: "utf-32-le"}


Left = dict[str, int]  # the budget left: parts, bytes to unpack, and bytes of values


def _take(left: Left, kind: str, count: int) -> None:
    left[kind] -= count
    if left[kind] < 0 and kind == "parts":
        raise UserError(f"it has more than the {_MAX_PARTS} parts that a model can have")
    if left[kind] < 0:
        raise UserError("it unpacks to far more than its size, as no weights do")


def read(file: BinaryIO) -> dict[str, Any]:
    """Read the variables: arrays, strings, structs as dicts (or lists of them), cells as lists.

    Raises:
        UserError: for a file that is damaged, of another version, or unpacks to too much.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    header = file.read(128)
    if len(header) < 128 or header[126:128] != b"IM" or header[125] != 1:
        raise UserError("it is not a MATLAB file of version 5 to 7 (7.3 is HDF5: save with -v7)")
    most = _SLACK + _MAX_RATIO * size
    left = {"unpacked": most, "values": most, "parts": _MAX_PARTS}
    variables: dict[str, Any] = {}
    while file.tell() < size:
        data = memoryview(_variable(file, size - file.tell(), left))
        _take(left, "parts", _MAX_PARTS // _MAX_VARIABLES)
        kind, matrix, end = _element(data, 0)
        if kind != _MATRIX or end != len(data):
            raise UserError("it is damaged: a variable is no matrix, or does not end")
        name, variables[name] = _matrix(matrix, left)
    return variables


def _variable(file: BinaryIO, rest: int, left: Left) -> bytearray:
    """The next variable, unpacked; `rest` bytes of the file are left."""
    tag = file.read(8)
    kind, length = struct.unpack("<2I", tag) if len(tag) == 8 else (0, 0)
    if kind not in (_MATRIX, _COMPRESSED) or length > rest - 8:
        raise UserError("it is cut short or damaged: a variable is no matrix, or does not end")
    stream = zlib.decompressobj() if kind == _COMPRESSED else None
    data = bytearray() if stream else bytearray(tag)
    try:
        for start in range(0, length, _PIECE):
            piece = file.read(min(_PIECE, length - start))
            if stream:
                if stream.eof:
                    raise UserError("it is damaged: a variable's compressed data ends too early")
                piece = stream.decompress(piece)
            _take(left, "unpacked", len(piece))
            data += piece
    except zlib.error as error:
        raise UserError(f"it is damaged: a variable can't be unpacked: {error}") from error
    if stream and not stream.eof:
        raise UserError("it is cut short: a variable's compressed data does not end")
    return data


def _matrix(data: memoryview, left: Left, depth: int = 0) -> tuple[str, Any]:
    """A matrix's name and value; its parts must fill it exactly."""
    if not data:
        return "", np.empty((0, 0))
    kind, sizes, at = _element(data, 16)
    _, name, at = _element(data, at)
    shape = np.frombuffer(sizes[: len(sizes) // 4 * 4], "<i4").tolist()
    if data[:8] != _FLAGS or kind != 5 or not 2 <= len(shape) <= 8 or min(shape) < 0:
        raise UserError("it is damaged: a matrix has no shape")
    count, class_, is_complex = math.prod(shape), data[8], data[9] & 8
    value: Any
    if class_ in (_CELL, _STRUCT):
        fields, at = _fields(data, at) if class_ == _STRUCT else ([""], at)
        _take(left, "parts", count + len(fields) * (1 + count))
        if depth == _MAX_DEPTH:
            raise UserError("it is nested too deeply")
        value = []
        for field in fields * count:
            kind, content, at = _element(data, at)
            if kind != _MATRIX:
                raise UserError("it is damaged: a cell is no matrix")
            value.append((field, _matrix(content, left, depth + 1)[1]))
        if class_ == _CELL:
            value = [item for _, item in value]
        else:
            value = [dict(value[i * len(fields) : (i + 1) * len(fields)]) for i in range(count)]
            value = value[0] if count == 1 else value
    elif class_ in _READ and not is_complex:
        _take(left, "values", count * np.dtype(_READ[class_]).itemsize)
        kind, content, at = _element(data, at)
        value = _text(kind, content) if class_ == _CHAR else _numbers(kind, content, class_)
        if value is None or len(value) != count:
            raise UserError("it is damaged: a matrix's shape is not its size")
        value = value if class_ == _CHAR else value.reshape(shape, order="F")
    else:
        raise UserError(f"it holds values of a kind that weights don't have (class {class_})")
    if at != len(data):
        raise UserError("it is damaged: a matrix is longer than its parts")
    return bytes(name).decode("latin-1"), value


def _text(kind: int, content: memoryview) -> str | None:
    """A text; None for bytes of another type. Several rows are stored column by column."""
    try:
        return str(content, _TEXT[kind]) if kind in _TEXT else None
    except UnicodeDecodeError as error:
        raise UserError("it is damaged: the characters of a text are none") from error


def _numbers(kind: int, content: memoryview, class_: int) -> np.ndarray | None:
    """An array of numbers, a view where its type needs no conversion; None for other bytes."""
    if kind not in _STORED or len(content) % np.dtype(_STORED[kind]).itemsize:
        return None
    with np.errstate(all="ignore"):  # doubles of a damaged file, for integers
        return np.frombuffer(content, _STORED[kind]).astype(_READ[class_], copy=False)


def _fields(data: memoryview, at: int) -> tuple[list[str], int]:
    """The names of a struct's fields, and where its cells begin."""
    _, width, at = _element(data, at)
    _, names, at = _element(data, at)
    length = int.from_bytes(width[:4], "little")
    if not 0 < length <= _MAX_NAME or len(names) % length or any(names[length - 1 :: length]):
        raise UserError("it is damaged: a struct has no field names")
    if len(names) > _MAX_FIELDS * length:
        raise UserError(f"it has a struct of more than {_MAX_FIELDS} fields")
    pieces = (bytes(names[start : start + length]) for start in range(0, len(names), length))
    return [piece.partition(b"\0")[0].decode("latin-1") for piece in pieces], at


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
