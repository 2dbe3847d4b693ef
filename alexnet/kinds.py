"""The kinds of layers that a network is made of; `layers.py` combines them into a network."""

from dataclasses import dataclass
from typing import Literal, get_args


@dataclass(frozen=True)
class Gaussian:
    """Kernel from N(0, std^2), bias constant (Krizhevsky et al. 2012, section 5)."""

    std: float
    bias: float = 0.0


@dataclass(frozen=True)
class FanIn:
    """Kernel and bias from U(-b, b), b = 1/sqrt(fan_in): the default of torch.nn layers.

    torch writes it as kaiming_uniform(a=sqrt(5)), which is the same bound.
    """


@dataclass(frozen=True)
class LeCun:
    """Kernel from N(0, 1/fan_in), bias zero (LeCun et al. 1998, Efficient BackProp, eq. 16)."""


Init = Gaussian | FanIn | LeCun


# Distribution and number for an array's initial values, drawn by `init.py`: N(0, number^2),
# U(-number, number), or the number everywhere.
Initial = tuple[Literal["normal", "uniform", "constant"], float]
Role = Literal["kernel", "bias", "scale", "shift", "statistic"]


@dataclass(frozen=True)
class Variable:
    """One array of a network. A statistic is tracked, everything else is learned."""

    shape: tuple[int, ...]  # HWIO or (in, out) for a kernel, (channels,) for everything else
    role: Role
    init: Initial


@dataclass(frozen=True)
class Conv:
    """A convolution with square kernel and symmetric zero padding.

    If the stride doesn't reach the right and bottom edges, the pixels beyond the last window are
    left out; with `ceil`, another window covers them, padded with zeros (cuda-convnet).
    """

    name: str
    features: int
    kernel: int
    stride: int = 1
    padding: int = 0
    groups: int = 1
    init: Init = FanIn()
    ceil: bool = False

    def out(self, size: int) -> int:
        """Output size for an input of `size` pixels."""
        return _places(size + 2 * self.padding, self.kernel, self.stride, self.ceil)

    def overhang(self, size: int) -> int:
        """Pixels by which the last window reaches past the padding; they count as zeros."""
        return beyond(size + 2 * self.padding, self.kernel, self.stride, self.ceil)


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
class Tanh:
    """The hyperbolic tangent."""


@dataclass(frozen=True)
class LRN:
    """Local response normalization across channels (Krizhevsky et al. 2012, section 3.3).

    y_c = x_c / (k + alpha / size * sum of x^2 over `size` channels centered on c) ^ beta,
    with channels outside the range taken as zero. alpha IS divided by size, as in the authors'
    own code (cuda-convnet layer.py, `scale /= size`), in Caffe and in PyTorch; the paper's
    formula leaves the division out, and TensorFlow's op follows the formula.
    With `groups`, each group of channels is normalized by itself: the authors' two towers never
    see each other's channels (layers-145.cfg), Caffe's do.
    """

    size: int = 5
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 2.0
    groups: int = 1


@dataclass(frozen=True)
class SpatialLRN:
    """Local response normalization within each channel's map (cuda-convnet's `rnorm`).

    y = x / (k + alpha / size^2 * sum of x^2 over the size x size window around it) ^ beta, with
    pixels outside the map taken as zero; an even window reaches further up and to the left. Caffe
    calls it WITHIN_CHANNEL, and divides by size^2 as cuda-convnet's layer.py does.
    """

    size: int
    alpha: float
    beta: float = 0.75
    k: float = 1.0


@dataclass(frozen=True)
class BatchNorm:
    """Batch normalization of each channel (Ioffe and Szegedy 2015, arXiv:1502.03167, algorithm 1).

    y = (x - mean) / sqrt(variance + epsilon), times scale plus shift where it is affine. Training
    uses the mean and the biased variance of the global batch, masked examples left out, and
    updates the running ones: momentum * old + (1 - momentum) * new, with the unbiased variance, as
    in torch (whose `momentum` is 1 - this one) and Caffe. Evaluation uses the running ones.
    """

    name: str
    epsilon: float = 1e-4
    momentum: float = 0.9
    affine: bool = True


@dataclass(frozen=True)
class _Pool:
    window: int = 3
    stride: int = 2
    ceil: bool = False

    def out(self, size: int) -> int:
        """Output size for an input of `size` pixels."""
        return _places(size, self.window, self.stride, self.ceil)

    def overhang(self, size: int) -> int:
        """Pixels by which the last window reaches past the edge; they count for nothing."""
        return beyond(size, self.window, self.stride, self.ceil)


class MaxPool(_Pool):
    """Max pooling.

    Windows that would reach past the right or bottom edge are dropped (torch's default); with
    `ceil`, those that start inside the input are kept and clipped (Caffe, torch's ceil_mode).
    """


class AvgPool(_Pool):
    """Average pooling over the pixels of each window that are inside the map.

    `ceil` is as for `MaxPool`; the sum over a clipped window is divided by the number of pixels
    left in it (cuda-convnet's conv_util.cuh, `regionSize`; torch's count_include_pad=False).
    """

    def bins(self, size: int) -> list[tuple[int, int]]:
        """First pixel of each window along one axis, and the one after its last."""
        starts = (place * self.stride for place in range(self.out(size)))
        return [(start, min(start + self.window, size)) for start in starts]


@dataclass(frozen=True)
class AdaptiveAvgPool:
    """Average pooling to a fixed output size, with torch's bin edges."""

    size: int

    def bins(self, size: int) -> list[tuple[int, int]]:
        """First pixel of each bin along one axis, and the one after its last."""
        n = self.size
        return [(place * size // n, -(-(place + 1) * size // n)) for place in range(n)]


@dataclass(frozen=True)
class Flatten:
    """Feature map to vector: in H, W, C order for canonical weights, C, H, W in torch."""


@dataclass(frozen=True)
class Dropout:
    """Dropout of a fraction `rate` of the units during training.

    Inverted dropout divides the kept units by 1 - rate in training, and does nothing in evaluation.
    The paper (section 4.2) and its code leave the kept units unchanged, and multiply all units by
    1 - rate in evaluation. That is the same function with the next layer's weights scaled by that
    factor, so that a given learning rate and weight decay affect them differently.
    """

    rate: float = 0.5
    inverted: bool = True


def _places(size: int, window: int, stride: int, ceil: bool) -> int:
    """The number of windows along an axis of `size` pixels."""
    if not ceil:
        return (size - window) // stride + 1
    count = -(-(size - window) // stride) + 1
    return count - 1 if (count - 1) * stride >= size else count


def beyond(size: int, window: int, stride: int, ceil: bool) -> int:
    """Number of pixels by which the last window extends past an axis of `size` pixels."""
    return max(0, (_places(size, window, stride, ceil) - 1) * stride + window - size)


Layer = (
    Conv
    | Dense
    | ReLU
    | Tanh
    | LRN
    | SpatialLRN
    | BatchNorm
    | MaxPool
    | AvgPool
    | AdaptiveAvgPool
    | Flatten
    | Dropout
)
LAYERS: tuple[type, ...] = get_args(Layer)
