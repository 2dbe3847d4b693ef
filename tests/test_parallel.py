"""Eight devices, by jit, shard_map, pmap and on any mesh, give one device's numbers."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from alexnet.engine import ON_DEVICE
from alexnet.errors import UserError
from alexnet.init import initial_weights
from alexnet.layers import variables
from alexnet.recipes import recipe
from alexnet.run import training_engine
from alexnet.schedule import learned
from alexnet.threefry import dropout_keys
from alexnet_jax import parallel
from alexnet_jax.checkpoint import flat
from alexnet_jax.engine import Engine, prepare
from alexnet_jax.model import AlexNet
from alexnet_jax.optim import variable_name
from tests.conftest import first_batches
from tests.weights.helpers import side

BOUND = 1e-5
ONE_WEIRD_TRICK = [{"mesh": "data=4,model=2"}, {"mesh": "data=1,model=8"}]
FSDP = [{"fsdp": True}, {"fsdp": True, "mesh": "data=4,model=2"}]
MODES = [{"spmd": "jit"}, {"spmd": "shard_map"}, {"spmd": "pmap"}, *ONE_WEIRD_TRICK, *FSDP]


def make_config(variant="torchvision", batch_size=16, **devices):
    base, size = recipe("digits"), side(variant, 67)
    return dataclasses.replace(
        base,
        model=dataclasses.replace(base.model, variant=variant, width=0.0625, image_size=size),
        data=dataclasses.replace(
            base.data, batch_size=batch_size, flip=True, color_noise=0.1, loader_threads=1
        ),
        optim=dataclasses.replace(base.optim, warmup_steps=0, clip_norm=1.0),
        devices=dataclasses.replace(base.devices, **devices),
    )


def make_engine(config):
    spec = config.spec(10)
    return training_engine(Engine, config, spec, initial_weights(spec, 0))


def check_sizes(config, mesh):
    spec = config.spec(10)
    parallel.check_sizes(spec, config.data.batch_size, config.devices, mesh)


def vector(config):
    """A rate of 0.05 for every learned variable."""
    return np.full(len(learned(variables(config.spec(10)))), 0.05, np.float32)


def on_device(batch):
    return {name: batch[name] for name in ON_DEVICE if name in batch}


def train(engine, batches, first_step=0):
    losses = []
    rates = dict.fromkeys(engine.weights(), 0.05)
    for step, batch in enumerate(batches, first_step):
        metrics = engine.train_step(batch, step=step, rates=rates)
        losses.append(engine.fetch(metrics)["loss"])
    return np.array(losses)


def on_one_device(config, batches):
    """Losses of plain `jax.jit`, with nothing spread."""
    return steps_on_one_device(config, batches)[0]


def steps_on_one_device(config, batches):
    """The losses, and the state at the end."""
    spec = config.spec(10)
    model = AlexNet(spec, weights=initial_weights(spec, 0))
    state, steps = prepare(model, config.preprocess, config.optim)
    step, losses = jax.jit(steps.train), []
    for number, batch in enumerate(batches):
        keys = dropout_keys(0, number, 2)
        state, metrics = step(state, on_device(batch), vector(config), keys)
        losses.append(float(metrics["loss"]))
    return np.array(losses), state


@pytest.mark.parametrize(
    ("variant", "modes"),
    [("torchvision", MODES), ("paper", MODES[::4] + FSDP[1:]), ("bn", MODES[:3] + FSDP[1:])],
)
def test_all_equal_one_device(variant, modes):
    assert len(jax.devices()) == 8
    batches = first_batches(make_config(variant), 4)
    reference = on_one_device(make_config(variant), batches)
    for mode in modes:
        losses = train(make_engine(make_config(variant, **mode)), batches)
        apart = float(np.abs(losses / reference - 1).max())
        print(f"{variant}, {mode}: {apart:.1e} (bound {BOUND:.0e})")
        assert apart < BOUND


def places(engine):
    """The memory that an engine's state is in."""
    leaves = jax.tree.leaves(engine._state)
    return {part.data.unsafe_buffer_pointer() for x in leaves for part in x.addressable_shards}


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_the_first_step_needs_no_second_state(mode):
    config = make_config(**mode)
    engine, batches = make_engine(config), first_batches(make_config(), 1)
    before = places(engine)
    train(engine, batches)
    after = places(engine)
    print(f"{mode}: {len(before & after)} of {len(before)} arrays are where they were")
    assert after == before


def accumulated(config, parts):
    return dataclasses.replace(config, optim=dataclasses.replace(config.optim, accumulate=parts))


