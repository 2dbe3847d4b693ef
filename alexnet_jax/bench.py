"""Answers for `alexnet bench` from the JAX side: device, memory, matrix products."""

import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from alexnet_jax.engine import DTYPES


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
    """The most bytes in use on the first device; None where it doesn't tell, as a CPU."""
    return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def matrix_product(size: int, precision: str) -> Callable[[int], None]:
    """A function that multiplies two size x size matrices so many times, and waits."""
    keys = jax.random.split(jax.random.key(0))
    a, b = (jax.random.normal(key, (size, size)).astype(DTYPES[precision]) for key in keys)
    exact = lax.Precision.HIGHEST if precision == "fp32" else lax.Precision.DEFAULT
    product = jax.jit(lambda a, b: jnp.matmul(a, b, precision=exact))

    def run(count: int) -> None:
        for _ in range(count):
            out = product(a, b)
        out.block_until_ready()

    return run
