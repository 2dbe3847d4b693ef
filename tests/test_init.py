import numpy as np
import pytest

from alexnet.init import initial_weights
from alexnet.layers import LeCun, learned
from alexnet.spec import VARIANTS, variant


def test_torchvision_is_torchs_default():
    weights = initial_weights(VARIANTS["torchvision"], 0)
    for row in learned(VARIANTS["torchvision"]):
        bound = row.fan_in**-0.5
        for part in ("kernel", "bias"):
            values = weights[f"{row.name}.{part}"]
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
    for row in learned(spec):
        expected = row.fan_in**-0.5
        assert weights[f"{row.name}.kernel"].std() == pytest.approx(expected, rel=0.06)


def test_seed_and_layer_decide_the_numbers():
    narrow, other = (variant("single", width=0.1, num_classes=n) for n in (10, 7))
    a, b, c = initial_weights(narrow, 3), initial_weights(narrow, 3), initial_weights(narrow, 4)
    assert all((a[name] == b[name]).all() for name in a)
    assert not (a["conv1.kernel"] == c["conv1.kernel"]).any()
    d = initial_weights(other, 3)  # another last layer leaves the others as they are
    assert all((a[name] == d[name]).all() for name in a if not name.startswith("fc8"))
