"""ONNX files: the zoo's bvlcalexnet, exports from torch, and what `onnx_write` writes.

The graph is followed from its one input to its end, and must be one of the variants. Read here and
not by the `onnx` package: no code of its own, no second file, no copy of the weights. The numbers
of fields are those of onnx/onnx.proto.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from alexnet.errors import UserError
from alexnet.spec import LRN, VARIANTS, AdaptiveAvgPool, Conv, Dense, Flatten, Layer, ReLU
from alexnet.weights import wire
from alexnet.weights.assemble import CAFFE_VARIANTS, Found
from alexnet.weights.core import preprocess_from_json
from alexnet.weights.layout import from_torch
from alexnet.weights.names import LEARNED
from alexnet.weights.network import pool, recognise, room
from alexnet.weights.onnx_write import METADATA_KEY, bin_matrix

_MAX_SIDE = 4096  # kernel, stride, padding and image size, in pixels
_FLOAT, _INT64 = 1, 7  # TensorProto.DataType
_SILENT = {"Identity", "Dropout", "Softmax", "LogSoftmax"}


@dataclass(frozen=True)
class _Node:
    """One operation: its type, inputs, output and attributes, the last as messages."""

    op: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, wire.Message]

    def ints(self, name: str, default: list[int]) -> list[int]:
        """An attribute of integers, or of one."""
        message = self.attributes.get(name, {})
        values = wire.ints(message, 8) or wire.ints(message, 3) or default
        if not all(-_MAX_SIDE <= value <= _MAX_SIDE for value in values):
            raise UserError(f"it is damaged: {self.op} has {name} {values[:4]}")
        return values

    def number(self, name: str, default: float) -> float:
        """An attribute of one fp32 number."""
        return wire.one_float(self.attributes.get(name, {}), 2, default)

    def equal(self, name: str, default: int) -> int:
        """A size that is the same in height and width."""
        values = self.ints(name, [default])
        if len(set(values)) != 1 or values[0] < 1:
            raise UserError(f"its {self.op} has an uneven {name}: {values[:4]}")
        return values[0]

    def pads(self) -> tuple[int, int]:
        """Padding before and after, the same in height and width."""
        auto = wire.text(self.attributes.get("auto_pad", {}), 4, "NOTSET")
        pads = self.ints("pads", [0, 0, 0, 0])
        if auto not in ("NOTSET", "VALID") or len(pads) != 4 or min(pads) < 0:
            raise UserError(f"its {self.op} is padded by a rule that no variant has")
        if pads[0] != pads[1] or pads[2] != pads[3]:
            raise UserError(f"its {self.op} is padded unevenly: {pads}")
        return pads[0], pads[2]


@dataclass
class _Walk:
    """What has been met on the way through the graph."""

    tensors: Mapping[str, wire.Message]
    image_size: int
    channels: int
    layers: list[Layer] = field(default_factory=list)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)

    def tensor(self, name: str) -> np.ndarray:
        """A constant of the graph; it counts as used."""
        if name not in self.tensors:
            raise UserError(f"its weights {name[:50]!r} are not in the file, or computed")
        self.used.add(name)
        return _array(name, self.tensors[name])

    def learn(self, kind: str, kernel: str, bias: str, transpose: bool) -> tuple[str, int]:
        """Take the weights of the next conv or dense layer; its name and number of outputs."""
        wanted = [layer.name for layer in LEARNED if (layer.kind == "conv") == (kind == "conv")]
        taken = sum(f"{name}.kernel" in self.arrays for name in wanted)
        if taken == len(wanted):
            raise UserError(f"it has more than the {len(wanted)} {kind} layers of AlexNet")
        name = wanted[taken]
        array = self.tensor(kernel)
        self.arrays[f"{name}.kernel"] = from_torch(f"{name}.kernel", array) if transpose else array
        self.arrays[f"{name}.bias"] = self.tensor(bias).reshape(-1)
        self.names |= {f"{name}.kernel": kernel, f"{name}.bias": bias}
        return name, len(self.arrays[f"{name}.bias"])


def looks_like(data: memoryview) -> bool:
    """Whether this is a protobuf message with a version and a graph in it."""
    try:
        model = wire.parse(data)
    except UserError:
        return False
    versioned = isinstance(model.get(1, [None])[0], int)
    return versioned and isinstance(model.get(7, [None])[0], memoryview)


def read(data: memoryview) -> Found:
    """What the file holds.

    Raises:
        UserError: for a file that is damaged, in several parts, or another network.
    """
    model = wire.parse(data)
    if not looks_like(data):
        raise UserError("it is not an ONNX model: it has no graph")
    graph = wire.parse(wire.messages(model, 7)[-1])
    nodes = [_node(wire.parse(part)) for part in wire.messages(graph, 1)]
    tensors = {wire.text(tensor, 8): tensor for tensor in map(wire.parse, wire.messages(graph, 5))}
    for node in nodes:
        if node.op == "Constant" and node.outputs and "value" in node.attributes:
            values = wire.messages(node.attributes["value"], 5)
            tensors |= {node.outputs[0]: wire.parse(values[-1])} if values else {}
    name, channels, image_size = _input(graph, tensors)
    walk = _Walk(tensors, image_size, channels)
    chain = _chain(name, [node for node in nodes if node.op != "Constant"])
    while chain:
        _step(walk, chain)
    own = _own_metadata(model)
    first = own.get("spec", {}).get("variant")
    allowed = sorted(VARIANTS, key=lambda variant: variant != first)
    spec = recognise(walk.layers, image_size, channels, allowed)
    # What Caffe2 made of Caffe's files takes B, G, R; torch's exports and this project's, R, G, B.
    from_torch_ = wire.text(model, 2).startswith("pytorch")
    caffe = spec.name in CAFFE_VARIANTS and not own and not from_torch_
    extra = tuple(n for n, t in tensors.items() if n not in walk.used and _is_float(t))
    preprocess = preprocess_from_json(own["preprocess"], channels) if own else None
    return Found(
        walk.arrays, walk.names, extra, colors="BGR" if caffe else "RGB", spec=spec,
        preprocess=preprocess, class_names=tuple(own.get("class_names") or ()) or None,
        mean_image=bool(own.get("mean_image")),
    )  # fmt: skip


def _own_metadata(model: wire.Message) -> dict[str, Any]:
    """What `onnx_write` says of the weights; empty in files from elsewhere."""
    for part in wire.messages(model, 14):
        entry = wire.parse(part)
        if wire.text(entry, 1) == METADATA_KEY:
            try:
                values = json.loads(wire.text(entry, 2))
                names = values["class_names"]
                if isinstance(values["spec"], dict) and isinstance(values["preprocess"], dict):
                    return values | {"class_names": None if names is None else map(str, names)}
            except (ValueError, KeyError, TypeError, RecursionError):
                pass
            raise UserError("it is damaged: its description of the preprocessing is unreadable")
    return {}


def _node(message: wire.Message) -> _Node:
    attributes = {wire.text(a, 1): a for a in map(wire.parse, wire.messages(message, 5))}
    return _Node(wire.text(message, 4), wire.texts(message, 1), wire.texts(message, 2), attributes)


def _input(graph: wire.Message, tensors: Mapping[str, wire.Message]) -> tuple[str, int, int]:
    """The one input's name, channels and size. (Before IR version 4 weights are inputs too.)"""
    inputs = [wire.parse(part) for part in wire.messages(graph, 11)]
    inputs = [value for value in inputs if wire.text(value, 1) not in tensors]
    if len(inputs) != 1:
        raise UserError(f"it has {len(inputs)} inputs, where AlexNet has one")
    dims: list[int] = []
    for kind in wire.messages(inputs[0], 2)[-1:]:
        for tensor in wire.messages(wire.parse(kind), 1)[-1:]:
            for shape in wire.messages(wire.parse(tensor), 2)[-1:]:
                parts = wire.messages(wire.parse(shape), 1)
                dims = [wire.one_int(wire.parse(dim), 1, 0) for dim in parts]
    if len(dims) != 4 or dims[2] != dims[3] or not all(1 <= n <= _MAX_SIDE for n in dims[1:]):
        raise UserError(f"its input has shape {dims[:6]}, and N, channels, size, size is needed")
    return wire.text(inputs[0], 1), dims[1], dims[2]


