"""Local response normalization in JAX, across channels or within maps, with its own gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from alexnet import layers as spec
from alexnet.band import band

Layer = spec.LRN | spec.SpatialLRN


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def lrn(x: jax.Array, layer: Layer, rectify: bool = False) -> jax.Array:
    """Local response normalization of NHWC maps, fp32 inside; formulas are with the layers.

    With `rectify`, of max(x, 0); the gradient then needs nothing that LRN's own does not.
    """
    return _lrn_forward(x, layer, rectify)[0]


def _lrn_forward(x: jax.Array, layer: Layer, rectify: bool) -> tuple[jax.Array, tuple]:
    wide = x.astype(jnp.float32)
    if rectify:
        wide = jnp.maximum(wide, np.float32(0))
    sums = _neighbors(jnp.square(wide), layer)
    scale = np.float32(layer.k) + _share(layer) * sums
    y = (wide * _inverse_power(scale, layer.beta)).astype(x.dtype)
    # In x's precision: in fp32 the scale would be half of LRN's traffic in a TPU's bf16 step.
    return y, (wide.astype(x.dtype), y, scale.astype(x.dtype))


def _lrn_backward(layer: Layer, rectify: bool, saved: tuple, grad: jax.Array) -> tuple[jax.Array]:
    """dx = g s^-b - 2 b alpha/n x (sum of g x s^(-b-1) over all that have x as a neighbor)."""
    kept, y, scale, wide = (array.astype(jnp.float32) for array in (*saved, grad))
    power = _inverse_power(scale, layer.beta)
    # Compilers keep only one of x and y. The next layer needs y anyway, and except on CPU, where
    # division is the expensive part, moving x too takes longer than x = y / power.
    x = lax.platform_dependent(
        kept, y, power, cpu=lambda kept, *_: kept, default=lambda _, y, power: y / power
    )
    direct = wide * power
    others = _neighbors(direct * x / scale, layer, back=True)
    factor = np.float32(2 * layer.beta) * _share(layer)
    to_input = direct - factor * x * others
    if rectify:
        to_input = jnp.where(x > 0, to_input, np.float32(0))
    return (to_input.astype(grad.dtype),)


lrn.defvjp(_lrn_forward, _lrn_backward)


def _neighbors(x: jax.Array, layer: Layer, back: bool = False) -> jax.Array:
    """Sums over each number's neighbors; with `back`, over those that have it as a neighbor.

    Across channels, by a product with a band matrix of ones: matrix units compute it faster than
    windowed or shifted sums. Within maps, by shifted sums, rows first.
    """
    if isinstance(layer, spec.LRN):
        near = band(layer, x.shape[-1])
        return jnp.matmul(x, near.T if back else near, precision=lax.Precision.HIGHEST)
    before, behind = layer.size // 2, (layer.size - 1) // 2
    for axis in (1, 2):
        edges, side = [(0, 0)] * 4, x.shape[axis]
        edges[axis] = (behind, before) if back else (before, behind)
        padded = jnp.pad(x, edges)
        parts = [lax.slice_in_dim(padded, i, i + side, axis=axis) for i in range(layer.size)]
        x = functools.reduce(jnp.add, parts)
    return x


def _share(layer: Layer) -> np.float32:
    """alpha divided by the count of numbers in a window."""
    return np.float32(layer.alpha / (layer.size if isinstance(layer, spec.LRN) else layer.size**2))


def _inverse_power(x: jax.Array, beta: float) -> jax.Array:
    """x ** -beta; for the usual 3/4 by square roots, which cost half as much as a power."""
    if beta == 0.75:
        root = lax.rsqrt(x)
        return root * jnp.sqrt(root)
    return x ** np.float32(-beta)
