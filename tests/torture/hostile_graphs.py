"""Graphs made to harm: ONNX with its second file, and Caffe's protobuf."""

import os
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tests.torture.hostile_archives import Made, _size
from tests.weights import makers
from tests.weights import test_onnx_bounds as bounds
from tests.weights.helpers import narrow
from tests.weights.test_caffe import _field, _varint

WEIGHTS = narrow("single")
OPS = (
    "Identity", "Relu", "Add", "Mul", "Slice", "Reshape", "Concat", "Pad", "Gather", "Expand",
    "Transpose", "Loop", "If", "Scan", "ConstantOfShape", "Tile", "Resize", "Cast", "Squeeze",
    "Unsqueeze", "Split", "Shape", "Conv", "Gemm", "MatMul", "Einsum", "Range", "NonZero", "Foo",
    "PyOp", "SequenceAt",
)  # fmt: skip


def onnx_(random: np.random.Generator, folder: Path, canary: Path) -> Made:
    """A sound model with operators in front, or other values in it, that no exporter writes."""
    model = makers.onnx_dynamo(WEIGHTS)
    in_front = [_chain, _operators, _huge_constant, _doubling]
    inside = [_attributes, _shapes, _opsets, _text]
    in_front[random.integers(4)](random, model) if random.random() < 0.6 else None
    inside[random.integers(4)](random, model) if random.random() < 0.6 else None
    path = folder / "a.onnx"
    path.write_bytes(model.SerializeToString())
    return path, "onnx"


def _chain(random: np.random.Generator, model: onnx.ModelProto) -> None:
    op = random.choice(["Identity", "Add", "Relu"])
    bounds._chain(_size(random, 1, 4.3), op, twice=op == "Add")(model)


def _operators(random: np.random.Generator, model: onnx.ModelProto) -> None:
    """Operators with too few or too many inputs, from anywhere."""
    names = [*(one.name for one in model.graph.initializer), "x", "", "nowhere", "ready"]
    nodes = [
        helper.make_node(
            OPS[random.integers(len(OPS))],
            [random.choice(names) for _ in range(random.integers(0, 5))],
            ["ready"] * int(random.integers(0, 3)),
            domain=random.choice(["", "ai.onnx.ml", "com.microsoft", "x"]),
        )
        for _ in range(random.integers(1, 5))
    ]
    bounds._before_conv1(model, *nodes)


def _huge_constant(random: np.random.Generator, model: onnx.ModelProto) -> None:
    shape = [_size(random, 0, 15) for _ in range(random.integers(1, 5))]
    random.choice([bounds._weights_of, bounds._added])(shape)(model)


def _doubling(random: np.random.Generator, model: onnx.ModelProto) -> None:
    bounds._doubling(model)


def _attributes(random: np.random.Generator, model: onnx.ModelProto) -> None:
    """Numbers of operators that are anything."""
    odd = [0, -1, 1, 2**31, 2**62, -(2**63)]
    for _ in range(random.integers(1, 4)):
        node = model.graph.node[random.integers(len(model.graph.node))]
        if node.attribute:
            attribute = node.attribute[random.integers(len(node.attribute))]
            for place in range(len(attribute.ints)):
                attribute.ints[place] = odd[random.integers(len(odd))]
            attribute.i = odd[random.integers(len(odd))]
            attribute.f = float(random.choice([np.nan, np.inf, -1, 1e38]))
        if random.random() < 0.3:
            graph = helper.make_attribute("body", bounds._body())
            node.attribute.append(graph)


def _shapes(random: np.random.Generator, model: onnx.ModelProto) -> None:
    """Sizes of tensors and of the input that are anything."""
    odd = [0, -1, 1, 2**31, 2**62]
    tensors = model.graph.initializer
    tensor = tensors[random.integers(len(tensors))]
    for place in range(len(tensor.dims)):
        if random.random() < 0.5:
            tensor.dims[place] = odd[random.integers(len(odd))]
    tensor.data_type = int(random.integers(30))
    for dim in model.graph.input[0].type.tensor_type.shape.dim:
        if random.random() < 0.3:
            dim.dim_value = _size(random, 0, 15)


def _opsets(random: np.random.Generator, model: onnx.ModelProto) -> None:
    model.opset_import[0].version = int(random.choice([-1, 0, 1, 99, 2**62]))
    model.ir_version = int(random.choice([0, 3, 99, 2**62]))


def _text(random: np.random.Generator, model: onnx.ModelProto) -> None:
    """Names that are long, empty, doubled or would write to a terminal."""
    odd = ["", "x" * 100_000, "\x1b[2J\x07", "a\nerror: no", "../../a", "conv1.weight"]
    node = model.graph.node[random.integers(len(model.graph.node))]
    node.name = odd[random.integers(len(odd))]
    node.output[0] = odd[random.integers(len(odd))]
    model.producer_name = odd[random.integers(len(odd))]
    model.metadata_props.add(key=odd[random.integers(len(odd))], value="alexnet")


