"""Answers for `alexnet bench` from the JAX side: device, memory, matrix products, layers."""

import functools
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from alexnet.bench.layers import FORWARD, OF_INPUT, OF_WEIGHTS, place
from alexnet.layers import Spec, count_dropouts
from alexnet.threefry import dropout_keys
from alexnet_jax import onednn
from alexnet_jax.engine import DTYPES
from alexnet_jax.model import AlexNet
from alexnet_jax.plain import Network

Run = Callable[[int], None]


def device() -> dict[str, Any]:
    """The version, the devices' kind, and the processor cores that XLA has."""
    found = jax.devices()
    return {
        "version": jax.__version__,
        "platform": found[0].platform,
        "device": found[0].device_kind + (f" x {len(found)}" if len(found) > 1 else ""),
        "threads": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
    }


def peak_device_memory() -> int | None:
    """Peak bytes in use on the first device; None where it keeps no count, such as a CPU."""
    return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def matrix_product(size: int, precision: str) -> Run:
    """A function that multiplies two size x size matrices N times and waits for the result."""
    keys = jax.random.split(jax.random.key(0))
    a, b = (jax.random.normal(key, (size, size)).astype(DTYPES[precision]) for key in keys)
    exact = lax.Precision.HIGHEST if precision == "fp32" else lax.Precision.DEFAULT
    product = jax.jit(lambda a, b: jnp.matmul(a, b, precision=exact))

    return functools.partial(_repeat, product, a, b)


def layer_passes(
    spec: Spec, arrays: Mapping[str, np.ndarray], images: np.ndarray, *, precision: str, plain: bool
) -> dict[str, Run]:
    """Functions that run a one-layer network, or its gradients, N times and wait for the result.

    Args:
        spec: the network.
        arrays: its weights.
        images: (B, H, W, C) float32.
        precision: fp32 or bf16.
        plain: use Flax's own layers.
    """
    x = jnp.asarray(images, DTYPES[precision])
    model: Any = (
        Network(spec, arrays, precision)
        if plain
        else AlexNet(spec, weights=arrays, dtype=DTYPES[precision])
    )
    model.train()
    parts: Any = nnx.split(model, nnx.Param, ...)
    graphdef, params, rest = parts
    key = jnp.asarray(dropout_keys(0, 0, count_dropouts(spec)))
    work = onednn.fastest(jax.devices()[:1])

    def forward(params: Any, x: jax.Array) -> jax.Array:
        """The layer's output as the next layer would receive it."""
        layer: Any = nnx.merge(graphdef, params, jax.tree.map(jnp.asarray, rest))
        if plain:
            return layer(x)
        return list(layer.activations(x, key=key, work=work).values())[place(spec)]

    y = jax.jit(forward)(params, x)
    gradient = jax.random.normal(jax.random.key(0), y.shape, y.dtype)
    passes: dict[str, Run] = {
        FORWARD: functools.partial(_repeat, jax.jit(forward), params, x),
        OF_INPUT: _pullback(lambda x, params: forward(params, x), x, params, gradient),
    }
    if jax.tree.leaves(params):
        passes[OF_WEIGHTS] = _pullback(forward, params, x, gradient)
    return passes


def _pullback(function: Callable, of: Any, other: Any, gradient: jax.Array) -> Run:
    """A function for the first argument's gradient, from the output's and forward residuals."""
    kept = jax.jit(lambda of, other: jax.vjp(lambda of: function(of, other), of)[1])(of, other)
    return functools.partial(
        _repeat, jax.jit(lambda kept, gradient: kept(gradient)), kept, gradient
    )


def _repeat(function: Callable[..., Any], *arguments: Any) -> None:
    """Call a compiled function as many times as the last argument says, and wait."""
    for _ in range(arguments[-1]):
        out = function(*arguments[:-1])
    jax.block_until_ready(out)
