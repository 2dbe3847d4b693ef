"""Flax's msgpack files: {'params': {'conv1': {'kernel', 'bias'}, ...}, 'batch_stats': ...}.

Running statistics, of networks that have any, are in `batch_stats` under Flax's `mean` and `var`.

An array is extension type 1 around [shape, type name, bytes] (flax/serialization.py).
"""

import math
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import msgpack
import numpy as np

from alexnet.errors import UserError
from alexnet.files import read_all
from alexnet.layers import variables
from alexnet.weights.assemble import Found
from alexnet.weights.core import BF16, Weights
from alexnet.weights.layout import blocks
from alexnet.weights.names import ARRAYS
from alexnet.weights.precision import STORED, Dtype, name_of

_PARTS = ("params", "batch_stats")
_TO_FLAX = {"shift": "bias", "variance": "var"}
_FROM_FLAX = {"var": "variance"}
_MAX_ITEMS = 1000  # in all tables and lists of a file; eight layers take some thirty
_ARRAY = 1  # Flax's extension type of an array
_DTYPES: dict[str, Any] = {
    "float32": "<f4", "float64": "<f8", "float16": "<f2", "bfloat16": BF16,
    "int32": "<i4", "int64": "<i8",
}  # fmt: skip
_BIN, _EXT = 0xC4, 0xC7  # msgpack's first byte where a length takes eight bits


def read(file: BinaryIO) -> Found:
    """The weights in a file that is open at its start.

    Raises:
        UserError: for a file that is damaged or holds something else.
    """
    value = _unpack(read_all(file))
    if not isinstance(value, dict):
        raise UserError("it holds no table of parameters")
    parts = {key: value[key] for key in _PARTS if key in value} or {"params": value}
    extra = [f"{key}" for key in value if "params" in value and key not in parts]
    arrays: dict[str, np.ndarray] = {}
    for tree in parts.values():
        if not isinstance(tree, dict):
            raise UserError("it holds no table of parameters")
        for layer, held in tree.items():
            for part, array in held.items() if isinstance(held, dict) else [("", held)]:
                name = f"{layer}.{_FROM_FLAX.get(part, part)}".rstrip(".")
                if name in ARRAYS and isinstance(array, np.ndarray):
                    arrays[name] = array
                else:
                    extra.append(name)
    return Found(arrays, extra=tuple(extra), flatten="HWC")


def _unpack(data: memoryview) -> Any:
    """The value in a file; its items are counted, up to a limit, while it is built."""
    counted = 0

    def count(more: int) -> None:
        nonlocal counted
        counted += more + 1
        if counted > _MAX_ITEMS:
            raise UserError(f"it holds more than the {_MAX_ITEMS} values that weights can have")

    def table(items: Iterable[tuple[Any, Any]]) -> dict[str, Any]:
        pairs = list(items)
        count(len(pairs))
        keys = [key for key, _ in pairs]
        if not all(isinstance(key, str) for key in keys) or len(set(keys)) != len(keys):
            raise UserError("it is damaged: a name in it is not text, or comes twice")
        return dict(pairs)

    def sequence(values: list[Any]) -> list[Any]:
        count(len(values))
        return values

    try:
        return msgpack.unpackb(
            data, object_pairs_hook=table, list_hook=sequence, ext_hook=_extension,
            max_map_len=_MAX_ITEMS, max_array_len=_MAX_ITEMS, max_str_len=1000,
        )  # fmt: skip
    except (ValueError, msgpack.UnpackException) as error:
        reason = str(error)[:200] or type(error).__name__
        raise UserError(f"corrupt msgpack: {reason!a}") from error


def _extension(code: int, data: bytes) -> np.ndarray | None:
    """A Flax array, as a view of its bytes; None for the types that parameters don't have."""
    if code != _ARRAY:
        return None
    unpacker = msgpack.Unpacker(max_array_len=8, max_str_len=20, max_buffer_size=0)
    unpacker.feed(data[:128])  # without the array's bytes, of which this would be a copy
    parts, shape, dtype = unpacker.read_array_header(), unpacker.unpack(), unpacker.unpack()
    if parts != 3 or not isinstance(shape, list) or not isinstance(dtype, str):
        raise UserError("it is damaged: an array has no shape or no type")
    if dtype not in _DTYPES:
        raise UserError(f"its arrays are of type {dtype!a}, not float32")
    wide = data[unpacker.tell()] - _BIN
    start = unpacker.tell() + 1 + (1 << max(0, wide))
    size = int.from_bytes(data[unpacker.tell() + 1 : start], "big")
    items = math.prod(shape) if all(type(n) is int and 0 <= n < 1 << 40 for n in shape) else -1
    stated = items * np.dtype(_DTYPES[dtype]).itemsize
    if wide not in (0, 1, 2) or not stated == size == len(data) - start:
        raise UserError("it is damaged: an array's shape is not its size")
    return np.frombuffer(data, _DTYPES[dtype], offset=start).reshape(shape)


def write(file: BinaryIO, weights: Weights, dtype: Dtype = "fp32") -> None:
    """Write the bytes of `flax.serialization.to_bytes({'params': ...})`, in network order."""
    tree: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    for name, variable in variables(weights.spec).items():
        layer, part = name.split(".")
        place = tree.setdefault(_PARTS[variable.role == "statistic"], {}).setdefault(layer, {})
        place[_TO_FLAX.get(part, part)] = weights.arrays[name]
    packer = msgpack.Packer()
    file.write(packer.pack_map_header(len(tree)))
    for collection, layers in tree.items():
        file.write(packer.pack(collection) + packer.pack_map_header(len(layers)))
        for layer, parts in layers.items():
            file.write(packer.pack(layer) + packer.pack_map_header(len(parts)))
            for part, array in parts.items():
                file.write(packer.pack(part))
                for piece in _array(packer, array, dtype):
                    file.write(piece)


def _array(packer: msgpack.Packer, array: np.ndarray, dtype: Dtype) -> Iterator[bytes | memoryview]:
    """An array's extension, piece by piece: the packer would hold several copies of it."""
    kind, size = STORED[dtype], STORED[dtype].itemsize * array.size
    head = packer.pack_array_header(3) + packer.pack(array.shape) + packer.pack(name_of(kind))
    head += _sized(_BIN, size)
    yield _sized(_EXT, len(head) + size) + bytes([_ARRAY]) + head
    yield from blocks(array, dtype)


def _sized(code: int, length: int) -> bytes:
    """The start of a bin or an ext: its code, and its length in 8, 16 or 32 bits."""
    wide = (length > 0xFF) + (length > 0xFFFF)
    return bytes([code + wide]) + length.to_bytes(1 << wide, "big")
