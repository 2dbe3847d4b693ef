"""torch's .pth files, written without torch."""

import math
import struct
from collections.abc import Mapping
from typing import BinaryIO

from alexnet.weights import zips
from alexnet.weights.core import Weights
from alexnet.weights.layout import blocks, to_torch


def write(file: BinaryIO, weights: Weights, keys: Mapping[str, str]) -> None:
    """A state dict as `torch.save` writes it, for `torch.load(weights_only=True)`.

    Args:
        file: open for writing, at its start.
        weights: what to write.
        keys: canonical name to key, `TORCHVISION_KEYS` or `TORCH_KEYS`.
    """
    stored = list(to_torch(weights))
    table = _pickle([(keys[array.name], array.shape) for array in stored])

    parts = [("weights/data.pkl", len(table), [table]), ("weights/byteorder", 6, [b"little"])]
    parts += [
        (f"weights/data/{number}", 4 * math.prod(array.shape), blocks(array.values))
        for number, array in enumerate(stored)
    ]
    zips.write(file, [*parts, ("weights/version", 2, [b"3\n"])])


def _pickle(arrays: list[tuple[str, tuple[int, ...]]]) -> bytes:
    """The pickle of an OrderedDict of contiguous fp32 tensors, storage N for the Nth."""
    out = bytearray(b"\x80\x02ccollections\nOrderedDict\n)R(")
    for number, (key, shape) in enumerate(arrays):
        out += _text(key) + b"ctorch._utils\n_rebuild_tensor_v2\n(("
        out += _text("storage") + b"ctorch\nFloatStorage\n" + _text(str(number)) + _text("cpu")
        strides = [math.prod(shape[i + 1 :]) for i in range(len(shape))]
        out += _int(math.prod(shape)) + b"tQ" + _int(0)
        out += b"(" + b"".join(map(_int, shape)) + b"t(" + b"".join(map(_int, strides)) + b"t"
        out += b"\x89ccollections\nOrderedDict\n)RtR"  # requires_grad=False, no hooks
    return bytes(out + b"u.")


def _text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def _int(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)
