"""Files that other programs write: Caffe, MatConvNet, Deep Compression, Flax."""

import dataclasses
import io
import struct
import zlib

import flax.serialization
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.io
import torch
import torch.nn.functional as F

from alexnet.errors import UserError
from alexnet.spec import LRN, VARIANTS, Conv, Dense, MaxPool, ReLU, variant
from alexnet.weights import detect, load, matfile, save
from alexnet.weights.assemble import CAFFE_MEAN, complete
from alexnet.weights.deep_compression import read as read_deep_compression
from alexnet.weights.formats import load_data

from . import makers
from .helpers import caffe_layout, close, forward, images, narrow, random_weights, same, written


def view(data: bytes) -> memoryview:
    return memoryview(bytearray(data))


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


# --- Caffe -----------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("name", ["caffe", "caffenet"])
def test_caffe(name, version, tmp_path):
    weights = narrow(name)
    path = tmp_path / "a.caffemodel"
    path.write_bytes(makers.caffemodel(weights, version))
    assert detect(path) == "caffe"
    read = load(path)
    same(weights, read)
    wanted = ("warp", 256, 227, "RGB", CAFFE_MEAN, (1.0, 1.0, 1.0))
    assert dataclasses.astuple(read.preprocess) == wanted
    assert not read.mean_image


def test_caffe_at_another_crop():
    weights = narrow("caffe", image_size=224)
    same(weights, load_data(view(makers.caffemodel(weights)), "caffe", "w"))


def test_caffe_preprocessing_is_carried():
    def edit(net, layers):
        layers[0].transform.mean_value.extend([1.0, 2.0, 3.0])  # B, G, R
        layers[0].transform.scale = 0.25

    read = load_data(view(makers.caffemodel(narrow("caffe"), edit=edit)), "caffe", "w")
    assert read.preprocess.mean == (3.0, 2.0, 1.0)
    assert read.preprocess.std == (4.0, 4.0, 4.0)
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
        (_set((3, "lrn", "norm_region"), 1), "normalises within channels"),
        (_set((4, "pooling", "stride"), 1), "step 4 is '3x3 max pool, stride 1"),
        (_set((4, "pooling", "pool"), 1), "not AlexNet's max pooling"),
        (_set((5, "convolution", "group"), 1), r"step 5 .*groups 1.*groups 2"),
        (_set((2, "type"), "Sigmoid"), "'Sigmoid', which AlexNet lacks"),
        (_set((2, "type"), "BatchNorm"), "'BatchNorm', which AlexNet lacks"),
        (_pop(3), "nearest is 'caffenet', but step 4 is '5x5 convolution"),
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
        deep = b"\x12" + makers.varint(len(deep)) + deep
        if len(deep) > 200_000:
            break
    for data in (deep, b"\x12\xff\xff\xff\xff\x0f", b"\x12" + b"\xff" * 20, b"\x0b\x0b", b"\x08"):
        for format in ("caffe", "onnx"):
            with pytest.raises(UserError):
                load_data(view(data), format, "w")


def test_many_tiny_protobuf_fields():
    with pytest.raises(UserError, match="too many fields"):
        load_data(view(b"\x08\x01" * 200_000), "caffe", "w")


# --- MatConvNet ------------------------------------------------------------------------------


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("name", ["caffe", "caffenet"])
def test_matconvnet(name, compressed, tmp_path):
    weights = narrow(name)
    path = tmp_path / "imagenet-caffe-alex.mat"
    path.write_bytes(makers.matconvnet(weights, compressed))
    assert detect(path) == "matconvnet"
    read = load(path)
    same(weights, read)
    assert read.class_names == weights.class_names
    assert read.mean_image
    assert read.preprocess.resize_rule == "warp"
    assert all(109 < mean < 111 for mean in read.preprocess.mean)


def test_matconvnet_with_a_mean_colour():
    read = load_data(view(makers.matconvnet(narrow("caffe"), mean="value")), "matconvnet", "w")
    assert not read.mean_image
    assert read.preprocess.mean == (123.0, 117.0, 104.0)


def test_matconvnet_with_a_softmax_inside():
    data = makers.matconvnet(narrow("caffe"), edit=lambda layers: layers[1].update(type="softmax"))
    with pytest.raises(UserError, match="it goes on after its softmax, with 'lrn3'"):
        load_data(view(data), "matconvnet", "w")


