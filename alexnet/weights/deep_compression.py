"""AlexNet_compressed.net: bvlc_alexnet, pruned and quantised (Deep Compression, Han et al. 2016).

Eight counts of stored weights come first. Then for each layer: a codebook of fp32 values (256 for
conv, 16 for dense), the bias, one code a weight (a byte, or half a byte with the low half first),
and one gap a weight in half a byte: the number of zeros before it. A gap of more than 15 is
bridged by stored zeros. Weights stand in Caffe's order. (Layout: decode.py in
songhan/Deep-Compression-AlexNet.)
"""

import math
import struct

import numpy as np

from alexnet.errors import UserError
from alexnet.layers import Row, Spec, trace
from alexnet.spec import variant
from alexnet.weights.assemble import Found
from alexnet.weights.layout import from_torch
from alexnet.weights.names import kind

_CODEBOOK = {"conv": 256, "after_flatten": 16, "dense": 16}
_LAYERS = 8


def _is_conv(row: Row) -> bool:
    return kind(f"{row.name}.kernel") == "conv"


def size_of(head: bytes | memoryview, spec: Spec) -> int:
    """Bytes that a file with these counts has, or 0 where there are more weights than places."""
    if len(head) < 4 * _LAYERS:
        return 0
    total = 4 * _LAYERS
    for row, count in zip(
        [r for r in trace(spec) if "kernel" in r.variables],
        struct.unpack_from("<8I", head),
        strict=True,
    ):
        if not 0 < count <= math.prod(row.variables["kernel"].shape):
            return 0
        codebook = _CODEBOOK[kind(f"{row.name}.kernel")]
        codes = count if _is_conv(row) else (count + 1) // 2
        total += 4 * (codebook + row.variables["kernel"].shape[-1]) + codes + (count + 1) // 2
    return total


def looks_like(head: bytes | memoryview, file_size: int) -> bool:
    """Whether the counts at the start explain the file's size to the byte."""
    return size_of(head, variant("caffe")) == file_size


def read(data: memoryview, spec: Spec | None = None) -> Found:
    """What the file holds, by default for the full-size network: the format has no shapes.

    Raises:
        UserError: for a file that is damaged or of another size.
    """
    spec = spec or variant("caffe")
    if size_of(data, spec) != len(data):
        raise UserError("its size is not what its counts of weights give: cut short or damaged")
    counts = struct.unpack_from("<8I", data)
    position = 4 * _LAYERS
    arrays: dict[str, np.ndarray] = {}

    def take(dtype: str, count: int) -> np.ndarray:
        nonlocal position
        start, position = position, position + count * np.dtype(dtype).itemsize
        return np.frombuffer(data[start:position], dtype)

    for row, count in zip([r for r in trace(spec) if "kernel" in r.variables], counts, strict=True):
        name, conv = f"{row.name}.kernel", _is_conv(row)
        codebook = take("<f4", _CODEBOOK[kind(name)])
        bias = take("<f4", row.variables["kernel"].shape[-1])
        codes = take("|u1", count) if conv else _halves(take("|u1", (count + 1) // 2), count)
        gaps = _halves(take("|u1", (count + 1) // 2), count)
        arrays[name] = from_torch(name, _kernel(row, codebook, codes, gaps))
        arrays[f"{row.name}.bias"] = bias
    return Found(arrays, colors="BGR", spec=spec)


def _halves(packed: np.ndarray, count: int) -> np.ndarray:
    """Half bytes, the low half of each byte first."""
    halves = np.empty(2 * len(packed), np.uint8)
    halves[0::2] = packed & 15
    halves[1::2] = packed >> 4
    return halves[:count]


def _kernel(row: Row, codebook: np.ndarray, codes: np.ndarray, gaps: np.ndarray) -> np.ndarray:
    """The whole kernel, OIHW or (out, in), from its stored weights."""
    height_first = (3, 2, 0, 1) if _is_conv(row) else (1, 0)
    places = np.cumsum(gaps.astype(np.uint32) + 1, dtype=np.int64) - 1
    every = np.zeros(math.prod(row.variables["kernel"].shape), np.uint8)
    if places[-1] >= len(every):
        raise UserError(f"it is damaged: {row.name} has weights past its end")
    every[places] = codes
    return codebook[every].reshape([row.variables["kernel"].shape[axis] for axis in height_first])
