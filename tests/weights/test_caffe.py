"""Caffe's models: `.caffemodel`."""

import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from alexnet.errors import UserError
from alexnet.layers import (
    LRN,
    Conv,
    Dense,
    MaxPool,
    ReLU,
)
from alexnet.preprocess import EvalProtocol, Normalize, Preprocess
from alexnet.weights import detect, load
from alexnet.weights.assemble import CAFFE_MEAN

from . import makers
from .helpers import (
    caffe_layout,
    close,
    forward,
    images,
    load_data,
    narrow,
    same,
    view,
    within,
)


def caffe_forward(weights, bgr: np.ndarray) -> np.ndarray:
    """Caffe's own way: NCHW throughout, B, G, R inputs, columns of fc6 in C, H, W order."""
    x = torch.from_numpy(bgr)
    layers = {k: tuple(map(torch.from_numpy, v)) for k, v in caffe_layout(weights).items()}
    for item in weights.spec:
        match item:
            case Conv():
                x = F.conv2d(x, *layers[item.name], item.stride, item.padding, groups=item.groups)
            case ReLU():
                x = x.clamp(min=0)
            case LRN():
                x = F.local_response_norm(x, item.size, item.alpha, item.beta, item.k)
            case MaxPool():
                x = F.max_pool2d(x, 3, 2, ceil_mode=True)
            case Dense():
                x = F.linear(x.flatten(1), *layers[item.name])
    return x.numpy()


def test_the_layouts_compute_what_caffe_computes():
    """The one test that ties `caffe_layout`, which the makers use, to canonical weights."""
    for name in ("caffe", "caffenet"):
        weights = narrow(name)
        rgb = images(weights.spec)
        bgr = np.ascontiguousarray(rgb[..., ::-1].transpose(0, 3, 1, 2))
        close(forward(weights, rgb), caffe_forward(weights, bgr))


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("name", ["caffe", "caffenet"])
def test_caffe(name, version, tmp_path):
    weights = narrow(name)
    path = tmp_path / "a.caffemodel"
    path.write_bytes(makers.caffemodel(weights, version))
    assert detect(path) == "caffe"
    read = load(path)
    same(weights, read)
    wanted = Preprocess(
        Normalize(CAFFE_MEAN, (1.0, 1.0, 1.0), "RGB"), EvalProtocol("warp", 256, 227)
    )
    assert read.preprocess == wanted
    assert not read.mean_image


def test_caffe_at_another_crop():
    weights = narrow("caffe", image_size=224)
    same(weights, load_data(view(makers.caffemodel(weights)), "caffe", "w"))


def test_caffe_preprocessing_is_carried():
    def edit(net, layers):
        layers[0].transform.mean_value.extend([1.0, 2.0, 3.0])  # B, G, R
        layers[0].transform.scale = 0.25

    read = load_data(view(makers.caffemodel(narrow("caffe"), edit=edit)), "caffe", "w")
    assert read.preprocess.normalize.mean == (3.0, 2.0, 1.0)
    assert read.preprocess.normalize.std == (4.0, 4.0, 4.0)
    data = makers.caffemodel(narrow("caffe"), mean_file="data/imagenet_mean.binaryproto")
    assert load_data(view(data), "caffe", "w").mean_image


def _set(path, value):
    def edit(net, layers):
        index, *names, last = path
        part = layers[index]
        for name in names:
            part = getattr(part, name)
        setattr(part, last, value)

    return edit


def _pop(index):
    return lambda net, layers: layers.pop(index)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_set((3, "lrn", "k"), 2.0), r"nearest is 'caffe', but step 3 is 'LRN .* k 2,.*has.* k 1,"),
        (_set((3, "lrn", "alpha"), 5e-4), "step 3 is 'LRN of 5, 0.0005"),
        (_set((3, "lrn", "norm_region"), 1), "normalizes within channels"),
        (_set((4, "pooling", "stride"), 1), "step 4 is '3x3 max pool, stride 1"),
        (_set((4, "pooling", "pool"), 1), "not AlexNet's max pooling"),
        (_set((5, "convolution", "group"), 1), r"step 5 .*groups 1.*groups 2"),
        (_set((2, "type"), "Sigmoid"), "'Sigmoid', which AlexNet lacks"),
        (_set((2, "type"), "BatchNorm"), "'BatchNorm', which AlexNet lacks"),
        (_pop(3), "nearest is 'bn', but step 4 is '5x5 convolution"),
        (_pop(-2), "nearest is 'caffe', but step"),
        (_set((2, "type"), "Softmax"), "it goes on after its softmax, with 'lrn3'"),
        (_set((1, "name"), "conv0"), "missing conv1.kernel, conv1.bias; unexpected conv0"),
    ],
)
def test_another_network_is_refused_with_the_first_difference(edit, message):
    with pytest.raises(UserError, match=message):
        load_data(view(makers.caffemodel(narrow("caffe"), edit=edit)), "caffe", "w")


