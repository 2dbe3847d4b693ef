"""The device mesh, the placement of arrays on it, and the compiled steps.

The mesh has two axes. Images are split over both; convolution weights are on every device. Along
`model`, fc6 and fc7 are split by output and fc8 by input, as Krizhevsky 2014 ("One weird
trick", section 3) does: then the devices of a row exchange activations instead of the dense
layers' gradients. With `model` 1, the default, this is plain data parallelism.

With `fsdp` the dense layers' kernels are also split over the rows, by input: each device keeps and
updates only its part, and gathers the kernels for a step, as FSDP and ZeRO (Rajbhandari et al.
2020) do. Convolutions have only 4 % of the weights, and stay whole.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from alexnet.config import DevicesConfig
from alexnet.errors import UserError
from alexnet.layers import Spec, variables
from alexnet_jax import ops
from alexnet_jax.conv import biased
from alexnet_jax.model import DenseWork, Work
from alexnet_jax.optim import variable_name
from alexnet_jax.step import TrainState

DATA, MODEL = AXES = ("data", "model")

# How the dense layers' weights are split along `model`; all others are whole on every device.
_WEIGHTS = {
    "fc6.kernel": P(None, MODEL),
    "fc6.bias": P(MODEL),
    "fc7.kernel": P(None, MODEL),
    "fc7.bias": P(MODEL),
    "fc8.kernel": P(MODEL, None),
}


def run_mesh(config: DevicesConfig) -> Mesh:
    """All devices of the run, as `--mesh` arranges them.

    Raises:
        UserError: where they can't be arranged so.
    """
    devices = jax.devices()
    data, model = mesh_shape(config.mesh, len(devices))
    if config.spmd == "pmap":  # which expects a host's devices to be adjacent
        by_host = sorted(devices, key=lambda device: (device.process_index, device.id))
        return Mesh(np.array(by_host).reshape(data, model), AXES)
    return device_mesh(devices, data, model)


def device_mesh(devices: Sequence[jax.Device], data: int, model: int) -> Mesh:
    """A mesh of `data` rows of `model` neighbouring devices each."""
    arranged = mesh_utils.create_device_mesh((data, model), devices, allow_split_physical_axes=True)
    return Mesh(arranged, AXES)


def mesh_shape(text: str | None, devices: int) -> tuple[int, int]:
    """The numbers in "data=D,model=M", which must make up all devices; (devices, 1) for None.

    Raises:
        UserError: for other text or another number of devices.
    """
    if text is None:
        return devices, 1
    if not (found := re.fullmatch(r"data=([1-9]\d*),model=([1-9]\d*)", text)):
        raise UserError(f"--mesh is '{text}', but it must read data=D,model=M, with numbers")
    data, model = map(int, found.groups())
    if data * model != devices:
        fits = [f"data={devices // m},model={m}" for m in range(1, devices + 1) if devices % m == 0]
        raise UserError(
            f"--mesh {text} makes {data * model} devices, but there are {devices}: use "
            + " or ".join(fits)
        )
    return data, model


def check_sizes(spec: Spec, batch_size: int, config: DevicesConfig, mesh: Mesh) -> None:
    """Refuse a batch or dense layers that the devices can't share evenly.

    Raises:
        UserError: naming the nearest sizes that they can share.
    """
    devices = mesh.size
    if batch_size % devices:
        below = batch_size // devices * devices
        sizes = " or ".join(str(n) for n in (below, below + devices) if n)
        raise UserError(
            f"--batch-size {batch_size} can't be shared evenly by {devices} devices: use {sizes}"
        )
    model = mesh.shape[MODEL]
    if config.fsdp and config.spmd != "jit":
        raise UserError(f"--fsdp needs --spmd jit, not {config.spmd}")
    if model == 1:
        return
    if config.spmd != "jit":
        raise UserError(f"--mesh model={model} needs --spmd jit, not {config.spmd}")
    arrays = variables(spec)
    if missing := [name for name in _WEIGHTS if name not in arrays]:
        raise UserError(f"--mesh model={model} splits fc6, fc7 and fc8: there is no {missing[0]}")
    widths = [arrays[f"{layer}.kernel"].shape[1] for layer in ("fc6", "fc7")]
    if any(width % model for width in widths):
        raise UserError(
            f"--mesh model={model} can't share the {widths[0]} and {widths[1]} features of fc6 and "
            f"fc7 evenly: use a divisor of {math.gcd(*widths)}"
        )


def local_rows(batch_size: int, mesh: Mesh) -> np.ndarray:
    """The rows of a global batch that this process's devices hold, ascending."""
    slices = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[index] for index in slices]))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Images split over all devices."""
    return NamedSharding(mesh, P(AXES))


def weight_split(name: str, shape: Sequence[int], mesh: Mesh, fsdp: bool) -> P:
    """The split over the mesh of a variable whose whole shape is `shape`.

    With `fsdp`, dense kernels are also split along their inputs, if all devices can share these.
    """
    own = _WEIGHTS.get(name, P())
    if not fsdp or len(shape) != 2 or shape[0] % mesh.size:
        return own
    inputs, outputs = tuple(own) or (None, None)
    return P((inputs, DATA) if inputs else DATA, outputs)


def state_shardings(state: Any, mesh: Mesh, fsdp: bool = False) -> Any:
    """The sharding of each array of a training state: momentum as its weight, the rest whole."""

    def sharding(path: tuple, leaf: Any) -> NamedSharding:
        return NamedSharding(mesh, weight_split(variable_name(path), leaf.shape, mesh, fsdp))

    return jax.tree_util.tree_map_with_path(sharding, state)


def put_batch(
    batch: Mapping[str, np.ndarray], batch_size: int, mesh: Mesh, spmd: str
) -> dict[str, Any]:
    """The global batch of `batch_size` images on the devices, from this process's rows."""
    if spmd == "pmap":
        devices = len(mesh.local_devices)
        return {name: rows.reshape(devices, -1, *rows.shape[1:]) for name, rows in batch.items()}
    return {
        name: jax.make_array_from_process_local_data(
            batch_sharding(mesh), rows, (batch_size, *rows.shape[1:])
        )
        for name, rows in batch.items()
    }


