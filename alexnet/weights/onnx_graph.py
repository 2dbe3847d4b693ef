"""An ONNX file as data: its operators in order, its constants and its one input.

Read here and not by the `onnx` package: no code of its own, no copy of the weights. The numbers
of fields are those of onnx/onnx.proto.
"""

import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alexnet.errors import UserError
from alexnet.files import open_file
from alexnet.weights import wire

MAX_SIDE = 4096  # kernel, stride, padding and image size, in pixels
SMALL = 64  # numbers in the largest constant that arithmetic on shapes needs
_DTYPES = {1: "<f4", 7: "<i8"}  # TensorProto.DataType


@dataclass(frozen=True)
class Branch:
    """One side of an `If`: operators, and the name of what comes out."""

    nodes: list["Node"]
    output: str


@dataclass(frozen=True)
class Node:
    """One operator: its type, inputs, outputs and attributes, the last as messages.

    Of an `If` the inputs are the condition and all that its branches take from outside.
    """

    op: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, wire.Message]
    branches: tuple[Branch, ...] = ()  # of an `If`: where the condition holds, and where not

    def ints(self, name: str, default: list[int]) -> list[int]:
        """An attribute of integers, or of one."""
        message = self.attributes.get(name, {})
        values = wire.ints(message, 8) or wire.ints(message, 3) or default
        if not all(-MAX_SIDE <= value <= MAX_SIDE for value in values):
            raise UserError(f"it is damaged: {self.op} has {name} {values[:4]}")
        return values

    def number(self, name: str, default: float) -> float:
        """An attribute of one fp32 number."""
        return wire.one_float(self.attributes.get(name, {}), 2, default)

    def text(self, name: str, default: str) -> str:
        """An attribute of one string."""
        return wire.text(self.attributes.get(name, {}), 4, default)

    def equal(self, name: str, default: int) -> int:
        """A size that is the same in height and width."""
        values = self.ints(name, [default])
        if len(set(values)) != 1 or values[0] < 1:
            raise UserError(f"its {self.op} has an uneven {name}: {values[:4]}")
        return values[0]

    def pads(self) -> tuple[int, int]:
        """Padding before and after, the same in height and width."""
        pads = self.ints("pads", [0, 0, 0, 0])
        if self.text("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
            raise UserError(f"its {self.op} is padded by a rule that no variant has")
        if len(pads) != 4 or min(pads) < 0 or pads[0] != pads[1] or pads[2] != pads[3]:
            raise UserError(f"its {self.op} is padded unevenly: {pads[:8]}")
        return pads[0], pads[2]


class Tensors:
    """The constants of a graph by name, made arrays when asked for."""

    def __init__(self, messages: dict[str, wire.Message], folder: Path | None) -> None:
        """`folder` is where the file lies, and with it the one that it may keep weights in."""
        self._messages, self._folder = messages, folder
        self._left: dict[str, int] = {}  # bytes of other files that were not read yet
        self._used: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._messages

    def array(self, name: str) -> np.ndarray:
        """A constant, which counts as used from then on.

        Raises:
            UserError: where there is none, or its numbers are not where they should be.
        """
        if name not in self._messages:
            raise UserError(f"its weights {name[:50]!r} are not in the file, or computed")
        self._used.add(name)
        message = self._messages[name]
        kind = wire.one_int(message, 2, 0)
        if kind not in _DTYPES:
            raise UserError(f"its {name[:50]!r} is neither fp32 nor int64 (data type {kind})")
        shape = wire.ints(message, 1)
        if len(shape) > 8 or any(n < 0 for n in shape):
            raise UserError(f"it is damaged: {name[:50]!r} has no shape")
        raw = wire.messages(message, 9)
        if wire.one_int(message, 14, 0) or 13 in message:
            data = self._beside(name, message, math.prod(shape), _DTYPES[kind])
        elif raw:
            data = np.frombuffer(raw[-1], _DTYPES[kind])
        elif kind == 1:
            data = wire.floats(message, 4)
        else:
            data = np.array(wire.ints(message, 7), "<i8")
        if math.prod(shape) != len(data):
            raise UserError(f"it is damaged: the shape of {name[:50]!r} is not its size")
        return data.reshape(shape)

    def small(self, name: str) -> np.ndarray | None:
        """A constant of up to `SMALL` numbers; None for others."""
        message = self._messages.get(name)
        if message is None or wire.one_int(message, 2, 0) not in _DTYPES:
            return None
        shape = wire.ints(message, 1)
        few = all(0 <= n <= SMALL for n in shape) and math.prod(shape) <= SMALL
        return self.array(name) if few else None

    def unused(self) -> tuple[str, ...]:
        """The constants that nothing took; those of integers, shapes mostly, don't count."""
        return tuple(
            name
            for name, message in self._messages.items()
            if name not in self._used and _DTYPES.get(wire.one_int(message, 2, 0)) != "<i8"
        )

    def _beside(self, name: str, message: wire.Message, count: int, dtype: str) -> np.ndarray:
        """`count` numbers from a file in the same folder, where large exports keep weights."""
        entries = map(wire.parse, wire.messages(message, 13))
        place = {wire.text(entry, 1): wire.text(entry, 2) for entry in entries}
        location, start = place.get("location", ""), int(place.get("offset", "0"))
        plain = location.strip(".") and not set(location) & set("/\\:\0")
        if self._folder is None or not plain:
            raise UserError(
                f"its weights are in {location[:100]!r}, and only a file in the same folder is "
                "read: save it as one file (torch.onnx.export: external_data=False)"
            )
        length = count * np.dtype(dtype).itemsize
        with open_file(self._folder / location) as file:
            size = file.seek(0, io.SEEK_END)
            left = self._left.get(location, size) - length  # no byte makes two arrays
            if not 0 <= start <= size - length or left < 0:
                raise UserError(f"{location} is cut short, or not the one that belongs to it")
            self._left[location] = left
            file.seek(start)
            data = np.empty(count, dtype)
            if file.readinto(data.view(np.uint8)) != length:
                raise UserError(f"{location} changed while it was read")
        return data


@dataclass(frozen=True)
class Graph:
    """What a file describes; the image is (batch, channels, size, size), batch 1 where any."""

    image: str  # the input's name
    batch: int
    channels: int
    image_size: int
    nodes: list[Node]
    tensors: Tensors


def read_graph(message: wire.Message, folder: Path | None) -> Graph:
    """The graph of a GraphProto.

    Raises:
        UserError: for one that is damaged, or does not take one square image.
    """
    nodes = [_node(wire.parse(part), inner=False) for part in wire.messages(message, 1)]
    tensors = {wire.text(t, 8): t for t in map(wire.parse, wire.messages(message, 5))}
    for node in every(nodes):
        if node.op == "Constant" and node.outputs:
            tensors |= _constant(node)
    inputs = [wire.parse(part) for part in wire.messages(message, 11)]
    # Before IR version 4 weights are inputs too.
    inputs = [value for value in inputs if wire.text(value, 1) not in tensors]
    if len(inputs) != 1:
        raise UserError(f"it has {len(inputs)} inputs, where AlexNet has one")
    dims = _dims(inputs[0])
    if len(dims) != 4 or dims[2] != dims[3] or not all(1 <= n <= MAX_SIDE for n in dims[1:]):
        raise UserError(f"its input has shape {dims[:6]}, and N, channels, size, size is needed")
    sizes = (max(1, dims[0]), dims[1], dims[2])
    return Graph(wire.text(inputs[0], 1), *sizes, nodes, Tensors(tensors, folder))


def every(nodes: Sequence[Node]) -> Iterator[Node]:
    """The nodes, and those in their branches."""
    for node in nodes:
        yield node
        for branch in node.branches:
            yield from branch.nodes


def _node(message: wire.Message, inner: bool) -> Node:
    """One operator; branches inside of branches are left out, and nothing reads them."""
    attributes = {wire.text(a, 1): a for a in map(wire.parse, wire.messages(message, 5))}
    op, inputs = wire.text(message, 4), wire.texts(message, 1)
    branches: tuple[Branch, ...] = ()
    if op == "If" and not inner:
        branches = tuple(_branch(attributes.get(f"{side}_branch", {})) for side in ("then", "else"))
        for branch in branches:
            own = {name for node in branch.nodes for name in node.outputs}
            inputs += [n for node in branch.nodes for n in node.inputs if n and n not in own]
    return Node(op, inputs, wire.texts(message, 2), attributes, branches)


def _branch(attribute: wire.Message) -> Branch:
    graphs = wire.messages(attribute, 6)
    if not graphs:
        raise UserError("it is damaged: an If has no branches")
    graph = wire.parse(graphs[-1])
    outputs = [wire.text(wire.parse(part), 1) for part in wire.messages(graph, 12)]
    nodes = [_node(wire.parse(part), inner=True) for part in wire.messages(graph, 1)[:SMALL]]
    return Branch(nodes, outputs[0] if len(outputs) == 1 else "")


def _constant(node: Node) -> dict[str, wire.Message]:
    """The tensor of a Constant, whichever way it is written down, by the name of its output."""
    values = wire.messages(node.attributes.get("value", {}), 5)
    if values:
        return {node.outputs[0]: wire.parse(values[-1])}
    for name, number, kind in (
        ("value_ints", 8, 7), ("value_int", 3, 7), ("value_floats", 7, 1), ("value_float", 2, 1)
    ):  # fmt: skip
        if name in node.attributes:
            read = wire.floats if kind == 1 else wire.ints
            numbers = np.array(read(node.attributes[name], number), _DTYPES[kind])
            dims = [len(numbers)] if name.endswith("s") else []
            return {node.outputs[0]: {1: dims, 2: [kind], 9: [memoryview(numbers.tobytes())]}}
    return {}


def _dims(value: wire.Message) -> list[int]:
    """The sizes in a ValueInfoProto, 0 for those that are free."""
    for kind in wire.messages(value, 2)[-1:]:
        for tensor in wire.messages(wire.parse(kind), 1)[-1:]:
            for shape in wire.messages(wire.parse(tensor), 2)[-1:]:
                parts = map(wire.parse, wire.messages(wire.parse(shape), 1))
                return [wire.one_int(dim, 1, 0) for dim in parts]
    return []
