"""Convolutions in JAX, in the form that is fastest on each backend; all compute the same.

XLA's own convolution is the reference. `_INPUT` and `_KERNEL`, at the end, map each backend to the
function that computes the gradients there; the results differ only by rounding.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from alexnet import layers as spec


def conv(x: jax.Array, kernel: jax.Array, bias: jax.Array, layer: spec.Conv) -> jax.Array:
    """Convolve NHWC images with an HWIO kernel, symmetric zero padding.

    Groups are split by hand: with `feature_group_count`, XLA gathers the whole batch on every
    device when the batch is sharded (openxla/xla#47945), and is slow on CPU.
    """
    geometry = Geometry(layer.stride, layer.padding)
    inputs = jnp.split(x, layer.groups, axis=3)
    kernels = jnp.split(kernel, layer.groups, axis=3)
    parts = [convolve(i, k, geometry) for i, k in zip(inputs, kernels, strict=True)]
    return biased(parts[0] if layer.groups == 1 else jnp.concatenate(parts, axis=3), bias)


def biased(x: jax.Array, bias: jax.Array) -> jax.Array:
    """Add an fp32 bias, in fp32, to features of x's type.

    The bias's gradient is a sum over the batch and all positions, and in bf16 such a sum stops
    growing: XLA on a CPU adds 8,192 ones up to 256.
    """
    return (x.astype(jnp.float32) + bias).astype(x.dtype)


class Geometry(NamedTuple):
    """A convolution's stride and its zero padding on each side."""

    stride: int
    padding: int


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """Convolve (batch, height, width, in) with (rows, columns, in, out), without groups or bias."""
    return plain(geometry, x, kernel)


def _forward(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> tuple:
    return convolve(x, kernel, geometry), (x, kernel)


def _backward(geometry: Geometry, saved: tuple, grad: jax.Array) -> tuple[jax.Array, jax.Array]:
    # Under jit, an unused gradient, such as that of conv1's input, is not computed.
    return _chosen(_INPUT, geometry, *saved, grad), _chosen(_KERNEL, geometry, *saved, grad)


convolve.defvjp(_forward, _backward)


def precision(x: jax.Array) -> lax.Precision:
    """HIGHEST for fp32: TPUs and recent GPUs would otherwise round the factors to fewer bits."""
    return lax.Precision.HIGHEST if x.dtype == jnp.float32 else lax.Precision.DEFAULT


# --- the forms: each takes a geometry and the operands ----------------------------------------


def plain(geometry: Geometry, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """XLA's convolution."""
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(geometry.stride,) * 2,
        padding=((geometry.padding,) * 2,) * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=precision(x),
    )


def _blocks(geometry: Geometry, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The blocks that windows reach: (batch, rows, columns, stride * stride * in)."""
    stride, padding = geometry
    batch, *sizes, channels = x.shape
    reach = -(-kernel.shape[0] // stride)  # a window's side, in blocks
    counts = [(n + 2 * padding - kernel.shape[0]) // stride + reach for n in sizes]
    edges = [(padding, c * stride - n - padding, 0) for n, c in zip(sizes, counts, strict=True)]
    x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *edges, (0, 0, 0)))
    x = x.reshape(batch, counts[0], stride, counts[1], stride, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, *counts, stride * stride * channels)


def _block_kernel(geometry: Geometry, kernel: jax.Array) -> jax.Array:
    """The kernel for blocks: (reach, reach, stride * stride * in, out), zeros at its end."""
    stride = geometry.stride
    side, _, channels, features = kernel.shape
    reach = -(-side // stride)
    kernel = jnp.pad(kernel, ((0, reach * stride - side),) * 2 + ((0, 0),) * 2)
    kernel = kernel.reshape(reach, stride, reach, stride, channels, features)
    return kernel.transpose(0, 2, 1, 3, 4, 5).reshape(reach, reach, -1, features)


def flipped(geometry: Geometry, x: jax.Array, kernel: jax.Array, grad: jax.Array) -> jax.Array:
    """The input's gradient as a convolution of the output's with the kernel turned around.

    XLA's own does the same, but turns the kernel around inside its loops.
    """
    if geometry.stride > 1:
        return _plain_input(geometry, x, kernel, grad)
    turned = lax.optimization_barrier(jnp.flip(kernel, (0, 1)).transpose(0, 1, 3, 2))
    return plain(Geometry(1, kernel.shape[0] - 1 - geometry.padding), grad, turned)


def by_position(geometry: Geometry, x: jax.Array, kernel: jax.Array, grad: jax.Array) -> jax.Array:
    """The kernel's gradient as one matrix product per kernel position, for stride 1."""
    rows, columns = grad.shape[1:3]
    padded = _pad(x, geometry.padding)
    products = [
        _product("bhwi,bhwo->io", padded[:, i : i + rows, j : j + columns], grad)
        for i in range(kernel.shape[0])
        for j in range(kernel.shape[1])
    ]
    return jnp.stack(products).reshape(kernel.shape)


def by_row(geometry: Geometry, x: jax.Array, kernel: jax.Array, grad: jax.Array) -> jax.Array:
    """The kernel's gradient as one product per kernel row and image, over blocks.

    The products are long and thin; one per image gives every core some.
    """
    blocks = _blocks(geometry, x, kernel)
    small, back = jax.vjp(functools.partial(_block_kernel, geometry), kernel)
    rows, columns = grad.shape[1:3]
    sides = [blocks[:, :, j : j + columns] for j in range(small.shape[1])]
    wide = jnp.concatenate(sides, axis=3)
    parts = [_product("bhwi,bhwo->bio", wide[:, i : i + rows], grad) for i in range(small.shape[0])]
    each = jnp.stack(parts, axis=1).reshape(len(x), *small.shape)
    # Summed last: with a sharded batch, no more than one kernel's gradient crosses devices.
    return jax.vmap(lambda one: back(one)[0])(each).sum(0)


def _pad(x: jax.Array, padding: int) -> jax.Array:
    return jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))


def _product(subscripts: str, x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.einsum(subscripts, x, y, precision=precision(x))


def _plain_input(geometry: Geometry, x: jax.Array, kernel: jax.Array, grad: Any) -> jax.Array:
    """XLA's own gradient of the input."""
    return jax.vjp(lambda x: plain(geometry, x, kernel), x)[1](grad)[0]


def _plain_kernel(geometry: Geometry, x: jax.Array, kernel: jax.Array, grad: Any) -> jax.Array:
    """XLA's own gradient of the kernel."""
    return jax.vjp(lambda kernel: plain(geometry, x, kernel), kernel)[1](grad)[0]


# --- the choice -------------------------------------------------------------------------------


def _cpu_kernel(geometry: Geometry, x: jax.Array, kernel: jax.Array, grad: jax.Array) -> jax.Array:
    """The form measured fastest on a CPU (docs/performance.md): conv1, 3x3 layers, others."""
    if geometry.stride > 1:
        return by_row(geometry, x, kernel, grad)
    if kernel.shape[0] <= 3:
        return by_position(geometry, x, kernel, grad)
    return _plain_kernel(geometry, x, kernel, grad)


_INPUT = {"default": _plain_input, "cpu": flipped}
_KERNEL = {"default": _plain_kernel, "cpu": _cpu_kernel}


def _chosen(forms: dict[str, Callable], geometry: Geometry, *operands: jax.Array) -> jax.Array:
    """Apply the form for the backend that the program is compiled for."""
    branches = {backend: functools.partial(form, geometry) for backend, form in forms.items()}
    return lax.platform_dependent(*operands, **branches)
