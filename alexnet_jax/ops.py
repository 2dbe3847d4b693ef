"""The layers' arithmetic in JAX, on NHWC arrays, where Flax lacks it or XLA is slow.

Every function is pure and takes the layer's row of numbers from `alexnet.layers`.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.random import threefry2x32_p

from alexnet import layers as spec
from alexnet.band import averages
from alexnet_jax.conv import biased, precision


def dense(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """Multiply (batch, in) rows by an (in, out) kernel, and add an fp32 bias."""
    return biased(jnp.matmul(x, kernel, precision=precision(x)), bias)


@jax.custom_vjp
def relu(x: jax.Array) -> jax.Array:
    """max(x, 0), with a gradient computed from the output, so that x need not be kept."""
    return jnp.maximum(x, np.array(0, x.dtype))


def _relu_forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    y = relu(x)
    return y, y


def relu_gradient(y: jax.Array, grad: jax.Array) -> jax.Array:
    """The input's gradient, from the output and its gradient."""
    return jnp.where(y > 0, grad, np.array(0, grad.dtype))


relu.defvjp(_relu_forward, lambda y, grad: (relu_gradient(y, grad),))


def batch_statistics(
    x: jax.Array, mask: jax.Array | None, axis_name: str | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mean, biased variance and count of each channel over the global batch, in fp32.

    Args:
        x: (batch, ..., channels), this device's rows.
        mask: (batch,), 0 for rows that don't count; None where all do.
        axis_name: of the devices that share the batch; None where arrays are global.
    """
    wide, axes = x.astype(jnp.float32), tuple(range(x.ndim - 1))
    weight = jnp.ones(x.shape[:1], jnp.float32) if mask is None else mask
    weight = weight.reshape(-1, *(1,) * (x.ndim - 1))
    total = functools.partial(lax.psum, axis_name=axis_name) if axis_name else lambda n: n
    count = total(weight.sum()) * math.prod(x.shape[1:-1])
    mean = total((wide * weight).sum(axes)) / jnp.maximum(count, 1.0)
    # Around the mean, in a second pass: a difference of squares would lose its digits.
    variance = total((jnp.square(wide - mean) * weight).sum(axes)) / jnp.maximum(count, 1.0)
    return mean, variance, count


def normalize(
    x: jax.Array,
    mean: jax.Array,
    variance: jax.Array,
    layer: spec.BatchNorm,
    affine: tuple[jax.Array, jax.Array] | None = None,
) -> jax.Array:
    """(x - mean) / sqrt(variance + epsilon), times scale plus shift where given; fp32 inside."""
    y = (x.astype(jnp.float32) - mean) * lax.rsqrt(variance + np.float32(layer.epsilon))
    if affine is not None:
        y = y * affine[0] + affine[1]
    return y.astype(x.dtype)


def running(
    old: jax.Array, new: jax.Array, count: jax.Array, layer: spec.BatchNorm, unbiased: bool
) -> jax.Array:
    """A running statistic after a batch of `count` numbers per channel, unchanged if none."""
    if unbiased:
        new = new * (count / jnp.maximum(count - 1, 1.0))
    share = jnp.where(count > 0, np.float32(1 - layer.momentum), np.float32(0))
    return (1 - share) * old + share * lax.stop_gradient(new)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def max_pool(x: jax.Array, layer: spec.MaxPool, rectify: bool = False) -> jax.Array:
    """Max pooling of NHWC maps. Of equal maxima, the first in row order gets the gradient.

    That is torch's rule and XLA's. On CPU the windows are taken as strided slices, about five
    times as fast there as XLA's windowed ops; elsewhere the windowed ops are faster.

    With `rectify`, of max(x, 0). ReLU commutes with pooling, bit for bit in values and gradients:
    on CPU it comes before, elsewhere after, where it has a quarter of the numbers to move.
    """
    return lax.platform_dependent(
        x,
        cpu=lambda x: _pool_slices(_rectified(x, rectify), layer),
        default=lambda x: _rectified(_pool_windows(x, layer), rectify),
    )


def _rectified(x: jax.Array, rectify: bool) -> jax.Array:
    return relu(x) if rectify else x


def _pool_windows(x: jax.Array, layer: spec.MaxPool) -> jax.Array:
    lowest = np.array(-np.inf, x.dtype)
    window, strides = (1, layer.window, layer.window, 1), (1, layer.stride, layer.stride, 1)
    padding = ((0, 0), *((0, layer.overhang(n)) for n in x.shape[1:3]), (0, 0))
    return lax.reduce_window(x, lowest, lax.max, window, strides, padding)


def _slices(x: jax.Array, layer: spec.MaxPool) -> list[tuple[int, int, jax.Array]]:
    """For each position (i, j) in the window, the entries at it in every window."""
    batch, height, width, channels = x.shape
    edges = ((0, 0, 0), *((0, layer.overhang(n), 0) for n in (height, width)), (0, 0, 0))
    padded = lax.pad(x, np.array(-np.inf, x.dtype), edges)
    rows, columns = ((layer.out(n) - 1) * layer.stride + 1 for n in (height, width))
    strides = (1, layer.stride, layer.stride, 1)
    return [
        (i, j, lax.slice(padded, (0, i, j, 0), (batch, i + rows, j + columns, channels), strides))
        for i in range(layer.window)
        for j in range(layer.window)
    ]


def _pool_slices(x: jax.Array, layer: spec.MaxPool) -> jax.Array:
    return functools.reduce(lax.max, [part for _, _, part in _slices(x, layer)])


def _pool_forward(x: jax.Array, layer: spec.MaxPool, rectify: bool) -> tuple[jax.Array, tuple]:
    y = max_pool(x, layer, rectify)
    return y, (x, y)


def _pool_backward(
    layer: spec.MaxPool, rectify: bool, saved: tuple, grad: jax.Array
) -> tuple[jax.Array]:
    def windows(x: jax.Array, y: jax.Array, grad: jax.Array) -> jax.Array:
        grad = relu_gradient(y, grad) if rectify else grad
        return jax.vjp(functools.partial(_pool_windows, layer=layer), x)[1](grad)[0]

    def slices(x: jax.Array, y: jax.Array, grad: jax.Array) -> jax.Array:
        x = _rectified(x, rectify)
        taken, total = jnp.zeros(y.shape, bool), jnp.zeros_like(x)
        for i, j, part in _slices(x, layer):
            wins = (part == y) & ~taken
            taken |= wins
            spread = [
                (at, n - at - (m - 1) * layer.stride - 1, layer.stride - 1)
                for at, n, m in zip((i, j), x.shape[1:3], y.shape[1:3], strict=True)
            ]
            share = jnp.where(wins, grad, np.array(0, grad.dtype))
            total += lax.pad(share, np.array(0, grad.dtype), ((0, 0, 0), *spread, (0, 0, 0)))
        return relu_gradient(x, total) if rectify else total

    return (lax.platform_dependent(*saved, grad, cpu=slices, default=windows),)


max_pool.defvjp(_pool_forward, _pool_backward)


def avg_pool(x: jax.Array, layer: spec.AvgPool | spec.AdaptiveAvgPool) -> jax.Array:
    """Average NHWC maps over the layer's bins, by one matrix product per axis.

    In fp32: bf16 rounds a third up by 0.2 %, once per axis.
    """
    bins = [layer.bins(n) for n in x.shape[1:3]]
    if all(len(own) == n for own, n in zip(bins, x.shape[1:3], strict=True)):
        return x
    rows, columns = (averages(own, n) for own, n in zip(bins, x.shape[1:3], strict=True))
    wide = x.astype(jnp.float32)
    found = jnp.einsum("oh,nhwc,pw->nopc", rows, wide, columns, precision=precision(wide))
    return found.astype(x.dtype)


def extended(x: jax.Array, layer: spec.Conv) -> jax.Array:
    """NHWC images with zeros on the right and at the bottom, as far as the last window reaches."""
    edges = [(0, layer.overhang(n)) for n in x.shape[1:3]]
    return jnp.pad(x, ((0, 0), *edges, (0, 0))) if layer.ceil else x


def dropout(
    x: jax.Array, layer: spec.Dropout, key: jax.Array, first_row: jax.Array | int
) -> jax.Array:
    """Zero a share of each row's entries; if `inverted`, scale the rest up.

    Args:
        x: this device's rows of the batch, (rows, features) or (rows, H, W, C).
        layer: its rate is from 0 to below 1.
        key: two uint32 words; the mask is a function of the key and of each entry's position in
            the global batch.
        first_row: the position of x's first row in the global batch.
    """
    if layer.rate == 0:
        return x
    kept = 1 - layer.rate
    shape = x.shape[0], math.prod(x.shape[1:])
    row = lax.broadcasted_iota(jnp.uint32, shape, 0) + jnp.asarray(first_row, jnp.uint32)
    place = row * np.uint32(shape[1]) + lax.broadcasted_iota(jnp.uint32, shape, 1)
    high, low = threefry2x32_p.bind(key[0], key[1], jnp.zeros_like(place), place)
    keep = ((high ^ low) < np.uint32(round(kept * 2**32))).reshape(x.shape)
    scaled = x / np.array(kept, x.dtype) if layer.inverted else x
    return jnp.where(keep, scaled, np.array(0, x.dtype))
