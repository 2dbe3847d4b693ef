"""ONNX files: the zoo's bvlcalexnet, exports from torch, and what `onnx_write` writes.

The graph is followed from its one input to its end, and must be one of the variants.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from alexnet.errors import UserError
from alexnet.layers import (
    AdaptiveAvgPool,
    Conv,
    Dense,
    Flatten,
    Layer,
    ReLU,
)
from alexnet.spec import VARIANTS
from alexnet.weights import onnx_lrn, wire
from alexnet.weights.assemble import CAFFE_VARIANTS, Found
from alexnet.weights.core import preprocess_from_json
from alexnet.weights.layout import from_torch
from alexnet.weights.names import LEARNED
from alexnet.weights.network import pool, recognise, room
from alexnet.weights.onnx_graph import MAX_SIDE, SMALL, Graph, Node, every, read_graph
from alexnet.weights.onnx_shapes import COMPUTED, compute
from alexnet.weights.onnx_write import METADATA_KEY, bin_matrix

_MAX_LAYERS = 100  # AlexNet has some twenty
_ENDS = {"Softmax", "LogSoftmax"}
_QUANTISED = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QGemm",
              "ConvInteger", "MatMulInteger"}  # fmt: skip


@dataclass
class _Walk:
    """What has been met on the way through the graph, and where the image is now."""

    graph: Graph
    current: str  # the image's name
    takers: dict[str, list[int]]  # name to the places of the nodes that take it
    layers: list[Layer] = field(default_factory=list)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    values: dict[str, onnx_lrn.Value] = field(default_factory=dict)  # what is known of tensors
    done: set[int] = field(default_factory=set)  # places of nodes that have been followed
    ended: bool = False  # by a softmax

    def learn(self, kind: str, kernel: str, bias: str, transpose: bool) -> tuple[str, int]:
        """Take the weights of the next conv or dense layer; its name and number of outputs."""
        wanted = [layer.name for layer in LEARNED if (layer.kind == "conv") == (kind == "conv")]
        taken = sum(f"{name}.kernel" in self.arrays for name in wanted)
        if taken == len(wanted):
            raise UserError(f"it has more than the {len(wanted)} {kind} layers of AlexNet")
        name = wanted[taken]
        array = self.graph.tensors.array(kernel)
        self.arrays[f"{name}.kernel"] = from_torch(f"{name}.kernel", array) if transpose else array
        self.arrays[f"{name}.bias"] = self.graph.tensors.array(bias).reshape(-1)
        self.names |= {f"{name}.kernel": kernel, f"{name}.bias": bias}
        return name, len(self.arrays[f"{name}.bias"])

    def size(self) -> int:
        """The image's height and width, before it is flattened."""
        return room(self.layers, self.graph.image_size)

    def shape(self) -> tuple[int, ...]:
        """The image's shape, (batch, channels, height, width) or (batch, features)."""
        counts = [layer.features for layer in self.layers if isinstance(layer, Conv | Dense)]
        channels = counts[-1] if counts else self.graph.channels
        if Flatten() not in self.layers:
            return self.graph.batch, channels, self.size(), self.size()
        if isinstance(self.layers[-1], Flatten):
            channels *= self.size() ** 2
        return self.graph.batch, channels


def looks_like(data: memoryview) -> bool:
    """Whether this is a protobuf message with a version and a graph in it."""
    try:
        model = wire.parse(data)
    except UserError:
        return False
    versioned = isinstance(model.get(1, [None])[0], int)
    return versioned and isinstance(model.get(7, [None])[0], memoryview)


def read(data: memoryview, folder: Path | None = None) -> Found:
    """What the file holds.

    Args:
        data: the file.
        folder: where it lies, for large exports, which keep their weights in a second file there.

    Raises:
        UserError: for a file that is damaged, quantised, or another network.
    """
    model = wire.parse(data)
    if not looks_like(data):
        raise UserError("it is not an ONNX model: it has no graph")
    graph = read_graph(wire.parse(wire.messages(model, 7)[-1]), folder)
    _refuse_quantised(graph)
    walk = _follow(graph)
    own = _own_metadata(model)
    first = own.get("spec", {}).get("variant")
    allowed = sorted(VARIANTS, key=lambda variant: variant != first)
    spec = recognise(walk.layers, graph.image_size, graph.channels, allowed)
    # What Caffe2 made of Caffe's files takes B, G, R; torch's exports and this project's, R, G, B.
    from_torch_ = wire.text(model, 2).startswith("pytorch")
    caffe = spec.name in CAFFE_VARIANTS and not own and not from_torch_
    preprocess = preprocess_from_json(own["preprocess"], graph.channels) if own else None
    return Found(
        walk.arrays, walk.names, graph.tensors.unused(), colors="BGR" if caffe else "RGB",
        spec=spec, preprocess=preprocess, class_names=tuple(own.get("class_names") or ()) or None,
        mean_image=bool(own.get("mean_image")),
    )  # fmt: skip