def put_state(state: Any, mesh: Mesh, fsdp: bool = False) -> Any:
    """The state, whole and equal in every process's memory, on the devices that hold its parts.

    Where one process has all devices, the given state is donated.
    """
    shardings = state_shardings(state, mesh, fsdp)
    if jax.process_count() == 1:
        # Not by a callback: on a CPU such arrays stay in the callback's own memory. The first step
        # could not reuse that as it does a donated state's, and would need twice as much.
        return jax.device_put(state, shardings, donate=True)

    def put(leaf: jax.Array, sharding: NamedSharding) -> jax.Array:
        whole = np.asarray(leaf)
        return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])

    return jax.tree.map(put, state, shardings)


def whole_copies(tree: Any, mesh: Mesh) -> Any:
    """The tree with every array on every device."""
    return jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, P()))(tree)


def local_view(tree: Any, mesh: Mesh) -> Any:
    """Arrays that are whole on every device, as arrays of this process's devices."""
    return multihost_utils.global_array_to_host_local_array(tree, mesh, P())


def global_view(tree: Any, mesh: Mesh) -> Any:
    """The inverse of `local_view`."""
    return multihost_utils.host_local_array_to_global_array(tree, mesh, P())


class Steps(NamedTuple):
    """Pure steps, or the same spread over a mesh.

    `train(state, batch, rates, dropout_keys)` donates its state once it is compiled;
    `evaluate(weights, batch)`, with params and statistics as weights, returns sums and logits.
    """

    train: Callable[..., Any] | None  # None where nothing is learned
    evaluate: Callable[..., Any]


def compile_steps(
    steps: Steps, state: TrainState, mesh: Mesh, spmd: str, fsdp: bool = False
) -> Steps:
    """Spread the steps over the mesh in one of the three ways; each compiles at its first call.

    Args:
        steps: the pure steps of `alexnet_jax.step`, with everything but arrays bound.
        state: arrays or their shapes.
        mesh: from `device_mesh`.
        spmd: jit, shard_map or pmap; batches must come from `put_batch` for the same.
        fsdp: split the dense kernels over rows; jit only.
    """
    if spmd == "jit":
        return _jit(steps, state, mesh, fsdp)
    return {"shard_map": _shard_map, "pmap": _pmap}[spmd](steps, state, mesh)


