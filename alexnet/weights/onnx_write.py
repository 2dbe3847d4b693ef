"""The network and its weights as an ONNX file, opset 13: NCHW images in, logits out.

It takes any number of images. LRN over groups of channels or within maps and adaptive pooling,
which ONNX lacks, become reshapes, averages and products. The `onnx` package makes all but the
weights, which go straight from their arrays to the file: in its messages, they would be copied
twice.
"""

import json
import math
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from alexnet.band import averages
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
    Tanh,
    trace,
)
from alexnet.preprocess import to_json as preprocess_to_json
from alexnet.text import storable
from alexnet.weights import table
from alexnet.weights.core import Weights
from alexnet.weights.layout import blocks, to_torch
from alexnet.weights.names import torch_keys
from alexnet.weights.onnx_graph import METADATA_KEY, package
from alexnet.weights.precision import STORED, Dtype

OPSET, IR_VERSION = 13, 8
# Fields of onnx.proto: ModelProto.graph, GraphProto.initializer, TensorProto.raw_data.
_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9
_TYPES: dict[Dtype, str] = {"fp32": "FLOAT", "fp16": "FLOAT16", "bf16": "BFLOAT16"}
_ENDS: dict[Dtype, str] = {"fp32": "", "fp16": ".fp16", "bf16": ".bf16"}  # of constants' names


def write(file: BinaryIO, weights: Weights, dtype: Dtype = "fp32") -> None:
    """Write a model that `onnx.checker` passes and ONNX Runtime runs.

    Weights of half precision are cast to fp32 as it is loaded: inputs and outputs are fp32.

    Raises:
        UserError: where the package `onnx` is not installed.
    """
    onnx = package()
    model = onnx.ModelProto(
        ir_version=IR_VERSION,
        producer_name="alexnet",
        opset_import=[onnx.helper.make_opsetid("", OPSET)],
        metadata_props=[onnx.StringStringEntryProto(key=METADATA_KEY, value=_describe(weights))],
    )
    graph = _graph(onnx, weights, dtype).SerializeToString()
    heads, names, total = list[bytes](), torch_keys(weights.spec), len(graph)
    for array in to_torch(weights):
        tensor = onnx.TensorProto(
            name=names[array.name] + _ENDS[dtype],
            data_type=getattr(onnx.TensorProto, _TYPES[dtype]),
            dims=array.shape,
        )
        size = STORED[dtype].itemsize * math.prod(array.shape)
        head = tensor.SerializeToString() + _field(_RAW_DATA, size)
        heads.append(_field(_INITIALIZER, len(head) + size) + head)
        total += len(heads[-1]) + size
    file.write(model.SerializeToString() + _field(_GRAPH, total) + graph)
    for array, head in zip(to_torch(weights), heads, strict=True):
        file.write(head)
        for block in blocks(array.values, dtype):
            file.write(block)


def _field(number: int, length: int) -> bytes:
    """The bytes before the `length` bytes of a field (protobuf.dev/programming-guides/encoding).

    Its key and length are varints: seven bits per byte, the lowest first.
    """
    out = bytearray([number << 3 | 2])
    while length > 0x7F:
        out.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes([*out, length])


def _describe(weights: Weights) -> str:
    spec, preprocess = table.to_json(weights.spec), preprocess_to_json(weights.preprocess)
    names = weights.class_names and list(map(storable, weights.class_names))
    own = {"class_names": names, "mean_image": weights.mean_image}
    return json.dumps({"spec": spec, "preprocess": preprocess} | own)


def _graph(onnx: Any, weights: Weights, dtype: Dtype) -> Any:
    """The onnx.GraphProto without the weights."""
    spec, helper = weights.spec, onnx.helper
    nodes, constants = list[Any](), list[Any]()
    for name in torch_keys(spec).values() if dtype != "fp32" else ():
        nodes.append(helper.make_node("Cast", [name + _ENDS[dtype]], [name], to=1))
    current = "image"
    for row in trace(spec):
        before = current
        for op, inputs, attributes, values in _nodes(row):
            constants += [onnx.numpy_helper.from_array(v, name) for name, v in values.items()]
            names = [{None: current, _BEFORE: before}.get(name, name) for name in inputs]
            current = f"{row.name}_{op.lower()}_{len(nodes)}"
            nodes.append(helper.make_node(op, names, [current], current, **attributes))
    nodes.append(helper.make_node("Identity", [current], ["logits"], "logits"))
    sizes = ["N", spec.channels, spec.image_size, spec.image_size]
    image = helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, sizes)
    logits = helper.make_tensor_value_info(
        "logits", onnx.TensorProto.FLOAT, ["N", spec.num_classes]
    )
    return helper.make_graph(nodes, "alexnet", [image], [logits], constants)


