"""Initial weights, drawn with NumPy: the same numbers for both frameworks.

They are drawn in the canonical layout (HWIO and (in, out)). Each array has a random stream of its
own, a function of the seed and its name, so changing one layer doesn't affect the others. Only
Philox's raw bits are used, which NumPy promises to keep (NEP 19), unlike any of its distributions.
"""

import math
import zlib

import numpy as np

from alexnet import draws
from alexnet.errors import check_count
from alexnet.layers import Spec, Variable, variables

_PIECE = 1 << 20  # numbers drawn at a time: fc6 alone has 38 million, and float64 takes twice fp32


def initial_weights(spec: Spec, seed: int) -> dict[str, np.ndarray]:
    """Canonical fp32 arrays (`conv1.kernel`, ...), initialized as in the variant's source.

    `seed` is from 0 to 2^64 - 1.
    """
    check_count("seed", seed, 0, 2**64 - 1)
    return {name: _draw(variable, name, seed) for name, variable in variables(spec).items()}


def _draw(variable: Variable, name: str, seed: int) -> np.ndarray:
    """The initial value of one array; `name` picks its random stream."""
    kind, number = variable.init
    values = np.full(math.prod(variable.shape), number, np.float32)
    if kind != "constant":
        stream = draws.stream(draws.INIT, seed, index=zlib.crc32(name.encode()))
        for start in range(0, len(values), _PIECE):
            piece = values[start : start + _PIECE]
            uniforms = draws.uniforms_32(stream, 2 * math.ceil(len(piece) / 2))
            drawn = number * (2 * uniforms - 1) if kind == "uniform" else _normal(uniforms, number)
            piece[:] = drawn[: len(piece)]
    return values.reshape(variable.shape)


def _normal(uniforms: np.ndarray, std: float) -> np.ndarray:
    """Box and Muller 1958: each pair of uniform numbers in (0, 1) gives two of N(0, std^2)."""
    radius, angle = std * np.sqrt(-2 * np.log(uniforms[0::2])), 2 * np.pi * uniforms[1::2]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
