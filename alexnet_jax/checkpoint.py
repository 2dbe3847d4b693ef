"""A training state on disk, by Orbax: `params` and `momentum`, by canonical layer name."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
import orbax.checkpoint as ocp
from flax import nnx

from alexnet_jax.step import TrainState


def snapshot(state: TrainState) -> dict[str, Any]:
    """A copy that stays valid when the state is donated to the next step."""
    return jax.tree.map(jnp.copy, _tree(state))


def write(directory: Path, tree: dict[str, Any]) -> None:
    """Write a snapshot; returns when it is on disk."""
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(directory.absolute() / "orbax", tree)


def read(directory: Path, like: TrainState) -> TrainState:
    """The state that `write` wrote, with the shapes and shardings of `like`."""
    target = jax.tree.map(ocp.utils.to_shape_dtype_struct, _tree(like))
    with ocp.StandardCheckpointer() as checkpointer:
        tree = checkpointer.restore(directory.absolute() / "orbax", target)
    nnx.replace_by_pure_dict(like.params, tree["params"])
    return TrainState(like.params, _with_trace(like.opt_state, tree.get("momentum")))


def _tree(state: TrainState) -> dict[str, Any]:
    """Plain nested dicts, free of optax's and Flax's own classes."""
    tree = {"params": nnx.to_pure_dict(state.params)}
    if (trace := _trace(state.opt_state)) is not None:
        tree["momentum"] = nnx.to_pure_dict(trace.trace)
    return tree


def _trace(opt_state: tuple) -> optax.TraceState | None:
    return next((part for part in opt_state if isinstance(part, optax.TraceState)), None)


def _with_trace(opt_state: tuple, momentum: dict[str, Any] | None) -> tuple:
    trace = _trace(opt_state)
    if trace is None:
        return opt_state
    nnx.replace_by_pure_dict(trace.trace, momentum)
    return opt_state
