"""Local response normalization in JAX, with a gradient of its own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from alexnet import layers as spec
from alexnet.band import band


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def lrn(x: jax.Array, layer: spec.LRN) -> jax.Array:
    """Local response normalization over channels; `layers.LRN` has the formula. fp32 inside.

    The sums over neighbors are a product with a matrix of ones around its diagonal: matrix units
    take less time for it than windows and shifted sums do. The gradient is written out, and works
    the scale out anew: keeping it would cost more bytes than it saves.
    """
    wide = x.astype(jnp.float32)
    return (wide * _inverse_power(_scale(wide, layer), layer.beta)).astype(x.dtype)


def _lrn_forward(x: jax.Array, layer: spec.LRN) -> tuple[jax.Array, jax.Array]:
    return lrn(x, layer), x


def _lrn_backward(layer: spec.LRN, x: jax.Array, grad: jax.Array) -> tuple[jax.Array]:
    """dx = g s^-b - 2 b alpha/n x (sum of g x s^(-b-1) over those that x is a neighbor of)."""
    # Without a barrier XLA keeps the forward pass's scale, which TPUs have to write and read.
    x = lax.platform_dependent(x, tpu=lax.optimization_barrier, default=lambda x: x)
    wide, grad = x.astype(jnp.float32), grad.astype(jnp.float32)
    scale = _scale(wide, layer)
    power = _inverse_power(scale, layer.beta)
    others = _neighbors(grad * wide * power / scale, layer, back=True)
    factor = np.float32(2 * layer.beta * layer.alpha / layer.size)
    return ((grad * power - factor * wide * others).astype(x.dtype),)


lrn.defvjp(_lrn_forward, _lrn_backward)


def _scale(x: jax.Array, layer: spec.LRN) -> jax.Array:
    """k + alpha/n times the sum of squares of each channel's neighbors."""
    return np.float32(layer.k) + np.float32(layer.alpha / layer.size) * _neighbors(
        jnp.square(x), layer
    )


def _neighbors(x: jax.Array, layer: spec.LRN, back: bool = False) -> jax.Array:
    """Sums over each channel's neighbors; with `back`, over those that it is a neighbor of."""
    near = band(layer, x.shape[-1])
    return jnp.matmul(x, near.T if back else near, precision=lax.Precision.HIGHEST)


def _inverse_power(x: jax.Array, beta: float) -> jax.Array:
    """x ** -beta; for the usual 3/4 by square roots, which cost half as much as a power."""
    if beta == 0.75:
        root = lax.rsqrt(x)
        return root * jnp.sqrt(root)
    return x ** np.float32(-beta)
