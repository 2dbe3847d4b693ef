"""torch's .pth files, read without torch and without running any code in them.

Three layouts: the zip of torch 1.6 and later, the row of pickles before it, and the tar of 2016.
(Layouts: torch/serialization.py; torch refuses the tar under `weights_only`, which is why torch
itself would not do here.)
"""

import functools
import io
import tarfile
import zipfile
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

from alexnet.errors import UserError
from alexnet.weights import torch_tar
from alexnet.weights.assemble import Found
from alexnet.weights.layout import from_torch
from alexnet.weights.names import TORCH_KEYS, TORCHVISION_KEYS, torch_scheme
from alexnet.weights.pickles import load
from alexnet.weights.torch_objects import (
    NAMES,
    Numbers,
    Storage,
    as_array,
    reader,
    storage_of,
    storages,
)

MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of the layout before zip
_MAX_PICKLE = 64 << 20  # bytes; an AlexNet's takes one thousand
_AT_ONCE = 1 << 20  # bytes read from a zip file at once, its directory among them
# Where training scripts put the weights.
_NESTED = ("state_dict", "model", "model_state_dict", "net")
# Put into keys by DataParallel, torch.compile, and Lightning modules that wrap a network.
_WRAPPERS = {"module", "_orig_mod", "model", "net"}
_ERRORS = (zipfile.BadZipFile, tarfile.TarError, NotImplementedError, EOFError)


def read(file: BinaryIO) -> Found:
    """Read a .pth file of any of the three layouts.

    Args:
        file: a regular file, open at its start. Only the storages of the state dict are read.

    Raises:
        UserError: for a file that is damaged, would run code, or holds no state dict.
    """
    head = file.read(600)
    file.seek(0)
    other = torch_tar.read if torch_tar.is_tar(head) else _read_row
    try:
        value, numbers = _read_zip(file) if head[:4] == b"PK\3\4" else other(file)
        numbers = functools.cache(numbers)  # tensors may share a storage
        state = _state_dict(value)
        return from_state_dict({key: as_array(key, each, numbers) for key, each in state.items()})
    except _ERRORS as error:
        raise UserError(f"corrupt file: {str(error)[:200]}") from error


def from_state_dict(arrays: Mapping[str, np.ndarray], own: Mapping[str, str] = TORCH_KEYS) -> Found:
    """Arrays under torchvision's keys or this project's `own`, whatever wraps the model."""
    plain = {".".join(p for p in key.split(".") if p not in _WRAPPERS): key for key in arrays}
    if len(plain) != len(arrays):
        raise UserError("two of its keys differ only by 'module' or the like: one model at a time")
    scheme = torch_scheme(plain, own)
    names = {name: plain[key] for name, key in scheme.items() if key in plain}
    return Found(
        arrays={name: from_torch(name, arrays[key]) for name, key in names.items()},
        names=names,
        # torch's batch normalization also counts batches, for a rule that isn't used here.
        extra=tuple(
            key
            for short, key in plain.items()
            if short not in scheme.values() and not short.endswith(".num_batches_tracked")
        ),
        variants=("torchvision",) if scheme is TORCHVISION_KEYS else (),
    )


def _state_dict(value: Any) -> dict[str, Any]:
    """The state dict in a pickle's value, wherever a training script put it."""
    for key in _NESTED:
        if isinstance(value, dict) and isinstance(value.get(key), dict):
            value = value[key]
            break
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise UserError("it holds no state dict: a table of named arrays is needed")
    return value


# --- zip -------------------------------------------------------------------------------------


class Bounded:
    """A file that is read a little at a time: `zipfile` reads the directory in one piece."""

    def __init__(self, file: BinaryIO) -> None:
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable
        self._read = file.read

    def read(self, size: int = -1) -> bytes:
        """Read at most one piece; raise BadZipFile if more is asked for and available."""
        data = self._read(size if 0 <= size <= _AT_ONCE else _AT_ONCE + 1)
        if len(data) > _AT_ONCE:
            raise zipfile.BadZipFile("the directory is too large")
        return data


def _read_zip(file: BinaryIO) -> tuple[Any, Numbers]:
    size = file.seek(0, 2)
    archive = zipfile.ZipFile(Bounded(file))
    infos = archive.infolist()
    parts = {info.filename: info for info in infos}
    if any(name.split("/")[1:] == ["constants.pkl"] for name in parts):
        raise UserError("it is a TorchScript program: save its state_dict() with torch.save")
    for info in infos:
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise UserError(f"{info.filename[:100]!r} in it is compressed or encrypted")
    if len(parts) < len(infos) or sum(max(i.file_size, i.compress_size) for i in infos) > size:
        raise UserError("corrupt zip file: its parts overlap")
    pickles = [name for name in parts if name.split("/")[1:] == ["data.pkl"]]
    if len(pickles) != 1:
        raise UserError("it is a zip file, but not one that torch.save wrote")

    def content(name: str) -> np.ndarray:
        if name not in parts:
            raise UserError(f"corrupt file: {name[:100]!r} is missing")
        data = np.empty(parts[name].file_size, np.uint8)
        with archive.open(parts[name]) as part:  # which checks the checksum
            for start in range(0, len(data), _AT_ONCE):
                target = data[start : start + _AT_ONCE]
                target[:] = np.frombuffer(part.read(len(target)), np.uint8)
        return data

    folder = pickles[0].removesuffix("data.pkl")
    if folder + "byteorder" in parts and bytes(content(folder + "byteorder")) != b"little":
        raise UserError("it was written on a big-endian machine, which is not read")
    if parts[pickles[0]].file_size > _MAX_PICKLE:
        raise UserError("its pickle is too large to be a state dict's")
    value = load(io.BytesIO(content(pickles[0]).data), NAMES, storage_of)
    return value, lambda key: content(f"{folder}data/{key}")


# --- the row of pickles ----------------------------------------------------------------------


def is_row(head: bytes | memoryview) -> bool:
    """Check whether a file starts with torch's magic number as a pickle of protocol 2."""
    return bytes(head[:14]) == b"\x80\x02\x8a\x0a" + MAGIC.to_bytes(10, "little")


def _read_row(file: BinaryIO) -> tuple[Any, Numbers]:
    """Magic number, version, machine, object and storage keys as pickles; then the storages."""
    if not is_row(file.read(14)):
        raise UserError("it is not a file that torch.save wrote")
    file.seek(0)
    dtypes: dict[str, np.dtype] = {}

    def persistent(identity: Any) -> Storage:
        storage = storage_of(identity)
        dtypes[storage.key] = storage.dtype
        return storage

    _, _, machine, value, keys = [load(file, NAMES, persistent) for _ in range(5)]
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise UserError("it was written on a big-endian machine, which is not read")
    if not isinstance(keys, list) or not all(isinstance(k, str) and k in dtypes for k in keys):
        raise UserError("corrupt file: invalid list of storages")
    position = file.tell()
    end = file.seek(0, 2)
    file.seek(position)
    return value, reader(file, dict(storages(file, end, ((k, dtypes[k]) for k in keys))))
