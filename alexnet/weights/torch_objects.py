"""What torch's pickles speak of: storages, tensors, and the few names they may use."""

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from alexnet.errors import UserError
from alexnet.weights.pickles import Buildable, Function, refuse

DTYPES = {
    "FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2", "BFloat16Storage": "V2",
    "LongStorage": "<i8", "IntStorage": "<i4", "ShortStorage": "<i2", "CharStorage": "|i1",
    "ByteStorage": "|u1", "BoolStorage": "|b1",
}  # fmt: skip


@dataclass(frozen=True)
class StorageType:
    """What `torch.FloatStorage` and its like stand for; no string in a file can pass for it."""

    dtype: str


@dataclass(frozen=True)
class Storage:
    """A stretch of numbers: which one, of what type, and which part of it where not all."""

    key: str
    dtype: str
    part: tuple[int, int] | None = None  # first number and how many


@dataclass
class Tensor(Buildable):
    """A view of a storage, before its bytes are at hand."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def as_array(key: str, value: Any, raw: Mapping[str, memoryview]) -> np.ndarray:
    """A tensor as a view of the file, its bounds checked."""
    if not isinstance(value, Tensor):
        return np.empty(0, "V1")  # no array: `check` names it, whatever it is
    storage = value.storage
    if storage.key not in raw:
        raise UserError(f"it is damaged: the numbers of {key!r} are missing")
    item = np.dtype(storage.dtype).itemsize
    data = raw[storage.key]
    if storage.part:
        first, count = storage.part
        data = data[first * item : (first + count) * item]
    flat = np.frombuffer(data[: len(data) // item * item], storage.dtype)
    shape, strides = value.shape, value.strides
    size = math.prod(shape)
    last = value.offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    if size and (size > len(flat) or last >= len(flat)):
        raise UserError(f"it is damaged: {key!r} is larger than its numbers")
    if not size:
        return np.empty(shape, storage.dtype)
    return np.lib.stride_tricks.as_strided(
        flat[value.offset :], shape, [s * item for s in strides], subok=False
    )


def find(module: str, name: str) -> Any:
    """What a name in torch's pickles stands for here."""
    if module in ("torch", "torch.cuda") and name in DTYPES:
        return StorageType(DTYPES[name])
    if module == "torch" and name.replace("Tensor", "Storage") in DTYPES:
        return None  # the type of a tensor, in the tar layout; its storage's type says as much
    known = {
        ("collections", "OrderedDict"): Function(_ordered),
        ("torch", "Size"): Function(lambda sizes: tuple(sizes)),
        ("torch._utils", "_rebuild_tensor"): Function(tensor),
        ("torch._utils", "_rebuild_tensor_v2"): Function(tensor),
        ("torch._utils", "_rebuild_parameter"): Function(lambda data, *_: data),
    }
    if (module, name) not in known:
        raise refuse(module, name)
    return known[module, name]


def _ordered(pairs: Any = ()) -> dict[Any, Any]:
    if not isinstance(pairs, list | tuple) or not all(
        isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[0], str)
        for pair in pairs
    ):
        raise UserError("it is damaged: a table in its pickle is none")
    return dict(pairs)


def tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
    """What torch calls `_rebuild_tensor`, its arguments checked; hooks are dropped."""
    numbers = (offset, *shape, *strides)
    if (
        not isinstance(storage, Storage)
        or len(shape) != len(strides)
        or len(shape) > 8
        or not all(type(number) is int and 0 <= number < 1 << 40 for number in numbers)
    ):
        raise UserError("it is damaged: a tensor's description is none")
    return Tensor(storage, offset, tuple(shape), tuple(strides))


def storage_of(identity: Any) -> Storage:
    """The storage behind a persistent id: ('storage', type, key, device, count[, view])."""
    match identity:
        case ("storage", StorageType(dtype), str(key), _, int()):
            return Storage(key, dtype)
        case ("storage", StorageType(dtype), str(key), _, int(), None):
            return Storage(key, dtype)
        case ("storage", StorageType(dtype), str(key), _, int(), (_, int(first), int(count))):
            if first >= 0 and count >= 0:
                return Storage(key, dtype, (first, count))
    raise UserError("it is damaged: a tensor's numbers are described by nothing known")


def storages(
    data: memoryview, position: int, kinds: Iterator[tuple[str, str]]
) -> Iterator[tuple[str, memoryview]]:
    """Storages one after the other, each behind its count of numbers."""
    for key, dtype in kinds:
        if len(data) - position < 8:
            raise UserError("it is cut short: an array is missing")
        (count,) = struct.unpack_from("<q", data, position)
        end = position + 8 + count * np.dtype(dtype).itemsize
        if count < 0 or end > len(data):
            raise UserError("it is cut short: an array ends past the end of the file")
        yield key, data[position + 8 : end]
        position = end
