"""An ONNX file as data: its operators in order, its constants and its one input.

The operators are parsed by the `onnx` package. The weights are not, as that would copy them twice:
they are views of the file. Sizes and counts are checked before anything is built from them. The
numbers of fields are those of onnx/onnx.proto.
"""

import io
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np

from alexnet.errors import UserError
from alexnet.files import open_file
from alexnet.weights import wire
from alexnet.weights.core import BF16, names_from_json

METADATA_KEY = "alexnet-weights"
MAX_NODES = 5000  # in a graph; torch writes some 300 for AlexNet
_MAX_NODE, _MAX_NODES = 1 << 16, 4 << 20  # bytes in one of them and in all, weights aside
_MAX_SIDE = 1024  # pixels
# By TensorProto.DataType.
_DTYPES: dict[int, Any] = {1: "<f4", 7: "<i8", 10: "<f2", 11: "<f8", 16: BF16}
_INT64 = 7


def package() -> ModuleType:
    """The `onnx` package, which is an extra.

    Raises:
        UserError: where it is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise UserError(
            "ONNX files need the package onnx, which is not installed: run "
            "`pip install -c constraints.txt -e '.[onnx]'`"
        ) from error
    return onnx


class Tensors(Mapping[str, np.ndarray]):
    """The constants of a graph by name, made arrays when asked for."""

    def __init__(self, messages: dict[str, memoryview], folder: Path | None) -> None:
        """`folder` holds the file and, if it keeps weights in a second file, that one."""
        self._messages, self._folder = messages, folder
        self._left: dict[str, int] = {}  # bytes of other files that were not read yet

    def __contains__(self, name: object) -> bool:
        return name in self._messages  # without reading anything

    def __iter__(self) -> Iterator[str]:
        return iter(self._messages)

    def __len__(self) -> int:
        return len(self._messages)

    def __getitem__(self, name: str) -> np.ndarray:
        """A constant, of the type that it has in the file.

        Raises:
            UserError: where its numbers are of another type, or not where they should be.
        """
        message = wire.parse(self._messages[name])
        kind, shape = wire.one_int(message, 2, 0), wire.ints(message, 1)
        if kind not in _DTYPES:
            raise UserError(f"its {name[:50]!r} is neither floats nor int64 (data type {kind})")
        if len(shape) > 8 or any(n < 0 for n in shape):
            raise UserError(f"it is damaged: {name[:50]!r} has no shape")
        raw = wire.messages(message, 9)
        if wire.one_int(message, 14, 0) or 13 in message:
            data = self._beside(message, math.prod(shape), _DTYPES[kind])
        elif raw:
            data = np.frombuffer(raw[-1], _DTYPES[kind])
        else:
            data = _listed(message, kind)
        if math.prod(shape) != len(data):
            raise UserError(f"it is damaged: the shape of {name[:50]!r} is not its size")
        return data.reshape(shape)

    def is_float(self, name: str) -> bool:
        """Check whether a constant may be a weight: all but integers, which mostly are shapes."""
        return wire.one_int(wire.parse(self._messages[name]), 2, 0) != _INT64

    def _beside(self, message: wire.Message, count: int, dtype: Any) -> np.ndarray:
        """`count` numbers from a file in the same folder, where large exports keep weights."""
        entries = map(wire.parse, wire.messages(message, 13))
        place = {wire.text(entry, 1): wire.text(entry, 2) for entry in entries}
        location = place.get("location", "")
        plain = location.strip(".") and not set(location) & set("/\\:\0")
        if self._folder is None or not plain:
            raise UserError(
                f"its weights are in {location[:100]!r}, and only a file in the same folder is "
                "read: save it as one file (torch.onnx.export: external_data=False)"
            )
        length = count * np.dtype(dtype).itemsize
        start, given = (
            _number(place.get(n, d)) for n, d in (("offset", "0"), ("length", f"{length}"))
        )
        with open_file(self._folder / location, follow=False) as file:  # a link could lead anywhere
            size = file.seek(0, io.SEEK_END)
            left = self._left.get(location, size) - length  # no byte may be in two arrays
            fits = 0 <= start <= size - length and given == length
            if not fits or left < 0:
                raise UserError(f"{location} is cut short, or not the one that belongs to it")
            self._left[location] = left
            file.seek(start)
            data = np.empty(count, dtype)
            if cast(Any, file).readinto(data.view(np.uint8)) != length:
                raise UserError(f"{location} changed while it was read")
        return data


@dataclass(frozen=True)
class Graph:
    """One network as a file describes it; its image is (batch, channels, side, side)."""

    image: str  # the input's name
    batch: int  # 0 where it is free
    channels: int
    side: int
    output: str
    opset: int
    nodes: Sequence[Any]  # onnx.NodeProto
    tensors: Tensors
    producer: str
    metadata: dict[str, Any]  # `onnx_write`'s description of the weights; empty in other files


def read_graph(data: memoryview, folder: Path | None) -> Graph:
    """The network in a ModelProto.

    Raises:
        UserError: for a file that is damaged, too large, or does not take one square image.
    """
    onnx = package()
    model = wire.parse(data)
    graphs = wire.messages(model, 7)
    if len(graphs) != 1:
        raise UserError("it is not an ONNX model: it has no graph, or several")
    fields = wire.parse(graphs[0], 4 * MAX_NODES)
    tensors = {wire.text(wire.parse(piece), 8): piece for piece in wire.messages(fields, 5)}
    small = []
    for piece in wire.messages(fields, 1):
        if len(piece) > _MAX_NODE:
            tensors |= _large_constant(piece)
        else:
            small.append(piece)
    if len(small) > MAX_NODES or sum(map(len, small)) > _MAX_NODES:
        raise UserError(f"it has {len(small):,} operators, more than AlexNet needs")
    # Before IR version 4 weights are inputs too.
    inputs = [v for v in wire.messages(fields, 11) if wire.text(wire.parse(v), 1) not in tensors]
    outputs = wire.messages(fields, 12)
    if len(inputs) != 1 or len(outputs) != 1 or len(inputs[0]) > _MAX_NODE:
        raise UserError(
            f"it has {len(inputs)} inputs and {len(outputs)} outputs, where AlexNet has one each"
        )
    image = _parsed(onnx.ValueInfoProto, inputs[0])
    nodes = [_parsed(onnx.NodeProto, piece) for piece in small]
    if not all(map(_is_text, (*nodes, image))):
        raise UserError("it is damaged: a name in it is no text")
    dims = [dim.dim_value for dim in image.type.tensor_type.shape.dim]
    sized = len(dims) == 4 and dims[2] == dims[3] and all(1 <= n <= _MAX_SIDE for n in dims[1:])
    if not sized:
        raise UserError(f"its input has shape {dims[:6]}, and N, channels, size, size is needed")
    return Graph(
        image.name, max(0, dims[0]), dims[1], dims[2], wire.text(wire.parse(outputs[0]), 1),
        _opset(model), nodes, Tensors(tensors, folder), wire.text(model, 2), _metadata(model),
    )  # fmt: skip


def _listed(message: wire.Message, kind: int) -> np.ndarray:
    """The numbers of a TensorProto that lists them one by one, in a field for their type."""
    if kind == 1:
        return wire.floats(message, 4)
    if kind == 11:
        return wire.floats(message, 10, "<f8")
    if kind == _INT64:
        return np.array(wire.ints(message, 7), "<i8")
    return np.array([n & 0xFFFF for n in wire.ints(message, 5)], "<u2").view(_DTYPES[kind])


def _number(text: str) -> int:
    """The number that a text of digits stands for; -1 for any other text."""
    return int(text) if re.fullmatch("[0-9]{1,18}", text) else -1


def _parsed(kind: Any, piece: memoryview) -> Any:
    try:
        return kind.FromString(piece)
    except Exception as error:  # DecodeError, of protobuf, which is not imported here
        raise UserError("it is damaged: a part of it can't be parsed") from error


def _is_text(part: Any) -> bool:
    """Check that an operator's names are text: protobuf returns bytes if they aren't UTF-8."""
    if not hasattr(part, "op_type"):
        return isinstance(part.name, str)
    names = (part.op_type, part.domain, *part.input, *part.output)
    inner = (node for attribute in part.attribute for node in attribute.g.node)
    named = (*part.attribute, *(value for a in part.attribute for value in a.g.output))
    return all(isinstance(name, str) for name in names) and all(map(_is_text, (*inner, *named)))


def _large_constant(piece: memoryview) -> dict[str, memoryview]:
    """The tensor of a Constant that is an operator in name only, by the name of its output."""
    node = wire.parse(piece)
    attributes = [wire.parse(part) for part in wire.messages(node, 5)]
    values = [part for attribute in attributes for part in wire.messages(attribute, 5)]
    if wire.text(node, 4) != "Constant" or len(values) != 1 or len(wire.texts(node, 2)) != 1:
        raise UserError(f"it is damaged: an operator of it takes {len(piece):,} bytes")
    return {wire.text(node, 2): values[0]}


def _opset(model: wire.Message) -> int:
    """The version of ONNX's own operators."""
    imports = map(wire.parse, wire.messages(model, 8))
    versions = [
        wire.one_int(entry, 2, 1) for entry in imports if wire.text(entry, 1) in ("", "ai.onnx")
    ]
    return versions[-1] if versions else 1


def _metadata(model: wire.Message) -> dict[str, Any]:
    for part in wire.messages(model, 14):
        entry = wire.parse(part)
        if wire.text(entry, 1) == METADATA_KEY:
            try:
                values = json.loads(wire.text(entry, 2))
                names, image = values["class_names"], values["mean_image"]
                own = None if names is None else names_from_json(names, None)
                kinds = [isinstance(values[name], dict) for name in ("spec", "preprocess")]
                if all(kinds) and isinstance(image, bool):
                    return values | {"class_names": own}
            except (ValueError, KeyError, TypeError, RecursionError, UserError):
                pass
            raise UserError("it is damaged: its own description of its weights is unreadable")
    return {}