_BEFORE = "before"  # in a node's inputs: what reached the layer
Nodes = Iterator[tuple[str, list[str | None], dict[str, Any], dict[str, np.ndarray]]]


def _nodes(row: Row) -> Nodes:
    """A layer's operations: type, inputs (None for the image so far), attributes, constants."""
    layer = row.layer
    weights = [None, f"{row.name}.weight", f"{row.name}.bias"]
    match layer:
        case Conv():
            yield "Conv", weights, {
                "kernel_shape": (layer.kernel,) * 2, "strides": (layer.stride,) * 2,
                "pads": _pads(layer, row), "group": layer.groups,
            }, {}  # fmt: skip
        case Dense():
            yield "Gemm", weights, {"transB": 1}, {}
        case ReLU():
            yield "Relu", [None], {}, {}
        case Tanh():
            yield "Tanh", [None], {}, {}
        case LRN():
            yield from _lrn_nodes(row, layer)
        case SpatialLRN():
            yield from _spatial_nodes(row, layer)
        case BatchNorm():
            own = [f"{row.name}.{part}" for part in ("weight", "bias")]
            statistics = [f"{row.name}.{part}" for part in ("running_mean", "running_var")]
            plain = {name: np.full(row.in_shape[-1:], n, "<f4") for n, name in enumerate(own[::-1])}
            constants = {} if layer.affine else plain
            inputs = [None, *own, *statistics]
            yield "BatchNormalization", inputs, {"epsilon": layer.epsilon}, constants
        case MaxPool() | AvgPool():
            yield "MaxPool" if isinstance(layer, MaxPool) else "AveragePool", [None], {
                "kernel_shape": (layer.window,) * 2, "strides": (layer.stride,) * 2,
                "pads": _pads(layer, row),
            }, {}  # fmt: skip
        case AdaptiveAvgPool():
            yield from _average_nodes(row, layer)
        case Flatten():
            yield "Flatten", [None], {"axis": 1}, {}
        case Dropout(rate, inverted=False):
            kept = f"{row.name}.kept"
            yield "Mul", [None, kept], {}, {kept: np.array(1 - rate, "<f4")}


def _pads(layer: Conv | MaxPool | AvgPool, row: Row) -> tuple[int, int, int, int]:
    """Pixels before and after the image, in the order of ONNX's attribute `pads`."""
    before = layer.padding if isinstance(layer, Conv) else 0
    after = before + layer.overhang(row.in_shape[0])
    return before, before, after, after


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


def _spatial_nodes(row: Row, layer: SpatialLRN) -> Nodes:
    """Divide by a power of the windows' mean squares, in which pixels outside count as zeros."""
    before, after = layer.size // 2, (layer.size - 1) // 2
    numbers = {"alpha": layer.alpha, "k": layer.k, "beta": layer.beta}
    constants = {f"{row.name}.{part}": np.array(n, "<f4") for part, n in numbers.items()}
    alpha, k, beta = constants
    yield "Mul", [None, None], {}, constants
    yield "AveragePool", [None], {
        "kernel_shape": (layer.size,) * 2, "strides": (1, 1), "count_include_pad": 1,
        "pads": (before, before, after, after),
    }, {}  # fmt: skip
    yield "Mul", [None, alpha], {}, {}
    yield "Add", [None, k], {}, {}
    yield "Pow", [None, beta], {}, {}
    yield "Div", [_BEFORE, None], {}, {}


def _average_nodes(row: Row, layer: AdaptiveAvgPool) -> Nodes:
    """Plain average pooling where the bins are equal, else two products with the bins' matrix."""
    size = row.in_shape[0]
    if size == layer.size:
        return
    if size % layer.size == 0:
        window = (size // layer.size,) * 2
        yield "AveragePool", [None], {"kernel_shape": window, "strides": window}, {}
        return
    bins = averages(layer.bins(size), size)
    rows, columns = f"{row.name}.rows", f"{row.name}.columns"
    yield "MatMul", [rows, None], {}, {rows: bins}
    yield "MatMul", [None, columns], {}, {columns: np.ascontiguousarray(bins.T)}