def _chain(start: str, nodes: list[_Node]) -> list[_Node]:
    """The nodes in the order in which the image passes through them.

    Raises:
        UserError: where it divides, or comes back.
    """
    takers: dict[str, list[_Node]] = {}
    for node in nodes:
        for name in set(node.inputs):
            takers.setdefault(name, []).append(node)
    chain: list[_Node] = []
    current = start
    while current in takers:
        if len(takers[current]) > 1 or len(chain) > len(nodes):
            raise UserError("its graph divides or runs in a circle, as AlexNet's does not")
        chain.append(takers[current][0])
        if not chain[-1].outputs:
            break
        current = chain[-1].outputs[0]
    return chain


def _step(walk: _Walk, chain: list[_Node]) -> None:
    """Take the next layer, of one node or several, from the chain."""
    node = chain.pop(0)
    following = chain[0].op if chain else ""
    if node.op == "Conv":
        walk.layers.append(_conv(walk, node))
    elif node.op == "Relu":
        walk.layers.append(ReLU())
    elif node.op == "LRN":
        walk.layers.append(_lrn(node, 1))
    elif node.op == "Reshape" and following == "LRN":
        _grouped_lrn(walk, node, chain)
    elif node.op == "MaxPool":
        walk.layers.append(_max_pool(walk, node))
    elif node.op == "AveragePool":
        walk.layers.append(_average_pool(walk, node))
    elif node.op == "MatMul" and following == "MatMul" and Flatten() not in walk.layers:
        walk.layers.append(_bins(walk, node, chain.pop(0)))
    elif node.op in ("Flatten", "Reshape"):
        _flatten(walk, node)
    elif node.op == "Gemm" or (node.op == "MatMul" and following == "Add"):
        walk.layers.append(_dense(walk, node, chain))
    elif node.op not in _SILENT:
        raise UserError(f"it has an operation {node.op[:50]!r}, which AlexNet lacks")