def test_caffe_problems_stand_in_one_error():
    def edit(net, layers):
        del layers[1].blobs[1]
        conv3 = next(layer for layer in layers if layer.name == "conv3").blobs[0]
        conv3.shape.dim[0] //= 2
        conv3.shape.dim[1] *= 2

    with pytest.raises(UserError) as error:
        load_data(view(makers.caffemodel(narrow("caffe"), edit=edit)), "caffe", "w")
    assert "missing conv1.bias" in str(error.value)
    assert "conv3.kernel (conv3 kernel) is 3x3x8x4, not 3x3x4x8" in str(error.value)


def test_caffe_shape_that_is_not_its_size():
    def edit(net, layers):
        layers[1].blobs[0].shape.dim[0] = 1 << 60

    with pytest.raises(UserError, match="the shape of layer 'conv1' is not its size"):
        load_data(view(makers.caffemodel(narrow("caffe"), edit=edit)), "caffe", "w")


def test_caffe_read_as_another_variant():
    data = view(makers.caffemodel(narrow("caffe")))
    with pytest.raises(UserError, match="its network is 'caffe', not 'caffenet': step 3"):
        load_data(data, "caffe", "w", variant="caffenet")


def test_deep_and_endless_protobuf():
    deep = b""
    for _ in range(20_000):
        deep = b"\x12" + _varint(len(deep)) + deep
        if len(deep) > 200_000:
            break
    for data in (deep, b"\x12\xff\xff\xff\xff\x0f", b"\x12" + b"\xff" * 20, b"\x0b\x0b", b"\x08"):
        for format in ("caffe", "onnx"):
            with pytest.raises(UserError):
                load_data(view(data), format, "w")


def test_many_tiny_protobuf_fields():
    with pytest.raises(UserError, match="too many fields"):
        load_data(view(b"\x08\x01" * 200_000), "caffe", "w")


@pytest.mark.parametrize("number", [2, 100])
@pytest.mark.parametrize("count", [101, 900, 20_000])
def test_caffe_with_very_many_layers(number, count):
    """Each pooling's padding is told from all layers above it: 20,000 once took 47 s."""
    pooling = _field(1, b"p") + _field(2, b"Pooling") + _field(121, b"\x10\x01\x68\x01")
    start = time.process_time()
    with pytest.raises(UserError, match=r"no AlexNet has more than 100|too many fields"):
        load_data(view(_field(number, pooling) * count), "caffe", "w")
    assert time.process_time() - start < 0.5


def test_caffe_with_very_many_numbers():
    """A packed field of equal kernel sizes; a hundred layers of ten such fields took a minute."""
    sizes = b"".join(_field(number, b"\x03" * 90_000) for number in (3, 4, 6, 9, 10, 11, 12, 13))
    conv = _field(1, b"c") + _field(2, b"Convolution") + _field(106, sizes + b"\x08\x01")
    start = time.process_time()
    with pytest.raises(UserError, match="layer 'c' has too many parameters"):
        load_data(view(_field(100, conv) * 90), "caffe", "w")
    assert time.process_time() - start < 1


def test_caffe_with_very_many_empty_fields():
    """In the network, in layers, in their parts and blobs: a few bytes would become a hundred."""
    empty = b"\x12\x00" * 500_000
    several = _field(100, _field(2, b"Pooling") + b"\x12\x00" * 900) * 90
    for data in (
        empty,
        _field(100, empty),
        _field(100, _field(2, b"Pooling") + _field(121, empty)),
        _field(100, _field(1, b"conv1") + _field(7, empty)),
        several,
    ):
        with pytest.raises(UserError):
            within(3, lambda data=data: load_data(view(data), "caffe", "w"), len(data))


def _field(number: int, value: bytes) -> bytes:
    """A protobuf field that holds a message or a string."""
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])
