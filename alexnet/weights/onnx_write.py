"""The network and its weights as an ONNX file, opset 13: NCHW images in, logits out.

Any number of images goes in. LRN over groups of channels and adaptive pooling, which ONNX lacks,
become reshapes and products. The numbers of fields are those of onnx/onnx.proto.
"""

import json
import math
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from alexnet.layers import (
    LRN,
    AdaptiveAvgPool,
    Conv,
    Dense,
    Dropout,
    Flatten,
    MaxPool,
    ReLU,
    Row,
    trace,
)
from alexnet.preprocess import to_json as preprocess_to_json
from alexnet.weights import table
from alexnet.weights.core import Weights
from alexnet.weights.layout import Stored, blocks, to_torch
from alexnet.weights.names import TORCH_KEYS
from alexnet.weights.wire import bytes_field, bytes_head, float_field, number_field, packed_ints

METADATA_KEY = "alexnet-weights"
OPSET, IR_VERSION = 13, 8
_FLOAT, _INT64 = 1, 7  # TensorProto.DataType
Attribute = int | float | tuple[int, ...]


def write(file: BinaryIO, weights: Weights) -> None:
    """Write a model that `onnx.checker` passes and ONNX Runtime runs.

    Args:
        file: open for writing.
        weights: what to write.
    """
    graph, constants = _graph(weights)
    tensors = [_tensor_head(TORCH_KEYS[array.name], array) for array in to_torch(weights)]
    sizes = [len(head) + size for head, size in tensors]
    total = len(graph) + sum(len(bytes_head(5, size)) + size for size in sizes) + len(constants)
    file.write(
        number_field(1, IR_VERSION)
        + bytes_field(2, "alexnet")
        + bytes_field(8, number_field(2, OPSET))
        + bytes_field(14, bytes_field(1, METADATA_KEY) + bytes_field(2, _describe(weights)))
        + bytes_head(7, total)
        + graph
        + constants
    )
    for array, (head, size) in zip(to_torch(weights), tensors, strict=True):
        file.write(bytes_head(5, len(head) + size) + head)
        for block in blocks(array.values):
            file.write(block)


def _describe(weights: Weights) -> str:
    return json.dumps(
        {
            "spec": table.to_json(weights.spec),
            "preprocess": preprocess_to_json(weights.preprocess),
            "class_names": weights.class_names,
            "mean_image": weights.mean_image,
        }
    )


def _tensor_head(name: str, array: Stored) -> tuple[bytes, int]:
    """A TensorProto up to its data, and the data's size in bytes."""
    size = 4 * math.prod(array.shape)
    dims = packed_ints(1, array.shape)
    return dims + number_field(2, _FLOAT) + bytes_field(8, name) + bytes_head(9, size), size


def _constant(name: str, values: np.ndarray) -> bytes:
    """A small tensor as a whole initializer."""
    kind = _FLOAT if values.dtype == np.float32 else _INT64
    tensor = packed_ints(1, values.shape) + number_field(2, kind) + bytes_field(8, name)
    return bytes_field(5, tensor + bytes_field(9, values.tobytes()))


def _graph(weights: Weights) -> tuple[bytes, bytes]:
    """The graph's fields without the weights: nodes, name, input and output; and constants."""
    spec = weights.spec
    out = bytearray()
    constants = bytearray()
    current = "image"
    for row in trace(spec):
        for op, inputs, attributes, values in _nodes(row):
            constants += b"".join(_constant(name, array) for name, array in values.items())
            names = [current if name is None else name for name in inputs]
            current = f"{row.name}_{op.lower()}_{len(out)}"
            out += bytes_field(1, _node(op, names, current, attributes))
    out += bytes_field(1, _node("Identity", [current], "logits", {})) + bytes_field(2, "alexnet")
    side = spec.image_size
    out += bytes_field(11, _value("image", (spec.channels, side, side)))
    out += bytes_field(12, _value("logits", (spec.num_classes,)))
    return bytes(out), bytes(constants)