@pytest.mark.parametrize("mode", MODES[:3] + FSDP[1:], ids=str)
def test_a_batch_in_parts_is_the_whole_batch(mode):
    """Each device has one image of each part; masked ones count for nothing in any of them."""
    batches = first_batches(make_config("paper"), 4)
    batches[1]["mask"][3:9] = 0
    reference = on_one_device(make_config("paper"), batches)
    losses = train(make_engine(accumulated(make_config("paper", **mode), 2)), batches)
    apart = float(np.abs(losses / reference - 1).max())
    print(f"in two parts, {mode}: {apart:.1e} (bound {BOUND:.0e})")
    assert apart < BOUND


def test_batch_normalization_takes_a_part_for_a_batch():
    batches = first_batches(make_config("bn"), 2)
    whole, parts = (train(make_engine(accumulated(make_config("bn"), n)), batches) for n in (1, 2))
    apart = float(np.abs(parts / whole - 1).max())
    print(f"batch normalization in two parts: {apart:.1e}")
    assert apart > 100 * BOUND


def test_a_batch_that_has_no_equal_parts_is_refused():
    with pytest.raises(UserError, match=r"16 can't be computed in 3 equal parts by 8 devices.*24"):
        make_engine(accumulated(make_config(), 3))


def test_evaluation_counts_every_example_once_in_every_mode():
    (batch,) = first_batches(make_config(), 1)
    batch = {name: batch[name] for name in ("image", "label", "mask")}
    batch["mask"][11:] = 0
    sums = [
        (engine := make_engine(make_config(**mode))).fetch(engine.eval_step(batch))
        for mode in MODES
    ]
    for mode, found in zip(MODES, sums, strict=True):
        assert found["count"] == 11, mode
        assert found == pytest.approx(sums[0], rel=BOUND), mode


def test_control_devices_that_drop_alike_are_noticed():
    """Without its rows' place in the global batch, each device would draw the same mask."""
    config = make_config("paper")
    (batch,) = first_batches(config, 1)
    (reference,) = on_one_device(config, [batch])
    halves = [
        on_one_device(config, [{name: array[rows] for name, array in batch.items()}])
        for rows in (slice(0, 8), slice(8, 16))
    ]
    assert abs(np.mean(halves) / reference - 1) > 100 * BOUND


def test_control_gradients_that_are_not_summed_are_noticed(monkeypatch):
    """A device that learns from its own images only parts from the others after one step."""
    config = make_config(spmd="shard_map")
    batches = first_batches(config, 4)
    reference = on_one_device(config, batches)
    from alexnet_jax import step

    def own_gradients(tree, axis_name):
        return tree if isinstance(tree, nnx.State) else summed(tree, axis_name)

    summed = step._sum
    monkeypatch.setattr(step, "_sum", own_gradients)
    losses = train(make_engine(config), batches)
    apart = float(np.abs(losses / reference - 1).max())
    print(f"without the sum: {apart:.1e} (bound {BOUND:.0e})")
    assert apart > 10 * BOUND


@pytest.mark.parametrize("mode", MODES[:3] + FSDP[1:], ids=str)
def test_statistics_are_those_of_the_global_masked_batch(mode):
    """Rows that are masked, all of one device's among them, count for nothing on any device."""
    config = make_config("bn")
    batches = first_batches(config, 2)
    for batch in batches:
        batch["mask"][[0, 1, 5, 11]] = 0  # two of sixteen are one device's share of eight
        batch["image"][[0, 1, 5, 11]] = 255
    losses, state = steps_on_one_device(config, batches)
    engine = make_engine(make_config("bn", **mode))
    assert np.abs(train(engine, batches) / losses - 1).max() < BOUND
    expected = flat(state.statistics)
    apart = {
        name: float(np.abs(array - expected[name]).max() / np.abs(expected[name]).max())
        for name, array in engine.weights().items()
        if name in expected
    }
    assert len(apart) == 8
    print(f"bn, {mode}: statistics {max(apart.values()):.1e} apart (bound {BOUND:.0e})")
    assert max(apart.values()) < BOUND


def test_control_statistics_of_a_device_alone_are_noticed(monkeypatch):
    from alexnet_jax import ops

    alone = lambda x, mask, axis_name: statistics(x, mask, None)  # noqa: E731
    statistics = ops.batch_statistics
    monkeypatch.setattr(ops, "batch_statistics", alone)
    config = make_config("bn", spmd="shard_map")
    batches = first_batches(config, 2)
    reference = on_one_device(config, batches)
    apart = float(np.abs(train(make_engine(config), batches) / reference - 1).max())
    print(f"statistics of each device alone: {apart:.1e} (bound {BOUND:.0e})")
    assert apart > 10 * BOUND


