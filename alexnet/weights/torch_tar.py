"""The tar layout of torch's files of 2016: the older part of `torch_read`."""

import tarfile
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

from alexnet.errors import UserError
from alexnet.weights.pickles import load
from alexnet.weights.torch_objects import NAMES, Numbers, Storage, Tensor, reader, storages, unpack

_MEMBERS = {"storages", "tensors", "pickle"}


def is_tar(head: bytes | memoryview) -> bool:
    """Check whether a file's first 512 bytes describe one of the three members."""
    name = bytes(head[:100]).partition(b"\0")[0].decode("latin-1")
    return len(head) >= tarfile.BLOCKSIZE and name.removeprefix("./") in _MEMBERS


def read(file: BinaryIO) -> tuple[Any, Numbers]:
    """The object in the member `pickle`, whose persistent ids name tensors, and its numbers."""
    members = _members(file)
    if not set(members) >= _MEMBERS:
        raise UserError("it is a tar file, but not one that torch wrote")
    where, known = _storages(file, *members["storages"])
    tensors = _tensors(file, members["tensors"][0], known)

    def persistent(identity: Any) -> Tensor:
        tensor = tensors.get(str(identity)) if isinstance(identity, int | str) else None
        if tensor is None:
            raise UserError("corrupt file: a tensor is missing")
        return tensor

    file.seek(members["pickle"][0])
    return load(file, NAMES, persistent), reader(file, where)


def _members(file: BinaryIO) -> dict[str, tuple[int, int]]:
    """Starts and sizes of the archive's regular files, by name.

    tarfile's own walk would follow headers of headers without end; only its header parser is used.
    """
    end = file.seek(0, 2)
    members: dict[str, tuple[int, int]] = {}
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
) -> tuple[dict[str, tuple[int, int]], dict[str, Storage]]:
    """The storages' places, and all storages by key; parts have keys of their own."""
    file.seek(start)
    where: dict[str, tuple[int, int]] = {}
    known: dict[str, Storage] = {}
    for _ in range(_small(load(file, NAMES))):
        match load(file, NAMES):
            case (int(number), str(), np.dtype() as dtype):
                where |= storages(file, start + size, [(str(number), dtype)])
                known[str(number)] = Storage(str(number), dtype)
            case _:
                raise UserError("corrupt file: invalid storage")
    views = load(file, NAMES)
    for view in views if isinstance(views, list) else ():
        match view:
            case (int(key), int(root), int(first), int(count)) if (
                str(root) in where and first >= 0 and count >= 0
            ):
                known[str(key)] = Storage(str(root), known[str(root)].dtype, first, count)
            case _:
                raise UserError("corrupt file: invalid view of a storage")
    return where, known


def _tensors(file: BinaryIO, start: int, known: Mapping[str, Storage]) -> dict[str, Tensor]:
    """Tensors by key: rank, sizes, strides and offset are stored as plain numbers."""
    file.seek(start)
    tensors = {}
    for _ in range(_small(load(file, NAMES))):
        match load(file, NAMES):
            case (int(key), int(storage), _) if str(storage) in known:
                rank, _ = unpack("<ii", file)
                *numbers, offset = unpack(f"<{2 * _small(rank) + 1}q", file)
                tensors[str(key)] = Tensor(
                    known[str(storage)], offset, numbers[:rank], numbers[rank:]
                )
            case _:
                raise UserError("corrupt file: invalid tensor")
    return tensors


def _small(count: Any) -> int:
    if type(count) is not int or not 0 <= count <= 10_000:
        raise UserError("corrupt file: it has too many arrays")
    return count
