import json
import warnings
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper

from alexnet.errors import UserError
from alexnet.layers import BatchNorm
from alexnet.spec import VARIANTS
from alexnet.weights import detect, load, save

from . import makers
from .helpers import (
    CLASSES,
    close,
    forward,
    images,
    load_data,
    narrow,
    random_weights,
    same,
    written,
)
from .test_torch_files import narrow_model

SIZES = [(name, None) for name in VARIANTS]
# torchvision's pooling with bins that are equal (13 -> 6 is not), that overlap, and of one pixel
SIZES += [("torchvision", 448), ("torchvision", 256), ("torchvision", 64), ("caffe", 226)]


def run(data: bytes, x: np.ndarray) -> np.ndarray:
    """Logits by ONNX Runtime for NHWC images."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(bytes(data), options)
    x = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    return session.run(None, {session.get_inputs()[0].name: x})[0]


@pytest.mark.parametrize(("name", "size"), SIZES)
def test_what_is_written_runs_and_is_read_again(name, size, tmp_path):
    weights = narrow(name, image_size=size)
    save(tmp_path / "a.onnx", weights)
    data = (tmp_path / "a.onnx").read_bytes()
    makers.check_onnx(data)
    x = images(weights.spec, count=3)
    close(run(data, x), forward(weights, x))
    assert detect(tmp_path / "a.onnx") == "onnx"
    read = load(tmp_path / "a.onnx")
    same(weights, read)
    assert (read.preprocess, read.class_names) == (weights.preprocess, weights.class_names)


def test_the_zoo(tmp_path):
    weights = narrow("onnx_zoo")
    data = makers.onnx_zoo(weights)
    (tmp_path / "a.onnx").write_bytes(data)
    assert detect(tmp_path / "a.onnx") == "onnx"
    read = load(tmp_path / "a.onnx")
    same(weights, read)
    assert read.preprocess.protocol.crop == 224
    x = images(read.spec, count=1)
    logits = forward(read, x)
    probabilities = np.exp(logits) / np.exp(logits).sum()
    assert np.abs(run(data, x[..., ::-1]) - probabilities).max() < 1e-5


def test_the_zoo_before_initializers_left_the_inputs():
    def edit(model):
        for tensor in model.graph.initializer:
            value = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            model.graph.input.append(value)
            if tensor.data_type == onnx.TensorProto.FLOAT:  # numbers in the list, not as raw bytes
                values = numpy_helper.to_array(tensor).reshape(-1).tolist()
                tensor.ClearField("raw_data")
                tensor.float_data.extend(values)

    weights = narrow("onnx_zoo")
    same(weights, load_data(view(makers.onnx_zoo(weights, edit)), "onnx", "w"))


def test_a_batch_norm_with_scale_and_shift():
    """Those of one and zero too, which a network without them has in its file as well."""
    spec = narrow("bn").spec
    layers = [replace(x, affine=True) if isinstance(x, BatchNorm) else x for x in spec]
    weights = random_weights(replace(spec, name="own", layers=tuple(layers)))
    same(weights, load_data(written(weights, "onnx"), "onnx", "w"))
    for name, array in weights.arrays.items():
        if name.endswith((".scale", ".shift")):
            array[:] = name.endswith(".scale")
    same(weights, load_data(written(weights, "onnx"), "onnx", "w"))


def view(data: bytes) -> memoryview:
    return memoryview(bytearray(data))


def test_torch_exports(tmp_path):
    weights = narrow("torchvision")
    net = narrow_model(weights)
    x = images(weights.spec, count=1)
    nchw = torch.from_numpy(x).permute(0, 3, 1, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net, (nchw,), tmp_path / "a.onnx", dynamo=False)
    read = load(tmp_path / "a.onnx")
    assert read.spec.name == "torchvision"
    assert read.spec.num_classes == CLASSES
    with torch.no_grad():
        close(forward(read, x), net(nchw).numpy())


def _tensor(model, name):
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def _attribute(model, op, name, value, which=0):
    node = [node for node in model.graph.node if node.op_type == op][which]
    for attribute in list(node.attribute):
        if attribute.name == name:
            node.attribute.remove(attribute)
    node.attribute.append(helper.make_attribute(name, value))


def _external(model):
    tensor = _tensor(model, "conv1_w_0")
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"


def _circle(model):
    model.graph.node[3].output[0] = "data_0"


def _branch(model):
    model.graph.node.append(helper.make_node("Relu", ["t0"], ["side"]))


def _int8(model):
    tensor = _tensor(model, "fc8_b_0")
    tensor.CopyFrom(numpy_helper.from_array(np.zeros(CLASSES, "i1"), "fc8_b_0"))


def _misshapen(model):
    array = numpy_helper.to_array(_tensor(model, "conv3_w_0"))
    _tensor(model, "conv3_w_0").CopyFrom(numpy_helper.from_array(array[:, :2], "conv3_w_0"))


def _left_over(model):
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(2, "f4"), "left over"))
    value = numpy_helper.from_array(np.zeros(2, "f4"))
    model.graph.node.append(helper.make_node("Constant", [], ["computed"], value=value))


def _huge(model):
    del _tensor(model, "conv1_w_0").dims[:]
    _tensor(model, "conv1_w_0").dims.extend([1 << 60, 1 << 60])


OFF = "what reaches its {} is off by"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_external, "in '/etc/passwd', and only a file in the same folder"),
        (_circle, "two operators of it make 'data_0'"),
        (_branch, "divides: nothing needs what 'Relu' makes"),
        (_int8, "neither floats nor int64"),
        (_huge, "not its size"),
        (_misshapen, "its conv3 has a kernel of 8x2x3x3 in 1 groups and 8 biases for an image of"),
        (_left_over, "unexpected left over, computed"),
        (lambda m: _attribute(m, "LRN", "alpha", 2e-5), OFF.format("conv2")),
        (lambda m: _attribute(m, "LRN", "alpha", 1.001e-4), OFF.format("conv2")),
        (lambda m: _attribute(m, "LRN", "beta", 0.751, 1), OFF.format("conv3")),
        (lambda m: _attribute(m, "LRN", "bias", 2.0), OFF.format("conv2")),
        (lambda m: _attribute(m, "Conv", "auto_pad", "SAME_UPPER"), "padded by a rule"),
        (lambda m: _attribute(m, "Conv", "dilations", [2, 2]), "dilated"),
        (lambda m: _attribute(m, "Conv", "pads", [2, 2, 2, 2]), OFF.format("conv2")),
        (lambda m: _attribute(m, "Conv", "strides", [4, 3]), "'Reshape' can't be run"),
        (lambda m: _attribute(m, "MaxPool", "pads", [1, 1, 1, 1]), OFF.format("conv2")),
        (lambda m: _attribute(m, "MaxPool", "pads", [1, 1, 0, 0], 2), OFF.format("fc6")),
        (lambda m: _attribute(m, "Gemm", "alpha", 0.5), OFF.format("fc7")),
        (lambda m: _attribute(m, "Gemm", "beta", 0.5, 2), "what comes out is off by"),
        (lambda m: _attribute(m, "Gemm", "transA", 1), "transposes the image"),
        (lambda m: _attribute(m, "Softmax", "axis", 0), "softmax is not over classes"),
        (lambda m: _attribute(m, "Relu", "x", 1, 0) or setattr(m.graph.node[1], "op_type", "Elu"),
         "'Elu', which AlexNet lacks"),
        (lambda m: setattr(m.graph.node[1], "op_type", "Softmax"), OFF.format("conv2")),
        (lambda m: setattr(m.graph.node[1], "op_type", "Identity"), OFF.format("conv2")),
        (lambda m: setattr(m.graph.node[1], "domain", "custom"), "'Relu', which AlexNet lacks"),
        (lambda m: m.graph.input.append(m.graph.input[0]), "it has 2 inputs"),
        (lambda m: m.graph.ClearField("initializer"), "not in the file"),
        (lambda m: m.ClearField("graph"), "no graph"),
    ],
)  # fmt: skip
def test_other_graphs_are_refused(edit, message):
    with pytest.raises(UserError, match=message):
        load_data(view(makers.onnx_zoo(narrow("onnx_zoo"), edit)), "onnx", "w")


def test_ceil_mode_is_the_same_as_padding():
    def edit(model):
        _attribute(model, "MaxPool", "pads", [0, 0, 0, 0], 2)
        _attribute(model, "MaxPool", "ceil_mode", 1, 2)

    weights = narrow("onnx_zoo")
    same(weights, load_data(view(makers.onnx_zoo(weights, edit)), "onnx", "w"))

    def floor(model):
        edit(model)
        _attribute(model, "MaxPool", "ceil_mode", 0, 2)

    with pytest.raises(UserError, match="'Reshape' can't be run: cannot reshape array of size 100"):
        load_data(view(makers.onnx_zoo(weights, floor)), "onnx", "w")


def test_metadata_is_checked():
    data = bytes(written(narrow("paper"), "onnx"))
    bad = data.replace(b'"crop": 227', b'"crop": "2"')
    with pytest.raises(UserError, match="preprocessing"):
        load_data(view(bad), "onnx", "w")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("class_names", value) for value in ("abcdefg", 1, [1], ["\ud800"], {"a": 1})),
        *(("mean_image", value) for value in (None, 1, "false", [])),
        *(("spec", value) for value in (None, 1, [])),
        *(("preprocess", value) for value in (None, 1, {})),
    ],
)
def test_metadata_of_a_wrong_type_is_refused(field, value):
    model = onnx.load_from_string(bytes(written(narrow("torchvision"), "onnx")))
    own = json.loads(model.metadata_props[0].value)
    model.metadata_props[0].value = json.dumps(own | {field: value})
    with pytest.raises(UserError):
        load_data(view(model.SerializeToString()), "onnx", "w")


def test_metadata_nested_deeply_is_refused():
    model = onnx.load_from_string(bytes(written(narrow("torchvision"), "onnx")))
    model.metadata_props[0].value = "[" * 100_000
    with pytest.raises(UserError, match="its own description"):
        load_data(view(model.SerializeToString()), "onnx", "w")
