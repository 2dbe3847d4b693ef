"""ONNX files put together by hand: as torch's newer exporter writes them, and quantised ones."""

import itertools

import numpy as np
import onnx
import onnx.version_converter
import pytest
from onnx import helper, numpy_helper
from onnxruntime import quantization

from alexnet.errors import UserError
from alexnet.layers import variables
from alexnet.spec import VARIANTS
from alexnet.weights import load
from alexnet.weights.network import steps
from alexnet.weights.onnx_evaluate import run as run_graph
from alexnet.weights.onnx_graph import read_graph
from alexnet.weights.onnx_read import TOLERANCE, first_difference

from . import makers
from .helpers import forward, images, load_data, narrow, same, written
from .test_onnx import run, view
from .test_onnx_exports import strong_images


@pytest.mark.parametrize("name", ["single", "caffe", "caffenet", "onnx_zoo"])
def test_the_newer_exporter(name, tmp_path):
    weights = narrow(name)
    data = makers.onnx_dynamo(weights).SerializeToString()
    makers.check_onnx(data)
    x = strong_images(name)
    read = load_data(view(data), "onnx", "w")
    same(weights, read)
    expected = run(data, x)
    assert np.abs(forward(read, x) - expected).max() < 1e-4 * expected.std()


def _constants_as_ints(model):
    """With `optimize=False` shapes are pieced together from Constants of plain integers."""
    for tensor in list(model.graph.initializer):
        if tensor.data_type == onnx.TensorProto.INT64 and len(tensor.dims):
            model.graph.initializer.remove(tensor)
            parts = [f"{tensor.name}_{i}" for i in range(tensor.dims[0])]
            numbers = numpy_helper.to_array(tensor).tolist()
            model.graph.node.insert(0, helper.make_node("Concat", parts, [tensor.name], axis=0))
            for part, number in zip(parts, numbers, strict=True):
                node = helper.make_node("Constant", [], [part], value_ints=[number])
                model.graph.node.insert(0, node)


def test_the_newer_exporter_without_optimising():
    weights = narrow("single")
    data = makers.onnx_dynamo(weights, _constants_as_ints).SerializeToString()
    makers.check_onnx(data)
    same(weights, load_data(view(data), "onnx", "w"))


def _reshape_to(numbers, allowzero):
    def edit(model):
        node = [node for node in model.graph.node if node.op_type == "Reshape"][-1]
        model.graph.initializer.append(numpy_helper.from_array(np.array(numbers, "i8"), "to"))
        node.input[1] = "to"
        node.attribute[0].i = allowzero

    return edit


@pytest.mark.parametrize(
    ("numbers", "allowzero", "message"),
    [
        ([0, -1], 0, ""),
        ([1, -1], 0, ""),  # any batch is declared, and one image is what it is made for
        ([0, -1], 1, "its 'Reshape' can't be run"),
        ([-1, 5], 0, "its 'Reshape' can't be run"),
        ([-1, -1], 0, "its 'Reshape' can't be run"),
        ([-1, 4, 36], 0, "its fc6 takes 1x4x36 numbers, which are not flattened"),
    ],
)
def test_flattening(numbers, allowzero, message):
    weights = narrow("single")
    data = makers.onnx_dynamo(weights, _reshape_to(numbers, allowzero)).SerializeToString()
    if message:
        with pytest.raises(UserError, match=message):
            load_data(view(data), "onnx", "w")
    else:
        same(weights, load_data(view(data), "onnx", "w"))


@pytest.mark.parametrize(
    ("sizes", "message"), [([1], ""), ([2], "what reaches its conv2 is off by")]
)
def test_if(sizes, message):
    """The older exporter asks for a size that it could know: the branch taken is the true one."""

    def edit(model):
        nodes = model.graph.node
        place, squeeze = next((i, n) for i, n in enumerate(nodes) if n.op_type == "Squeeze")
        outputs = [helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, None)]
        axes = squeeze.input[1]
        one = [helper.make_node("Squeeze", [squeeze.input[0], axes], ["out"])]
        two = [
            helper.make_node("Squeeze", [squeeze.input[0], axes], ["once"]),
            helper.make_node("Add", ["once", "once"], ["out"]),
        ]
        branches = {
            "then_branch": helper.make_graph(one, "then", [], outputs),
            "else_branch": helper.make_graph(two, "else", [], outputs),
        }
        tensors = {"sizes": sizes, "ones": [1]}
        for name, values in tensors.items():
            tensor = numpy_helper.from_array(np.array(values, "i8"), name)
            model.graph.initializer.append(tensor)
        nodes[place].CopyFrom(helper.make_node("If", ["equal"], squeeze.output, **branches))
        nodes.insert(0, helper.make_node("Equal", ["sizes", "ones"], ["equal"]))

    weights = narrow("single")
    data = makers.onnx_dynamo(weights, edit).SerializeToString()
    if message:
        with pytest.raises(UserError, match=message):
            load_data(view(data), "onnx", "w")
    else:
        same(weights, load_data(view(data), "onnx", "w"))