@pytest.mark.parametrize("mode", MODES[:3], ids=str)
def test_logits_are_those_of_the_model(mode):
    config = make_config("bn", **mode)
    (batch,) = first_batches(config, 1)
    engine = make_engine(config)
    logits = engine.logits(batch)
    images = np.float32(batch["image"]) + batch["color_shift"][:, None, None, :]
    normalization = config.preprocess.normalize
    inputs = (images - np.float32(normalization.mean)) / np.float32(normalization.std)
    expected = AlexNet(config.spec(10), weights=engine.weights())(inputs)
    assert logits.shape == (16, 10)
    np.testing.assert_allclose(logits, expected, atol=1e-5 * float(expected.std()))


@pytest.mark.parametrize("mode", FSDP, ids=str)
def test_fsdp_keeps_a_share_of_dense_kernels_and_momentum(mode):
    state = make_engine(make_config(**mode))._state
    for part in (state.params, state.momentum):
        leaves = jax.tree_util.tree_leaves_with_path(part)
        shares = {variable_name(p): x.size // x.addressable_shards[0].data.size for p, x in leaves}
        print(f"{mode}: {shares}")
        assert {shares[f"fc{n}.kernel"] for n in (6, 7, 8)} == {8}
        assert shares["conv1.kernel"] == shares["conv1.bias"] == shares["fc8.bias"] == 1


def test_fsdp_needs_jit():
    with pytest.raises(UserError, match="--fsdp needs --spmd jit, not pmap"):
        make_engine(make_config(spmd="pmap", fsdp=True))


@pytest.mark.parametrize("mode", ONE_WEIRD_TRICK)
def test_momentum_is_split_as_its_weight_is(mode):
    config = make_config(**mode)
    state = make_engine(config)._state
    share = int(mode["mesh"][-1])
    for part in (state.params, state.momentum):
        for path, leaf in jax.tree_util.tree_leaves_with_path(part):
            name = jax.tree_util.keystr(path)
            split = any(n in name for n in ("fc6", "fc7")) or ("fc8" in name and "kernel" in name)
            shard = leaf.addressable_shards[0].data
            assert leaf.size == shard.size * (share if split else 1), name


@pytest.mark.parametrize("saved", MODES, ids=str)
def test_a_checkpoint_goes_on_in_another_mode(saved, tmp_path):
    """In jit, and in the mode that follows in the list: each is saved in and gone on with."""
    batches = first_batches(make_config(), 4)
    engine = make_engine(make_config(**saved))
    train(engine, batches[:2])
    weights = engine.weights()
    engine.write(tmp_path, engine.snapshot())
    reference = train(engine, batches[2:], 2)
    for mode in (MODES[0], MODES[(MODES.index(saved) + 1) % len(MODES)]):
        other = make_engine(make_config(**mode))
        other.restore(tmp_path)
        for name, array in other.weights().items():
            np.testing.assert_array_equal(array, weights[name])
        losses = train(other, batches[2:], 2)  # momentum is in these
        assert losses == pytest.approx(reference, rel=BOUND), mode


def test_sizes_that_devices_cant_share_are_refused():
    mesh = parallel.device_mesh(jax.devices(), 8, 1)
    for size, sentence in ((30, "use 24 or 32"), (3, r"use 8$")):
        with pytest.raises(UserError, match=sentence):
            check_sizes(make_config(batch_size=size), mesh)
    check_sizes(make_config(batch_size=32), mesh)
    narrow = dataclasses.replace(make_config(), model=recipe("digits").model)
    spec = dataclasses.replace(narrow, model=dataclasses.replace(narrow.model, width=0.003)).spec(
        10
    )
    with pytest.raises(UserError, match="fc6 and fc7 evenly: use a divisor of 12"):
        parallel.check_sizes(
            spec, 16, make_config().devices, parallel.device_mesh(jax.devices(), 1, 8)
        )
    for spmd in ("shard_map", "pmap"):
        with pytest.raises(UserError, match=f"needs --spmd jit, not {spmd}"):
            make_engine(make_config(spmd=spmd, mesh="data=4,model=2"))


@pytest.mark.parametrize(
    "text", ["4x2", "data=4", "data=0,model=8", "model=2,data=4", "data=4,model=2,"]
)
def test_a_mesh_in_other_words_is_refused(text):
    with pytest.raises(UserError, match="must read data=D,model=M"):
        parallel.mesh_shape(text, 8)


def test_a_mesh_of_other_size_names_those_that_fit():
    assert parallel.mesh_shape(None, 8) == (8, 1)
    assert parallel.mesh_shape("data=2,model=4", 8) == (2, 4)
    with pytest.raises(UserError, match="makes 4 devices, but there are 8: use data=8,model=1 or"):
        parallel.mesh_shape("data=2,model=2", 8)
