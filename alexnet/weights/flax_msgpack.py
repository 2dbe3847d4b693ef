"""Flax's msgpack files: {'params': {'conv1': {'kernel', 'bias'}, ...}}.

(Formats: the specification of msgpack/msgpack on GitHub; flax/serialization.py, where an array is
extension type 1 around [shape, type name, bytes].) Read and written here, with views and not
copies of the arrays.
"""

import math
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

from alexnet.errors import UserError
from alexnet.weights.assemble import Found
from alexnet.weights.core import Weights
from alexnet.weights.names import ARRAYS
from alexnet.weights.safetensors import blocks

_MAX_DEPTH = 8
_MAX_ITEMS = 10_000
_ARRAY = 1  # Flax's extension type of an array
_DTYPES = {"float32": "<f4", "float64": "<f8", "float16": "<f2", "int32": "<i4", "int64": "<i8"}
_SIZED = {  # first byte: how the length is written, and what follows
    0xC4: (">B", "bin"), 0xC5: (">H", "bin"), 0xC6: (">I", "bin"),
    0xC7: (">B", "ext"), 0xC8: (">H", "ext"), 0xC9: (">I", "ext"),
    0xD9: (">B", "str"), 0xDA: (">H", "str"), 0xDB: (">I", "str"),
    0xDC: (">H", "list"), 0xDD: (">I", "list"), 0xDE: (">H", "map"), 0xDF: (">I", "map"),
}  # fmt: skip
_NUMBERS = {
    0xCA: ">f", 0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q",
    0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q",
}  # fmt: skip


def looks_like(head: bytes | memoryview) -> bool:
    """Whether a file starts with a map whose first key is `params` or a layer."""
    return bool(head) and (head[0] & 0xF0) == 0x80 and bytes(head[2:7]) in (b"param", b"conv1")


def read(data: memoryview) -> Found:
    """What the file holds.

    Raises:
        UserError: for a file that is damaged or holds something else.
    """
    value, end = _value(data, 0, 0)
    if end != len(data):
        raise UserError("it goes on after its end: it is damaged, or not msgpack")
    tree = value.get("params", value) if isinstance(value, dict) else None
    if not isinstance(tree, dict):
        raise UserError("it holds no table of parameters")
    extra = [f"{key}" for key in value if key != "params"] if "params" in value else []
    arrays: dict[str, np.ndarray] = {}
    for layer, parts in tree.items():
        for part, array in parts.items() if isinstance(parts, dict) else [("", parts)]:
            name = f"{layer}.{part}".rstrip(".")
            if name in ARRAYS and isinstance(array, np.ndarray):
                arrays[name] = array
            else:
                extra.append(name)
    return Found(arrays, extra=tuple(extra), flatten="HWC")


def _value(data: memoryview, at: int, depth: int) -> tuple[Any, int]:
    """One value and the position after it."""
    if at >= len(data) or depth > _MAX_DEPTH:
        raise UserError("it is cut short, or nested too deeply")
    first = data[at]
    at += 1
    if first < 0x80 or first >= 0xE0:
        return (first if first < 0x80 else first - 256), at
    if first in (0xC0, 0xC2, 0xC3):
        return {0xC0: None, 0xC2: False, 0xC3: True}[first], at
    if first in _NUMBERS:
        return _unpack(_NUMBERS[first], data, at)
    if first < 0xC0:  # short ones have their length in the first byte
        kind = "map" if first < 0x90 else "list" if first < 0xA0 else "str"
        length = first & (0x1F if kind == "str" else 0x0F)
    elif 0xD4 <= first <= 0xD8:
        kind, length = "ext", 1 << (first - 0xD4)
    elif first in _SIZED:
        form, kind = _SIZED[first]
        length, at = _unpack(form, data, at)
    else:
        raise UserError("it is damaged, or not msgpack")
    if kind in ("map", "list"):
        return _items(data, at, depth, length, kind)
    return _bytes(data, at, depth, length, kind)


def _items(data: memoryview, at: int, depth: int, length: int, kind: str) -> tuple[Any, int]:
    if length > _MAX_ITEMS:
        raise UserError("it is damaged: a table in it is too long")
    items = []
    for _ in range(length * (2 if kind == "map" else 1)):
        item, at = _value(data, at, depth + 1)
        items.append(item)
    if kind == "list":
        return items, at
    keys = items[::2]
    if not all(isinstance(key, str) for key in keys) or len(set(keys)) != len(keys):
        raise UserError("it is damaged: a name in it is no name, or comes twice")
    return dict(zip(keys, items[1::2], strict=True)), at


def _bytes(data: memoryview, at: int, depth: int, length: int, kind: str) -> tuple[Any, int]:
    extension = kind == "ext"
    end = at + length + extension
    if end > len(data):
        raise UserError("it is cut short: a part of it is longer than the file")
    if not extension:
        raw = data[at:end]
        return (bytes(raw).decode(errors="replace") if kind == "str" else raw), end
    if data[at] != _ARRAY:
        return None, end  # a number of a type that parameters don't have
    content, stop = _value(data[at + 1 : end], 0, depth + 1)
    if stop != length:
        raise UserError("it is damaged: an array in it does not fill its place")
    return _array(content), end


def _array(content: Any) -> np.ndarray:
    match content:
        case [list(shape), str(dtype), memoryview() as raw] if dtype in _DTYPES:
            sizes = all(type(n) is int and 0 <= n < 1 << 40 for n in shape) and len(shape) <= 8
            item = np.dtype(_DTYPES[dtype]).itemsize
            if sizes and math.prod(shape) * item == len(raw):
                return np.frombuffer(raw, _DTYPES[dtype]).reshape(shape)
        case [list(), str(dtype), memoryview()]:
            raise UserError(f"its arrays are of type {dtype[:20]!r}, not float32")
    raise UserError("it is damaged: an array's shape is not its size")


def _unpack(form: str, data: memoryview, at: int) -> tuple[Any, int]:
    end = at + struct.calcsize(form)
    if end > len(data):
        raise UserError("it is cut short: a number does not end")
    return struct.unpack_from(form, data, at)[0], end


# --- writing ---------------------------------------------------------------------------------


def write(file: BinaryIO, weights: Weights) -> None:
    """The bytes of `flax.serialization.to_bytes({'params': ...})`, layers in network order."""
    layers: dict[str, dict[str, np.ndarray]] = {}
    for name in ARRAYS:
        layer, part = name.split(".")
        layers.setdefault(layer, {})[part] = weights.arrays[name]
    file.write(b"\x81" + _text("params") + bytes([0x80 | len(layers)]))
    for layer, parts in layers.items():
        file.write(_text(layer) + bytes([0x80 | len(parts)]))
        _write_arrays(file, parts)


def _write_arrays(file: BinaryIO, parts: Mapping[str, np.ndarray]) -> None:
    for part, array in parts.items():
        size = 4 * array.size
        shape = b"".join(b"\xce" + struct.pack(">I", n) for n in array.shape)
        head = b"\x93" + bytes([0x90 | array.ndim]) + shape + _text("float32")
        head += b"\xc6" + struct.pack(">I", size)
        file.write(_text(part) + b"\xc9" + struct.pack(">IB", len(head) + size, _ARRAY) + head)
        for block in blocks(array):
            file.write(block)


def _text(value: str) -> bytes:
    return bytes([0xA0 | len(value)]) + value.encode()
