"""ONNX files made to take time, memory or a wrong turn: each is refused, and cheaply."""

import itertools
import os
import resource
import subprocess
import sys
import time

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from alexnet.errors import UserError
from alexnet.weights import load

from . import makers
from .helpers import load_data, narrow, same
from .test_onnx import view

WEIGHTS = narrow("single")


def _initializer(model, name, values):
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))


def _before_conv1(model, *nodes):
    """Put operators between the image `x` and the network; the last one makes `ready`."""
    model.graph.node[0].input[0] = "ready"
    for node in reversed(nodes):
        model.graph.node.insert(0, node)


def _chain(count, op="Identity", twice=False):
    def edit(model):
        names = ["x", *(f"n{i}" for i in range(count - 1)), "ready"]
        nodes = [helper.make_node(op, [a] * (1 + twice), [b]) for a, b in itertools.pairwise(names)]
        _before_conv1(model, *nodes)

    return edit


def _doubling(model):
    """A shape that 60 joins make 2^60 numbers of."""
    _initializer(model, "n0", np.ones(1, "i8"))
    joins = [helper.make_node("Concat", [f"n{i}"] * 2, [f"n{i + 1}"], axis=0) for i in range(60)]
    _before_conv1(model, *joins, helper.make_node("Reshape", ["x", "n60"], ["ready"]))


def _weights_of(shape):
    def edit(model):
        _initializer(model, "shape", np.array(shape, "i8"))
        gemm = next(node for node in model.graph.node if node.op_type == "Gemm")
        _initializer(model, "length", np.array(shape[:1], "i8"))
        for source, target in (("shape", "huge"), ("length", "bias")):
            model.graph.node.insert(0, helper.make_node("ConstantOfShape", [source], [target]))
        gemm.input[1:] = ["huge", "bias"]

    return edit


def _added(shape):
    """A constant of a few bytes that is as large as memory once it is added to."""

    def edit(model):
        _initializer(model, "shape", np.array(shape, "i8"))
        fill = helper.make_node("ConstantOfShape", ["shape"], ["huge"])
        _before_conv1(model, fill, helper.make_node("Add", ["x", "huge"], ["ready"]))

    return edit


def _one(op, *inputs, constants=None, outputs=("ready",), **attributes):
    """One operator on the image."""

    def edit(model):
        for name, values in (constants or {}).items():
            _initializer(model, name, values)
        _before_conv1(model, helper.make_node(op, inputs, outputs, **attributes))

    return edit


def _body(op="Relu"):
    return helper.make_graph(
        [helper.make_node(op, ["x"], ["inner"])], "body", [],
        [helper.make_tensor_value_info("inner", onnx.TensorProto.FLOAT, None)],
    )  # fmt: skip


def _nested(model):
    inner = helper.make_node("If", ["yes"], ["inner"], then_branch=_body(), else_branch=_body())
    outer = _body()
    outer.node[0].CopyFrom(inner)
    _initializer(model, "yes", np.array([1], "i8"))
    _before_conv1(
        model, helper.make_node("If", ["yes"], ["ready"], then_branch=outer, else_branch=outer)
    )


def _pad_channels(model):
    """A Pad of opset 18 along one axis by as much as there is memory."""
    _initializer(model, "pads", np.array([0, 1 << 40], "i8"))
    _initializer(model, "axes", np.array([1], "i8"))
    _before_conv1(model, helper.make_node("Pad", ["x", "pads", "", "axes"], ["ready"]))


