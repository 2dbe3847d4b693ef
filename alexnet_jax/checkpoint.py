"""A training state on disk, by Orbax: `params` and `momentum`, by canonical layer name."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import nnx

from alexnet.spec import Spec
from alexnet_jax.step import TrainState

_NAME = "orbax"


def snapshot(state: TrainState) -> dict[str, Any]:
    """A copy that stays valid when the state is donated to the next step."""
    return jax.tree.map(jnp.copy, _tree(state))


def write(directory: Path, tree: dict[str, Any]) -> None:
    """Write a snapshot; returns when it is on disk."""
    with _checkpointer() as checkpointer:
        checkpointer.save(_place(directory), tree)


def read(directory: Path, like: TrainState) -> TrainState:
    """The state that `write` wrote, with the shapes and shardings of `like`."""
    target = jax.tree.map(ocp.utils.to_shape_dtype_struct, _tree(like))
    with _checkpointer() as checkpointer:
        tree = checkpointer.restore(_place(directory), target)
    nnx.replace_by_pure_dict(like.params, tree["params"])
    return TrainState(like.params, _with_trace(like.opt_state, tree.get("momentum")))


def read_arrays(directory: Path, spec: Spec) -> dict[str, dict[str, np.ndarray]]:
    """`params` and, with momentum, `momentum`, each by canonical array name; on the host."""
    path = _place(directory)
    with _checkpointer() as checkpointer:
        shapes = checkpointer.metadata(path).item_metadata
        host = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
        target = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=host), shapes.tree
        )
        tree = checkpointer.restore(path, target)
    return {
        part: {
            f"{layer}.{name}": np.asarray(array)
            for layer, arrays in layers.items()
            for name, array in arrays.items()
        }
        for part, layers in tree.items()
    }


def write_arrays(
    directory: Path, arrays: Mapping[str, Mapping[str, np.ndarray]], spec: Spec
) -> None:
    """What `read_arrays` reads."""
    tree: dict[str, Any] = {}
    for part, named in arrays.items():
        for name, array in named.items():
            layer, leaf = name.split(".")
            tree.setdefault(part, {}).setdefault(layer, {})[leaf] = jnp.asarray(array)
    write(directory, tree)


def _place(directory: Path) -> Path:
    """Where Orbax writes, absolute; epath's own `absolute` takes gs:// for a local path."""
    return (directory if directory.is_absolute() else directory.absolute()) / _NAME


def _checkpointer() -> ocp.StandardCheckpointer:
    """Orbax, whose processes wait for one another by messages.

    By default it waits by a collective on the devices; from the thread that writes, that would
    meet the training steps' collectives in another order on each process, and all would hang.
    """
    processes = set(range(jax.process_count())) if jax.process_count() > 1 else None
    return ocp.StandardCheckpointer(
        multiprocessing_options=ocp.options.MultiprocessingOptions(active_processes=processes)
    )


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
