"""Protocol Buffers on the wire, as little of them as Caffe and ONNX files need.

A message is read one level deep, into its fields; the caller decides which of those to open.
Nothing recurses with the file's depth, and no length beyond the file's end is trusted.
(Encoding: protobuf.dev/programming-guides/encoding.)
"""

import os
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from alexnet.errors import UserError

MAX_FIELDS = 100_000  # in one message; AlexNet's largest has some hundred
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_FIXED = {FIXED64: 8, FIXED32: 4}

Message = dict[int, list[int | memoryview]]  # field number to its values, numbers as ints


def parse(data: memoryview, most: int = MAX_FIELDS) -> Message:
    """The fields of one message, at most `most`: varints as ints, all else as views of the bytes.

    Raises:
        UserError: for bytes that are no message, or have more than `most` fields.
    """
    message: Message = {}
    position = count = 0
    while position < len(data):
        key, position = _varint(data, position)
        number, wire_type = key >> 3, key & 7
        if wire_type in _FIXED:
            value = _FIXED[wire_type]
        elif wire_type in (VARINT, BYTES):
            value, position = _varint(data, position)
        else:
            raise UserError("it is not a protobuf message, or a damaged one")
        start = position
        if wire_type != VARINT:
            position += value  # past a payload of `value` bytes
            if position > len(data):
                raise UserError("it is cut short or damaged: a field is longer than the file")
        count += 1
        if number == 0 or count > most:
            raise UserError("it is not a protobuf message, or has too many fields")
        message.setdefault(number, []).append(
            value if wire_type == VARINT else data[start:position]
        )
    return message


def outline(file: BinaryIO, most: int = 64) -> Iterator[tuple[int, int]]:
    """Number and wire type of each of a file's first fields, whose contents are not read.

    They end after `most`, or at the first one that is damaged.
    """
    end, position = file.seek(0, os.SEEK_END), 0
    while position < end and most:
        file.seek(position)
        head = memoryview(file.read(20))  # a number takes ten bytes at most
        try:
            key, start = _varint(head, 0)
            number, kind = key >> 3, key & 7
            length, start = (_FIXED[kind], start) if kind in _FIXED else _varint(head, start)
        except UserError:
            return
        if not number or kind not in (VARINT, BYTES, *_FIXED):
            return
        yield number, kind
        position += start + (length if kind != VARINT else 0)
        most -= 1


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    """An unsigned number of up to 64 bits, and the position after it."""
    value = shift = 0
    while True:
        if position >= len(data) or shift > 63:
            raise UserError("it is cut short or damaged: a number does not end")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (1 << 64) - 1, position
        shift += 7


def messages(message: Message, number: int) -> list[memoryview]:
    """The values of a field that holds messages or strings."""
    values = [value for value in message.get(number, []) if isinstance(value, memoryview)]
    if len(values) != len(message.get(number, [])):
        raise UserError(f"it is damaged: field {number} should hold a message")
    return values


def ints(message: Message, number: int) -> list[int]:
    """The values of a signed integer field, packed or not."""
    values: list[int] = []
    for value in message.get(number, []):
        if isinstance(value, int):
            values.append(value)
        elif len(value) > MAX_FIELDS:
            raise UserError(f"it is damaged: field {number} has too many numbers")
        else:
            position = 0
            while position < len(value):
                one, position = _varint(value, position)
                values.append(one)
    return [value - (1 << 64) if value >> 63 else value for value in values]


def one_int(message: Message, number: int, default: int) -> int:
    """The value of an integer field, the last one where there are several, as protobuf has it."""
    return (ints(message, number) or [default])[-1]


def floats(message: Message, number: int, dtype: str = "<f4") -> np.ndarray:
    """The values of a field of floats, packed or not: a view of the file where in one piece.

    Raises:
        UserError: for bytes that are not whole numbers, or very many that are not packed.
    """
    pieces = messages(message, number)
    if any(len(piece) % np.dtype(dtype).itemsize for piece in pieces):
        raise UserError(f"it is damaged: field {number} should hold {np.dtype(dtype)} numbers")
    arrays = [np.frombuffer(piece, dtype) for piece in pieces]
    return arrays[0] if len(arrays) == 1 else np.concatenate([np.empty(0, dtype), *arrays])


def one_float(message: Message, number: int, default: float) -> float:
    """The value of an fp32 field."""
    values = floats(message, number)
    return float(values[-1]) if len(values) else default


def text(message: Message, number: int, default: str = "") -> str:
    """The value of a string field."""
    return (texts(message, number) or [default])[-1]


def texts(message: Message, number: int) -> list[str]:
    """All values of a string field."""
    return [bytes(value).decode(errors="replace") for value in messages(message, number)]