def second_file(random: np.random.Generator, folder: Path, canary: Path) -> Made:
    """Weights in a second file that lies elsewhere, is a link or a pipe, or is not as said."""
    path, beside = folder / "a.onnx", folder / "a.onnx.data"
    onnx.save_model(
        makers.onnx_dynamo(WEIGHTS), path, save_as_external_data=True, location=beside.name,
        size_threshold=200,
    )  # fmt: skip
    secret = folder.parent / f"secret-{folder.name}"
    secret.write_bytes(beside.read_bytes())
    model = onnx.load(path, load_external_data=False)
    odd = {
        "location": [f"../{secret.name}", str(secret), "./a.onnx.data", "/dev/zero", "", "a\0b",
                     "x" * 300, "a.onnx", "/etc/passwd", "..", "a.onnx.data/"],
        "offset": ["-1", "0", "1", str(2**62), "", "x", "1e3", "9" * 5000],
        "length": ["-1", "0", "1", str(2**62), "", "x", "9" * 5000],
    }  # fmt: skip
    wanted = random.choice([*odd, "file"])
    external = [one for one in model.graph.initializer if one.external_data]
    for tensor in external if random.random() < 0.5 else external[:1]:
        for entry in tensor.external_data:
            if entry.key == wanted:
                entry.value = str(random.choice(odd[wanted]))
    path.write_bytes(model.SerializeToString())
    if wanted == "file":
        size = beside.stat().st_size
        make = [
            beside.unlink, lambda: os.truncate(beside, int(random.integers(size))),
            lambda: os.truncate(beside, 1 << 40), lambda: _replace(beside, secret),
            lambda: _replace(beside, Path("/dev/zero")), lambda: _replace(beside, None),
        ]  # fmt: skip
        make[random.integers(len(make))]()
    return path, "onnx"


def _replace(path: Path, target: Path | None) -> None:
    """A link in place of a file, or a pipe."""
    path.unlink()
    path.symlink_to(target) if target else os.mkfifo(path)


def tiny_onnx(random: np.random.Generator, folder: Path, canary: Path) -> Made:
    """Fields of two bytes by the million: nodes, tensors, numbers, sparse tensors, functions."""
    field = random.choice([b"\x0a\x00", b"\x2a\x00", b"\x5a\x00", b"\x62\x00", b"\x7a\x00"])
    graph = field * _size(random, 1, 6)
    more = random.choice([b"\xca\x01\x00", b"\xa2\x01\x00", b"\x72\x00", b""]) * _size(random, 1, 5)
    path = folder / "a.onnx"
    path.write_bytes(b"\x08\x08\x3a" + makers.varint(len(graph)) + graph + more)
    return path, "onnx"


def caffe(random: np.random.Generator, folder: Path, canary: Path) -> Made:
    """Layers, fields and numbers by the thousand, groups without end, sizes that lie."""
    number = int(random.choice([2, 100]))
    pooling = _field(1, b"p") + _field(2, b"Pooling") + _field(121, b"\x10\x01\x68\x01")
    sizes = b"".join(_field(n, b"\x03" * _size(random, 0, 4)) for n in range(3, 14))
    conv = _field(1, b"conv1") + _field(2, b"Convolution") + _field(106, sizes)
    deep = b""
    while len(deep) < _size(random, 1, 5):
        deep = b"\x12" + _varint(len(deep)) + deep
    dims = _field(7, b"".join(_varint(2 ** int(random.integers(63))) for _ in range(4)))
    blob = _field(7, dims + _field(5, bytes(_size(random, 0, 4))))
    count = _size(random, 0, 4.3)
    body = [
        _field(number, pooling) * count, _field(number, conv) * min(count, 90), deep,
        _field(number, conv + blob) * min(count, 50), b"\x12\x00" * count * 10,
        _field(number, b"\x12\x00" * count * 10), b"\x0b" * count, b"\x08\x01" * count * 10,
        _field(number, _field(2, b"x" * count * 10)), b"\x12" + b"\xff" * int(count % 30),
        _field(number, _field(1, b"\x1b[2J\n") + _field(2, b"Data")) * 3,
    ]  # fmt: skip
    path = folder / "a.caffemodel"
    path.write_bytes(_field(1, b"AlexNet") + body[random.integers(len(body))])
    return path, "caffe"


def constants(random: np.random.Generator, folder: Path, canary: Path) -> Made:
    """One of the graphs of the tests of bounds, with other sizes."""
    model = makers.onnx_dynamo(WEIGHTS)
    sizes = np.array([2 ** int(random.integers(50)) for _ in range(4)], "i8")
    model.graph.initializer.append(numpy_helper.from_array(sizes, "sizes"))
    op = random.choice(["Expand", "Tile", "Pad", "Reshape", "ConstantOfShape", "Resize", "Range"])
    inputs = ["sizes"] if op == "ConstantOfShape" else ["x", "sizes"]
    bounds._before_conv1(model, helper.make_node(op, inputs, ["ready"]))
    path = folder / "a.onnx"
    path.write_bytes(model.SerializeToString())
    return path, "onnx"
