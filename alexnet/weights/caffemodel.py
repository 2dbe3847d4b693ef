"""Caffe's .caffemodel: the layers of a network with their weights, as protobuf.

Both lists of layers are read, `layers` (V1, where bvlc_alexnet's are) and `layer` (V2). Weights
are OIHW and (out, in), conv1 for B, G, R inputs. The numbers of fields are those of
src/caffe/proto/caffe.proto in BVLC/caffe.
"""

import math
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from alexnet.errors import UserError
from alexnet.files import read_all
from alexnet.layers import LRN, Conv, Dense, Flatten, Layer, MaxPool, ReLU, Spec
from alexnet.preprocess import Preprocess
from alexnet.weights import wire
from alexnet.weights.assemble import CAFFE_MEAN, CAFFE_VARIANTS, Found, caffe_preprocess
from alexnet.weights.layout import from_torch
from alexnet.weights.names import CAFFE_LAYERS
from alexnet.weights.network import pool, recognize

_V1_LAYERS, _V2_LAYERS = 2, 100  # fields of NetParameter
# AlexNet has some 25 layers of some 10 fields; each layer is compared with those above it.
_MAX_LAYERS, _MAX_FIELDS, _MAX_NET = 100, 100, 1000
_MAX_PART = 10_000  # bytes of a layer's parameters, blobs aside: a few numbers and names
_MAX_SIDE = 4096  # kernel, stride, padding and image size, in pixels
# Layer types: V1's numbers to V2's names.
_V1_TYPES = {
    1: "Accuracy", 4: "Convolution", 5: "Data", 6: "Dropout", 8: "Flatten", 12: "ImageData",
    14: "InnerProduct", 15: "LRN", 17: "Pooling", 18: "ReLU", 20: "Softmax",
    21: "SoftmaxWithLoss", 22: "Split", 29: "MemoryData", 32: "DummyData",
}  # fmt: skip
_ENDS = ("Softmax", "SoftmaxWithLoss")
_SILENT = {  # without effect at evaluation, or not part of the network
    "Accuracy", "Data", "Dropout", "DummyData", "Flatten", "ImageData", "Input", "MemoryData",
    "Split", *_ENDS,
}  # fmt: skip


# Field numbers in a layer's message.
_V1 = {"name": 4, "type": 5, "blobs": 6, "convolution": 10, "dense": 17, "lrn": 18, "pooling": 19,
       "relu": 30, "transform": 36}  # fmt: skip
_V2 = {"name": 1, "type": 2, "blobs": 7, "convolution": 106, "dense": 117, "lrn": 118,
       "pooling": 121, "relu": 123, "transform": 100}  # fmt: skip


@dataclass(frozen=True)
class _Parsed:
    """One layer: its name, type, fields and the message itself."""

    name: str
    type: str
    fields: dict[str, int]
    message: wire.Message

    def part(self, number: int) -> wire.Message:
        """One of its submessages, empty where it has none."""
        parts = wire.messages(self.message, number)
        if parts and len(parts[-1]) > _MAX_PART:
            raise UserError(f"its layer {self.name[:50]!r} has too many parameters")
        return _parse(parts[-1]) if parts else {}


def read(file: BinaryIO) -> Found:
    """The network and weights of a seekable file that is open at its start.

    Raises:
        UserError: for a file that is damaged, or another network.
    """
    net = _parse(read_all(file), _MAX_NET)
    layers = _layers(net)
    image_size = _image_size(net, layers)
    arrays: dict[str, np.ndarray] = {}
    names: dict[str, str] = {}
    extra: list[str] = []
    for layer in layers:
        _collect(layer, arrays, names, extra)
    conv1 = arrays.get("conv1.kernel")
    channels = conv1.shape[2] if conv1 is not None and conv1.ndim == 4 else 3
    network: list[Layer] = []
    ended = False
    for layer in layers:
        steps = _step(layer, network, image_size)
        if ended and steps:
            raise UserError(f"it goes on after its softmax, with {layer.name[:50]!r}")
        ended |= layer.type in _ENDS
        network += steps
    spec = recognize(network, image_size, channels, CAFFE_VARIANTS)
    preprocess, mean_image = _preprocess(layers, spec)
    return Found(
        arrays, names, tuple(extra), colors="BGR", spec=spec, preprocess=preprocess,
        mean_image=mean_image,
    )  # fmt: skip


