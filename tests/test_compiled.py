"""`--compile`: torch.compile computes what the engine does without it, and fails in a sentence."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch

from alexnet.config import DevicesConfig
from alexnet.errors import RunError, UserError
from alexnet.init import initial_weights
from alexnet.layers import variables
from alexnet.options import parse
from alexnet.recipes import recipe
from alexnet.schedule import rates
from alexnet.spec import variant
from alexnet_torch.engine import Engine

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


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("name", ["krizhevsky2012", "bn"])
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
    # Biases before batch normalization stay at 0 but for rounding.
    moved = [name for name, array in eager.items() if array.std() > 1e-6]
    worst = max(np.abs(eager[n] - compiled[n]).max() / eager[n].std() for n in moved)
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
