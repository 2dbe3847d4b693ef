"""MatConvNet's SimpleNN models: imagenet-caffe-alex.mat (bvlc_alexnet) and -ref.mat (CaffeNet).

Kernels are HWIO and for R, G, B inputs already; dense layers are convolutions that cover the whole
map; LRN's parameters are [n, k, alpha/n, beta]. (Source: vlfeat/matconvnet utils/import-caffe.py.)
"""

from dataclasses import replace
from typing import Any, BinaryIO

import numpy as np

from alexnet.errors import UserError
from alexnet.layers import LRN, Conv, Dense, Flatten, Layer, ReLU, Spec
from alexnet.preprocess import Preprocess, with_mean_image
from alexnet.weights import matfile
from alexnet.weights.assemble import CAFFE_VARIANTS, Found, caffe_preprocess
from alexnet.weights.layout import row_major
from alexnet.weights.names import CAFFE_LAYERS, kind
from alexnet.weights.network import pool, recognize

_ENDS = ("softmax", "softmaxloss")
_SILENT = ("dropout", *_ENDS)  # without effect at evaluation, or not part of the network


def read(file: BinaryIO) -> Found:
    """The network and weights of a seekable file that is open at its start.

    Raises:
        UserError: for a file that is damaged, or another network.
    """
    variables = matfile.read(file)
    layers = variables.get("layers")
    if isinstance(layers, dict):
        layers = [layers]
    if not isinstance(layers, list) or not all(isinstance(layer, dict) for layer in layers):
        raise UserError("it holds no MatConvNet SimpleNN model: 'layers' is missing")
    meta = variables["meta"] if isinstance(variables.get("meta"), dict) else variables
    normalization = meta.get("normalization")
    normalization = normalization if isinstance(normalization, dict) else {}
    image_size = _image_size(normalization)
    arrays: dict[str, np.ndarray] = {}
    extra: list[str] = []
    network: list[Layer] = []
    ended = False
    for layer in layers:
        steps = _layer(layer, network, image_size, arrays, extra)
        if ended and steps:
            raise UserError(f"it goes on after its softmax, with {str(layer.get('name'))[:50]!r}")
        ended |= layer.get("type") in _ENDS
        network += steps
    conv1 = arrays.get("conv1.kernel")
    channels = conv1.shape[2] if conv1 is not None and conv1.ndim == 4 else 3
    spec = recognize(network, image_size, channels, CAFFE_VARIANTS)
    preprocess, mean_image = _preprocess(normalization, spec)
    return Found(
        arrays, extra=tuple(extra), flatten="HWC", spec=spec, preprocess=preprocess,
        class_names=_class_names(meta.get("classes")), mean_image=mean_image,
    )  # fmt: skip


def _image_size(normalization: dict[str, Any]) -> int:
    sizes = normalization.get("imageSize")
    if not isinstance(sizes, np.ndarray) or sizes.size < 2:
        return 227
    height, width = (float(n) for n in sizes.reshape(-1)[:2])
    if height != width or not 1 <= height <= 4096:
        raise UserError(f"it is for images of {height:g}x{width:g} pixels: only squares are read")
    return int(height)


def _layer(
    layer: dict[str, Any],
    above: list[Layer],
    image_size: int,
    arrays: dict[str, np.ndarray],
    extra: list[str],
) -> list[Layer]:
    """A layer in this project's terms; its arrays are added to `arrays`, others to `extra`."""
    name, kind_name = str(layer.get("name", "")), layer.get("type")
    if kind_name == "conv":
        return _conv(layer, name, above, arrays, extra)
    if kind_name == "relu" and _numbers(layer, "leak", [0]) == [0]:
        return [ReLU()]
    if kind_name in ("normalize", "lrn", "norm"):
        size, k, alpha, beta = _exactly(_numbers(layer, "param", []), 4, name)
        return [LRN(int(size), alpha * size, beta, k)]
    if kind_name == "pool" and layer.get("method", "max") == "max":
        window, stride = _equal(layer, "pool", name), _equal(layer, "stride", name)
        top, bottom, left, right = _four(layer, name)
        if (top, bottom) != (left, right):
            raise UserError(f"its pool {name[:50]!r} is padded unevenly")
        return [pool(above, image_size, window, stride, (top, bottom))]
    if kind_name in _SILENT:
        return []
    raise UserError(
        f"its layer {name[:50]!r} is of type {str(kind_name)[:50]!r}, which AlexNet lacks"
    )


