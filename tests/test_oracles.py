"""Layers in both frameworks against answers from elsewhere: onnx's test data, and float64 NumPy."""

import functools
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from onnx.backend.test.case.node import collect_testcases

import alexnet_jax
import alexnet_torch
from alexnet.layers import (
    LRN,
    AvgPool,
    Conv,
    Dropout,
    Flatten,
    MaxPool,
    SpatialLRN,
    Spec,
    Tanh,
    trace,
    variables,
)
from alexnet_jax import ops
from alexnet_torch.ops import Dropout as TorchDropout

CONVERTED = Path(onnx.__file__).parent / "backend/test/data/pytorch-converted"


def both(layer, images, kernel=None, bias=None):
    """A layer's output in NHWC from JAX and from torch, in evaluation."""
    spec = alone(layer, images)
    found = {"kernel": kernel, "bias": bias}
    arrays = {name: found[name.split(".")[1]] for name in variables(spec)}
    height, width, channels = trace(spec)[0].out_shape
    ours = np.asarray(alexnet_jax.AlexNet(spec, weights=arrays)(images))
    model = alexnet_torch.AlexNet(spec, weights=arrays).eval()
    with torch.no_grad():
        theirs = model(torch.tensor(images).permute(0, 3, 1, 2)).numpy()
    theirs = nhwc(theirs.reshape(-1, channels, height, width))
    return ours.reshape(-1, height, width, channels), theirs


def alone(layer, images):
    """A layer as a network of its own."""
    _, side, _, channels = images.shape
    return Spec("one layer", (layer, Flatten()), side, num_classes=1, channels=channels)


def close(layer, images, expected, *arrays, bound=2e-6):
    """Assert both frameworks' outputs, within `bound` of the largest number."""
    for output in both(layer, images, *arrays):
        assert output.shape == expected.shape
        assert np.abs(output - expected).max() <= bound * np.abs(expected).max()


def nhwc(array):
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1))


# --- the onnx package's own data ----------------------------------------------------------------


def converted(name):
    """A test's node, its inputs and its output, as torch computed them long ago."""
    folder = CONVERTED / f"test_{name}"
    model = onnx.load(folder / "model.onnx")
    files = sorted((folder / "test_data_set_0").glob("input_*.pb"))
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    free = [entry.name for entry in model.graph.input if entry.name not in values]
    for entry, file in zip(free, files, strict=True):
        values[entry] = numpy_helper.to_array(onnx.load_tensor(file))
    (node,) = model.graph.node
    output = onnx.load_tensor(folder / "test_data_set_0" / "output_0.pb")
    return node, [values[name] for name in node.input], numpy_helper.to_array(output)


def attributes(node):
    return {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}


@pytest.mark.parametrize("name", [
    "Conv2d", "Conv2d_depthwise", "Conv2d_depthwise_padded", "Conv2d_depthwise_strided",
    "Conv2d_depthwise_with_multiplier", "Conv2d_groups", "Conv2d_groups_thnn", "Conv2d_padding",
    "Conv2d_strided",
])  # fmt: skip
def test_convolutions_in_onnxs_data(name):
    node, (x, kernel, bias), y = converted(name)
    values = attributes(node)
    # Kernels and images are squares here: a column of zeros for each makes 3x2 into 3x3.
    narrower = kernel.shape[2] - kernel.shape[3]
    kernel = np.pad(kernel, ((0, 0), (0, 0), (0, 0), (0, narrower)))
    x = np.pad(x, ((0, 0), (0, 0), (0, 0), (0, narrower)))[:, :, : x.shape[3] + narrower]
    padding, stride = values["pads"][0], values["strides"][0]
    layer = Conv("conv1", len(kernel), kernel.shape[2], stride, padding, values["group"])
    expected = nhwc(y[:, :, : layer.out(x.shape[2])])
    close(layer, nhwc(x), expected, kernel.transpose(2, 3, 1, 0), bias)


