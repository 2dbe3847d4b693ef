"""The contenders of `alexnet bench`: plain networks and ours do the same work; layers; files."""

import dataclasses

import jax
import numpy as np
import pytest
import torch

import alexnet_torch
from alexnet.bench.convert import conversions
from alexnet.bench.job import Job
from alexnet.bench.layers import layer_parts
from alexnet.bench.network import batches, floating_point_operations, network_step
from alexnet.engine import load_engine
from alexnet.errors import UserError
from alexnet.layers import Dropout, Spec
from alexnet.spec import PAPER, VARIANTS
from alexnet_jax import parallel
from alexnet_jax.plain import Network
from alexnet_jax.plain import Plain as PlainJax
from alexnet_torch.plain import Plain as PlainTorch
from alexnet_torch.plain import network
from tests.conftest import DISTINCT
from tests.weights.helpers import close, images, narrow, side

SMALL = {"image_size": 67, "width": 1 / 16, "batch_size": 2}
REST = sorted({*DISTINCT} - {"torchvision", "paper"})


@pytest.mark.parametrize("name", VARIANTS)
def test_plain_torch_gives_the_same_logits(name):
    weights = narrow(name, image_size=side(name, 99))
    close(of_plain_torch(weights), of_ours(weights))


@pytest.mark.parametrize(
    "name", ["torchvision", "paper", *(pytest.param(n, marks=pytest.mark.slow) for n in REST)]
)
def test_plain_jax_gives_the_same_logits(name):
    weights = narrow(name, image_size=side(name, 67))
    plain = Network(weights.spec, weights.arrays)
    plain.eval()
    close(np.asarray(jax.jit(plain)(images(weights.spec))), of_ours(weights))


def of_ours(weights):
    """Logits of this project's torch model; tests/parity holds that JAX's are the same."""
    model = alexnet_torch.AlexNet(weights.spec, weights=weights.arrays).eval()
    return logits(model, weights.spec)


def of_plain_torch(weights):
    return logits(network(weights.spec, weights.arrays).eval(), weights.spec)


@torch.no_grad()
def logits(model, spec):
    return model(torch.from_numpy(images(spec)).movedim(-1, 1)).numpy()


@pytest.fixture
def one_device(monkeypatch):
    """JAX sees one device, as in a contender's process."""
    mesh = parallel.device_mesh(jax.devices()[:1], 1, 1)
    monkeypatch.setattr(parallel, "run_mesh", lambda config: mesh)
    monkeypatch.setattr(jax, "device_count", lambda: 1)


@pytest.mark.parametrize(
    ("framework", "plain"),
    [pytest.param("jax", PlainJax, marks=pytest.mark.slow), ("torch", PlainTorch)],
)
def test_plain_training_takes_the_same_steps(framework, plain, one_device):
    """Three losses: the second and third tell updates with momentum and decay apart from others."""
    job = Job("train", framework=framework, variant="paper", num_classes=7, **SMALL)
    weights = narrow("paper", image_size=67)
    layers = tuple(layer for layer in weights.spec if not isinstance(layer, Dropout))
    spec = Spec("paper", layers, 67, 7)  # what is dropped differs
    options = dataclasses.replace(job.plain, rate=0.01, weight_decay=0.1)
    batch = next(batches(job))
    engine = load_engine(framework)(
        spec,
        weights.arrays,
        preprocess=job.config.preprocess,
        batch_size=2,
        optim=dataclasses.replace(job.optim, weight_decay=0.1),
    )
    rates = dict.fromkeys(weights.arrays, options.rate)
    other = plain(spec, weights.arrays, options)
    for step in range(3):
        ours = engine.fetch(engine.train_step(batch, step=step, rates=rates))["loss"]
        assert other.fetch(other.train_step(batch)) == pytest.approx(ours, rel=1e-4), step


def test_plain_jax_needs_one_device():
    weights = narrow("paper", image_size=67)
    with pytest.raises(UserError, match="JAX has 8 here"):
        PlainJax(weights.spec, weights.arrays, Job("infer", framework="jax").plain)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", ["ours", "plain"])
def test_torch_infers(kind, precision):
    job = Job("infer", kind, "torch", precision=precision, **SMALL)
    step, wait, note = network_step(job)
    assert step().shape == (2, 1000)
    wait(step())
    assert note in (("",) if kind == "ours" else ("NCHW", "channels_last"))


def test_operations_of_the_paper():
    """724.4 million multiply-adds forward; training is three times that, less conv1's dX."""
    forward = floating_point_operations(PAPER, "infer")
    assert forward == pytest.approx(2 * 724.4e6, rel=1e-4)
    conv1 = 2 * 55 * 55 * 96 * 11 * 11 * 3
    assert floating_point_operations(PAPER, "train") == 3 * forward - conv1


@pytest.mark.parametrize("kind", ["ours", "plain"])
@pytest.mark.parametrize("variant", ["torchvision", "paper", "bn"])
def test_every_layer_of_torch_runs_by_itself(kind, variant):
    parts = layer_parts(Job("train", kind, "torch", variant, layers=True, **SMALL))
    assert {"conv1: weight gradient", "conv2: input gradient", "fc8: weight gradient"} < set(parts)
    assert "conv1: input gradient" not in parts
    for run in parts.values():
        run(1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ours", "plain"])
def test_layers_of_jax_run_by_themselves(kind):
    parts = layer_parts(Job("train", kind, "jax", "paper", layers=True, **SMALL))
    for name in ("lrn1: forward", "lrn1: input gradient"):
        parts[name](1)


def test_conversions(tmp_path):
    job = Job("convert", directory=str(tmp_path), variant="paper", image_size=67, width=1 / 16)
    found = conversions(job)
    assert list(found) == ["torch to safetensors", "safetensors to flax", "flax to torch"]
    for run in found.values():
        run(1)
    for suffix in (".pth", ".safetensors", ".msgpack"):
        source, target = (tmp_path / f"{name}{suffix}" for name in ("source", "target"))
        assert source.stat().st_size == pytest.approx(target.stat().st_size, rel=0.01)