def _value(name: str, shape: tuple[int, ...]) -> bytes:
    """A ValueInfoProto of fp32 with a free first axis, N."""
    dims = bytes_field(1, bytes_field(2, "N"))
    dims += b"".join(bytes_field(1, number_field(1, size)) for size in shape)
    tensor = number_field(1, _FLOAT) + bytes_field(2, dims)
    return bytes_field(1, name) + bytes_field(2, bytes_field(1, tensor))


def _node(op: str, inputs: list[str], output: str, attributes: dict[str, Attribute]) -> bytes:
    out = b"".join(bytes_field(1, name) for name in inputs) + bytes_field(2, output)
    out += bytes_field(3, output) + bytes_field(4, op)
    return out + b"".join(bytes_field(5, _attribute(*item)) for item in attributes.items())


def _attribute(name: str, value: Attribute) -> bytes:
    """An AttributeProto: FLOAT is type 1, INT 2, INTS 7."""
    if isinstance(value, float):
        return bytes_field(1, name) + float_field(2, value) + number_field(20, 1)
    if isinstance(value, int):
        return bytes_field(1, name) + number_field(3, value) + number_field(20, 2)
    return bytes_field(1, name) + packed_ints(8, value) + number_field(20, 7)


Nodes = Iterator[tuple[str, list[str | None], dict[str, Attribute], dict[str, np.ndarray]]]


def _nodes(row: Row) -> Nodes:
    """A layer's operations: type, inputs (None for the image so far), attributes, constants."""
    layer = row.layer
    weights = [None, f"{row.name}.weight", f"{row.name}.bias"]
    match layer:
        case Conv():
            yield "Conv", weights, {
                "kernel_shape": (layer.kernel,) * 2, "strides": (layer.stride,) * 2,
                "pads": (layer.padding,) * 4, "group": layer.groups,
            }, {}  # fmt: skip
        case Dense():
            yield "Gemm", weights, {"transB": 1}, {}
        case ReLU():
            yield "Relu", [None], {}, {}
        case LRN():
            yield from _lrn_nodes(row, layer)
        case MaxPool():
            overhang = layer.overhang(row.in_shape[0])
            yield "MaxPool", [None], {
                "kernel_shape": (layer.window,) * 2, "strides": (layer.stride,) * 2,
                "pads": (0, 0, overhang, overhang),
            }, {}  # fmt: skip
        case AdaptiveAvgPool():
            yield from _average_nodes(row, layer)
        case Flatten():
            yield "Flatten", [None], {"axis": 1}, {}
        case Dropout():
            pass


def _lrn_nodes(row: Row, layer: LRN) -> Nodes:
    attributes = {"size": layer.size, "alpha": layer.alpha, "beta": layer.beta, "bias": layer.k}
    if layer.groups == 1:
        yield "LRN", [None], attributes, {}
        return
    height, width, channels = row.in_shape
    apart = np.array([-1, channels // layer.groups, height, width], "<i8")
    together = np.array([-1, channels, height, width], "<i8")
    yield "Reshape", [None, f"{row.name}.apart"], {}, {f"{row.name}.apart": apart}
    yield "LRN", [None], attributes, {}
    yield "Reshape", [None, f"{row.name}.together"], {}, {f"{row.name}.together": together}


def _average_nodes(row: Row, layer: AdaptiveAvgPool) -> Nodes:
    """Plain average pooling where the bins are equal, else two products with the bins' matrix."""
    size = row.in_shape[0]
    if size == layer.size:
        return
    if size % layer.size == 0:
        window = (size // layer.size,) * 2
        yield "AveragePool", [None], {"kernel_shape": window, "strides": window}, {}
        return
    bins = bin_matrix(size, layer.size)
    rows, columns = f"{row.name}.rows", f"{row.name}.columns"
    yield "MatMul", [rows, None], {}, {rows: bins}
    yield "MatMul", [None, columns], {}, {columns: np.ascontiguousarray(bins.T)}


def bin_matrix(size: int, bins: int) -> np.ndarray:
    """The (bins, size) matrix of adaptive average pooling along one axis, with torch's edges."""
    matrix = np.zeros((bins, size), "<f4")
    for i in range(bins):
        start, end = i * size // bins, -(-(i + 1) * size // bins)
        matrix[i, start:end] = 1 / (end - start)
    return matrix