def _parse(data: memoryview, most: int = _MAX_FIELDS) -> wire.Message:
    """Parse a message of few fields: each takes a hundred times its bytes in memory."""
    return wire.parse(data, most)


def _layers(net: wire.Message) -> list[_Parsed]:
    found: list[_Parsed] = []
    for number, fields in ((_V1_LAYERS, _V1), (_V2_LAYERS, _V2)):
        parts = wire.messages(net, number)
        if len(parts) > _MAX_LAYERS:
            raise UserError(f"it has {len(parts)} layers: no AlexNet has more than {_MAX_LAYERS}")
        for part in parts:
            message = _parse(part)
            if fields is _V1:
                if 1 in message:
                    raise UserError(
                        "it is of Caffe's first version (V0): Caffe's upgrade_net_proto_binary "
                        "makes one that is read"
                    )
                code = wire.one_int(message, fields["type"], 0)
                kind = _V1_TYPES.get(code, f"V1 type {code}")
            else:
                kind = wire.text(message, fields["type"])
            found.append(_Parsed(wire.text(message, fields["name"]), kind, fields, message))
    if not found:
        raise UserError("it is not a caffemodel: it has no layers")
    return found


def _collect(
    layer: _Parsed, arrays: dict[str, np.ndarray], names: dict[str, str], extra: list[str]
) -> None:
    """Add a layer's blobs to the arrays, or its name to the unknown ones."""
    blobs = wire.messages(layer.message, layer.fields["blobs"])
    if not blobs:
        return
    name = CAFFE_LAYERS.get(layer.name)
    if name is None or f"{name}.kernel" in arrays or len(blobs) > 2:
        extra.append(layer.name[:100])
        return
    for part, one in zip(("kernel", "bias"), blobs, strict=False):
        key = f"{name}.{part}"
        array = blob(layer.name, _parse(one))
        if part == "bias":
            array = array.reshape(-1)
        elif not name.startswith("conv") and array.ndim == 4 and array.shape[:2] == (1, 1):
            array = array.reshape(array.shape[2:])  # V1 has four axes everywhere
        arrays[key] = from_torch(key, array)
        names[key] = f"{layer.name} {part}"


def blob(name: str, message: wire.Message) -> np.ndarray:
    """The array of a BlobProto."""
    data = wire.floats(message, 8, "<f8") if 8 in message else wire.floats(message, 5)
    if 7 in message:
        shape = wire.ints(_parse(wire.messages(message, 7)[-1]), 1)
    else:
        shape = [wire.one_int(message, number, 0) for number in (1, 2, 3, 4)]
    if len(shape) > 8 or any(n < 0 for n in shape) or math.prod(shape) != len(data):
        raise UserError(f"it is damaged: the shape of layer {name[:50]!r} is not its size")
    return data.reshape(shape)


def _step(layer: _Parsed, above: list[Layer], image_size: int) -> list[Layer]:
    """A layer in this project's terms."""
    fields = layer.fields
    match layer.type:
        case "Convolution":
            return [_convolution(layer, layer.part(fields["convolution"]))]
        case "InnerProduct":
            features = wire.one_int(layer.part(fields["dense"]), 1, 0)
            first = not any(isinstance(item, Flatten) for item in above)
            return [*([Flatten()] if first else []), Dense(layer.name, features)]
        case "ReLU" if not wire.one_float(layer.part(fields["relu"]), 1, 0.0):
            return [ReLU()]
        case "LRN":
            lrn = layer.part(fields["lrn"])
            if wire.one_int(lrn, 4, 0):
                raise UserError(f"its layer {layer.name[:50]!r} normalizes within channels")
            return [LRN(wire.one_int(lrn, 1, 5), wire.one_float(lrn, 2, 1.0),
                        wire.one_float(lrn, 3, 0.75), wire.one_float(lrn, 5, 1.0))]  # fmt: skip
        case "Pooling":
            return [_pooling(layer, layer.part(fields["pooling"]), above, image_size)]
        case _ if layer.type in _SILENT:
            return []
    raise UserError(
        f"its layer {layer.name[:50]!r} is of type {layer.type[:50]!r}, which AlexNet lacks"
    )


