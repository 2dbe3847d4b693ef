import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet.errors import UserError
from alexnet.layers import (
    Conv,
    Dense,
    min_image_size,
    trace,
    variables,
)
from alexnet.spec import VARIANTS, variant

# facts: the paper's net and Caffe's 60,965,224; torchvision 61,100,840; one tower 62,378,344
PARAMS = {
    "torchvision": 61_100_840,
    "paper": 60_965_224,
    "single": 62_378_344,
    "caffe": 60_965_224,
    "caffenet": 60_965_224,
    "onnx_zoo": 60_965_224,
    "bn": 60_965_224,
    "krizhevsky2012": 60_965_224,
    "krizhevsky2012_no_lrn": 60_965_224,
    "krizhevsky2012_no_lrn2": 60_965_224,
    "krizhevsky2012_no_overlap": 60_965_224,
    "krizhevsky2012_no_communication": 60_714_408,  # by hand, from layers-150.cfg
    "krizhevsky2012_half": 59_798_312,  # by hand, from layers-145-half.cfg
    "cuda_convnet2": 61_100_840,
    "one_weird_trick": 61_838_248,
    "cifar_80sec": 145_578,  # by hand, from layers-80sec.cfg: 2,432 25,632 51,264 65,600 650
    "cifar_18pct": 89_578,
    "cifar_19pct": 89_578,
    "figure1_relu": 89_578,
    "figure1_tanh": 89_578,
}
LEARNED = {
    8: ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"],
    5: ["conv1", "conv2", "conv3", "fc4", "fc5"],
    4: ["conv1", "conv2", "conv3", "fc4"],
    "krizhevsky2012_no_communication": [*(f"conv{i}" for i in range(1, 8)), "fc8"],
}


def test_every_variant_is_counted():
    assert PARAMS.keys() == VARIANTS.keys()


@pytest.mark.parametrize("name", VARIANTS)
def test_parameter_counts_and_names(name):
    spec = VARIANTS[name]
    assert spec.num_params == PARAMS[name]
    learned = [row.name for row in trace(spec) if "kernel" in row.variables]
    assert learned == LEARNED.get(name, LEARNED[len(learned)])
    assert trace(spec)[-1].out_shape == (10 if spec.image_size == 32 else 1000,)


@pytest.mark.parametrize(
    ("name", "conv1", "fc6_in", "macs"),
    [
        ("torchvision", 55, 9216, 714.2e6),
        ("paper", 55, 9216, 724.4e6),
        ("single", 55, 9216, 1135.3e6),
        ("onnx_zoo", 54, 9216, 654.56e6),
        ("krizhevsky2012", 55, 9216, 724.4e6),  # as the paper's
        ("krizhevsky2012_no_overlap", 55, 9216, None),
        ("cuda_convnet2", 55, 9216, 714.2e6),  # as torchvision's
    ],
)
def test_geometry_and_multiply_adds(name, conv1, fc6_in, macs):
    rows = {row.name: row for row in trace(VARIANTS[name])}
    assert rows["conv1"].out_shape[:2] == (conv1, conv1)
    assert rows["fc6"].variables["kernel"].shape == (fc6_in, 4096)
    if macs:
        assert sum(row.multiply_adds for row in rows.values()) == pytest.approx(macs, rel=1e-4)


def test_torchvision_smallest_input_is_63():
    assert min_image_size(VARIANTS["torchvision"]) == 63


@pytest.mark.parametrize("name", VARIANTS)
def test_smallest_input_is_the_smallest(name):
    smallest = min_image_size(VARIANTS[name])
    variant(name, image_size=smallest)
    with pytest.raises(UserError, match=f"smallest that works is {smallest}"):
        variant(name, image_size=smallest - 1)


@given(
    name=st.sampled_from(sorted(VARIANTS)),
    classes=st.integers(1, 30),
    channels=st.integers(1, 5),
    size=st.integers(63, 300),
    width=st.floats(0.01, 1),
)
def test_sizes_are_parameters(name, classes, channels, size, width):
    if size < min_image_size(VARIANTS[name]):
        return
    spec = variant(name, num_classes=classes, channels=channels, image_size=size, width=width)
    shapes = {name: variable.shape for name, variable in variables(spec).items()}
    assert list(shapes.values())[-1] == (classes,)
    assert shapes["conv1.kernel"][2] == channels
    assert min(min(shape) for shape in shapes.values()) >= 1
    for row in trace(spec):
        if isinstance(row.layer, Conv):
            assert row.in_shape[2] % row.layer.groups == 0
            assert row.layer.features % row.layer.groups == 0


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(UserError, match="did you mean 'torchvision'"):
        variant("torchvison")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (name, value)
        for name in ("num_classes", "channels", "image_size")
        for value in (0, -1, 10.5, 10.0, True, "10", 10**9, [10], float("nan"))
    ]
    + [("width", value) for value in (0, -1, 2, True, "1", float("nan"), 1 + 1j)],
)
def test_impossible_sizes_are_refused(name, value):
    with pytest.raises(UserError, match=f"^{name} is .*, but it must be") as error:
        variant("paper", **{name: value})
    assert len(str(error.value)) < 200


def test_numpys_integers_are_sizes():
    spec = variant("paper", num_classes=np.int64(10), image_size=np.int32(67))
    assert spec == variant("paper", num_classes=10, image_size=67)
    assert type(spec.num_classes) is int


def test_a_network_that_no_machine_can_hold_is_refused():
    with pytest.raises(UserError, match=r"'paper' would have 1\d,\d{3},\d{3},\d{3} parameters"):
        variant("paper", image_size=4096)
    assert variant("torchvision", image_size=4096).num_params == 61_100_840


def test_specs_are_plain_data():
    spec = VARIANTS["paper"]
    assert hash(spec) == hash(dataclasses.replace(spec))
    assert [type(layer) for layer in spec][-1] is Dense
    assert len(spec) == len(spec.layers)
    assert dataclasses.replace(spec, layers=list(spec.layers)) == spec  # a list will do


def test_variables_follow_from_the_table():
    found = variables(VARIANTS["bn"])
    assert list(found)[:4] == ["conv1.kernel", "conv1.bias", "bn2.mean", "bn2.variance"]
    assert [v.role for v in list(found.values())[:4]] == ["kernel", "bias"] + ["statistic"] * 2
    affine = dataclasses.replace(
        VARIANTS["bn"],
        layers=tuple(
            dataclasses.replace(x, affine=True) if hasattr(x, "affine") else x
            for x in VARIANTS["bn"]
        ),
    )
    added = [name for name in variables(affine) if name not in found]
    assert added == [f"bn{i}.{part}" for i in range(2, 6) for part in ("scale", "shift")]
    assert affine.num_params == VARIANTS["bn"].num_params + 2 * (96 + 256 + 384 + 384)
