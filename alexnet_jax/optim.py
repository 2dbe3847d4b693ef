"""SGD with momentum as an optax chain; the learning rate comes in with every step."""

import jax
import jax.numpy as jnp
import optax

from alexnet.config import OptimConfig


def gradient_transformation(optim: OptimConfig) -> optax.GradientTransformation:
    """Clip, decay, momentum: everything of the update but the learning rate.

    The rate multiplies what this returns, outside the momentum, as `torch.optim.SGD` has it:
    v = m v + (g + wd w); w = w - lr v. (Caffe and the paper have the rate inside v, which
    differs after the rate changes.)
    """
    parts = [optax.identity()]
    if optim.clip_norm:
        parts.append(optax.clip_by_global_norm(optim.clip_norm))
    if optim.weight_decay:
        mask = None if optim.decay_biases else _kernels_only
        parts.append(optax.add_decayed_weights(optim.weight_decay, mask))
    if optim.momentum:
        parts.append(optax.trace(optim.momentum, optim.nesterov))
    return optax.chain(*parts)


def _kernels_only(params: dict) -> dict:
    return jax.tree.map_with_path(lambda path, _: "kernel" in jax.tree_util.keystr(path), params)


def apply(params: dict, updates: dict, learning_rate: jax.Array) -> dict:
    """w - lr * update, in fp32."""
    return jax.tree.map(lambda w, u: w - jnp.asarray(learning_rate, w.dtype) * u, params, updates)
