"""Every layer's output is the same in both frameworks, and broken ports are noticed."""

import dataclasses

import pytest

from alexnet.errors import UserError
from alexnet.init import initial_weights
from alexnet.layers import (
    LRN,
    Dropout,
    LeCun,
    MaxPool,
    ReLU,
)
from alexnet.spec import VARIANTS, variant
from tests.conftest import DISTINCT
from tests.parity.pairs import (
    FORWARD_BOUND,
    forward,
    make_pair,
    report,
    worst_by_std,
)


@pytest.mark.parametrize(
    ("name", "train"), [(n, True) for n in VARIANTS] + [(n, False) for n in DISTINCT]
)
def test_every_layer(name, train):
    ours, theirs = forward(make_pair(name), train)
    measured = worst_by_std(ours, theirs)
    assert report(f"{name}, train={train}", measured, FORWARD_BOUND) < FORWARD_BOUND


@pytest.mark.parametrize("name", ["torchvision", "paper", "single"])
def test_full_width(name):
    ours, theirs = forward(make_pair(name, width=1.0, batch=2), True)
    measured = worst_by_std(ours, theirs)
    assert report(f"{name}, full width", measured, FORWARD_BOUND) < FORWARD_BOUND


@pytest.mark.parametrize(
    ("name", "size"), [("torchvision", 63), ("torchvision", 130), ("caffe", 75)]
)
def test_other_sizes(name, size):
    ours, theirs = forward(make_pair(name, image_size=size), True)
    measured = worst_by_std(ours, theirs)
    assert report(f"{name} at {size}", measured, FORWARD_BOUND) < FORWARD_BOUND


BF16_BOUND = 0.05  # of the standard deviation; measured 0.014 to 0.017


@pytest.mark.parametrize("name", ["torchvision", "paper"])
def test_bf16_logits(name):
    ours, theirs = forward(make_pair(name, bf16=True), False)
    measured = worst_by_std({"fc8": ours["fc8"]}, {"fc8": theirs["fc8"]})
    assert report(f"{name}, bf16", measured, BF16_BOUND) < BF16_BOUND
    exact, _ = forward(make_pair(name), False)
    apart = worst_by_std({"fc8": ours["fc8"]}, {"fc8": exact["fc8"]})
    assert 1e-3 < report(f"{name}, bf16 against fp32", apart, BF16_BOUND) < BF16_BOUND


def _swap(name, kind, **changes):
    """The variant with every layer of one kind changed."""
    spec = variant(name, num_classes=10, width=0.125, init=LeCun())
    layers = tuple(
        dataclasses.replace(layer, **changes) if isinstance(layer, kind) else layer
        for layer in spec.layers
    )
    return dataclasses.replace(spec, layers=layers)


def _dropout_after(name):
    """Dropout moved from before fc6 and fc7 to after their ReLUs."""
    spec = variant(name, num_classes=10, width=0.125, init=LeCun())
    layers = [layer for layer in spec.layers if not isinstance(layer, Dropout)]
    at = [i for i, layer in enumerate(layers) if isinstance(layer, ReLU)][-2:]
    for i in reversed(at):
        layers.insert(i + 1, Dropout(0.5))
    return dataclasses.replace(spec, layers=tuple(layers))


def _weights(change):
    weights = initial_weights(variant("paper", num_classes=10, width=0.125, init=LeCun()), 7)
    for key, source in make_pair("paper").torch.weights().items():
        weights[key] = source
    change(weights)
    return weights


def _unpermute(weights):  # rows of fc6 left in torch's C, H, W order
    kernel = weights["fc6.kernel"]
    maps = kernel.reshape(6, 6, -1, kernel.shape[1])
    weights["fc6.kernel"] = maps.transpose(2, 0, 1, 3).reshape(kernel.shape)


def _bgr(weights):
    weights["conv1.kernel"] = weights["conv1.kernel"][:, :, ::-1]


def _drop_bias(weights):
    weights["conv3.bias"] = weights["conv3.bias"] * 0


@pytest.mark.parametrize("change", [_unpermute, _bgr, _drop_bias])
def test_control_wrong_weights_are_noticed(change):
    ours, theirs = forward(make_pair("paper", weights=_weights(change)), False)
    measured = {"fc8": worst_by_std(ours, theirs)["fc8"]}
    assert report(f"control {change.__name__}", measured, FORWARD_BOUND) > 100 * FORWARD_BOUND


@pytest.mark.parametrize(
    ("name", "kind", "changes", "at"),
    [
        # alpha is small: at the variants' own values a wrong one moves little, but is noticed
        ("paper", LRN, {"alpha": 5e-4}, "lrn1"),
        ("paper", LRN, {"k": 1.0}, "lrn1"),
        ("paper", LRN, {"size": 3}, "lrn1"),
        ("paper", LRN, {"groups": 1}, "lrn1"),
    ],
)
def test_control_wrong_layers_are_noticed(name, kind, changes, at):
    broken = _swap(name, kind, **changes)
    ours, theirs = forward(make_pair(name, jax_spec=broken), False)
    measured = {at: worst_by_std(ours, theirs)[at]}
    assert report(f"control {name} {changes}", measured, FORWARD_BOUND) > FORWARD_BOUND


def test_control_floor_for_ceil_is_noticed():
    with pytest.raises(UserError, match=r"fc6\.kernel is"):  # it no longer fits the smaller map
        forward(make_pair("onnx_zoo", jax_spec=_swap("onnx_zoo", MaxPool, ceil=False)), False)


def test_control_ceil_for_floor_is_noticed():
    """The zoo's first two pools round down, to 26 and 12."""
    ours, theirs = forward(
        make_pair("onnx_zoo", jax_spec=_swap("onnx_zoo", MaxPool, ceil=True)), False
    )
    assert [theirs[name].shape[1] for name in ("conv1", "pool1", "pool2", "pool5")] == [
        54, 26, 12, 6,
    ]  # fmt: skip
    assert ours["pool1"].shape[1] == 27
    measured = worst_by_std({"fc8": ours["fc8"]}, {"fc8": theirs["fc8"]})
    assert report("control ceil for floor", measured, FORWARD_BOUND) > 100 * FORWARD_BOUND


def test_control_moved_dropout_is_noticed():
    pair = make_pair("torchvision", jax_spec=_dropout_after("torchvision"))
    ours, theirs = forward(pair, True)
    measured = worst_by_std({"fc8": ours["fc8"]}, {"fc8": theirs["fc8"]})
    assert report("control dropout moved", measured, FORWARD_BOUND) > 100 * FORWARD_BOUND