@pytest.mark.parametrize("name", ["MaxPool2d", "AvgPool2d", "AvgPool2d_stride"])
def test_pools_in_onnxs_data(name):
    node, (x,), y = converted(name)
    values = attributes(node)
    kind, before = MaxPool if node.op_type == "MaxPool" else AvgPool, values["pads"][0]
    x = np.pad(x, ((0, 0), (0, 0), *((before,) * 2,) * 2), constant_values=-np.inf)
    close(kind(values["kernel_shape"][0], values["strides"][0]), nhwc(x), nhwc(y))


def test_tanh_in_onnxs_data():
    _, (x,), y = converted("Tanh")
    images = x.reshape(1, 1, 1, -1)
    close(Tanh(), images, y.reshape(images.shape))


@functools.cache
def cases():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {case.name: case for case in collect_testcases(None)}


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("test_lrn", LRN(3, 2e-4, 0.5, 2.0)),
        ("test_lrn_default", LRN(3, 1e-4, 0.75, 1.0)),
        ("test_maxpool_2d_default", MaxPool(2, 1)),
        ("test_maxpool_2d_ceil", MaxPool(3, 2, ceil=True)),
        ("test_averagepool_2d_default", AvgPool(2, 1)),
        ("test_averagepool_2d_strides", AvgPool(5, 3)),
        ("test_averagepool_2d_ceil", AvgPool(3, 2, ceil=True)),
    ],
)
def test_onnxs_reference_in_numpy(name, layer):
    ((inputs, outputs),) = cases()[name].data_sets
    close(layer, nhwc(inputs[0]), nhwc(outputs[0]))


# --- float64 NumPy, window by window ------------------------------------------------------------


def windows(layer, x):
    """Each window's place and what of it is inside the map."""
    for i in range(layer.out(x.shape[1])):
        for j in range(layer.out(x.shape[2])):
            rows, columns = i * layer.stride, j * layer.stride
            yield i, j, x[:, rows : rows + layer.window, columns : columns + layer.window]


@given(
    seed=st.integers(0, 99),
    side=st.integers(4, 14),
    window=st.integers(1, 4),
    stride=st.integers(1, 4),
    ceil=st.booleans(),
    kind=st.sampled_from([MaxPool, AvgPool]),
)
@settings(max_examples=12, deadline=None)
def test_pools_window_by_window(seed, side, window, stride, ceil, kind):
    layer = kind(window, stride, ceil)
    x = np.random.default_rng(seed).standard_normal((2, side, side, 3), np.float32)
    expected = np.zeros((2, layer.out(side), layer.out(side), 3))
    for i, j, inside in windows(layer, np.float64(x)):
        expected[:, i, j] = (inside.max if kind is MaxPool else inside.mean)((1, 2))
    close(layer, x, expected)


@given(seed=st.integers(0, 99), side=st.integers(1, 9), size=st.integers(1, 6))
@settings(max_examples=12, deadline=None)
def test_norm_within_maps_pixel_by_pixel(seed, side, size):
    """The window's place as in cuda-convnet's conv_util.cu: from size // 2 before the pixel."""
    layer = SpatialLRN(size, alpha=0.3, beta=0.6, k=1.5)
    x = np.random.default_rng(seed).standard_normal((2, side, side, 3), np.float32)
    expected = np.zeros(x.shape)
    for i in range(side):
        for j in range(side):
            top, left = i - size // 2, j - size // 2
            near = np.float64(x[:, max(0, top) : top + size, max(0, left) : left + size])
            sums = (near**2).sum((1, 2))
            expected[:, i, j] = x[:, i, j] / (1.5 + 0.3 / size**2 * sums) ** 0.6
    close(layer, x, expected)