MORE = "its graph makes more of the image than AlexNet does"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_chain(50_000), "too many fields|operators, more than AlexNet needs"),
        (_chain(4_900, "Add", twice=True), f"{MORE}|off by"),
        (_doubling, "can't be run|makes more"),
        (_weights_of([1 << 40, 144]), MORE),
        (_weights_of([1 << 20, 144]), MORE),
        (_added([1 << 8, 3, 227, 227]), MORE),
        (_added([1 << 62, 1 << 62]), "can't be run"),
        (_one("Pad", "x", "n", constants={"n": np.full(8, 1 << 40)}), MORE),
        (_one("Pad", "x", "n", constants={"n": np.full(8, -1)}), "'Pad' can't be run"),
        (_pad_channels, MORE),
        (_one("Split", "x", num_outputs=1 << 40, axis=1), "'Split' has an odd 'num_outputs'"),
        (_one("Gather", "x", "n", constants={"n": np.zeros((64, 64, 64), "i8")}), MORE),
        (_one("MatMul", "x", "n", constants={"n": np.zeros((227, 1 << 16), "f4")}), MORE),
        (_one("MaxPool", "x", kernel_shape=[200, 200], strides=[1, 1], pads=[199] * 4), MORE),
        (_one("MaxPool", "x", kernel_shape=[2, 2], pads=[1 << 40] * 4), MORE),
        (_one("AveragePool", "x", kernel_shape=[2, 2], strides=[0, 1]), "is damaged: strides"),
        (_one("LRN", "x", size=1 << 40), MORE),
        (_one("Cast", "x", to=8), "'Cast' can't be run"),  # to text
        (_one("Slice"), "'Slice' can't be run"),  # no input
        (_one("Relu", "nowhere"), "its 'nowhere' is not in the file"),
        (_one("Relu", "x", g=_body()), "'Relu' has an odd 'g'"),
        (_one("Loop", "", "", "x", body=_body()), "'Loop', which AlexNet lacks"),
        (_one("Scan", "x", body=_body(), num_scan_inputs=1), "'Scan', which AlexNet lacks"),
        (_one("If", "x", then_branch=_body(), else_branch=_body()), "looks at the image"),
        (_nested, "'If' within another"),
        (_one("Dropout", "x", "", "n", constants={"n": np.array(1)}), "drops units at random"),
        (_one("RandomNormalLike", "x"), "'RandomNormalLike', which AlexNet lacks"),
    ],
)  # fmt: skip
def test_what_takes_too_much_is_refused(edit, message):
    data = view(makers.onnx_dynamo(WEIGHTS, edit).SerializeToString())
    start, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=message) as error:
        load_data(data, "onnx", "w")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert time.process_time() - start < 3
    assert grown < 500
    assert len(str(error.value)) < 500
    assert str(error.value).isprintable()


def test_a_long_chain_within_the_bounds_is_read_in_time():
    data = view(makers.onnx_dynamo(WEIGHTS, _chain(600)).SerializeToString())
    start = time.process_time()
    same(WEIGHTS, load_data(data, "onnx", "w"))
    assert time.process_time() - start < 3


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("nodes", "too many fields"),
        ("tensors", "too many fields"),
        ("numbers", r"an operator of it takes 4,000,\d+ bytes"),
    ],
)
def test_many_tiny_fields(place, message):
    """What takes two bytes in the file takes a hundred as an object: there may not be many."""
    empty = {"nodes": b"\x0a\x00", "tensors": b"\x2a\x00"}.get(place)
    if empty:
        graph = empty * 2_000_000
    else:  # packed integers of an attribute, one byte each
        numbers = b"\x0a\x01a\x42" + makers.varint(4_000_000) + bytes(4_000_000)
        node = b"\x2a" + makers.varint(len(numbers)) + numbers
        graph = b"\x0a" + makers.varint(len(node)) + node
    data = view(b"\x08\x08\x3a" + makers.varint(len(graph)) + graph)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=message):
        load_data(data, "onnx", "w")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10


@pytest.fixture
def beside(tmp_path):
    """A model whose weights are in `a.onnx.data`."""
    onnx.save_model(
        makers.onnx_dynamo(WEIGHTS), tmp_path / "a.onnx", save_as_external_data=True,
        location="a.onnx.data", size_threshold=200,
    )  # fmt: skip
    return tmp_path / "a.onnx"


def test_a_second_file_that_is_a_link(beside):
    data = beside.with_name("a.onnx.data")
    data.rename(beside.with_name("elsewhere"))
    data.symlink_to("elsewhere")
    with pytest.raises(UserError, match=r"can't read .*a\.onnx\.data"):
        load(beside)


def test_a_second_file_that_is_a_fifo(beside):
    beside.with_name("a.onnx.data").unlink()
    os.mkfifo(beside.with_name("a.onnx.data"))
    with pytest.raises(UserError, match="not a regular file"):
        load(beside)


def test_a_second_file_of_another_length(beside):
    model = onnx.load(beside, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "length":
            entry.value = str(int(entry.value) - 4)
    beside.write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match="cut short, or not the one"):
        load(beside)


def test_the_package_is_needed_for_onnx_files_only(tmp_path):
    """Without it the rest works, and the error says what to install."""
    path = tmp_path / "a.onnx"
    path.write_bytes(makers.onnx_dynamo(WEIGHTS).SerializeToString())
    code = """
import sys
import alexnet.weights.onnx_read, alexnet.weights.onnx_write
from alexnet.weights import detect, load
assert "onnx" not in sys.modules
sys.modules["onnx"] = None
print(detect(sys.argv[1]))
load(sys.argv[1])
"""
    result = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=False
    )
    assert result.stdout == "onnx\n"
    assert "pip install -c constraints.txt -e '.[onnx]'" in result.stderr
