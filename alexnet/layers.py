"""Networks as tables of layers, and the shapes and arrays that follow from a table.

The kinds of layers are in `kinds.py`, the networks themselves in `spec.py`.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from alexnet.errors import UserError, check_count
from alexnet.kinds import (
    LRN,
    AdaptiveAvgPool,
    AvgPool,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    FanIn,
    Flatten,
    Gaussian,
    Init,
    Initial,
    Layer,
    LeCun,
    MaxPool,
    ReLU,
    Role,
    SpatialLRN,
    Tanh,
    Variable,
)

__all__ = [
    "LRN",
    "AdaptiveAvgPool",
    "AvgPool",
    "BatchNorm",
    "Conv",
    "Dense",
    "Dropout",
    "FanIn",
    "Flatten",
    "Gaussian",
    "Init",
    "Initial",
    "Layer",
    "LeCun",
    "MaxPool",
    "ReLU",
    "Role",
    "Row",
    "SpatialLRN",
    "Spec",
    "Tanh",
    "Variable",
    "check_input",
    "count_dropouts",
    "map_shapes",
    "min_image_size",
    "show",
    "trace",
    "variables",
]


_KIND_NAMES = {
    ReLU: "relu", Tanh: "tanh", LRN: "lrn", SpatialLRN: "spatial_lrn", MaxPool: "pool",
    AvgPool: "pool", AdaptiveAvgPool: "avgpool", Flatten: "flatten", Dropout: "dropout",
}  # fmt: skip

MAX_SIDE = 4096  # pixels of an image; beyond it no machine has the memory for a batch
MAX_FEATURES = 1 << 20
MAX_PARAMS = 1 << 31
_LARGEST = {"image_size": MAX_SIDE, "num_classes": MAX_FEATURES, "channels": MAX_SIDE}


# --- a network -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spec:
    """One network: its table of layers and the three sizes that users change."""

    name: str
    layers: tuple[Layer, ...]
    image_size: int
    num_classes: int = 1000
    channels: int = 3

    def __post_init__(self) -> None:
        """Check the sizes; a UserError names the first invalid one."""
        object.__setattr__(self, "layers", tuple(self.layers))  # a list has no hash
        for name, most in _LARGEST.items():
            check_count(name, getattr(self, name), most=most)

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    @property
    def num_params(self) -> int:
        """Number of learned parameters, which excludes statistics."""
        return sum(row.params for row in trace(self))


@dataclass(frozen=True)
class Row:
    """One layer with its shapes and arrays, given the layers above it, for a batch of one."""

    name: str
    layer: Layer
    in_shape: tuple[int, ...]  # (H, W, C) or (features,)
    out_shape: tuple[int, ...]
    variables: dict[str, Variable]  # by the name within the layer: kernel, bias, ...
    multiply_adds: int
    map_shape: tuple[int, int, int] | None  # of the feature map that the input is flattened from

    @property
    def params(self) -> int:
        """Number of learned parameters."""
        return sum(math.prod(v.shape) for v in self.variables.values() if v.role != "statistic")


def trace(spec: Spec) -> list[Row]:
    """Walk through the table, layer by layer.

    A layer without a name is named after its kind and the number of the convolution or dense layer
    above it (`relu1`, `lrn1`, `pool1`, ...); a second one gets the suffix `_2`, and so on.

    Raises:
        UserError: if the input is too small for the network, or the table is not a valid network.
    """
    if not isinstance(spec, Spec):
        raise UserError(
            f"a network's table is needed, not {spec!r:.60}: alexnet.spec.variant('paper'), for "
            "one, gives the table of a variant"
        )
    rows = list(_rows(spec))
    if min(rows[-1].out_shape) < 1:
        raise UserError(
            f"image size {spec.image_size} is too small for variant '{spec.name}': nothing is left "
            f"after {rows[-1].name}; the smallest that works is {min_image_size(spec)}"
        )
    return rows


def _rows(spec: Spec) -> Iterator[Row]:
    """The rows of `trace`, up to the first one with an empty output, if any."""
    shape: tuple[int, ...] = (spec.image_size, spec.image_size, spec.channels)
    number, names, map_shape = "0", set[str](), None
    for layer in spec.layers:
        if isinstance(layer, Conv | Dense):
            number = layer.name.lstrip("abcdefghijklmnopqrstuvwxyz_") or layer.name
        base = name = getattr(layer, "name", None) or _KIND_NAMES[type(layer)] + number
        for again in range(2, len(spec.layers) + 1):
            if name in names:
                name = f"{base}_{again}"
        names.add(name)
        out = _out_shape(spec, layer, shape)
        own = _variables_of(layer, shape, out)
        fan_in = math.prod(own["kernel"].shape[:-1]) if "kernel" in own else 0
        if isinstance(layer, Flatten) and len(shape) == 3:
            map_shape = shape
        yield Row(name, layer, shape, out, own, fan_in * math.prod(out), map_shape)
        if isinstance(layer, Dense):
            map_shape = None
        if min(out) < 1:
            return
        shape = out


def _out_shape(spec: Spec, layer: Layer, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The output shape for one input."""
    match layer:
        case Conv():
            return (layer.out(shape[0]), layer.out(shape[1]), layer.features)
        case Dense():
            return (spec.num_classes if layer.features is None else layer.features,)
        case MaxPool() | AvgPool():
            return (layer.out(shape[0]), layer.out(shape[1]), shape[2])
        case AdaptiveAvgPool():
            return (layer.size, layer.size, shape[2])
        case Flatten():
            return (math.prod(shape),)
        case _:
            return shape


