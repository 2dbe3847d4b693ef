"""Gradients of every weight and of the input are the same in both frameworks."""

import dataclasses

import pytest

from alexnet.layers import LRN, LeCun, variables
from alexnet.spec import variant
from tests.conftest import DISTINCT
from tests.parity.pairs import (
    GRADIENT_BOUND,
    agreeing_pair,
    gradients,
    make_pair,
    report,
    worst_by_max,
)


@pytest.mark.parametrize("name", DISTINCT)
def test_every_gradient(name):
    pair = agreeing_pair(name)
    measured = worst_by_max(*gradients(pair))
    learned = [v for v in variables(pair.spec).values() if v.role != "statistic"]
    assert len(measured) == len(learned) + 1  # and the input
    assert report(name, measured, GRADIENT_BOUND) < GRADIENT_BOUND


def test_full_width():
    measured = worst_by_max(*gradients(agreeing_pair("torchvision", width=1.0, image_size=64)))
    assert report("torchvision, full width", measured, GRADIENT_BOUND) < GRADIENT_BOUND


def test_control_wrong_lrn_is_noticed():
    spec = variant("single", num_classes=10, width=0.125, init=LeCun())
    layers = tuple(
        dataclasses.replace(layer, beta=0.5) if isinstance(layer, LRN) else layer for layer in spec
    )
    broken = dataclasses.replace(spec, layers=layers)
    measured = worst_by_max(*gradients(make_pair("single", jax_spec=broken)))
    assert report("control beta=0.5", measured, GRADIENT_BOUND) > 100 * GRADIENT_BOUND


BF16_BOUND = 0.04


def apart_in_bf16() -> list[float]:
    """Distances of bf16's bias gradients from fp32's in JAX and in torch, of a smooth network."""
    found = []
    pairs = (make_pair("figure1_tanh", batch=32, width=0.25, bf16=bf16) for bf16 in (True, False))
    for framework, *both in zip(("jax", "torch"), *map(gradients, pairs), strict=True):
        biases = [{k: v for k, v in one.items() if k.endswith(".bias")} for one in both]
        found.append(report(f"{framework}, bf16", worst_by_max(*biases), BF16_BOUND))
    return found


def test_gradients_of_biases_in_bf16():
    assert max(apart_in_bf16()) < BF16_BOUND


def test_control_their_sums_in_bf16_are_noticed(monkeypatch):
    """They are over a batch and all places, and stop growing."""
    monkeypatch.setattr("alexnet_jax.conv.biased", lambda x, bias: x + bias.astype(x.dtype))
    assert apart_in_bf16()[0] > 2 * BF16_BOUND