@pytest.fixture
def two_files(tmp_path):
    """The newer exporter's way with large nets: weights in a second file."""
    weights = narrow("single")
    onnx.save_model(
        makers.onnx_dynamo(weights), tmp_path / "a.onnx", save_as_external_data=True,
        location="a.onnx.data", size_threshold=200,
    )  # fmt: skip
    assert (tmp_path / "a.onnx").stat().st_size < 20_000
    return weights, tmp_path / "a.onnx"


def test_weights_in_a_second_file(two_files):
    weights, path = two_files
    same(weights, load(path))


def _entries(model, key, change):
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == key:
                entry.value = change(entry.value)


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("location", lambda _: "/etc/passwd", "only a file in the same folder"),
        ("location", lambda name: f"../{name}", "only a file in the same folder"),
        ("location", lambda name: f"sub/{name}", "only a file in the same folder"),
        ("location", lambda name: f"sub\\{name}", "only a file in the same folder"),
        ("location", lambda _: "..", "only a file in the same folder"),
        ("location", lambda _: "", "only a file in the same folder"),
        ("location", lambda _: "missing", "can't read .*missing"),
        ("location", lambda _: "folder", "can't read .*folder"),
        ("offset", lambda _: "0", "cut short, or not the one"),  # each byte counts once
        ("offset", lambda _: str(1 << 70), "cut short, or not the one"),
        ("offset", lambda _: "-8", "cut short, or not the one"),
        ("offset", lambda _: "x", "cut short, or not the one"),
        ("offset", lambda _: "9" * 5000, "cut short, or not the one"),
        ("length", lambda _: "x", "cut short, or not the one"),
    ],
)
def test_second_files_that_are_not_read(two_files, key, change, message):
    _, path = two_files
    (path.parent / "folder").mkdir()
    model = onnx.load(path, load_external_data=False)
    _entries(model, key, change)
    if key == "offset" and change("") == "0":  # one array's place for many arrays
        (path.parent / "a.onnx.data").write_bytes(bytes(40_000))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match=message):
        load(path)


def test_a_second_file_that_is_cut_short(two_files):
    _, path = two_files
    data = path.with_name("a.onnx.data")
    data.write_bytes(data.read_bytes()[:-4])
    with pytest.raises(UserError, match=r"a\.onnx\.data is cut short"):
        load(path)
    with pytest.raises(UserError, match="only a file in the same folder"):
        load_data(view(path.read_bytes()), "onnx", "w")


# --- quantised files -------------------------------------------------------------------------


class _Images(quantization.CalibrationDataReader):
    def __init__(self, x):
        self.left = iter([{"data_0": np.ascontiguousarray(x.transpose(0, 3, 1, 2))}])

    def get_next(self):
        return next(self.left, None)


@pytest.mark.parametrize("form", ["QOperator", "QDQ"])
def test_the_zoos_quantised_files(form, tmp_path):
    """bvlcalexnet-12-int8 and -12-qdq, by the tool that made them."""
    data = makers.onnx_zoo(narrow("onnx_zoo"))
    model = onnx.version_converter.convert_version(onnx.load_from_string(data), 12)
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    x = images(narrow("onnx_zoo").spec, count=1)
    quantization.quantize_static(
        tmp_path / "a.onnx", tmp_path / "b.onnx", _Images(x),
        quant_format=quantization.QuantFormat[form],
    )  # fmt: skip
    same(load(tmp_path / "a.onnx"), narrow("onnx_zoo"))
    with pytest.raises(UserError, match=r"quantized to 8 bits.*bvlcalexnet-12\.onnx"):
        load(tmp_path / "b.onnx")


