"""Initial weights, drawn with NumPy: the same numbers for both frameworks.

They are drawn in the canonical layout (HWIO and (in, out)). Each array has a random stream of its
own, a function of the seed and its name: changing one layer leaves the others as they are. Only
Philox's raw bits are used, which NumPy promises to keep (NEP 19), as it does for no distribution.
"""

import math
import zlib

import numpy as np

from alexnet.data import draws
from alexnet.layers import Constant, Normal, Spec, Uniform, Variable, variables

_PIECE = 1 << 20  # numbers drawn at a time: fc6 alone has 38 million, and float64 takes twice fp32


def initial_weights(spec: Spec, seed: int) -> dict[str, np.ndarray]:
    """Canonical fp32 arrays (`conv1.kernel`, `conv1.bias`, ...) as the variant's source has them.

    Args:
        spec: the network.
        seed: from 0 to 2^64 - 1.
    """
    return {name: draw(variable, name, seed) for name, variable in variables(spec).items()}


def draw(variable: Variable, name: str, seed: int) -> np.ndarray:
    """The initial value of one array; `name` picks its random stream."""
    values = np.empty(math.prod(variable.shape), np.float32)
    if isinstance(variable.init, Constant):
        values.fill(variable.init.value)
    else:
        stream = draws.stream(draws.INIT, seed, index=zlib.crc32(name.encode()))
        for start in range(0, len(values), _PIECE):
            piece = values[start : start + _PIECE]
            uniforms = draws.uniforms_32(stream, 2 * math.ceil(len(piece) / 2))
            piece[:] = _distributed(variable.init, uniforms)[: len(piece)]
    return values.reshape(variable.shape)


def _distributed(init: Normal | Uniform, uniforms: np.ndarray) -> np.ndarray:
    """Numbers of a distribution from as many, an even number, of (0, 1); float64."""
    match init:
        case Uniform(bound):
            return bound * (2 * uniforms - 1)
        case Normal(std):  # Box and Muller 1958: each two uniform numbers give two normal ones
            radius = std * np.sqrt(-2 * np.log(uniforms[0::2]))
            angle = 2 * np.pi * uniforms[1::2]
            return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
