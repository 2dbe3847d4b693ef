"""AlexNet as a torch user would write it without this project: `alexnet bench --against plain`.

It shares no arithmetic with `ops.py`, which is measured against it.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from alexnet.bench.plain import PlainOptions
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
    Spec,
    Tanh,
    trace,
)
from alexnet.weights import layout

FORMATS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}
_TRIES = 3  # timed steps of each memory format


class GroupedLRN(nn.Module):
    """`nn.LocalResponseNorm` over each group of channels by itself."""

    def __init__(self, layer: LRN):
        super().__init__()
        self.groups = layer.groups
        self.norm = nn.LocalResponseNorm(layer.size, layer.alpha, layer.beta, layer.k)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalize (batch, channels, height, width)."""
        return torch.cat([self.norm(part) for part in x.chunk(self.groups, dim=1)], dim=1)


class PaddedConv2d(nn.Conv2d):
    """`nn.Conv2d` over images with zeros on the right and at the bottom, for a last window."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve (batch, channels, height, width)."""
        reach, step = 2 * int(self.padding[0]) - self.kernel_size[0], self.stride[0]
        return super().forward(functional.pad(x, (0, -(x.shape[3] + reach) % step) * 2))


class MapLRN(nn.Module):
    """Local response normalization within maps, as Caffe builds it: an average pool of squares."""

    def __init__(self, layer: SpatialLRN):
        super().__init__()
        self.layer, self.pool = layer, nn.AvgPool2d(layer.size, 1, layer.size // 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalize (batch, channels, height, width)."""
        layer = self.layer
        return x / (layer.k + layer.alpha * self.pool(x * x)) ** layer.beta


class HalvedDropout(nn.Module):
    """Dropout as of 2012: nothing is scaled in training, everything in evaluation."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Zero a share of the features, or scale them."""
        kept = 1 - self.rate
        return functional.dropout(x, self.rate) * kept if self.training else x * kept


def network(spec: Spec, arrays: Mapping[str, np.ndarray]) -> nn.Sequential:
    """The network of a table in torch's own layers, with canonical weights."""
    model = nn.Sequential(OrderedDict((row.name, _module(row)) for row in trace(spec)))
    state = layout.to_state_dict(arrays, spec)
    tensors = {key: torch.from_numpy(np.array(array)) for key, array in state.items()}
    model.load_state_dict(tensors, strict=False)  # `num_batches_tracked` is torch's alone
    return model


def _module(row: Row) -> nn.Module:
    match layer := row.layer:
        case Conv():
            conv = PaddedConv2d if layer.ceil else nn.Conv2d
            return conv(
                row.in_shape[2],
                layer.features,
                layer.kernel,
                stride=layer.stride,
                padding=layer.padding,
                groups=layer.groups,
            )
        case Dense():
            return nn.Linear(row.in_shape[0], row.out_shape[0])
        case ReLU():
            return nn.ReLU(inplace=True)
        case Tanh():
            return nn.Tanh()
        case SpatialLRN():
            return MapLRN(layer)
        case LRN():
            return (
                GroupedLRN(layer)
                if layer.groups > 1
                else nn.LocalResponseNorm(layer.size, layer.alpha, layer.beta, layer.k)
            )
        case BatchNorm():
            kind = nn.BatchNorm2d if len(row.in_shape) == 3 else nn.BatchNorm1d
            return kind(row.in_shape[-1], layer.epsilon, 1 - layer.momentum, layer.affine)
        case MaxPool():
            return nn.MaxPool2d(layer.window, layer.stride, ceil_mode=layer.ceil)
        case AvgPool():
            return nn.AvgPool2d(layer.window, layer.stride, ceil_mode=layer.ceil)
        case AdaptiveAvgPool():
            return nn.AdaptiveAvgPool2d(layer.size)
        case Flatten():
            return nn.Flatten()
        case Dropout():
            return nn.Dropout(layer.rate) if layer.inverted else HalvedDropout(layer.rate)
    raise ValueError(f"no module for {layer}")


class Plain:
    """The plain network with a plain training loop, driven as an `Engine` is.

    It works in the memory format, NCHW or channels_last, whose steps are faster. Compiled, the
    network goes through `torch.compile`.
    """

    def __init__(self, spec: Spec, arrays: Mapping[str, np.ndarray], options: PlainOptions):
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._options, self._low = options, options.precision == "bf16"
        self._model = network(spec, arrays).to(self._device).train(options.train)
        self._forward = torch.compile(self._model) if options.compiled else self._model
        self._format = "NCHW"
        self._mean, self._std = (
            torch.tensor(values, device=self._device) for values in (options.mean, options.std)
        )
        self._optimizer = torch.optim.SGD(
            self._model.parameters(),
            options.rate,
            momentum=options.momentum,
            weight_decay=options.weight_decay,
        )

    @property
    def note(self) -> str:
        """The memory format in use."""
        return self._format

    def train_step(self, batch: Mapping[str, np.ndarray]) -> torch.Tensor:
        """Make one update; return the loss, still on the device."""
        labels = torch.from_numpy(batch["label"]).to(self._device).long()
        loss = functional.cross_entropy(self._logits(batch), labels)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        return loss.detach()

    def logits(self, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        """Logits (B, classes) float32, on the host."""
        with torch.no_grad():
            return self._logits(batch).float().cpu().numpy()

    def fetch(self, loss: torch.Tensor) -> float:
        """Wait for a step's loss."""
        return float(loss)

    def settle(self, step: Callable[[], Any], wait: Callable[[Any], Any]) -> None:
        """Choose the memory format in which `step`, followed by `wait`, is faster."""
        seconds = {}
        for name in FORMATS:
            self._take(name)
            wait(step())
            times = []
            for _ in range(_TRIES):
                start = time.perf_counter()
                wait(step())
                times.append(time.perf_counter() - start)
            seconds[name] = min(times)
        self._take(min(seconds, key=lambda name: seconds[name]))

    def _take(self, name: str) -> None:
        self._format = name
        self._model.to(memory_format=FORMATS[name])  # type: ignore[call-overload]
        for state in self._optimizer.state.values():  # momentum in its weights' format
            for key, value in state.items():
                if isinstance(value, torch.Tensor) and value.ndim == 4:
                    state[key] = value.contiguous(memory_format=FORMATS[name])

    def _logits(self, batch: Mapping[str, np.ndarray]) -> torch.Tensor:
        pixels = torch.from_numpy(batch["image"]).to(self._device)
        images = ((pixels.float() - self._mean) / self._std).permute(0, 3, 1, 2)
        images = images.contiguous(memory_format=FORMATS[self._format])
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._low):
            return self._forward(images)
