"""jit, shard_map and pmap over eight devices give one device's numbers."""

import dataclasses
from functools import partial

import jax
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from alexnet.data.pipeline import train_batches
from alexnet.data.sources import open_dataset
from alexnet.errors import UserError
from alexnet.init import initial_weights
from alexnet.recipes import recipe
from alexnet.threefry import dropout_keys
from alexnet_jax import parallel
from alexnet_jax.model import AlexNet
from alexnet_jax.step import init_state, train_step

BOUND = 1e-5


def setup(variant):
    base = recipe("digits")
    config = dataclasses.replace(
        base,
        model=dataclasses.replace(base.model, variant=variant, width=0.0625, image_size=67),
        data=dataclasses.replace(base.data, batch_size=16, flip=True, color_noise=0.1),
    )
    dataset = open_dataset(config)
    spec = config.spec(dataset.num_classes)
    graphdef, params = nnx.split(AlexNet(spec, weights=initial_weights(spec, 0)))
    return config, dataset, graphdef, init_state(params, config)


def losses_of(step, config, dataset, state, put=lambda batch: batch, count=2):
    losses = []
    batches = train_batches(dataset, config)
    for number in range(count):
        keys = dropout_keys(0, number, 2)
        state, metrics = step(state, put(next(batches)), np.float32(0.01), keys)
        losses.append(float(np.ravel(metrics["loss"])[0]))
    batches.close()
    return losses


def make_step(kind, graphdef, config):
    plain = partial(train_step, graphdef=graphdef, config=config)
    mapped = partial(plain, axis_name="data")
    mesh = parallel.data_mesh()
    if kind == "one device":
        return jax.jit(plain), lambda batch: batch
    if kind == "jit":
        return parallel.compile_steps(graphdef, config, mesh)[0], partial(
            parallel.put_batch, mesh=mesh
        )
    if kind == "shard_map":
        sharded = jax.shard_map(
            mapped,
            mesh=mesh,
            in_specs=(P(), P("data"), P(), P()),
            out_specs=(P(), P()),
            check_vma=False,
        )
        return jax.jit(sharded), lambda batch: batch
    step = jax.pmap(mapped, axis_name="data", in_axes=(None, 0, None, None), out_axes=(None, None))
    return step, lambda batch: {
        name: array.reshape(8, -1, *array.shape[1:]) for name, array in batch.items()
    }


@pytest.mark.parametrize("variant", ["torchvision", "paper"])
def test_all_equal_one_device(variant):
    assert len(jax.devices()) == 8
    config, dataset, graphdef, state = setup(variant)
    reference = None
    for kind in ("one device", "jit", "shard_map", "pmap"):
        step, put = make_step(kind, graphdef, config)
        copy = jax.tree.map(lambda x: x.copy(), state)
        losses = np.array(losses_of(step, config, dataset, copy, put))
        reference = losses if reference is None else reference
        apart = float(np.abs(losses / reference - 1).max())
        print(f"{variant}, {kind}: {apart:.1e} (bound {BOUND:.0e})")
        assert apart < BOUND


def test_control_devices_that_drop_alike_are_noticed():
    """Without its rows' place in the global batch, each device would draw the same mask."""
    config, dataset, graphdef, state = setup("paper")
    step, put = make_step("one device", graphdef, config)
    reference = losses_of(step, config, dataset, state, put, count=1)
    halves = []
    batches = train_batches(dataset, config)
    batch = next(batches)
    batches.close()
    for rows in (slice(0, 8), slice(8, 16)):
        part = {name: array[rows] for name, array in batch.items()}
        halves.append(float(step(state, part, np.float32(0), dropout_keys(0, 0, 2))[1]["loss"]))
    assert abs(np.mean(halves) / reference[0] - 1) > 100 * BOUND


@pytest.mark.parametrize("variant", ["torchvision", "paper"])
def test_only_gradients_cross_devices(variant):
    config, dataset, graphdef, state = setup(variant)
    mesh = parallel.data_mesh()
    train, _ = parallel.compile_steps(graphdef, config, mesh)
    batch = next(train_batches(dataset, config))
    text = train.lower(state, batch, np.float32(0), dropout_keys(0, 0, 2)).compile().as_text()
    for collective in ("all-gather", "all-to-all", "collective-permute", "reduce-scatter"):
        assert f"{collective}(" not in text, collective
    assert "all-reduce(" in text


def test_a_batch_that_devices_cant_share_is_refused():
    mesh = Mesh(np.array(jax.devices()), ("data",))
    with pytest.raises(UserError, match="use 24 or 32"):
        parallel.check_batch_size(30, mesh)
    with pytest.raises(UserError, match=r"use 8$"):
        parallel.check_batch_size(3, mesh)
    parallel.check_batch_size(32, mesh)