def _conv(walk: _Walk, node: _Node) -> Conv:
    if len(node.inputs) != 3 or set(node.ints("dilations", [1])) != {1}:
        raise UserError("a convolution in it is dilated or has no bias")
    name, features = walk.learn("conv", node.inputs[1], node.inputs[2], transpose=True)
    kernel = walk.arrays[f"{name}.kernel"]
    before, after = node.pads()
    sides = {*kernel.shape[:2], *node.ints("kernel_shape", [kernel.shape[0]])}
    groups = node.ints("group", [1])[0]
    if before != after or len(sides) != 1 or groups < 1:
        raise UserError(f"its {name} is not square, or padded on one side only")
    return Conv(name, features, kernel.shape[0], node.equal("strides", 1), before, groups)


def _dense(walk: _Walk, node: _Node, chain: list[_Node]) -> Dense:
    if Flatten() not in walk.layers:
        raise UserError("it has a dense layer before the feature map is flattened")
    if node.op == "MatMul":
        bias = [name for name in chain.pop(0).inputs if name in walk.tensors]
        inputs, transposed = [*node.inputs[:2], *bias], False
    else:
        plain = node.number("alpha", 1.0) == node.number("beta", 1.0) == 1
        if not plain or node.ints("transA", [0])[0]:
            raise UserError("a dense layer in it scales or transposes its input")
        inputs, transposed = node.inputs, bool(node.ints("transB", [0])[0])
    if len(inputs) != 3:
        raise UserError("a dense layer in it has no bias")
    return Dense(*walk.learn("dense", inputs[1], inputs[2], transposed))


def _lrn(node: _Node, groups: int) -> LRN:
    size = node.ints("size", [0])[0]
    numbers = [node.number(n, d) for n, d in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0))]
    if size < 1 or not all(map(math.isfinite, numbers)):
        raise UserError("it is damaged: an LRN has no size")
    return LRN(size, *numbers, groups)


