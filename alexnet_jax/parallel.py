"""Devices: the mesh, who holds which rows of a batch, and the compiled steps."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from alexnet.config import TrainConfig
from alexnet.errors import UserError
from alexnet_jax.step import eval_step, train_step

AXIS = "data"


def data_mesh() -> Mesh:
    """All devices in a row; the batch is split over them, weights are on each."""
    return Mesh(np.array(jax.devices()), (AXIS,))


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Refuse a batch that the devices can't share evenly.

    Raises:
        UserError: with the nearest sizes that they can.
    """
    devices = mesh.size
    if batch_size % devices:
        below = batch_size // devices * devices
        sizes = " or ".join(str(n) for n in (below, below + devices) if n)
        raise UserError(
            f"--batch-size {batch_size} can't be shared evenly by {devices} devices: use {sizes}"
        )


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """The batch on the devices, rows split among them."""
    return jax.device_put(dict(batch), NamedSharding(mesh, P(AXIS)))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """The tree's arrays on every device."""
    return jax.device_put(tree, NamedSharding(mesh, P()))


def compile_steps(graphdef: nnx.GraphDef, config: TrainConfig, mesh: Mesh) -> tuple[Any, Any]:
    """The training and evaluation steps under `jax.jit`, sharded by the data."""
    everywhere, rows = NamedSharding(mesh, P()), NamedSharding(mesh, P(AXIS))
    train = jax.jit(
        partial(train_step, graphdef=graphdef, config=config),
        in_shardings=(everywhere, rows, everywhere, everywhere),
        out_shardings=(everywhere, everywhere),
        donate_argnums=0,
    )
    evaluate = jax.jit(
        partial(eval_step, graphdef=graphdef, config=config),
        in_shardings=(everywhere, rows),
        out_shardings=everywhere,
    )
    return train, evaluate
