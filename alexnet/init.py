"""Initial weights, drawn with NumPy: the same numbers for both frameworks.

They are drawn in the canonical layout (HWIO and (in, out)). Each array has a random stream of its
own, a function of the seed and the layer's name: changing one layer leaves the others as they are.
"""

import math
import zlib

import numpy as np

from alexnet.spec import FanIn, Gaussian, LeCun, Row, Spec, learned


def initial_weights(spec: Spec, seed: int) -> dict[str, np.ndarray]:
    """Canonical fp32 weights (`conv1.kernel`, `conv1.bias`, ...) as the variant's source has them.

    Args:
        spec: the network.
        seed: from 0 to 2^64 - 1.
    """
    weights: dict[str, np.ndarray] = {}
    for row in learned(spec):
        kernel, bias = _draw(row, seed)
        weights[f"{row.name}.kernel"] = kernel
        weights[f"{row.name}.bias"] = bias
    return weights


def _draw(row: Row, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and bias of one layer."""
    stream = np.random.Generator(
        np.random.Philox(key=np.array([seed, zlib.crc32(row.name.encode())], np.uint64))
    )
    shape, features = row.kernel_shape, row.kernel_shape[-1]
    match row.layer.init:
        case Gaussian(std, bias):
            return _normal(stream, shape, std), np.full(features, bias, np.float32)
        case LeCun():
            std = math.sqrt(1 / row.fan_in)
            return _normal(stream, shape, std), np.zeros(features, np.float32)
        case FanIn():
            bound = 1 / math.sqrt(row.fan_in)
            return _uniform(stream, shape, bound), _uniform(stream, (features,), bound)
    raise ValueError(f"no rule draws {row.layer.init}")


def _normal(stream: np.random.Generator, shape: tuple[int, ...], std: float) -> np.ndarray:
    values = stream.standard_normal(shape, dtype=np.float32)
    values *= np.float32(std)
    return values


def _uniform(stream: np.random.Generator, shape: tuple[int, ...], bound: float) -> np.ndarray:
    values = stream.random(shape, dtype=np.float32)
    values -= np.float32(0.5)
    values *= np.float32(2 * bound)
    return values
