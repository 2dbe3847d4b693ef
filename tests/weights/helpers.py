"""What the tests of the formats share: narrow weights, their files, and a forward pass to trust."""

import io
import struct
import tracemalloc

import numpy as np
import torch
import torch.nn.functional as F

from alexnet.layers import (
    LRN,
    AdaptiveAvgPool,
    AvgPool,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    Flatten,
    MaxPool,
    ReLU,
    Row,
    SpatialLRN,
    Spec,
    Tanh,
    min_image_size,
    trace,
    variables,
)
from alexnet.spec import VARIANTS, variant
from alexnet.weights import Weights
from alexnet.weights.assemble import default_preprocess
from alexnet.weights.formats import load_file, write
from alexnet.weights.table import without_init

WIDTH = 1 / 64
CLASSES = 7


def narrow(name: str, seed: int = 0, **sizes) -> Weights:
    """Random weights of a variant with few features; large enough for every unit to matter."""
    sizes = {"num_classes": CLASSES, "width": WIDTH} | sizes
    return random_weights(variant(name, **sizes), seed)


def side(name: str, least: int) -> int:
    """Pixels of the smallest input, from `least` up, that a variant takes."""
    return max(least, min_image_size(VARIANTS[name]))


def learned(spec: Spec) -> list[Row]:
    """The rows with a kernel: conv1 ... fc8."""
    return [row for row in trace(spec) if "kernel" in row.variables]


def random_weights(spec: Spec, seed: int = 0) -> Weights:
    random = np.random.default_rng(seed)
    arrays = {}
    for name, variable in variables(spec).items():
        values = random.standard_normal(variable.shape, np.float32)
        if variable.role == "kernel":
            values *= np.float32(np.sqrt(2 / np.prod(variable.shape[:-1])))
        arrays[name] = np.abs(values) + 0.5 if name.endswith(".variance") else values
    names = tuple(f"class {i}" for i in range(spec.num_classes))
    return Weights(arrays, spec, default_preprocess(spec), names, "a test")


def written(weights: Weights, format: str) -> memoryview:
    """The bytes of a file in a format."""
    file = io.BytesIO()
    write(file, weights, format)
    return memoryview(bytearray(file.getvalue()))


def load_data(data: memoryview, format: str, where: str, variant: str | None = None) -> Weights:
    """Weights from bytes in memory; messages call them `where`."""
    return load_file(io.BytesIO(data), format, where, variant)


def same(one: Weights, other: Weights) -> None:
    """Assert equal networks and bit-equal arrays."""
    assert without_init(one.spec) == without_init(other.spec)
    assert list(one.arrays) == list(other.arrays)
    for name, array in one.arrays.items():
        assert other.arrays[name].dtype == np.float32
        assert other.arrays[name].flags.aligned
        np.testing.assert_array_equal(array, other.arrays[name], err_msg=name)


def forward(weights: Weights, images: np.ndarray) -> np.ndarray:
    """Logits of canonical weights for NHWC images, by torch's functions and nothing of ours."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2)
    for layer in weights.spec:
        match layer:
            case Conv():
                kernel = np.ascontiguousarray(weights.arrays[f"{layer.name}.kernel"])
                beyond = -(x.shape[2] + 2 * layer.padding - layer.kernel) % layer.stride
                x = F.pad(x, (0, beyond, 0, beyond)) if layer.ceil else x
                x = F.conv2d(
                    x,
                    torch.from_numpy(kernel).permute(3, 2, 0, 1),
                    torch.from_numpy(weights.arrays[f"{layer.name}.bias"]),
                    layer.stride,
                    layer.padding,
                    groups=layer.groups,
                )
            case ReLU():
                x = F.relu(x)
            case Tanh():
                x = F.tanh(x)
            case SpatialLRN():  # by a convolution of ones with each map
                ones = torch.ones(x.shape[1], 1, layer.size, layer.size)
                sums = F.conv2d(x * x, ones, padding=layer.size // 2, groups=x.shape[1])
                x = x / (layer.k + layer.alpha / layer.size**2 * sums) ** layer.beta
            case LRN():
                parts = x.chunk(layer.groups, 1)
                rule = (layer.size, layer.alpha, layer.beta, layer.k)
                x = torch.cat([F.local_response_norm(part, *rule) for part in parts], 1)
            case BatchNorm():
                own = [
                    torch.from_numpy(weights.arrays[f"{layer.name}.{part}"])
                    for part in ("mean", "variance")
                ]
                x = F.batch_norm(x, *own, eps=layer.epsilon)
            case MaxPool():
                x = F.max_pool2d(x, layer.window, layer.stride, ceil_mode=layer.ceil)
            case AvgPool():
                x = F.avg_pool2d(x, layer.window, layer.stride, ceil_mode=layer.ceil)
            case Dropout(rate, inverted=False):
                x = x * (1 - rate)
            case AdaptiveAvgPool():
                x = F.adaptive_avg_pool2d(x, layer.size)
            case Flatten():
                x = x.permute(0, 2, 3, 1).flatten(1)
            case Dense():
                kernel = np.ascontiguousarray(weights.arrays[f"{layer.name}.kernel"])
                x = x @ torch.from_numpy(kernel)
                x = x + torch.from_numpy(weights.arrays[f"{layer.name}.bias"])
    return x.numpy()


def images(spec: Spec, seed: int = 1, count: int = 2) -> np.ndarray:
    """Random NHWC images, normalised."""
    shape = (count, spec.image_size, spec.image_size, spec.channels)
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def close(one: np.ndarray, other: np.ndarray) -> None:
    """Assert equal logits, to rounding: 1e-5 of their spread."""
    assert np.abs(one - other).max() < 1e-5 * one.std()


def caffe_layout(weights: Weights) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Layer to (kernel, bias) as Caffe has them: OIHW, (out, in) with C, H, W columns, B, G, R.

    Written out index by index, apart from the package's own way.
    """
    layers = {}
    for row in learned(weights.spec):
        kernel, bias = (weights.arrays[f"{row.name}.{part}"] for part in ("kernel", "bias"))
        if kernel.ndim == 4:
            kernel = np.einsum("hwio->oihw", kernel)
            if row.name == "conv1":
                kernel = kernel[:, [2, 1, 0]]
        elif row.name == "fc6":
            side = round((kernel.shape[0] / weights.arrays["conv5.bias"].size) ** 0.5)
            cube = kernel.reshape(side, side, -1, kernel.shape[1])
            kernel = np.einsum("hwco->ochw", cube).reshape(kernel.shape[1], -1)
        else:
            kernel = kernel.T
        layers[row.name] = (np.ascontiguousarray(kernel), bias)
    return layers


def zip_offsets(data: bytes) -> int:
    """Where a zip file's directory begins."""
    return struct.unpack_from("<I", data, data.rfind(b"PK\5\6") + 16)[0]


def view(data: bytes) -> memoryview:
    return memoryview(bytearray(data))


def within(times: float, read, size: int) -> None:
    """Read, and hold Python's own memory against a file's size; 8 MB are for tiny ones."""
    tracemalloc.start()
    try:
        read()
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        print(f"{peak / 1e6:.1f} MB at the peak, for a file of {size / 1e6:.2f} MB")
        assert peak < times * size + 8e6