@given(
    seed=st.integers(0, 99),
    side=st.integers(5, 13),
    kernel=st.integers(1, 5),
    stride=st.integers(1, 4),
    padding=st.integers(0, 2),
)
@settings(max_examples=12, deadline=None)
def test_convolutions_that_round_up(seed, side, kernel, stride, padding):
    """The count of windows is cuda-convnet's (layer.py): 1 + ceil((2 p + n - k) / s)."""
    layer = Conv("conv1", 4, kernel, stride, padding, groups=2, ceil=True)
    count = 1 + -(-(2 * padding + side - kernel) // stride)
    if (count - 1) * stride >= side + 2 * padding:  # a window of zeros alone, left out here
        count -= 1
    assert layer.out(side) == count
    random = np.random.default_rng(seed)
    x = random.standard_normal((2, side, side, 6), np.float32)
    weights = random.standard_normal((kernel, kernel, 3, 4), np.float32)
    bias = random.standard_normal(4, np.float32)
    edge = padding + kernel + stride
    wide = np.pad(np.float64(x), ((0, 0), (padding, edge), (padding, edge), (0, 0)))
    expected = np.zeros((2, count, count, 4))
    for i in range(count):
        for j in range(count):
            part = wide[:, i * stride : i * stride + kernel, j * stride : j * stride + kernel]
            for group in (0, 1):
                own = slice(2 * group, 2 * group + 2)
                expected[:, i, j, own] = np.einsum(
                    "bhwi,hwio->bo", part[..., 3 * group : 3 * group + 3], weights[..., own]
                )
    close(layer, x, expected + bias, weights, bias, bound=1e-5)


def test_control_another_convention_is_noticed():
    """An average that counts what is beyond the edge, as some programs have it."""
    layer, x = AvgPool(3, 2, ceil=True), np.ones((1, 6, 6, 1), np.float32)
    wrong = np.ones((1, 3, 3, 1))
    wrong[:, 2], wrong[:, :, 2] = 2 / 3, 2 / 3
    wrong[:, 2, 2] = 4 / 9
    with pytest.raises(AssertionError):
        close(layer, x, wrong)
    close(layer, x, np.ones((1, 3, 3, 1)))


# --- gradients, by differences, as the authors' checkGradients did --------------------------------


@pytest.mark.parametrize(
    "layer",
    [Tanh(), AvgPool(3, 2, ceil=True), SpatialLRN(3, 0.3), SpatialLRN(2, 0.3, beta=0.5, k=2.0)],
    ids=str,
)
def test_gradients_by_differences(layer):
    random = np.random.default_rng(3)
    x = random.standard_normal((2, 6, 6, 3), np.float32)
    weight = random.standard_normal(both(layer, x)[0].shape, np.float32)
    spec = alone(layer, x)
    images = torch.tensor(x).permute(0, 3, 1, 2).contiguous().requires_grad_()
    output = alexnet_torch.AlexNet(spec, weights={}).train()(images)
    output.backward(torch.tensor(weight).permute(0, 3, 1, 2).reshape(output.shape))
    by_torch = images.grad.permute(0, 2, 3, 1).numpy()
    model = alexnet_jax.AlexNet(spec, weights={})
    by_jax = np.asarray(jax.grad(lambda x: jnp.vdot(model(x), weight.reshape(2, -1)))(x))
    for place in random.integers(0, x.size, 12):
        ends = []
        for shift in (1e-2, -1e-2):
            moved = x.copy()
            moved.reshape(-1)[place] += shift
            ends.append([np.vdot(np.float64(y), weight) for y in both(layer, moved)])
        for found, own in zip(np.subtract(*ends) / 2e-2, (by_jax, by_torch), strict=True):
            assert found == pytest.approx(own.reshape(-1)[place], rel=2e-3, abs=2e-3)


def test_dropout_of_2012_has_the_same_expectation():
    """Kept units as they are in training, all of them halved in evaluation."""
    layer = Dropout(0.5, inverted=False)
    ones = np.ones((1000, 50), np.float32)
    ours = np.asarray(ops.dropout(jnp.asarray(ones), layer, jnp.array([1, 2], jnp.uint32), 0))
    module = TorchDropout(layer).train()
    theirs = module(torch.tensor(ones), (1, 2)).numpy()
    np.testing.assert_array_equal(ours, theirs)
    assert set(np.unique(ours)) == {0.0, 1.0}
    assert abs(ours.mean() - 0.5) < 0.01
    assert (module.eval()(torch.tensor(ones)) == 0.5).all()
