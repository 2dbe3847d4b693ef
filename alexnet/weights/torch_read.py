"""torch's .pth files, read without torch and without running what they hold.

Three layouts: the zip of torch 1.6 and later, the row of pickles before it, and the tar of 2016.
(Layouts: torch/serialization.py; torch refuses the tar under `weights_only`, which is why torch
itself would not do here.)
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from alexnet.errors import UserError
from alexnet.weights import torch_tar, zips
from alexnet.weights.assemble import Found
from alexnet.weights.layout import from_torch
from alexnet.weights.names import TORCHVISION_KEYS, torch_scheme
from alexnet.weights.pickles import Reader
from alexnet.weights.torch_objects import Storage, as_array, find, storage_of, storages

MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of the layout before zip
_MAX_PICKLE = 64 << 20  # bytes; an AlexNet's takes one thousand
_NESTED = ("state_dict", "model", "model_state_dict")  # where training scripts put the weights
_WRAPPERS = {"module", "_orig_mod"}  # put into keys by DataParallel and torch.compile


def read(data: memoryview) -> Found:
    """What a .pth file of any of the three layouts holds.

    Raises:
        UserError: for a file that is damaged, would run code, or holds no state dict.
    """
    if data[:4] == b"PK\3\4":
        value, raw = _read_zip(data)
    elif torch_tar.is_tar(data):
        value, raw = torch_tar.read(data)
    else:
        value, raw = _read_row(data)
    state = _state_dict(value)
    arrays = {key: as_array(key, value, raw) for key, value in state.items()}
    return from_state_dict(arrays)


def from_state_dict(arrays: Mapping[str, np.ndarray]) -> Found:
    """Arrays under torchvision's keys or this project's own, whatever wraps the model."""
    plain = {".".join(p for p in key.split(".") if p not in _WRAPPERS): key for key in arrays}
    if len(plain) != len(arrays):
        raise UserError("two of its keys differ only by 'module': one model at a time")
    scheme = torch_scheme(plain)
    names = {name: plain[key] for name, key in scheme.items() if key in plain}
    return Found(
        arrays={name: from_torch(name, arrays[key]) for name, key in names.items()},
        names=names,
        extra=tuple(key for short, key in plain.items() if short not in scheme.values()),
        variants=("torchvision",) if scheme is TORCHVISION_KEYS else (),
    )


def _state_dict(value: Any) -> dict[str, Any]:
    """The state dict in what the pickle holds, where a training script put it."""
    for key in _NESTED:
        if isinstance(value, dict) and isinstance(value.get(key), dict):
            value = value[key]
            break
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise UserError("it holds no state dict: a table of named arrays is needed")
    return value


# --- the three layouts -----------------------------------------------------------------------


def _read_zip(data: memoryview) -> tuple[Any, dict[str, memoryview]]:
    parts = zips.entries(data)
    pickles = [name for name in parts if name.split("/")[1:] == ["data.pkl"]]
    if len(pickles) != 1:
        raise UserError("it is a zip file, but not one that torch.save wrote")
    folder = pickles[0].removesuffix("data.pkl")
    if bytes(parts.get(folder + "byteorder", b"little")) != b"little":
        raise UserError("it was written on a big-endian machine, which is not read")
    if len(parts[pickles[0]]) > _MAX_PICKLE:
        raise UserError("its pickle is too large to be a state dict's")
    value = Reader(parts[pickles[0]], find, storage_of).load()
    prefix = folder + "data/"
    raw = {n.removeprefix(prefix): part for n, part in parts.items() if n.startswith(prefix)}
    return value, raw


def is_row(head: bytes | memoryview) -> bool:
    """Whether a file starts with torch's magic number as a pickle of protocol 2."""
    return bytes(head[:14]) == b"\x80\x02\x8a\x0a" + MAGIC.to_bytes(10, "little")


def _read_row(data: memoryview) -> tuple[Any, dict[str, memoryview]]:
    """Magic number, version, machine, object and storage keys as pickles; then the storages."""
    if not is_row(data):
        raise UserError("it is not a file that torch.save wrote")
    position = 0
    values = []
    dtypes: dict[str, str] = {}

    def persistent(identity: Any) -> Storage:
        storage = storage_of(identity)
        dtypes[storage.key] = storage.dtype
        return storage

    for _ in range(5):
        reader = Reader(data, find, persistent, position)
        values.append(reader.load())
        position = reader.position
    machine, value, keys = values[2:]
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise UserError("it was written on a big-endian machine, which is not read")
    if not isinstance(keys, list) or not all(isinstance(k, str) and k in dtypes for k in keys):
        raise UserError("it is damaged: the list of its arrays is none")
    return value, dict(storages(data, position, ((key, dtypes[key]) for key in keys)))
