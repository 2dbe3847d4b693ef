"""The tar layout of torch's files of 2016: the older half of `torch_read`."""

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from alexnet.errors import UserError
from alexnet.weights.pickles import Reader
from alexnet.weights.torch_objects import Storage, StorageType, Tensor, find, storages, tensor

_BLOCK = 512  # bytes; a member is a block of description and then whole blocks of content
_MEMBERS = ("storages", "tensors", "pickle")


def is_tar(head: bytes | memoryview) -> bool:
    """Whether a file starts with the description of one of the three members."""
    return len(head) >= _BLOCK and _name(head) in _MEMBERS


def _name(head: bytes | memoryview) -> str:
    return bytes(head[:100]).partition(b"\0")[0].decode("latin-1").removeprefix("./")


def read(data: memoryview) -> tuple[Any, dict[str, memoryview]]:
    """Members `storages`, `tensors` and `pickle`, the last with persistent ids of tensors."""
    parts = _tar_members(data)
    if not set(_MEMBERS) <= set(parts):
        raise UserError("it is a tar file, but not one that torch wrote")
    raw, dtypes = _tar_storages(parts["storages"])
    tensors = _tar_tensors(parts["tensors"], dtypes)

    def persistent(identity: Any) -> Tensor:
        key = str(identity)
        if key not in tensors:
            raise UserError("it is damaged: a tensor is missing")
        return tensors[key]

    return Reader(parts["pickle"], find, persistent).load(), raw


def _tar_members(data: memoryview) -> dict[str, memoryview]:
    """The archive's files by name (POSIX.1-1988 ustar: size in octal at byte 124)."""
    parts: dict[str, memoryview] = {}
    position = 0
    while len(data) - position >= _BLOCK and data[position] and len(parts) < 16:
        digits = bytes(data[position + 124 : position + 136]).strip(b"\0 ")
        size = int(digits, 8) if digits.isdigit() and not set(digits) & set(b"89") else -1
        start = position + _BLOCK
        if not 0 <= size <= len(data) - start:
            raise UserError("it is cut short or damaged: a file in the tar file does not end")
        parts[_name(data[position : position + 100])] = data[start : start + size]
        position = start + -(-size // _BLOCK) * _BLOCK
    return parts


def _pickled(data: memoryview, position: int) -> tuple[Any, int]:
    reader = Reader(data, find, None, position)
    return reader.load(), reader.position


def _tar_storages(data: memoryview) -> tuple[dict[str, memoryview], dict[str, str]]:
    """Storages by their keys, then parts of them under keys of their own."""
    count, position = _pickled(data, 0)
    raw: dict[str, memoryview] = {}
    dtypes: dict[str, str] = {}
    for _ in range(_small(count)):
        described, position = _pickled(data, position)
        match described:
            case (int(key), str(), StorageType(dtype)):
                pass
            case _:
                raise UserError("it is damaged: an array's description is none")
        raw |= storages(data, position, iter([(str(key), dtype)]))
        dtypes[str(key)] = dtype
        position += 8 + len(raw[str(key)])
    views, _ = _pickled(data, position)
    for view in views if isinstance(views, list) else ():
        match view:
            case (int(key), int(root), int(first), int(size)) if str(root) in raw:
                item = np.dtype(dtypes[str(root)]).itemsize
                raw[str(key)] = raw[str(root)][max(0, first) * item :][: max(0, size) * item]
                dtypes[str(key)] = dtypes[str(root)]
            case _:
                raise UserError("it is damaged: an array's description is none")
    return raw, dtypes


def _tar_tensors(data: memoryview, dtypes: Mapping[str, str]) -> dict[str, Tensor]:
    """Tensors by their keys: rank, sizes, strides and offset stand as plain numbers."""
    count, position = _pickled(data, 0)
    tensors = {}
    for _ in range(_small(count)):
        described, position = _pickled(data, position)
        match described:
            case (int(key), int(storage), _) if str(storage) in dtypes:
                pass
            case _:
                raise UserError("it is damaged: a tensor's description is none")
        try:
            (rank,) = struct.unpack_from("<i", data, position)
            numbers = struct.unpack_from(f"<{2 * _small(rank) + 1}q", data, position + 8)
        except struct.error as error:
            raise UserError("it is cut short: a tensor's description does not end") from error
        position += 8 + 8 * len(numbers)
        source = Storage(str(storage), dtypes[str(storage)])
        tensors[str(key)] = tensor(source, numbers[-1], numbers[:rank], numbers[rank:-1])
    return tensors


def _small(count: Any) -> int:
    if type(count) is not int or not 0 <= count <= 10_000:
        raise UserError("it is damaged: it has too many arrays")
    return count
