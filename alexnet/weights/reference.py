"""The forward pass of a table in NumPy: a yardstick for networks that arrive as graphs.

For one or two images in NCHW, with arrays in canonical layout except that fc6's rows are in C, H, W
order, as in the files that it is compared with.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

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
    SpatialLRN,
    Spec,
    Tanh,
)


def forward(
    spec: Spec, arrays: Mapping[str, np.ndarray], reached: Mapping[str, np.ndarray]
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the expected input of each learned layer after the first, and finally the `logits`.

    Each layer starts from its actual input in `reached`, so that rounding does not add up.

    Args:
        spec: the network.
        arrays: kernels HWIO and (in, out), biases, and all four of a batch norm, by canonical name.
        reached: the input of each layer with a kernel, by its name, (batch, channels, height,
            width) or (batch, features).
    """
    x: Any = None  # an array from the first learned layer on
    for layer in spec:
        if isinstance(layer, Conv | Dense):
            if x is not None:
                yield layer.name, x
            x = reached[layer.name]
            kernel, bias = arrays[f"{layer.name}.kernel"], arrays[f"{layer.name}.bias"]
        match layer:
            case Conv():
                after = tuple(layer.padding + layer.overhang(size) for size in x.shape[2:])
                pads, strides = (*(layer.padding,) * 2, *after), (layer.stride,) * 2
                x = convolve(x, kernel.transpose(3, 2, 0, 1), bias, strides, pads, layer.groups)
            case Dense():
                x = x @ kernel + bias
            case ReLU():
                x = np.maximum(x, 0)
            case Tanh():
                x = np.tanh(x)
            case LRN():
                parts = np.split(x, layer.groups, axis=1)
                rule = (layer.size, layer.alpha, layer.beta, layer.k)
                x = np.concatenate([normalize(part, *rule) for part in parts], axis=1)
            case SpatialLRN():
                x = normalize_within(x, layer)
            case MaxPool():
                over = (0, 0, *(layer.overhang(size) for size in x.shape[2:]))
                padded = pad(x, over, -np.inf)
                x = windows(padded, (layer.window,) * 2, (layer.stride,) * 2).max((-2, -1))
            case AvgPool() | AdaptiveAvgPool():
                rows, columns = (averages(layer.bins(size), size) for size in x.shape[2:])
                x = rows @ x @ columns.T
            case Flatten():
                x = x.reshape(len(x), -1)
            case BatchNorm():
                names = (f"{layer.name}.{part}" for part in ("scale", "shift", "mean", "variance"))
                x = batch_norm(x, layer.epsilon, *(arrays[name] for name in names))
            case Dropout(rate, inverted):
                x = x if inverted else x * np.float32(1 - rate)
    yield "logits", x


def pad(x: np.ndarray, pads: Sequence[int], value: float = 0.0) -> np.ndarray:
    """Pad the images; `pads` has the pixels before each axis, then those after each."""
    half = len(pads) // 2
    around = [(0, 0), (0, 0), *zip(pads[:half], pads[half:], strict=True)]
    return np.pad(x, around, constant_values=value)


def windows(x: np.ndarray, window: Sequence[int], strides: Sequence[int]) -> np.ndarray:
    """A view of all windows: (batch, channels, *places, *window)."""
    view = sliding_window_view(x, tuple(window), tuple(range(2, x.ndim)))
    return view[(slice(None), slice(None), *(slice(None, None, step) for step in strides))]


def convolve(
    x: np.ndarray,
    kernel: np.ndarray,
    bias: np.ndarray,
    strides: Sequence[int],
    pads: Sequence[int],
    groups: int,
) -> np.ndarray:
    """A convolution with an OIHW kernel."""
    view = windows(pad(x, pads), kernel.shape[2:], strides)
    parts = [
        np.tensordot(part, own, ([1, 4, 5], [1, 2, 3]))
        for part, own in zip(np.split(view, groups, 1), np.split(kernel, groups), strict=True)
    ]
    return np.ascontiguousarray((np.concatenate(parts, axis=3) + bias).transpose(0, 3, 1, 2))


def normalize(x: np.ndarray, size: int, alpha: float, beta: float, k: float) -> np.ndarray:
    """LRN over all channels; an even window leans to the channels after, as ONNX has it."""
    before = (size - 1) // 2
    squares = np.pad(x * x, ((0, 0), (before, size - 1 - before), (0, 0), (0, 0)))
    sums = sliding_window_view(squares, size, 1).sum(-1)
    return x / (np.float32(k) + np.float32(alpha / size) * sums) ** np.float32(beta)


def normalize_within(x: np.ndarray, layer: SpatialLRN) -> np.ndarray:
    """LRN within each channel's map."""
    edges = (*(layer.size // 2,) * 2, *((layer.size - 1) // 2,) * 2)
    means = windows(pad(x * x, edges), (layer.size,) * 2, (1, 1)).mean((-2, -1), dtype=np.float32)
    return x / (np.float32(layer.k) + np.float32(layer.alpha) * means) ** np.float32(layer.beta)


def batch_norm(
    x: np.ndarray,
    epsilon: float,
    scale: np.ndarray,
    shift: np.ndarray,
    mean: np.ndarray,
    variance: np.ndarray,
) -> np.ndarray:
    """Batch normalization of each channel by its running statistics."""
    factor = scale / np.sqrt(variance + np.float32(epsilon))
    factor, rest = (a.reshape(-1, *[1] * (x.ndim - 2)) for a in (factor, shift - mean * factor))
    return x * factor + rest
