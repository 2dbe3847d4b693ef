"""The kinds of layers, a network made of them, and what follows from its table: names and shapes.

The networks themselves stand in `spec.py`.
"""

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass

from alexnet.errors import UserError

# --- initial weights, as data; `init.py` draws them ------------------------------------------


@dataclass(frozen=True)
class Gaussian:
    """Kernel from N(0, std^2), bias constant (Krizhevsky et al. 2012, section 5)."""

    std: float
    bias: float = 0.0


@dataclass(frozen=True)
class FanIn:
    """Kernel and bias from U(-b, b), b = 1/sqrt(fan_in): what torch.nn layers do by default.

    torch writes it as kaiming_uniform(a=sqrt(5)), which is the same bound.
    """


@dataclass(frozen=True)
class LeCun:
    """Kernel from N(0, 1/fan_in), bias zero (LeCun et al. 1998, Efficient BackProp, eq. 16)."""


Init = Gaussian | FanIn | LeCun


# --- layers ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Conv:
    """A convolution with square kernel and symmetric zero padding."""

    name: str
    features: int
    kernel: int
    stride: int = 1
    padding: int = 0
    groups: int = 1
    init: Init = FanIn()


@dataclass(frozen=True)
class Dense:
    """A fully connected layer; `features=None` means one output per class."""

    name: str
    features: int | None
    init: Init = FanIn()


@dataclass(frozen=True)
class ReLU:
    """max(x, 0)."""


@dataclass(frozen=True)
class LRN:
    """Local response normalisation across channels (Krizhevsky et al. 2012, section 3.3).

    y_c = x_c / (k + alpha / size * sum of x^2 over `size` channels centred on c) ^ beta,
    with channels outside the range taken as zero. alpha IS divided by size, as in the authors'
    own code (cuda-convnet layer.py, `scale /= size`), in Caffe and in PyTorch; the paper's
    formula leaves the division out, and TensorFlow's op follows the formula.
    With `groups`, each group of channels is normalised by itself: the authors' two towers never
    see each other's channels (layers-145.cfg), Caffe's do.
    """

    size: int = 5
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 2.0
    groups: int = 1