def _refuse_quantised(graph: Graph) -> None:
    for node in every(graph.nodes):
        if node.op in _QUANTISED or node.op.startswith("QLinear"):
            raise UserError(
                f"it is quantised to 8 bits ({node.op[:50]!r}), which rounded its weights for "
                "good: read the fp32 file that it was made from (in the zoo, bvlcalexnet-12.onnx "
                "for -12-int8 and -12-qdq)"
            )


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


def _follow(graph: Graph) -> _Walk:
    """The layers and weights that the image passes, from the graph's input to its end."""
    takers: dict[str, list[int]] = {}
    for place, node in enumerate(graph.nodes):
        for name in {*node.inputs} - {""}:
            takers.setdefault(name, []).append(place)
    walk = _Walk(graph, graph.image, takers)
    _spread(walk, range(len(graph.nodes)))  # what does not depend on the image
    while (node := _next(walk)) is not None:
        _step(walk, node)
        if len(walk.layers) > _MAX_LAYERS:
            raise UserError(f"it has more than {_MAX_LAYERS} layers, as AlexNet has not")
    return walk


def _spread(walk: _Walk, places: Iterable[int]) -> list[str]:
    """Follow nodes as far as shapes and LRN go; the names of the signals that come out."""
    nodes, stack, signals = walk.graph.nodes, [*places], []
    while stack:
        place = stack.pop()
        results = None if place in walk.done else _evaluate(walk, nodes[place], {})
        if results is None:
            continue
        walk.done.add(place)
        for name, value in zip(nodes[place].outputs, results, strict=False):
            if name not in walk.values and name not in walk.graph.tensors:
                walk.values[name] = value
                stack += walk.takers.get(name, [])
                if isinstance(value, onnx_lrn.Signal):
                    signals.append(name)
    return signals


def _evaluate(
    walk: _Walk, node: Node, inner: dict[str, onnx_lrn.Value]
) -> list[onnx_lrn.Value] | None:
    """A node's outputs where all it takes is known, by name or as `inner` to a branch."""
    known = node.op in onnx_lrn.FOLLOWED or node.op in COMPUTED or node.branches
    if not known or len(node.inputs) > SMALL:
        return None
    inputs: list[onnx_lrn.Value | None] = []
    for name in node.inputs:
        value = inner.get(name, walk.values.get(name)) if name else None
        value = walk.graph.tensors.small(name) if name and value is None else value
        if name and value is None:
            return None
        inputs.append(value)
    if node.branches and isinstance(inputs[0], np.ndarray) and inputs[0].size == 1:
        branch = node.branches[not inputs[0].reshape(())]
        for part in branch.nodes:
            results = _evaluate(walk, part, inner) if not part.branches else None
            inner |= zip(part.outputs, results or [], strict=False)
        return [inner[branch.output]] if branch.output in inner else None
    if any(isinstance(value, onnx_lrn.Signal) for value in inputs):
        return onnx_lrn.follow(node, inputs)
    result = compute(node, inputs)
    return None if result is None else [result]


def _next(walk: _Walk) -> Node | None:
    """The node of the next layer, after LRN and changes of shape; None at the end.

    Raises:
        UserError: where the graph divides and does not come together as LRN, or comes back.
    """
    while True:
        if walk.current in walk.values:
            raise UserError("its graph runs in a circle, as AlexNet's does not")
        shape = walk.shape()
        walk.values[walk.current] = onnx_lrn.image(shape)
        signals = [walk.current, *_spread(walk, walk.takers.get(walk.current, []))]
        ends = _ends(walk, signals)
        if len(ends) > 1 and all(walk.values[name].plain for _, name in ends):
            raise UserError("its graph divides, as AlexNet's does not")
        place, name = ends[0]
        layers = _passed(walk.values[name], shape)
        if len(ends) > 1 or layers is None:
            raise UserError(
                f"it has operators after its {_last_name(walk)} that are neither a layer of "
                "AlexNet nor LRN"
            )
        walk.layers += layers
        if place is None:
            return None
        if name == walk.current:
            node = walk.graph.nodes[place]
            walk.done.add(place)
            walk.current = node.outputs[0] if node.outputs else ""
            return node
        walk.current = name
        del walk.values[name]


def _ends(walk: _Walk, signals: list[str]) -> list[tuple[int | None, str]]:
    """What takes one of the signals and could not be followed; None for what nothing takes."""
    ends: list[tuple[int | None, str]] = []
    for name in signals:
        places = walk.takers.get(name, [])
        left = [place for place in places if place not in walk.done]
        outputs = {output for place in places for output in walk.graph.nodes[place].outputs}
        if left or not outputs & {*signals}:
            ends += [(place, name) for place in left or [None]]
    return ends


