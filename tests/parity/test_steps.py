"""Whole steps and whole runs are the same in both frameworks.

A ReLU whose input is within rounding of zero may be open in one framework and shut in the other,
which moves a gradient by a percent at once. Gradients, steps and losses are therefore compared
where that can't blur them: one whole step on a batch without such inputs, and losses, which hardly
feel it, over a run. (`test_optim.py` has updates on gradients that both are handed.)
"""

import dataclasses

import numpy as np
import pytest
import torch

import alexnet_jax.engine
import alexnet_torch.engine
from alexnet.config import TrainConfig
from alexnet.init import initial_weights
from alexnet.layers import variables
from alexnet.recipes import recipe
from alexnet.run import training_engine
from alexnet.schedule import learning_rate, rates
from alexnet.threefry import dropout_keys
from alexnet_torch.inspection import canonical_order
from alexnet_torch.model import AlexNet
from alexnet_torch.step import normalize
from tests.conftest import first_batches
from tests.parity.pairs import report, worst_by_max


def narrow(config: TrainConfig, data: dict | None = None, **optim) -> TrainConfig:
    """The default recipe on a narrow net, with these changes."""
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, width=0.0625),
        data=dataclasses.replace(config.data, **(data or {})),
        optim=dataclasses.replace(config.optim, **optim),
    )


def run(config: TrainConfig, steps: int, other: TrainConfig | None = None):
    """Losses and weight changes of both frameworks; `other` is the torch side's configuration."""
    dataset = config.open_dataset()
    spec = config.spec(dataset.num_classes)
    start = initial_weights(spec, config.run.seed)
    engines = (
        training_engine(alexnet_jax.engine.Engine, config, spec, start),
        training_engine(alexnet_torch.engine.Engine, other or config, spec, start),
    )
    arrays = variables(spec)
    losses = ([], [])
    for step, batch in enumerate(first_batches(config, steps)):
        rate = learning_rate(config.optim, step, total_steps=steps, steps_per_epoch=44)
        each = rates(config.optim, arrays, rate)
        for engine, own in zip(engines, losses, strict=True):
            metrics = engine.train_step(batch, step=step, rates=each)
            own.append(engine.fetch(metrics)["loss"])
    changes = [
        {name: array - start[name] for name, array in engine.weights().items()}
        for engine in engines
    ]
    apart = {str(i): abs(a - b) / b for i, (a, b) in enumerate(zip(*losses, strict=True))}
    return apart, changes


def seed_without_close_calls(config: TrainConfig) -> TrainConfig:
    """The configuration with a seed at which no ReLU of the first batch is within 1e-5 of zero."""
    for seed in range(100):
        config = dataclasses.replace(config, run=dataclasses.replace(config.run, seed=seed))
        model = AlexNet(config.spec(10), seed=seed)
        batch = first_batches(config)[0]
        images = normalize(
            {k: torch.from_numpy(v) for k, v in batch.items()},
            config.preprocess.normalize,
            config.image_size,
        )
        keys = dropout_keys(seed, 0, 2).tolist()
        outputs = canonical_order(model.train().activations(images, keys=keys), model.spec)
        learned = [x for name, x in outputs.items() if name[:2] in ("co", "fc")]
        if min(float(x.detach().abs().min()) for x in learned) > 1e-5:
            return config
    raise AssertionError("no seed without a close call")


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"clip_norm": 0.01}], ids=str)
def test_one_whole_step(options):
    config = narrow(recipe("digits"), {"batch_size": 8}, warmup_steps=0, **options)
    config = seed_without_close_calls(config)
    apart, changes = run(config, 1)
    measured = worst_by_max(*changes)
    # weights near 0.1 hold changes to some 1e-8, so small changes are known less exactly
    bound = 1e-4 + 2e-8 / min(float(np.abs(c).max()) for c in changes[1].values())
    assert report(f"one step {options}", measured, bound) < bound
    assert apart["0"] < 1e-6


def test_control_another_loss_is_noticed():
    config = narrow(recipe("digits"), {"batch_size": 8}, warmup_steps=0)
    _, changes = run(config, 1, narrow(config, label_smoothing=0.1))
    assert report("control smoothing", worst_by_max(*changes), 1e-4) > 1e-2


def test_one_seed_one_curve():
    """The default run's first 50 steps, with flips and colour noise besides, on a narrow net."""
    apart, _ = run(narrow(recipe("digits"), {"flip": True, "color_noise": 0.1}), 50)
    first = {name: apart[name] for name in list(apart)[:10]}
    assert report("first 10 losses", first, 1e-5) < 1e-5
    assert report("50 losses", apart, 1e-3) < 1e-3


def test_a_batch_in_parts():
    """JAX in four parts beside torch in one, and the other way round."""
    whole = narrow(recipe("digits"))
    parts = narrow(recipe("digits"), accumulate=4)
    for one, other in ((whole, parts), (parts, whole)):
        apart, _ = run(one, 5, other)
        assert report("5 losses, one in four parts", apart, 1e-5) < 1e-5


@pytest.mark.parametrize("part", ["dropout seed", "flip"])
def test_control_other_randomness_is_noticed(part, monkeypatch):
    config = narrow(recipe("digits"))
    other = dataclasses.replace(config, run=dataclasses.replace(config.run, seed=1))
    if part == "flip":
        other, put = config, alexnet_torch.engine.Engine._put

        def mirrored(self, batch):
            return put(self, {**batch, "image": batch["image"][:, :, ::-1].copy()})

        monkeypatch.setattr(alexnet_torch.engine.Engine, "_put", mirrored)
    apart, _ = run(config, 3, other)
    assert report(f"control {part}", apart, 1e-5) > 1e-3


def test_masked_examples_count_for_nothing():
    config = narrow(recipe("digits"), {"batch_size": 16})
    spec = config.spec(10)
    start = initial_weights(spec, 0)
    batch = first_batches(config)[0]
    batch["mask"][::2] = 0
    garbled = {**batch, "image": batch["image"].copy()}
    garbled["image"][::2] = 255
    results = []
    for kind in (alexnet_jax.engine.Engine, alexnet_torch.engine.Engine):
        for each in (batch, garbled):
            engine = training_engine(kind, config, spec, start)
            each_rate = rates(config.optim, variables(spec), 0.01)
            metrics = engine.fetch(engine.train_step(each, step=0, rates=each_rate))
            results.append(metrics["loss"])
            assert metrics["top1"] in [n / 8 for n in range(9)]
    assert results[0] == results[1]
    assert results[2] == results[3]
    assert results[0] == pytest.approx(results[2], rel=1e-6)
