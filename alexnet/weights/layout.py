"""Changes of layout between canonical arrays and those of other frameworks.

All but the one copy of fc6 are views: writers go through them block by block.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from alexnet.layers import Spec, map_shapes, variables
from alexnet.preprocess import Preprocess
from alexnet.weights.core import Weights
from alexnet.weights.names import torch_keys
from alexnet.weights.precision import Dtype, stored


def from_torch(name: str, array: np.ndarray) -> np.ndarray:
    """OIHW to HWIO, (out, in) to (in, out); other arrays, or wrong ranks, stay as they are."""
    if name.endswith(".kernel") and array.ndim == 4:
        return array.transpose(2, 3, 1, 0)
    return array.T if name.endswith(".kernel") and array.ndim == 2 else array


def rows_to_hwc(kernel: np.ndarray, map_shape: tuple[int, int, int]) -> np.ndarray:
    """A dense (in, out) kernel with rows in C, H, W order, copied to H, W, C order."""
    height, width, channels = map_shape
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
    """Every array as OIHW or (out, in), columns after a flattened map in C, H, W order."""
    maps = map_shapes(weights.spec)
    for name in (name for name in variables(weights.spec) if name in weights.arrays):
        array, layer = weights.arrays[name], name.partition(".")[0]
        if array.ndim == 4:
            view = array.transpose(3, 2, 0, 1)
            yield Stored(name, view.shape, view)
        elif array.ndim == 2 and layer in maps:
            view = array.reshape(*maps[layer], array.shape[1]).transpose(3, 2, 0, 1)
            yield Stored(name, array.shape[::-1], view)
        else:
            yield Stored(name, array.shape[::-1], array.T)


def to_state_dict(
    arrays: Mapping[str, np.ndarray], spec: Spec, keys: Mapping[str, str] | None = None
) -> dict[str, np.ndarray]:
    """Canonical arrays, or momentum, under torch keys, in torch's layout and shape.

    `keys` are this project's, or `names.TORCHVISION_KEYS`.
    """
    keys = keys or torch_keys(spec)
    stored = to_torch(Weights(dict(arrays), spec, Preprocess()))
    return {keys[each.name]: each.values.reshape(each.shape) for each in stored}


def from_state_dict(state: Mapping[str, np.ndarray], spec: Spec) -> dict[str, np.ndarray]:
    """The inverse of `to_state_dict`."""
    maps = map_shapes(spec)
    arrays = {}
    for name, key in torch_keys(spec).items():
        if key in state:
            arrays[name], layer = from_torch(name, state[key]), name.partition(".")[0]
            if arrays[name].ndim == 2 and layer in maps:
                arrays[name] = rows_to_hwc(arrays[name], maps[layer])
    return arrays


def blocks(array: np.ndarray, dtype: Dtype = "fp32", size: int = 8 << 20) -> Iterator[memoryview]:
    """The little-endian bytes of an fp32 array in C order, about `size` of its own at a time.

    Transposed views are written through this: no whole copy of one is ever made.
    """
    if not array.ndim:
        array = array.reshape(1)
    rows = max(1, size // max(1, 4 * math.prod(array.shape[1:])))
    for start in range(0, len(array), rows):
        block = np.ascontiguousarray(stored(array[start : start + rows], dtype))
        yield block.reshape(-1).view(np.uint8).data