def _last_name(walk: _Walk) -> str:
    named = [layer.name for layer in walk.layers if isinstance(layer, Conv | Dense)]
    return named[-1] if named else "input"


def _passed(signal: onnx_lrn.Signal, shape: tuple[int, ...]) -> list[Layer] | None:
    """The layers that a signal has passed since the image had this shape; None for others."""
    layers: list[Layer] = []
    if not signal.plain:
        lrn = onnx_lrn.as_lrn(signal)
        if lrn is None:
            return None
        layers.append(lrn)
    if signal.shape == (shape[0], math.prod(shape[1:])) != shape:
        return [*layers, Flatten()]
    return layers if signal.shape == shape else None


def _step(walk: _Walk, node: Node) -> None:
    """Take a layer, of this node or of two."""
    if walk.ended:
        raise UserError(f"it goes on after its softmax, with {node.op[:50]!r}")
    flat = Flatten() in walk.layers
    if node.op == "Conv":
        walk.layers.append(_conv(walk, node))
    elif node.op == "Relu":
        walk.layers.append(ReLU())
    elif node.op == "MaxPool":
        walk.layers.append(_max_pool(walk, node))
    elif node.op == "AveragePool":
        walk.layers.append(_average_pool(walk, node))
    elif node.op == "MatMul" and not flat:
        walk.layers.append(_bins(walk, node, _next(walk)))
    elif node.op == "Gemm" or (node.op == "MatMul" and flat):
        walk.layers.append(_dense(walk, node))
    elif node.op in _ENDS:
        walk.ended = True
    elif node.op == "Dropout":
        for name in node.inputs:
            walk.graph.tensors.small(name)  # its ratio is no weight that was left over
    else:
        raise UserError(f"it has an operation {node.op[:50]!r}, which AlexNet lacks")


def _conv(walk: _Walk, node: Node) -> Conv:
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


def _dense(walk: _Walk, node: Node) -> Dense:
    if Flatten() not in walk.layers:
        raise UserError("it has a dense layer before the feature map is flattened")
    if node.op == "MatMul":
        after = _next(walk)
        added = after.inputs if after is not None and after.op == "Add" else []
        bias = [name for name in added if name in walk.graph.tensors]
        inputs, transposed = [*node.inputs[:2], *bias], False
    else:
        plain = node.number("alpha", 1.0) == node.number("beta", 1.0) == 1
        if not plain or node.ints("transA", [0])[0]:
            raise UserError("a dense layer in it scales or transposes its input")
        inputs, transposed = node.inputs, bool(node.ints("transB", [0])[0])
    if len(inputs) != 3:
        raise UserError("a dense layer in it has no bias")
    return Dense(*walk.learn("dense", inputs[1], inputs[2], transposed))


def _max_pool(walk: _Walk, node: Node) -> Layer:
    window, stride = node.equal("kernel_shape", 0), node.equal("strides", 1)
    pads = node.pads()
    if set(node.ints("dilations", [1])) != {1}:
        raise UserError("it has a dilated pool")
    if node.ints("ceil_mode", [0])[0]:
        size = walk.size()
        # A window that starts before the end of the input is kept: as much padding as that needs.
        pads = (pads[0], pads[1] + -(size + sum(pads) - window) % stride)
    return pool(walk.layers, walk.graph.image_size, window, stride, pads)


def _average_pool(walk: _Walk, node: Node) -> AdaptiveAvgPool:
    window, stride = node.equal("kernel_shape", 0), node.equal("strides", 1)
    size = walk.size()
    if window != stride or size % stride or node.pads() != (0, 0):
        raise UserError("it has an average pool whose windows overlap")
    return AdaptiveAvgPool(size // stride)


def _bins(walk: _Walk, rows: Node, columns: Node | None) -> AdaptiveAvgPool:
    """Adaptive average pooling as two products with the matrix of its bins."""
    size = walk.size()
    if (
        columns is None
        or columns.op != "MatMul"
        or not len(rows.inputs) == len(columns.inputs) == 2
    ):
        raise UserError("it has a product that is no average pooling")
    tensors = walk.graph.tensors
    left, right = tensors.array(rows.inputs[0]), tensors.array(columns.inputs[1])
    if left.ndim != 2 or not 1 <= len(left) <= MAX_SIDE or left.shape[1] != size:
        raise UserError("it has a product that is no average pooling")
    bins = bin_matrix(size, len(left))
    if not np.array_equal(left, bins) or not np.array_equal(right, bins.T):
        raise UserError("it has a product that is no average pooling")
    return AdaptiveAvgPool(len(left))
