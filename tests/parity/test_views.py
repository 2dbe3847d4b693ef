"""Views cut on the device are those cut on the host, bit for bit, in both frameworks."""

import dataclasses

import jax
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import alexnet_jax.step
import alexnet_torch.engine
import alexnet_torch.step
from alexnet.data.augment import train_view
from alexnet.data.pipeline import eval_batches, train_batches
from alexnet.engine import ON_DEVICE
from alexnet.init import initial_weights
from alexnet.preprocess import Normalize
from alexnet.run import training_engine
from alexnet_jax import parallel
from alexnet_jax.hlo import collectives
from tests.golden.losses import narrow

NORMALIZE = Normalize((127.3, 119.7, 104.9), (58.4, 57.1, 57.4))


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_views_are_cut_and_mirrored(seed):
    draw, size, extra = np.random.default_rng(seed), 7, 3  # JAX compiles each size anew
    side = size + extra
    batch = {
        "image": draw.integers(0, 256, (5, side, side, 3), dtype=np.uint8),
        "crop": draw.integers(0, extra + 1, (5, 2), dtype=np.int32),
        "flip": draw.integers(0, 2, 5, dtype=np.uint8),
        "color_shift": draw.normal(size=(5, 3)).astype(np.float32),
    }
    cut = [
        image[top : top + size, left : left + size][:, :: -1 if flip else 1]
        for image, (top, left), flip in zip(
            batch["image"], batch["crop"], batch["flip"], strict=True
        )
    ]
    on_host = {"image": np.stack(cut), "color_shift": batch["color_shift"]}
    for step, tensors in (
        (alexnet_jax.step, jax.numpy.asarray),
        (alexnet_torch.step, torch.tensor),
    ):
        whole, plain = ({k: tensors(v) for k, v in b.items()} for b in (batch, on_host))
        np.testing.assert_array_equal(step.views(whole, size), on_host["image"])
        np.testing.assert_array_equal(
            step.normalize(whole, NORMALIZE, size), step.normalize(plain, NORMALIZE, size)
        )


def both_ways(config, count):
    """A run's first batches with whole images, and the same with images cut on the host."""
    data = config.open_dataset()
    for whole in (True, False):
        loading = dataclasses.replace(config.loading(), whole=whole)
        batches = train_batches(data, config.augmentation, loading, seed=config.run.seed)
        yield [next(batches) for _ in range(count)]
        batches.close()


def test_steps_are_the_same_bit_for_bit():
    """In torch; JAX's on whole images are those of tests/golden, which were cut on the host."""
    config = narrow("paper")
    spec = config.spec(1000)
    whole, plain = both_ways(config, 2)
    assert whole[0]["image"].shape == (16, 80, 80, 3)
    assert plain[0]["image"].shape == (16, 67, 67, 3)
    found = []
    for batches in (whole, plain):
        engine = training_engine(
            alexnet_torch.engine.Engine, config, spec, initial_weights(spec, 0)
        )
        rates = dict.fromkeys(engine.weights(), 0.05)
        steps = [engine.train_step(batch, step=i, rates=rates) for i, batch in enumerate(batches)]
        found.append([engine.fetch(each) for each in [*steps, engine.eval_step(batches[0])]])
    assert found[0] == found[1]


@pytest.mark.parametrize("spmd", ["jit", "shard_map", "pmap"])
def test_devices_cut_their_own_rows(spmd):
    config = narrow("paper")
    (whole,), (plain,) = both_ways(config, 1)
    mesh = parallel.device_mesh(jax.devices(), 8, 1)

    def evaluate(weights, batch, **_):
        return {}, alexnet_jax.step.normalize(batch, NORMALIZE, 67)

    steps = parallel.Steps(None, evaluate)
    steps = parallel.compile_steps(steps, alexnet_jax.step.TrainState({}, {}, ()), mesh, spmd)
    cut = []
    for batch in (whole, plain):
        taken = {name: batch[name] for name in ON_DEVICE if name in batch}
        _, images = steps.evaluate(({}, {}), parallel.put_batch(taken, 16, mesh, spmd))
        cut.append(parallel.local_part(images, spmd))
    np.testing.assert_array_equal(*cut)


def test_whole_batches_hold_the_views_of_their_examples():
    config = narrow("paper")
    (batch,), (plain,) = both_ways(config, 1)
    source = config.open_dataset().train
    for row, index in enumerate(batch["example"].tolist()):
        view, shift = train_view(source[index][0], config.augmentation, 0, 0, index)
        np.testing.assert_array_equal(plain["image"][row], view)
        np.testing.assert_array_equal(batch["color_shift"][row], shift)
    for name in ("label", "mask", "example", "color_shift"):
        np.testing.assert_array_equal(batch[name], plain[name])


@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_evaluation(order):
    config = narrow("paper")
    source, protocol = config.open_dataset().eval, config.preprocess.protocol
    cut = []
    for whole in (True, False):
        loading = dataclasses.replace(config.loading(), whole=whole, batch_size=100)
        *_, batch = eval_batches(source, protocol, loading, channel_order=order)
        tensors = {k: torch.from_numpy(v) for k, v in batch.items() if k in ON_DEVICE}
        cut.append((alexnet_torch.step.views(tensors, protocol.crop).numpy(), batch))
        assert ("crop" in batch) == (whole and order == "RGB")  # the other way is the host's
    np.testing.assert_array_equal(cut[0][0], cut[1][0])
    for name in ("label", "mask", "example"):
        np.testing.assert_array_equal(cut[0][1][name], cut[1][1][name])


def test_cutting_exchanges_nothing_between_devices():
    mesh = parallel.device_mesh(jax.devices(), 8, 1)
    rows = parallel.batch_sharding(mesh)
    shapes = {"image": (16, 12, 12, 3), "crop": (16, 2), "flip": (16,)}
    types = {"image": np.uint8, "crop": np.int32, "flip": np.uint8}
    batch = {k: jax.ShapeDtypeStruct(shape, types[k]) for k, shape in shapes.items()}
    cut = jax.jit(
        lambda batch: alexnet_jax.step.normalize(batch, NORMALIZE, 9),
        in_shardings=rows,
        out_shardings=rows,
    )
    assert not list(collectives(cut.lower(batch).compile().as_text()))