def _side(message: wire.Message, both: int, one: tuple[int, int], default: int) -> int:
    """A size given once for both directions, or for each; it must be the same in both."""
    sizes = wire.ints(message, both) + [n for field in one for n in wire.ints(message, field)]
    if len(set(sizes)) > 1 or not all(0 <= size <= _MAX_SIDE for size in sizes):
        raise UserError(f"a layer of it is not square, or damaged: {sizes[:4]}")
    return sizes[0] if sizes else default


def _convolution(layer: _Parsed, message: wire.Message) -> Conv:
    kernel = _side(message, 4, (11, 12), 0)
    stride = _side(message, 6, (13, 14), 1)
    groups, features = wire.one_int(message, 5, 1), wire.one_int(message, 1, 0)
    if min(kernel, stride, groups, features) < 1 or set(wire.ints(message, 18)) - {1}:
        raise UserError(f"its layer {layer.name[:50]!r} is dilated, or damaged")
    return Conv(layer.name, features, kernel, stride, _side(message, 3, (9, 10), 0), groups)


def _pooling(layer: _Parsed, message: wire.Message, above: list[Layer], image_size: int) -> MaxPool:
    window, stride = _side(message, 2, (5, 6), 0), _side(message, 3, (7, 8), 1)
    plain = not wire.one_int(message, 1, 0) and not _side(message, 4, (9, 10), 0)
    if not plain or wire.one_int(message, 12, 0) or min(window, stride) < 1:
        raise UserError(f"its layer {layer.name[:50]!r} is not AlexNet's max pooling")
    if wire.one_int(message, 13, 0):  # round_mode: FLOOR
        return pool(above, image_size, window, stride, (0, 0))
    return MaxPool(window, stride, ceil=True)


def _image_size(net: wire.Message, layers: list[_Parsed]) -> int:
    """The input's height and width, if the file has them; else Caffe's 227."""
    sizes = wire.ints(net, 4)[2:4]
    for shape in wire.messages(net, 8)[:1]:
        sizes = wire.ints(_parse(shape), 1)[2:4]
    for layer in layers:
        if layer.type == "Input":
            for shape in wire.messages(layer.part(143), 1)[:1]:
                sizes = wire.ints(_parse(shape), 1)[2:4]
        crop = wire.one_int(layer.part(layer.fields["transform"]), 3, 0)
        sizes = sizes or ([crop, crop] if crop else [])
    if len(set(sizes)) > 1 or not all(1 <= size <= _MAX_SIDE for size in sizes):
        raise UserError(f"it is for images of {sizes} pixels: only squares are read")
    return sizes[0] if sizes else 227


def _preprocess(layers: list[_Parsed], spec: Spec) -> tuple[Preprocess | None, bool]:
    """Preprocessing, and whether a mean image is subtracted, which the file only names."""
    for layer in layers:
        transform = layer.part(layer.fields["transform"])
        if transform and spec.channels == 3:
            mean = tuple(map(float, wire.floats(transform, 5)[::-1])) or CAFFE_MEAN  # B, G, R there
            scale = wire.one_float(transform, 1, 1.0)
            if len(mean) == 1:
                mean *= 3
            if len(mean) != 3 or not scale > 0 or not all(map(math.isfinite, (*mean, scale))):
                raise UserError("it is damaged: its preprocessing has numbers that none can have")
            return caffe_preprocess(spec.image_size, mean, scale), 4 in transform
    return None, False
