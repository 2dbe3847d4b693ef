"""torch's .pth files, written without torch."""

import math
import struct
import zipfile
from collections.abc import Iterable, Mapping
from typing import BinaryIO, cast

from alexnet.weights.core import Weights
from alexnet.weights.layout import blocks, to_torch
from alexnet.weights.precision import STORED, Dtype

_STORAGES: dict[Dtype, bytes] = {
    "fp32": b"FloatStorage",
    "fp16": b"HalfStorage",
    "bf16": b"BFloat16Storage",
}


def write(file: BinaryIO, weights: Weights, keys: Mapping[str, str], dtype: Dtype = "fp32") -> None:
    """Write a state dict as `torch.save` does, for `torch.load(weights_only=True)`.

    Args:
        file: open for writing, at its start.
        weights: the weights to write.
        keys: canonical name to key, `TORCHVISION_KEYS`, or `torch_keys` of a spec.
        dtype: of the numbers in the file.
    """
    stored = list(to_torch(weights))
    table = _pickle([(keys[array.name], array.shape) for array in stored], _STORAGES[dtype])
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        _add(archive, "weights/data.pkl", len(table), [table])
        _add(archive, "weights/byteorder", 6, [b"little"])
        for number, array in enumerate(stored):
            size = STORED[dtype].itemsize * math.prod(array.shape)
            _add(archive, f"weights/data/{number}", size, blocks(array.values, dtype))
        _add(archive, "weights/version", 2, [b"3\n"])


def _add(
    archive: zipfile.ZipFile, name: str, size: int, pieces: Iterable[bytes | memoryview]
) -> None:
    """Store a file, starting at a multiple of 64 bytes as torch's do."""
    info = zipfile.ZipInfo(name)  # dated 1980: the same weights give the same file
    info.file_size = size
    padding = -(cast(BinaryIO, archive.fp).tell() + 30 + len(name.encode()) + 4) % 64
    info.extra = struct.pack("<2s H", b"FB", padding) + b"Z" * padding
    with archive.open(info, "w") as target:
        for piece in pieces:
            target.write(piece)


def _pickle(arrays: list[tuple[str, tuple[int, ...]]], storage: bytes) -> bytes:
    """The pickle of an OrderedDict of contiguous tensors, storage N for the Nth.

    Made by hand: `pickle` writes only names that can be imported, and torch may not be installed.
    """
    out = bytearray(b"\x80\x02ccollections\nOrderedDict\n)R(")
    for number, (key, shape) in enumerate(arrays):
        out += _text(key) + b"ctorch._utils\n_rebuild_tensor_v2\n(("
        out += _text("storage") + b"ctorch\n" + storage + b"\n" + _text(str(number)) + _text("cpu")
        strides = [math.prod(shape[i + 1 :]) for i in range(len(shape))]
        out += _int(math.prod(shape)) + b"tQ" + _int(0)
        out += b"(" + b"".join(map(_int, shape)) + b"t(" + b"".join(map(_int, strides)) + b"t"
        out += b"\x89ccollections\nOrderedDict\n)RtR"  # requires_grad=False, no hooks
    return bytes(out + b"u.")


def _text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def _int(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)
