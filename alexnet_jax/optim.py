"""The optimizer's rules as optax transformations; the rates are passed in at every step."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from alexnet.config import OptimConfig
from alexnet.layers import Variable
from alexnet.schedule import decays, learned, trusted


def gradient_transformation(
    optim: OptimConfig, variables: Mapping[str, Variable]
) -> optax.GradientTransformationExtraArgs:
    """The whole transformation from gradients to the updates added to the weights.

    Its `update` takes, besides optax's arguments, `rates`: one float32 for each learned variable,
    in the order of `variables`. With g the clipped gradient and r the rate, the rules are

    - `sgd`: v = m v + (g + wd w), w -= r v, as torch.optim.SGD and optax.sgd;
    - `caffe`: v = m v + r (g + wd w), w -= v, as the paper (section 5), cuda-convnet and Caffe;
    - `lars`: `caffe` with r times a trust ratio for `trusted` variables, see `trust_ratio`.

    The first two differ from the first change of the rate on.
    """
    decay = decays(optim, variables)
    positions = {name: i for i, name in enumerate(learned(variables))}
    momentum = optax.trace(optim.momentum, optim.nesterov) if optim.momentum else optax.identity()
    scale = _scale_by_rates(positions)
    if optim.rule == "sgd":
        update = [_add_decay(decay), momentum, scale]
    elif optim.rule == "caffe":
        update = [_add_decay(decay), scale, momentum]
    else:
        update = [_trust(optim, decay, trusted(optim, variables)), scale, momentum]
    clip = [optax.clip_by_global_norm(optim.clip_norm)] if optim.clip_norm else []
    return optax.chain(*clip, *update, optax.scale(-1.0))


def variable_name(path: tuple) -> str:
    """The canonical name for a path in a state, such as `conv1.kernel`."""
    return ".".join(key.key for key in path if isinstance(key, jax.tree_util.DictKey))


def _add_decay(decay: Mapping[str, float]) -> optax.GradientTransformation:
    """g + wd w, with a wd for each variable."""

    def one(path: tuple, gradient: jax.Array, weight: jax.Array) -> jax.Array:
        wd = decay[variable_name(path)]
        return gradient + wd * weight if wd else gradient

    return optax.stateless(lambda updates, params: jax.tree.map_with_path(one, updates, params))


def _scale_by_rates(positions: Mapping[str, int]) -> optax.GradientTransformationExtraArgs:
    """r u, with a rate for each variable."""

    def update(updates: Any, state: Any, params: Any = None, *, rates: jax.Array) -> tuple:
        def one(path: tuple, value: jax.Array) -> jax.Array:
            return rates[positions[variable_name(path)]].astype(value.dtype) * value

        return jax.tree.map_with_path(one, updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def _trust(
    optim: OptimConfig, decay: Mapping[str, float], names: frozenset[str]
) -> optax.GradientTransformation:
    """(g + wd w), times the trust ratio for the variables in `names`."""

    def one(path: tuple, gradient: jax.Array, weight: jax.Array) -> jax.Array:
        name = variable_name(path)
        decayed = gradient + decay[name] * weight
        if name not in names:
            return decayed
        return trust_ratio(optim, decay[name], weight, gradient, decayed) * decayed

    return optax.stateless(lambda updates, params: jax.tree.map_with_path(one, updates, params))


def trust_ratio(
    optim: OptimConfig, wd: float, weight: jax.Array, gradient: jax.Array, decayed: jax.Array
) -> jax.Array:
    """LARS's factor on a layer's rate; 1 where the weights or the gradient are all zero.

    `OptimConfig.lars_formula` names the three forms and their sources; in `optax`, the gradient
    includes the decay.
    """
    size = jnp.linalg.norm(weight)
    change = jnp.linalg.norm(decayed if optim.lars_formula == "optax" else gradient)
    below = change + wd * size if optim.lars_formula == "paper" else change
    usable = (size > 0) & (change > 0)
    return jnp.where(usable, optim.lars_eta * size / jnp.where(usable, below, 1.0), 1.0)
