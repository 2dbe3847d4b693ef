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
