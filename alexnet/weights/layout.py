"""Changes of layout between canonical arrays and those of other frameworks.

All but the one copy of fc6 are views: writers go through them block by block.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from alexnet.preprocess import Preprocess
from alexnet.spec import Flatten, Spec, trace
from alexnet.weights.core import Weights
from alexnet.weights.names import ARRAYS, TORCH_KEYS, kind


def from_torch(name: str, array: np.ndarray) -> np.ndarray:
    """OIHW to HWIO, (out, in) to (in, out); biases, and what has a wrong rank, stay."""
    if name.endswith(".kernel"):
        if kind(name) == "conv" and array.ndim == 4:
            return array.transpose(2, 3, 1, 0)
        if kind(name) != "conv" and array.ndim == 2:
            return array.T
    return array


def map_before_flatten(spec: Spec) -> tuple[int, int, int]:
    """Height, width and channels of the feature map that fc6 takes."""
    return next(row.in_shape for row in trace(spec) if isinstance(row.layer, Flatten))


def rows_to_hwc(kernel: np.ndarray, spec: Spec) -> np.ndarray:
    """fc6's (in, out) kernel with rows in C, H, W order, copied to H, W, C order."""
    height, width, channels = map_before_flatten(spec)
    source = kernel.T.reshape(kernel.shape[1], channels, height * width).transpose(2, 1, 0)
    return row_major(source).reshape(kernel.shape)


def row_major(array: np.ndarray) -> np.ndarray:
    """A copy in C order of an array whose last axis is the outermost one in memory.

    Several times faster than one whole copy: it is made in blocks that stay in the cache.
    """
    copy = np.empty(array.shape, array.dtype)
    for start in range(0, array.shape[-1], 64):
        copy[..., start : start + 64] = np.ascontiguousarray(array[..., start : start + 64])
    return copy


def swap_colors(kernel: np.ndarray) -> np.ndarray:
    """conv1's HWIO kernel for B, G, R inputs instead of R, G, B, or the other way round."""
    return np.ascontiguousarray(kernel[:, :, ::-1])


@dataclass(frozen=True)
class Stored:
    """One array as torch, Caffe and ONNX lay it out."""

    name: str  # canonical
    shape: tuple[int, ...]
    values: np.ndarray  # a view with that many elements in that order, not always of that shape


def to_torch(weights: Weights) -> Iterator[Stored]:
    """Every array as OIHW or (out, in), fc6's columns in C, H, W order."""
    for name in ARRAYS:
        array = weights.arrays[name]
        if name.endswith(".bias"):
            yield Stored(name, array.shape, array)
        elif kind(name) == "conv":
            view = array.transpose(3, 2, 0, 1)
            yield Stored(name, view.shape, view)
        elif kind(name) == "after_flatten":
            shape = (*map_before_flatten(weights.spec), array.shape[1])
            yield Stored(name, array.shape[::-1], array.reshape(shape).transpose(3, 2, 0, 1))
        else:
            yield Stored(name, array.shape[::-1], array.T)


def to_state_dict(
    arrays: Mapping[str, np.ndarray], spec: Spec, keys: Mapping[str, str] = TORCH_KEYS
) -> dict[str, np.ndarray]:
    """Canonical arrays under torch keys, in torch's layout and shape.

    `keys` are this project's, or `names.TORCHVISION_KEYS`.
    """
    stored = to_torch(Weights(dict(arrays), spec, Preprocess()))
    return {keys[each.name]: each.values.reshape(each.shape) for each in stored}


def from_state_dict(state: Mapping[str, np.ndarray], spec: Spec) -> dict[str, np.ndarray]:
    """The inverse of `to_state_dict`."""
    arrays = {name: from_torch(name, state[key]) for name, key in TORCH_KEYS.items()}
    for name in arrays:
        if name.endswith(".kernel") and kind(name) == "after_flatten":
            arrays[name] = rows_to_hwc(arrays[name], spec)
    return arrays


def blocks(array: np.ndarray, size: int = 8 << 20) -> Iterator[memoryview]:
    """The little-endian bytes of an fp32 array in C order, about `size` bytes at a time.

    Transposed views are written through this: no whole copy of one is ever made.
    """
    if not array.ndim:
        array = array.reshape(1)
    rows = max(1, size // max(1, 4 * math.prod(array.shape[1:])))
    for start in range(0, len(array), rows):
        block = np.ascontiguousarray(array[start : start + rows], "<f4")
        yield memoryview(block.reshape(-1).view(np.uint8))
