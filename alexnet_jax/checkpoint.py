"""A training state on disk, by Orbax: `params`, `statistics` and `momentum`, by layer name."""

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import nnx

from alexnet.layers import Spec, variables
from alexnet_jax.step import TrainState

_NAME = "orbax"


def snapshot(state: TrainState) -> dict[str, Any]:
    """A copy that stays valid when the state is donated to the next step."""
    return jax.tree.map(jnp.copy, _tree(state))


def write(directory: Path, tree: dict[str, Any]) -> None:
    """Write a snapshot; return once it is on disk.

    Uncompressed: compression saves 8 % of the weights' size for four times the time and more
    memory.
    """
    options = _multiprocessing()
    handler = ocp.PyTreeCheckpointHandler(use_compression=False, multiprocessing_options=options)
    with _quiet(), ocp.AsyncCheckpointer(handler, multiprocessing_options=options) as checkpointer:
        checkpointer.save(_place(directory), tree)


def read(directory: Path, like: TrainState) -> TrainState:
    """The state that `write` wrote, with the shapes and shardings of `like`."""
    target = jax.tree.map(ocp.utils.to_shape_dtype_struct, _tree(like))
    with _quiet(), _checkpointer() as checkpointer:
        tree = checkpointer.restore(_place(directory), target)
    nnx.replace_by_pure_dict(like.params, tree["params"])
    if "statistics" in tree:
        nnx.replace_by_pure_dict(like.statistics, tree["statistics"])
    if trace := _trace(like.momentum):
        nnx.replace_by_pure_dict(cast(Any, trace.trace), tree["momentum"])
    return like


def read_arrays(directory: Path, spec: Spec) -> dict[str, dict[str, np.ndarray]]:
    """Host arrays: `params`, which includes statistics, and `momentum` where there is any."""
    path = _place(directory)
    with _quiet(), _checkpointer() as checkpointer:
        shapes = checkpointer.metadata(path).item_metadata
        host = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
        target = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=host), shapes.tree
        )
        tree = checkpointer.restore(path, target)
    parts = {part: jax.tree.map(np.asarray, flat(layers)) for part, layers in tree.items()}
    found = parts["params"] | parts.pop("statistics", {})
    parts["params"] = {name: found[name] for name in variables(spec) if name in found} | found
    return parts


def write_arrays(
    directory: Path, arrays: Mapping[str, Mapping[str, np.ndarray]], spec: Spec
) -> None:
    """Write arrays for `read_arrays`."""
    roles = variables(spec)
    tree: dict[str, Any] = {}
    for part, named in arrays.items():
        for name, array in named.items():
            layer, leaf = name.split(".")
            place = "statistics" if roles[name].role == "statistic" else part
            tree.setdefault(place, {}).setdefault(layer, {})[leaf] = jnp.asarray(array)
    write(directory, tree)


def flat(state: Any) -> dict[str, Any]:
    """A state's arrays, or a nested dict's, by canonical name."""
    nested = nnx.to_pure_dict(state) if isinstance(state, nnx.State) else state
    return {
        f"{layer}.{name}": array for layer, parts in nested.items() for name, array in parts.items()
    }


def _place(directory: Path) -> Path:
    """The absolute path for Orbax; epath's own `absolute` mistakes gs:// for a local path."""
    return (directory if directory.is_absolute() else directory.absolute()) / _NAME


def _checkpointer() -> ocp.StandardCheckpointer:
    """A checkpointer for reading."""
    return ocp.StandardCheckpointer(multiprocessing_options=_multiprocessing())


def _multiprocessing() -> ocp.options.MultiprocessingOptions:
    """Make Orbax's processes wait for one another by messages.

    By default they wait by a collective on the devices. Issued from the writing thread, it would
    mix with the training steps' collectives in a different order on each process, and all would
    hang.
    """
    processes = set(range(jax.process_count())) if jax.process_count() > 1 else None
    return ocp.options.MultiprocessingOptions(active_processes=processes)


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the 200 or more lines that would follow an error besides its own message.

    Orbax logs it; TensorStore goes on writing, and finds that Orbax has closed its event loop.
    """
    logger = logging.getLogger("absl")
    logger.addFilter(_above_error)
    # Never undone: TensorStore's threads write on, and Python reports tasks that nobody awaited.
    sys.unraisablehook = _without_consequences
    logging.getLogger("asyncio").addFilter(_above_error)
    try:
        yield
    finally:
        logger.removeFilter(_above_error)


def _without_consequences(unraisable: Any) -> None:
    text = str(unraisable.exc_value)
    if text != "Event loop is closed" and "TensorStore" not in text:
        sys.__unraisablehook__(unraisable)


def _above_error(record: logging.LogRecord) -> bool:
    return record.levelno > logging.ERROR


def _tree(state: TrainState) -> dict[str, Any]:
    """Plain nested dicts, free of optax's and Flax's own classes."""
    tree = {"params": nnx.to_pure_dict(state.params)}
    if statistics := nnx.to_pure_dict(state.statistics):
        tree["statistics"] = statistics
    if (trace := _trace(state.momentum)) is not None:
        tree["momentum"] = nnx.to_pure_dict(trace.trace)
    return tree


def _trace(opt_state: tuple) -> optax.TraceState | None:
    return next((part for part in opt_state if isinstance(part, optax.TraceState)), None)