@dataclass(frozen=True)
class MaxPool:
    """Max pooling.

    Windows that would reach past the right or bottom edge are dropped (floor: torch's
    default), or with `ceil` kept and cut off at the edge, as long as they
    start inside the input (Caffe; torch's and ONNX's ceil_mode).
    """

    window: int = 3
    stride: int = 2
    ceil: bool = False

    def out(self, size: int) -> int:
        """Output size for an input of `size` pixels."""
        if not self.ceil:
            return (size - self.window) // self.stride + 1
        windows = -(-(size - self.window) // self.stride) + 1
        return windows - 1 if (windows - 1) * self.stride >= size else windows

    def overhang(self, size: int) -> int:
        """Pixels by which the last window reaches past the edge; they never win the maximum."""
        return max(0, (self.out(size) - 1) * self.stride + self.window - size)


@dataclass(frozen=True)
class AdaptiveAvgPool:
    """Average pooling to a fixed output size, with torch's bin edges."""

    size: int


@dataclass(frozen=True)
class Flatten:
    """Feature map to vector: in H, W, C order for canonical weights, C, H, W in torch."""


@dataclass(frozen=True)
class Dropout:
    """Inverted dropout: kept units are divided by 1 - rate while training.

    The paper halves the outputs at test time instead; the expected values are the same.
    """

    rate: float = 0.5


Layer = Conv | Dense | ReLU | LRN | MaxPool | AdaptiveAvgPool | Flatten | Dropout
_KIND_NAMES = {
    ReLU: "relu", LRN: "lrn", MaxPool: "pool", AdaptiveAvgPool: "avgpool",
    Flatten: "flatten", Dropout: "dropout",
}  # fmt: skip


# --- a network -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spec:
    """One network: its table of layers and the three sizes that users change."""

    name: str
    layers: tuple[Layer, ...]
    image_size: int
    num_classes: int = 1000
    channels: int = 3
    width: float = 1.0  # share of each hidden layer's features; below 1 for quick tests

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    @property
    def num_params(self) -> int:
        """Learned numbers, kernels and biases together."""
        return sum(row.params for row in trace(self))


@dataclass(frozen=True)
class Row:
    """One layer with what follows from the layers above it, for a batch of one."""

    name: str
    layer: Layer
    in_shape: tuple[int, ...]  # (H, W, C) or (features,)
    out_shape: tuple[int, ...]
    kernel_shape: tuple[int, ...] | None  # HWIO for Conv, (in, out) for Dense
    multiply_adds: int

    @property
    def params(self) -> int:
        """Kernel and bias entries."""
        return math.prod(self.kernel_shape) + self.kernel_shape[-1] if self.kernel_shape else 0

    @property
    def fan_in(self) -> int:
        """Inputs to one output of a learned layer."""
        return math.prod(self.kernel_shape[:-1]) if self.kernel_shape else 0


def trace(spec: Spec) -> list[Row]:
    """Walk the table: every layer's name, shapes, parameters and multiply-adds.

    A layer without weights is named after its kind and the number of the last learned layer
    above it (`relu1`, `lrn1`, `pool1`, ...).

    Raises:
        UserError: where the input is too small for the network.
    """
    rows = list(_rows(spec))
    if min(rows[-1].out_shape) < 1:
        raise UserError(
            f"image size {spec.image_size} is too small for variant '{spec.name}': nothing is left "
            f"after {rows[-1].name}; the smallest that works is {min_image_size(spec)}"
        )
    return rows


def _rows(spec: Spec) -> Iterator[Row]:
    """The rows of `trace`, ending with the first whose output is empty, if one is."""
    shape: tuple[int, ...] = (spec.image_size, spec.image_size, spec.channels)
    number = "0"
    for layer in spec.layers:
        if isinstance(layer, Conv | Dense):
            name, number = layer.name, layer.name.lstrip("convf")
        else:
            name = _KIND_NAMES[type(layer)] + number
        out, kernel = _apply_shape(spec, layer, shape)
        macs = math.prod(kernel[:-1]) * math.prod(out) if kernel else 0
        yield Row(name, layer, shape, out, kernel, macs)
        if min(out) < 1:
            return
        shape = out


def _apply_shape(
    spec: Spec, layer: Layer, shape: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """Output shape and kernel shape of one layer."""
    match layer:
        case Conv():
            height, width, channels = shape
            height, width = (
                (n + 2 * layer.padding - layer.kernel) // layer.stride + 1 for n in (height, width)
            )
            kernel = (layer.kernel, layer.kernel, channels // layer.groups, layer.features)
            return (height, width, layer.features), kernel
        case Dense():
            features = spec.num_classes if layer.features is None else layer.features
            return (features,), (shape[0], features)
        case MaxPool():
            height, width, channels = shape
            return (layer.out(height), layer.out(width), channels), None
        case AdaptiveAvgPool():
            return (layer.size, layer.size, shape[2]), None
        case Flatten():
            return (math.prod(shape),), None
        case _:
            return shape, None


def learned(spec: Spec) -> list[Row]:
    """The rows that have weights: conv1 ... fc8."""
    return [row for row in trace(spec) if row.kernel_shape]


def weight_shapes(spec: Spec) -> dict[str, tuple[int, ...]]:
    """Canonical weight names and shapes: `conv1.kernel` (HWIO), `conv1.bias`, ..."""
    shapes: dict[str, tuple[int, ...]] = {}
    for row in learned(spec):
        shapes[f"{row.name}.kernel"] = row.kernel_shape
        shapes[f"{row.name}.bias"] = row.kernel_shape[-1:]
    return shapes


def min_image_size(spec: Spec) -> int:
    """The smallest input that leaves at least one pixel after every layer.

    Raises:
        UserError: where no input does: some layer has no features.
    """
    for size in range(1, 1024):
        if min(list(_rows(dataclasses.replace(spec, image_size=size)))[-1].out_shape) >= 1:
            return size
    raise UserError(f"variant '{spec.name}' leaves nothing of images of any size up to 1,023")