def _variables_of(
    layer: Layer, in_shape: tuple[int, ...], out_shape: tuple[int, ...]
) -> dict[str, Variable]:
    """The arrays of one layer, by their names within it."""
    match layer:
        case Conv(kernel=side):
            shape = (side, side, in_shape[2] // layer.groups, layer.features)
            return _kernel_and_bias(layer.init, shape)
        case Dense():
            return _kernel_and_bias(layer.init, (in_shape[0], out_shape[0]))
        case BatchNorm():
            channels = in_shape[-1:]
            learned = {
                "scale": Variable(channels, "scale", ("constant", 1.0)),
                "shift": Variable(channels, "shift", ("constant", 0.0)),
            }
            return (learned if layer.affine else {}) | {
                "mean": Variable(channels, "statistic", ("constant", 0.0)),
                "variance": Variable(channels, "statistic", ("constant", 1.0)),
            }
        case _:
            return {}


def _kernel_and_bias(init: Init, shape: tuple[int, ...]) -> dict[str, Variable]:
    fan_in = max(1, math.prod(shape[:-1]))  # inputs to one output; an impossible table has none
    kernel: Initial
    bias: Initial
    match init:
        case Gaussian(std, value):
            kernel, bias = ("normal", std), ("constant", value)
        case LeCun():
            kernel, bias = ("normal", math.sqrt(1 / fan_in)), ("constant", 0.0)
        case FanIn():
            kernel = bias = ("uniform", 1 / math.sqrt(fan_in))
    return {"kernel": Variable(shape, "kernel", kernel), "bias": Variable(shape[-1:], "bias", bias)}


def variables(spec: Spec) -> dict[str, Variable]:
    """Every array that a network learns or tracks: `conv1.kernel`, `conv1.bias`, `bn2.mean`, ...

    Initial weights, optimizer, sharding, checkpoints, converters and checks are derived from this.

    Raises:
        UserError: if the input is too small for the network.
    """
    return {f"{row.name}.{part}": v for row in trace(spec) for part, v in row.variables.items()}


def map_shapes(spec: Spec) -> dict[str, tuple[int, int, int]]:
    """The feature map (H, W, C) that each dense layer takes in flattened form, by layer name."""
    rows = [row for row in trace(spec) if isinstance(row.layer, Dense)]
    return {row.name: row.map_shape for row in rows if row.map_shape}


@functools.lru_cache
def check_input(spec: Spec, shape: tuple[int, ...], axes: str, kind: str) -> None:
    """Refuse images that a network can't take: neither of its own size, nor pooled to that.

    Args:
        spec: the network.
        shape: the shape of a batch of images.
        axes: the order of the axes, NHWC or NCHW.
        kind: the images' type, in words.

    Raises:
        UserError: saying what is needed.
    """
    if "float" not in kind:
        raise UserError(
            f"images are of type {kind}: floats are needed, normalized as alexnet.preprocess does"
        )
    sizes = dict(zip(axes, shape, strict=False)) if len(shape) == len(axes) else {}
    found = tuple(sizes.get(axis, 0) for axis in "HWC")
    for row in trace(spec):
        if isinstance(row.layer, Flatten) or found[2:] != row.in_shape[2:] or min(found) < 1:
            break
        found = _out_shape(spec, row.layer, found)
    if found != row.in_shape:
        side = spec.image_size
        own: dict[str, int | str] = {"N": "N", "H": side, "W": side, "C": spec.channels}
        raise UserError(
            f"images of shape {show(shape)} don't fit variant '{spec.name}': it takes "
            f"{axes} of {show(tuple(own[axis] for axis in axes))}"
        )


def show(shape: Sequence[int | str]) -> str:
    """A shape in the usual notation: 11x11x3x64."""
    return "x".join(map(str, shape)) or "a scalar"


def count_dropouts(spec: Spec) -> int:
    """Number of dropout layers, each of which needs one key per step."""
    return sum(isinstance(layer, Dropout) for layer in spec)


def min_image_size(spec: Spec) -> int:
    """The smallest input that leaves at least one pixel after every layer.

    Raises:
        UserError: if no input does, because some layer has no features.
    """
    for size in range(1, 1024):
        if min(list(_rows(dataclasses.replace(spec, image_size=size)))[-1].out_shape) >= 1:
            return size
    raise UserError(f"variant '{spec.name}' leaves nothing of images of any size up to 1,023")