def _jit(steps: Steps, state: TrainState, mesh: Mesh, fsdp: bool) -> Steps:
    """Steps on global arrays; the compiler infers the communication from their shardings."""
    everywhere, rows = NamedSharding(mesh, P()), batch_sharding(mesh)
    held = state_shardings(state, mesh, fsdp)
    weights = (held.params, held.statistics)
    parts = NamedSharding(mesh, P(None, AXES))
    shared = mesh.shape[MODEL] > 1 or (fsdp and mesh.size > 1)
    split = {"work": Work(dense=split_dense(mesh, fsdp))} if shared else {}
    return Steps(
        steps.train
        and jax.jit(
            partial(steps.train, spread=lambda x: lax.with_sharding_constraint(x, parts), **split),
            in_shardings=(held, rows, everywhere, everywhere),
            out_shardings=(held, everywhere),
            donate_argnums=0,
        ),
        jax.jit(
            partial(steps.evaluate, **split),
            in_shardings=(weights, rows),
            out_shardings=(everywhere, rows),
        ),
    )


def split_dense(mesh: Mesh, fsdp: bool = False) -> DenseWork:
    """A function for dense layers whose weights are split over devices.

    Kernels split over rows are gathered first. Where `model` devices share the layers, fc6 and fc7
    gather their inputs from the devices of a row, whole images for fc6 and features for fc7, and
    each device computes its share of the outputs. fc8 sums the products of its input shares and
    returns to each device the results for its images. In the backward pass, gathers become sums
    and sums become gathers.
    """
    alone = (ops.dense, P(AXES, None), P(AXES, None))
    ends = {
        "fc6": (_gather_images, P(AXES, None), P(DATA, MODEL)),
        "fc7": (_gather_features, P(DATA, MODEL), P(DATA, MODEL)),
        "fc8": (_scatter_images, P(DATA, MODEL), P(AXES, None)),
    }

    def dense(name: str, x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
        work, before, after = ends[name] if mesh.shape[MODEL] > 1 else alone
        split = weight_split(f"{name}.kernel", kernel.shape, mesh, fsdp)
        specs = (before, split, _WEIGHTS.get(f"{name}.bias", P()))

        def own(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
            return work(x, _gather_inputs(kernel, split), bias)

        return jax.shard_map(own, mesh=mesh, in_specs=specs, out_specs=after)(x, kernel, bias)

    return dense


def _gather_inputs(kernel: jax.Array, split: P) -> jax.Array:
    """Gather the inputs of a kernel split over rows; its gradients are summed, in its type."""
    if split and split[0] in (DATA, (MODEL, DATA)):
        return lax.all_gather(kernel, DATA, axis=0, tiled=True)
    return kernel


def _gather_images(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    return ops.dense(lax.all_gather(x, MODEL, axis=0, tiled=True), kernel, bias)


def _gather_features(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    return ops.dense(lax.all_gather(x, MODEL, axis=1, tiled=True), kernel, bias)


def _scatter_images(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    share = ops.dense(x, kernel, jnp.zeros_like(bias))
    return biased(lax.psum_scatter(share, MODEL, scatter_dimension=0, tiled=True), bias)


def _shard_map(steps: Steps, state: TrainState, mesh: Mesh) -> Steps:
    """Steps in which each device sees its own rows, and sums over devices by the axis name."""
    spread = partial(jax.shard_map, mesh=mesh, check_vma=False)
    return Steps(
        steps.train
        and jax.jit(
            spread(
                partial(steps.train, axis_name=DATA),
                in_specs=(P(), P(DATA), P(), P()),
                out_specs=(P(), P()),
            ),
            donate_argnums=0,
        ),
        jax.jit(
            spread(
                partial(steps.evaluate, axis_name=DATA),
                in_specs=(P(), P(DATA)),
                out_specs=(P(), P(DATA)),
            )
        ),
    )


def _pmap(steps: Steps, state: TrainState, mesh: Mesh) -> Steps:
    """The same as `_shard_map`, for code whose batches have a leading axis of devices."""
    spread = partial(jax.pmap, axis_name=DATA, devices=list(mesh.devices.flat))
    return Steps(
        steps.train
        and spread(
            partial(steps.train, axis_name=DATA),
            in_axes=(None, 0, None, None),
            out_axes=(None, None),
            donate_argnums=0,
        ),
        spread(partial(steps.evaluate, axis_name=DATA), in_axes=(None, 0), out_axes=(None, 0)),
    )


def local_part(array: jax.Array, spmd: str) -> np.ndarray:
    """This process's rows of an output that is split like a batch, in the rows' order."""
    if spmd == "pmap":
        return np.asarray(array).reshape(-1, *array.shape[2:])
    shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([np.asarray(shard.data) for shard in shards])