def _grouped_lrn(walk: _Walk, node: _Node, chain: list[_Node]) -> None:
    """Reshape, LRN, Reshape: groups of channels become images of their own, and back."""
    lrn = chain.pop(0)
    if not chain or chain.pop(0).op != "Reshape" or len(node.inputs) != 2:
        raise UserError("it has an LRN after a change of shape that is not taken back")
    channels = [layer.features for layer in walk.layers if isinstance(layer, Conv)][-1:]
    shape = [int(n) for n in walk.tensor(node.inputs[1]).reshape(-1)[:8]]
    if not channels or len(shape) != 4 or shape[1] < 1 or channels[0] % shape[1]:
        raise UserError("it has an LRN over groups of channels that are not equal")
    walk.layers.append(_lrn(lrn, channels[0] // shape[1]))


def _max_pool(walk: _Walk, node: _Node) -> Layer:
    window, stride = node.equal("kernel_shape", 0), node.equal("strides", 1)
    pads = node.pads()
    if set(node.ints("dilations", [1])) != {1}:
        raise UserError("it has a dilated pool")
    if node.ints("ceil_mode", [0])[0]:
        size = room(walk.layers, walk.image_size)
        # A window that starts before the end of the input is kept: as much padding as that needs.
        pads = (pads[0], pads[1] + -(size + sum(pads) - window) % stride)
    return pool(walk.layers, walk.image_size, window, stride, pads)


def _average_pool(walk: _Walk, node: _Node) -> AdaptiveAvgPool:
    window, stride = node.equal("kernel_shape", 0), node.equal("strides", 1)
    size = room(walk.layers, walk.image_size)
    if window != stride or size % stride or node.pads() != (0, 0):
        raise UserError("it has an average pool whose windows overlap")
    return AdaptiveAvgPool(size // stride)


def _bins(walk: _Walk, rows: _Node, columns: _Node) -> AdaptiveAvgPool:
    """Adaptive average pooling as two products with the matrix of its bins."""
    size = room(walk.layers, walk.image_size)
    if len(rows.inputs) != 2 or len(columns.inputs) != 2:
        raise UserError("it is damaged: a product in it has not two factors")
    left, right = walk.tensor(rows.inputs[0]), walk.tensor(columns.inputs[1])
    if left.ndim != 2 or not 1 <= len(left) <= _MAX_SIDE or left.shape[1] != size:
        raise UserError("it has a product that is no average pooling")
    bins = bin_matrix(size, len(left))
    if not np.array_equal(left, bins) or not np.array_equal(right, bins.T):
        raise UserError("it has a product that is no average pooling")
    return AdaptiveAvgPool(len(left))


def _flatten(walk: _Walk, node: _Node) -> None:
    if node.op == "Flatten":
        flat = node.ints("axis", [1])[0] == 1
    elif len(node.inputs) == 2:
        flat = walk.tensor(node.inputs[1]).size == 2
    else:
        flat = len(node.ints("shape", [])) == 2  # before opset 5
    if not flat:
        raise UserError("it changes the shape of a feature map, as AlexNet does not")
    if Flatten() not in walk.layers:
        walk.layers.append(Flatten())


def _is_float(tensor: wire.Message) -> bool:
    return wire.one_int(tensor, 2, 0) != _INT64


def _array(name: str, tensor: wire.Message) -> np.ndarray:
    """The array of a TensorProto."""
    if wire.one_int(tensor, 14, 0) or 13 in tensor:
        raise UserError(
            "its weights are in another file, which is not read: save it as one file "
            "(torch.onnx.export: external_data=False)"
        )
    kind = wire.one_int(tensor, 2, 0)
    if kind not in (_FLOAT, _INT64):
        raise UserError(f"its {name[:50]!r} is neither fp32 nor int64 (data type {kind})")
    raw = wire.messages(tensor, 9)
    if raw:
        data = np.frombuffer(raw[-1], "<f4" if kind == _FLOAT else "<i8")
    else:
        data = wire.floats(tensor, 4) if kind == _FLOAT else np.array(wire.ints(tensor, 7), "<i8")
    shape = wire.ints(tensor, 1)
    if len(shape) > 8 or any(n < 0 for n in shape) or math.prod(shape) != len(data):
        raise UserError(f"it is damaged: the shape of {name[:50]!r} is not its size")
    return data.reshape(shape)
