"""The tar layout of torch's files of 2016: the older part of `torch_read`."""

import tarfile
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

from alexnet.errors import UserError
from alexnet.weights.pickles import load
from alexnet.weights.torch_objects import (
    NAMES,
    Numbers,
    Storage,
    Stretch,
    Tensor,
    reader,
    storages,
    unpack,
)

_MEMBERS = {"storages", "tensors", "pickle"}


def is_tar(head: bytes | memoryview) -> bool:
    """Whether a file's first 512 bytes describe one of the three members."""
    name = bytes(head[:100]).partition(b"\0")[0].decode("latin-1")
    return len(head) >= tarfile.BLOCKSIZE and name.removeprefix("./") in _MEMBERS


def read(file: BinaryIO) -> tuple[Any, Numbers]:
    """The object in the member `pickle`, whose persistent ids are of tensors, and its numbers."""
    members = _members(file)
    if not set(members) >= _MEMBERS:
        raise UserError("it is a tar file, but not one that torch wrote")
    where, dtypes = _storages(file, *members["storages"])
    tensors = _tensors(file, members["tensors"][0], dtypes)

    def persistent(identity: Any) -> Tensor:
        tensor = tensors.get(str(identity)) if isinstance(identity, int | str) else None
        if tensor is None:
            raise UserError("corrupt file: a tensor is missing")
        return tensor

    file.seek(members["pickle"][0])
    return load(file, NAMES, persistent), reader(file, where)


def _members(file: BinaryIO) -> dict[str, Stretch]:
    """The archive's regular files by name.

    tarfile's own walk would follow headers of headers without end; its parser of one is used.
    """
    end = file.seek(0, 2)
    members: dict[str, Stretch] = {}
    start = 0
    for _ in range(16):
        file.seek(start)
        block = file.read(tarfile.BLOCKSIZE)
        if not block.strip(b"\0"):
            break
        info = tarfile.TarInfo.frombuf(block, "latin-1", "strict")
        start += tarfile.BLOCKSIZE
        if not 0 <= info.size <= end - start:
            raise UserError("corrupt tar file: it is cut short, a file in it does not end")
        if info.type in (tarfile.REGTYPE, tarfile.AREGTYPE):
            members[info.name.removeprefix("./")] = (start, info.size)
        start += -(-info.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    return members


def _storages(
    file: BinaryIO, start: int, size: int
) -> tuple[dict[str, Stretch], dict[str, np.dtype]]:
    """Where the storages are and their types; parts of them have keys of their own."""
    file.seek(start)
    where: dict[str, Stretch] = {}
    dtypes: dict[str, np.dtype] = {}
    for _ in range(_small(load(file, NAMES))):
        match load(file, NAMES):
            case (int(key), str(), np.dtype() as dtype):
                dtypes[str(key)] = dtype
                where |= storages(file, start + size, iter([(str(key), dtype)]))
            case _:
                raise UserError("corrupt file: invalid storage")
    views = load(file, NAMES)
    for view in views if isinstance(views, list) else ():
        match view:
            case (int(key), int(root), int(first), int(count)) if str(root) in where:
                dtype = dtypes[str(key)] = dtypes[str(root)]
                at, whole = where[str(root)]
                skipped = min(whole, max(0, first) * dtype.itemsize)
                part = min(whole - skipped, max(0, count) * dtype.itemsize)
                where[str(key)] = (at + skipped, part)
            case _:
                raise UserError("corrupt file: invalid view of a storage")
    return where, dtypes


def _tensors(file: BinaryIO, start: int, dtypes: Mapping[str, np.dtype]) -> dict[str, Tensor]:
    """Tensors by their keys: rank, sizes, strides and offset stand as plain numbers."""
    file.seek(start)
    tensors = {}
    for _ in range(_small(load(file, NAMES))):
        match load(file, NAMES):
            case (int(key), int(storage), _) if str(storage) in dtypes:
                rank, _ = unpack("<ii", file)
                *numbers, offset = unpack(f"<{2 * _small(rank) + 1}q", file)
                source = Storage(str(storage), dtypes[str(storage)])
                tensors[str(key)] = Tensor(source, offset, numbers[:rank], numbers[rank:])
            case _:
                raise UserError("corrupt file: invalid tensor")
    return tensors


def _small(count: Any) -> int:
    if type(count) is not int or not 0 <= count <= 10_000:
        raise UserError("corrupt file: it has too many arrays")
    return count