def test_matlab_73_is_refused(tmp_path):
    (tmp_path / "a.mat").write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(400))
    with pytest.raises(UserError, match=r"7\.3 is HDF5"):
        load(tmp_path / "a.mat")
    (tmp_path / "a.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(600))
    with pytest.raises(UserError, match="HDF5"):
        load(tmp_path / "a.h5")


@pytest.mark.parametrize("zeros", [3 << 20, (3 << 20) + 12345])
def test_matlab_variables_that_compress_well(zeros):
    """The unpacked end of a variable can still be to come when all of its bytes have been read."""
    data = io.BytesIO()
    scipy.io.savemat(data, {"a": np.zeros(zeros, "u1"), "b": np.arange(5.0)}, do_compression=True)
    data.seek(0)
    variables = matfile.read(data)
    assert variables["a"].shape == (1, zeros)
    assert not variables["a"].any()
    np.testing.assert_array_equal(variables["b"], [[0, 1, 2, 3, 4]])


def test_matlab_compression_that_is_damaged():
    data = makers.matconvnet(narrow("caffe"), mean="value")
    size = struct.unpack_from("<I", data, 132)[0]
    checksum = bytearray(data)
    checksum[136 + size - 1] ^= 1
    with pytest.raises(UserError, match="can't be unpacked"):
        load_data(view(bytes(checksum)), "matconvnet", "w")
    short = data[:132] + struct.pack("<I", size - 2) + data[136 : 136 + size - 2]
    with pytest.raises(UserError, match="cut short"):
        load_data(view(short), "matconvnet", "w")
    for end in np.linspace(128, len(data) - 1, 40).astype(int):
        with pytest.raises(UserError):
            load_data(view(data[:end]), "matconvnet", "w")


def test_matlab_zip_bomb():
    bomb = zlib.compress(struct.pack("<2I", 14, 1 << 30) + bytes(200_000_000), 9)
    data = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"
    data += struct.pack("<2I", 15, len(bomb)) + bomb
    with pytest.raises(UserError, match="far more than its size"):
        load_data(view(data), "matconvnet", "w")


# --- Deep Compression ------------------------------------------------------------------------


def test_deep_compression():
    weights = narrow("caffe")
    for keep in (0.3, 0.02):  # the second needs bridges over gaps of more than 15
        data, layers = makers.deep_compression(weights, keep)
        found = read_deep_compression(view(data), weights.spec)
        read = complete(found, "w")
        for name, (kernel, bias) in caffe_layout(read).items():
            np.testing.assert_array_equal(kernel, layers[name][0])
            np.testing.assert_array_equal(bias, layers[name][1])


def test_deep_compression_is_told_by_its_size(tmp_path):
    data, _ = makers.deep_compression(narrow("caffe"))
    (tmp_path / "a.net").write_bytes(data)
    with pytest.raises(UserError, match="none of the formats"):
        detect(tmp_path / "a.net")  # narrow: not AlexNet's size
    from alexnet.weights.deep_compression import looks_like, size_of

    head = data[:32]
    assert looks_like(head, size_of(head, variant("caffe")))
    assert not looks_like(head, size_of(head, variant("caffe")) + 1)


# --- Flax ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VARIANTS)
def test_flax_round_trip(name, tmp_path):
    weights = narrow(name)
    save(tmp_path / "a.msgpack", weights)
    assert detect(tmp_path / "a.msgpack") == "flax"
    same(weights, load(tmp_path / "a.msgpack", variant=name))


def test_flax_reads_what_is_written_and_the_other_way():
    weights = narrow("torchvision")
    data = written(weights, "flax")
    tree = flax.serialization.msgpack_restore(bytes(data))
    assert set(tree) == {"params"}
    for name, array in weights.arrays.items():
        layer, part = name.split(".")
        np.testing.assert_array_equal(tree["params"][layer][part], array)
    for value in (tree, tree["params"]):
        moved = {k: {p: jnp.asarray(a) for p, a in v.items()} if "kernel" in v else v
                 for k, v in value.items()}  # fmt: skip
        again = flax.serialization.to_bytes(moved)
        same(weights, load_data(view(again), "flax", "w", variant="torchvision"))


def test_flax_problems_stand_in_one_error():
    weights = narrow("torchvision")
    tree = flax.serialization.msgpack_restore(bytes(written(weights, "flax")))
    del tree["params"]["conv1"]["bias"]
    tree["params"]["conv9"] = {"kernel": np.zeros(2, "f4")}
    tree["params"]["fc7"]["kernel"] = tree["params"]["fc7"]["kernel"].T.astype("f2")[1:]
    with pytest.raises(UserError) as error:
        load_data(view(flax.serialization.to_bytes(tree)), "flax", "w", variant="torchvision")
    for part in ("missing conv1.bias", "unexpected conv9.kernel", "fc7.kernel is", "float16"):
        assert part in str(error.value)


def test_flax_hostile():
    deep = b"\x81\xa6params" + b"\x91" * 5000
    for data in (
        deep,
        b"\x81\xa6params\xdf\xff\xff\xff\xff",
        b"\x81\xa6params\xc6\xff\xff\xff\xff",
    ):
        with pytest.raises(UserError):
            load_data(view(data), "flax", "w")


def test_ambiguous_widths_keep_their_layers():
    """A file holds features; the width found must give back the same ones."""
    for width in (1.0, 0.5, 0.3, 0.37, 1 / 3, 0.01):
        spec = variant("single", num_classes=3, width=width)
        if width == 1.0:
            continue  # 62 million numbers: the full size is for test_budget
        if width > 0.31:
            spec = variant("torchvision", num_classes=3, width=width / 4)
        weights = random_weights(spec)
        read = load_data(written(weights, "flax"), "flax", "w", variant=spec.name)
        assert read.spec.layers == spec.layers
