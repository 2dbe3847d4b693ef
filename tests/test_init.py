import dataclasses
import hashlib
import math

import numpy as np
import pytest
import scipy.stats

from alexnet.init import initial_weights
from alexnet.layers import LeCun, variables
from alexnet.spec import VARIANTS, variant


def fan_in(name, shapes):
    return math.prod(shapes[f"{name.split('.')[0]}.kernel"].shape[:-1])


def test_torchvision_is_torchs_default():
    weights, shapes = (
        initial_weights(VARIANTS["torchvision"], 0),
        variables(VARIANTS["torchvision"]),
    )
    for name, values in weights.items():
        bound = fan_in(name, shapes) ** -0.5
        assert values.dtype == np.float32
        assert np.abs(values).max() <= bound
        if values.size > 1000:
            assert values.std() == pytest.approx(bound / 3**0.5, rel=0.03)
            assert abs(values.mean()) < 5 * bound / values.size**0.5


@pytest.mark.parametrize("name", ["paper", "single"])
def test_paper_is_gaussian_with_its_biases(name):
    weights = initial_weights(variant(name, num_classes=10), 0)
    for layer in ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"):
        kernel, bias = weights[f"{layer}.kernel"], weights[f"{layer}.bias"]
        assert kernel.std() == pytest.approx(0.01, rel=0.03)
        assert abs(kernel.mean()) < 0.05 / kernel.size**0.5
        ones = layer in ("conv2", "conv4", "conv5", "fc6", "fc7")  # section 5 of the paper
        assert (bias == (1.0 if ones else 0.0)).all()


def test_lecun_scales_with_fan_in():
    spec = variant("paper", width=0.25, init=LeCun())
    weights = initial_weights(spec, 0)
    for name, values in weights.items():
        if name.endswith("kernel"):
            assert values.std() == pytest.approx(fan_in(name, variables(spec)) ** -0.5, rel=0.06)


def test_batch_norm_starts_as_nothing():
    spec = VARIANTS["bn"]
    weights = initial_weights(variant("bn", width=0.1), 0)
    assert [n for n, v in variables(spec).items() if v.role == "statistic"]
    assert (weights["bn3.mean"] == 0).all()
    assert (weights["bn3.variance"] == 1).all()


# SHA-256 of the little-endian fp32 numbers, one variant of each distribution: a new NumPy, or a
# careless change here, must not move anyone's curve.
DIGESTS = {
    ("paper", "conv2.kernel"): "e0e48c2caaab997b",
    ("torchvision", "fc7.kernel"): "fce893356f7df11d",
}


@pytest.mark.parametrize(("name", "array"), DIGESTS)
def test_the_numbers_are_these(name, array):
    values = initial_weights(variant(name, width=0.125), 3)[array]
    digest = hashlib.sha256(values.astype("<f4").tobytes()).hexdigest()
    assert digest[:16] == DIGESTS[name, array]


def test_only_raw_bits_are_drawn(monkeypatch):
    """NumPy promises no distribution: `Generator` has none to give."""

    class Refuses:
        def __init__(self, *_):
            raise AssertionError("a distribution of NumPy's was asked for")

    monkeypatch.setattr(np.random, "Generator", Refuses)
    initial_weights(variant("paper", width=0.05), 0)


def test_gaussian_weights_are_normal():
    spec = dataclasses.replace(variant("paper", width=0.25), image_size=227)
    values = initial_weights(spec, 2)["fc7.kernel"].ravel() / 0.01
    assert scipy.stats.kstest(values[::7], "norm").pvalue > 0.01
    assert scipy.stats.pearsonr(values[:-1:2], values[1::2]).pvalue > 0.01


def test_seed_and_layer_decide_the_numbers():
    narrow, other = (variant("single", width=0.1, num_classes=n) for n in (10, 7))
    a, b, c = initial_weights(narrow, 3), initial_weights(narrow, 3), initial_weights(narrow, 4)
    assert all((a[name] == b[name]).all() for name in a)
    assert not (a["conv1.kernel"] == c["conv1.kernel"]).any()
    d = initial_weights(other, 3)  # another last layer leaves the others as they are
    assert all((a[name] == d[name]).all() for name in a if not name.startswith("fc8"))
