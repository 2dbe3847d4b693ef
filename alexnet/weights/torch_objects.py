"""The objects in torch's pickles: storages, tensors, and the few names they may use."""

import math
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import numpy as np

from alexnet.errors import UserError
from alexnet.weights.core import BF16
from alexnet.weights.pickles import Buildable, Names

_DTYPES: dict[str, Any] = {
    "Float": "<f4", "Double": "<f8", "Half": "<f2", "BFloat16": BF16, "Long": "<i8",
    "Int": "<i4", "Short": "<i2", "Char": "|i1", "Byte": "|u1", "Bool": "|b1",
}  # fmt: skip

Numbers = Callable[[str], np.ndarray]  # a storage's key to its bytes


@dataclass(frozen=True, slots=True)
class Storage:
    """A storage, or part of one: its key and type, and where the part starts and ends."""

    key: str
    dtype: np.dtype
    first: int = 0
    count: int | None = None


class Tensor(Buildable):
    """A view of a storage whose bytes are not read yet: torch's `_rebuild_tensor`."""

    __slots__ = ("offset", "shape", "storage", "strides")

    def __init__(self, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> None:
        known = isinstance(storage, Storage) and len(shape) == len(strides) <= 8
        if not known or not all(
            type(n) is int and 0 <= n < 1 << 40 for n in (offset, *shape, *strides)
        ):
            raise UserError("corrupt file: invalid tensor")
        self.storage, self.offset = storage, offset
        self.shape, self.strides = tuple(shape), tuple(strides)


class Table(dict, Buildable):
    """An OrderedDict, its state torch's `_metadata`. Python 2 gives it a list of pairs."""

    __slots__ = ()

    def __init__(self, pairs: Any = None) -> None:
        pairs = [] if pairs is None else pairs
        if not isinstance(pairs, list) or not all(isinstance(key, str) for key, _ in pairs):
            raise UserError("corrupt file: invalid table")
        super().__init__(pairs)
        pairs.clear()  # so that a pickle can't have it copied again and again


NAMES: Names = {
    ("collections", "OrderedDict"): Table,
    ("torch", "Size"): lambda sizes: tuple(sizes[:9]),  # one more than a tensor may have
    ("torch._utils", "_rebuild_tensor"): Tensor,
    ("torch._utils", "_rebuild_tensor_v2"): Tensor,
    ("torch._utils", "_rebuild_parameter"): (
        lambda data, *_: data if isinstance(data, Tensor) else None
    ),
} | {
    (module, f"{name}{kind}"): np.dtype(dtype)
    for module in ("torch", "torch.cuda")
    for kind in ("Storage", "Tensor")  # types of tensors are named by the tar layout
    for name, dtype in _DTYPES.items()
}


def storage_of(identity: Any) -> Storage:
    """The storage behind a persistent id: ('storage', type, key, device, count[, view])."""
    match identity:
        case ("storage", np.dtype() as dtype, str(key), _, int(), *view) if view in ([], [None]):
            return Storage(key, dtype)
        case ("storage", np.dtype() as dtype, str(key), _, int(), (_, int(first), int(count))):
            if first >= 0 and count >= 0:
                return Storage(key, dtype, first, count)
    raise UserError("corrupt file: invalid storage")


def as_array(key: str, value: Any, numbers: Numbers) -> np.ndarray:
    """A tensor as a view of its storage, its bounds checked."""
    if not isinstance(value, Tensor):
        return np.empty(0, "V1")  # no array: `check` names it, whatever it is
    storage, shape, strides = value.storage, value.shape, value.strides
    item = storage.dtype.itemsize
    data = numbers(storage.key)[storage.first * item :]
    if storage.count is not None:
        data = data[: storage.count * item]
    flat = data[: len(data) // item * item].view(storage.dtype)
    size = math.prod(shape)
    if not size:
        return np.empty(shape, storage.dtype)
    last = value.offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    if size > len(flat) or last >= len(flat):
        raise UserError(f"corrupt file: {key[:100]!r} is larger than its storage")
    return np.lib.stride_tricks.as_strided(
        flat[value.offset :], shape, [s * item for s in strides], subok=False
    )


def unpack(form: str, file: BinaryIO) -> tuple[Any, ...]:
    """Read numbers at a file's position, by their `struct` format."""
    size = struct.calcsize(form)
    data = file.read(size)
    if len(data) < size:
        raise UserError("corrupt file: it is cut short")
    return struct.unpack(form, data)


def storages(
    file: BinaryIO, end: int, kinds: Iterable[tuple[str, np.dtype]]
) -> Iterator[tuple[str, tuple[int, int]]]:
    """Keys, starts and byte sizes of consecutive storages, each preceded by its count."""
    for key, dtype in kinds:
        (count,) = unpack("<q", file)
        start = file.tell()
        if not 0 <= count <= (end - start) // dtype.itemsize:
            raise UserError("corrupt file: it is cut short, a storage does not end")
        yield key, (start, count * dtype.itemsize)
        file.seek(start + count * dtype.itemsize)


def reader(file: BinaryIO, where: Mapping[str, tuple[int, int]]) -> Numbers:
    """A function from a storage's key to its bytes, which it reads when asked for."""

    def numbers(key: str) -> np.ndarray:
        if key not in where:
            raise UserError(f"corrupt file: storage {key[:100]!r} is missing")
        start, size = where[key]
        data = np.empty(size, np.uint8)
        file.seek(start)
        if cast(Any, file).readinto(data) != size:
            raise UserError("the file changed while it was read")
        return data

    return numbers