def _conv(
    layer: dict[str, Any],
    name: str,
    above: list[Layer],
    arrays: dict[str, np.ndarray],
    extra: list[str],
) -> list[Layer]:
    weights = layer.get("weights", [layer.get("filters"), layer.get("biases")])
    if name not in CAFFE_LAYERS:
        extra.append(name[:100])
        return []
    match weights:
        case [np.ndarray() as kernel, np.ndarray() as bias] if kernel.size and bias.size:
            pass
        case _:
            raise UserError(f"its layer {name} is not a kernel and a bias")
    if kernel.ndim < 4:  # MATLAB drops axes of one at the end
        kernel = kernel.reshape(*kernel.shape, *[1] * (4 - kernel.ndim))
    canonical = CAFFE_LAYERS[name]
    arrays[f"{canonical}.bias"] = bias.reshape(-1)
    features = kernel.shape[-1]
    if _numbers(layer, "dilate", [1]) not in ([1], [1, 1]):
        raise UserError(f"its layer {name} is dilated")
    if kind(f"{canonical}.kernel") != "conv":
        if kernel.shape[:2] != (1, 1):  # fc6, whose columns are in W, H order: no view has rows
            kernel = row_major(kernel)
        arrays[f"{canonical}.kernel"] = kernel.reshape(-1, features)
        return [*([Flatten()] if Flatten() not in above else []), Dense(canonical, features)]
    arrays[f"{canonical}.kernel"] = kernel
    pads = _four(layer, name)
    if len(set(pads)) != 1 or kernel.shape[0] != kernel.shape[1]:
        raise UserError(f"its layer {name} is not square")
    inputs = next((item.features for item in reversed(above) if isinstance(item, Conv)), None)
    groups = inputs // kernel.shape[2] if inputs and kernel.shape[2] else 1
    stride = _equal(layer, "stride", name)
    return [Conv(canonical, features, kernel.shape[0], stride, int(pads[0]), max(1, groups))]


def _numbers(layer: dict[str, Any], field: str, default: list[float]) -> list[float]:
    value = layer.get(field)
    if not isinstance(value, np.ndarray) or not 0 < value.size <= 8:
        return default
    numbers = [float(number) for number in value.reshape(-1)]
    if not all(0 <= number < 1 << 20 for number in numbers):
        raise UserError(f"it is damaged: a layer's {field} is {numbers}")
    return numbers


def _exactly(numbers: list[float], count: int, name: str) -> list[float]:
    if len(numbers) != count or numbers[0] < 1:
        raise UserError(f"its layer {name[:50]!r} has no parameters")
    return numbers


def _equal(layer: dict[str, Any], field: str, name: str) -> int:
    """A size that is the same in height and width."""
    numbers = _numbers(layer, field, [1.0])
    if len(set(numbers)) != 1 or numbers[0] < 1:
        raise UserError(f"its layer {name[:50]!r} has an uneven {field}: {numbers}")
    return int(numbers[0])


def _four(layer: dict[str, Any], name: str) -> tuple[int, ...]:
    """Padding at the top, bottom, left and right."""
    numbers = [int(number) for number in _numbers(layer, "pad", [0.0])]
    if len(numbers) not in (1, 4):
        raise UserError(f"its layer {name[:50]!r} has an odd padding: {numbers}")
    return tuple(numbers * 4 if len(numbers) == 1 else numbers)


def _preprocess(normalization: dict[str, Any], spec: Spec) -> tuple[Preprocess | None, bool]:
    """The preprocessing, and whether it subtracts a mean image of which only the color is kept."""
    image = normalization.get("averageImage")
    if not isinstance(image, np.ndarray) or image.size < spec.channels:
        return None, False
    if image.size != spec.channels and image.shape[2:] != (spec.channels,):
        return None, False
    pixels = image.reshape(-1, spec.channels)
    mean = tuple(float(number) for number in pixels.mean(0, dtype=np.float64))
    found = caffe_preprocess(spec.image_size, mean)
    varies = bool((pixels != pixels[0]).any())
    if varies and image.shape[:2] == (spec.image_size,) * 2:
        return replace(found, normalize=with_mean_image(found.normalize, image)), False
    return found, varies


def _class_names(classes: Any) -> tuple[str, ...] | None:
    names = classes.get("description", classes.get("name")) if isinstance(classes, dict) else None
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        return tuple(names)
    return None
