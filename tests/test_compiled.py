"""`--compile`: torch.compile computes what the engine does without it, and fails in a sentence."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch

from alexnet.config import DevicesConfig
from alexnet.errors import RunError, UserError
from alexnet.init import initial_weights
from alexnet.layers import count_dropouts, variables
from alexnet.options import parse
from alexnet.recipes import recipe
from alexnet.schedule import rates
from alexnet.spec import variant
from alexnet.threefry import dropout_keys
from alexnet_torch.engine import Engine
from alexnet_torch.model import AlexNet
from tests.conftest import DISTINCT

BOUND = 1e-5  # of the spread, after a few steps


def _batch(spec, rng) -> dict[str, np.ndarray]:
    shape = (4, spec.image_size, spec.image_size, spec.channels)
    return {
        "image": rng.integers(0, 256, shape, np.uint8),
        "label": rng.integers(0, 10, 4, np.int32),
        "mask": np.ones(4, np.float32),
    }


def _engine(spec, compile: bool, **optim) -> Engine:
    config = recipe("digits")
    return Engine(
        spec,
        initial_weights(spec, 0),
        preprocess=config.preprocess,
        batch_size=4,
        devices=DevicesConfig(compile=compile),
        optim=dataclasses.replace(config.optim, **optim),
    )


def _train(engine: Engine, spec, steps: int = 3) -> list[float]:
    rng, given = np.random.default_rng(0), rates(recipe("digits").optim, variables(spec), 0.01)
    return [
        engine.fetch(engine.train_step(_batch(spec, rng), step=step, rates=given))["loss"]
        for step in range(steps)
    ]


def _scales(arrays: dict[str, np.ndarray]) -> list[tuple[str, np.ndarray]]:
    """What each array's differences are measured by.

    That is its spread; of a running variance itself, of a running mean the deviation. Left out are
    biases before batch normalization, which nothing but rounding moves from 0.
    """
    found = {}
    for name, array in arrays.items():
        layer, part = name.split(".")
        normalized = layer.replace("conv", "bn") + ".variance" in arrays
        if part == "variance":
            found[name] = array
        elif part == "mean":
            found[name] = np.sqrt(arrays[f"{layer}.variance"])
        elif part != "bias" or not normalized:
            found[name] = array.std()
    return [(name, scale) for name, scale in found.items() if np.all(scale > 0)]


@pytest.mark.parametrize("name", DISTINCT)
def test_every_network_is_one_graph(name):
    torch._dynamo.reset()
    spec = variant(name, num_classes=10, width=1 / 16)
    model = AlexNet(spec, weights=initial_weights(spec, 0)).train()
    traced = torch.compile(model, backend="eager", fullgraph=True)  # raises where it would part
    images = torch.rand(2, spec.channels, spec.image_size, spec.image_size)
    keys = dropout_keys(0, 0, count_dropouts(spec)).tolist()
    given = {"keys": keys, "mask": torch.ones(2)}
    assert torch.equal(traced(images, **given), model(images, **given))


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("name", ["paper", "bn"])
def test_compiled_steps_are_those_of_the_engine(name, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    spec = variant(name, num_classes=10, width=1 / 16)
    engines = [_engine(spec, compile) for compile in (False, True)]
    losses = [_train(engine, spec) for engine in engines]
    found = torch._dynamo.utils.counters
    assert found["stats"]["unique_graphs"]
    assert not found["graph_break"]
    apart = np.abs(np.subtract(*losses)).max()
    eager, compiled = (engine.weights() for engine in engines)
    worst = max((np.abs(eager[n] - compiled[n]) / scale).max() for n, scale in _scales(eager))
    rng = np.random.default_rng(1)
    images = _batch(spec, rng)
    logits = [engine.logits(images) for engine in engines]
    evaluated = np.abs(np.subtract(*logits)).max() / logits[0].std()
    print(f"{name}: losses {apart:.1e}, weights {worst:.1e}, logits {evaluated:.1e} of the spread")
    assert max(apart, worst, evaluated) < BOUND
    other = _train(_engine(spec, False, label_smoothing=0.1), spec)  # the control
    assert np.abs(np.subtract(losses[0], other)).max() > BOUND


def test_without_a_compiler_the_error_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, str(tmp_path / "no-compiler")))
    torch._dynamo.reset()
    spec = variant("cifar_80sec")
    with pytest.raises(RunError, match=r"torch\.compile failed.*g\+\+.*without --compile"):
        _train(_engine(spec, True), spec)


def test_jax_takes_no_compile():
    from alexnet.commands.bench import Options

    with pytest.raises(UserError, match="JAX always compiles"):
        DevicesConfig(compile=True).check_framework("jax")
    DevicesConfig(compile=True).check_framework("torch")
    with pytest.raises(UserError, match="--spmd, --mesh"):
        DevicesConfig(spmd="pmap").check_framework("torch")
    with pytest.raises(UserError, match="add --framework torch"):
        parse(Options, ["--compile"], prog="alexnet bench")