def test_evaluating_shapes_is_bounded():
    """Chains that double, loops of nodes, and Ifs do not take time or memory."""

    def edit(model):
        names = [f"n{i}" for i in range(2000)]
        seed = numpy_helper.from_array(np.ones(2, "i8"), "n0")
        model.graph.initializer.append(seed)
        for one, other in itertools.pairwise(names):
            model.graph.node.append(helper.make_node("Concat", [one, one], [other], axis=0))
        model.graph.node.append(helper.make_node("Add", ["loop", "n0"], ["loop"]))
        size = numpy_helper.from_array(np.array([1 << 40], "i8"), "size")
        model.graph.initializer.append(size)
        model.graph.node.append(helper.make_node("ConstantOfShape", ["size"], ["huge"]))

    weights = narrow("single")
    same(
        weights, load_data(view(makers.onnx_dynamo(weights, edit).SerializeToString()), "onnx", "w")
    )


# --- other ways to write the same ------------------------------------------------------------


def _as_products(model):
    """Dense layers as a product with a transposed kernel and a sum, and Identity around both."""
    for place, node in reversed(list(enumerate(model.graph.node))):
        if node.op_type == "Gemm":
            x, kernel, bias = node.input
            parts = [
                helper.make_node("Identity", [kernel], [f"{kernel}_same"]),
                helper.make_node("Transpose", [f"{kernel}_same"], [f"{kernel}_t"], perm=[1, 0]),
                helper.make_node("MatMul", [x, f"{kernel}_t"], [f"{kernel}_x"]),
                helper.make_node("Add", [bias, f"{kernel}_x"], node.output),
            ]
            model.graph.node.remove(node)
            for part in reversed(parts):
                model.graph.node.insert(place, part)


def _weights_in_constants(model):
    for tensor in list(model.graph.initializer):
        if tensor.name.endswith((".weight", ".bias")):
            node = helper.make_node("Constant", [], [tensor.name], value=tensor)
            model.graph.initializer.remove(tensor)
            model.graph.node.insert(0, node)


@pytest.mark.parametrize("edit", [_as_products, _weights_in_constants])
def test_weights_in_other_places(edit):
    weights = narrow("single", width=1 / 16)  # some of them larger than operators are
    data = makers.onnx_dynamo(weights, edit).SerializeToString()
    same(weights, load_data(view(data), "onnx", "w"))


def test_a_product_without_its_bias():
    def edit(model):
        _as_products(model)
        add = next(
            node for node in model.graph.node if node.op_type == "Add" and "fc6" in node.input[0]
        )
        add.op_type = "Sub"

    data = makers.onnx_dynamo(narrow("single"), edit).SerializeToString()
    with pytest.raises(UserError, match=r"missing fc6\.bias|off by"):
        load_data(view(data), "onnx", "w")


def _opset_3(model):
    """bvlcalexnet-3.onnx: shapes and modes are attributes."""
    model.opset_import[0].version = 3
    for node in model.graph.node:
        if node.op_type == "Reshape":
            name = node.input.pop()
            shape = next(t for t in model.graph.initializer if t.name == name)
            model.graph.initializer.remove(shape)
            numbers = numpy_helper.to_array(shape).tolist()
            node.attribute.append(helper.make_attribute("shape", numbers))
        if node.op_type == "Gemm":
            node.attribute.append(helper.make_attribute("broadcast", 1))
        if node.op_type == "Dropout":
            node.attribute.append(helper.make_attribute("is_test", 1))
            node.output.append(f"{node.output[0]}_mask")


def test_the_zoos_oldest_file():
    weights = narrow("onnx_zoo")
    same(weights, load_data(view(makers.onnx_zoo(weights, _opset_3)), "onnx", "w"))


def test_a_batch_that_cannot_be_another():
    """Made for three images, and with that number in it."""

    def edit(model):
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3
        _reshape_to([3, 144], 0)(model)

    weights = narrow("single")
    data = makers.onnx_dynamo(weights, edit).SerializeToString()
    same(weights, load_data(view(data), "onnx", "w"))


# --- what is told apart ----------------------------------------------------------------------


def shapes(spec):
    return {name: variable.shape for name, variable in variables(spec).items()}


@pytest.mark.parametrize("size", [224, 227])
@pytest.mark.parametrize("name", VARIANTS)
def test_no_two_variants_pass_for_each_other(name, size):
    """A graph has a variant's numbers, or is far from them: nothing lies near the bound."""
    weights = narrow(name, image_size=size)
    found, _ = run_graph(read_graph(written(weights, "onnx"), None), 1)
    for other in VARIANTS:
        spec = narrow(other, image_size=size).spec
        if shapes(spec) == shapes(weights.spec):
            same_steps = steps(spec) == steps(weights.spec)
            parted = first_difference(spec, found)
            assert (parted is None) == same_steps
            assert parted is None or -parted[1] > 1000 * TOLERANCE
