"""The layers' arithmetic in torch, on NCHW tensors, where torch lacks it or is slow."""

import math
from collections.abc import Callable
from typing import cast

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional

from alexnet import layers as spec
from alexnet import threefry
from alexnet.kinds import beyond

MapShape = tuple[int, int, int]  # H, W, C


class CeilConv2d(nn.Conv2d):
    """A convolution with zeros added right and below, as far as the last window reaches."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve NCHW images."""
        edges = 2 * int(self.padding[0])
        height, width = (
            beyond(n + edges, self.kernel_size[0], self.stride[0], True) for n in x.shape[2:]
        )
        return super().forward(functional.pad(x, (0, width, 0, height)))


class BatchNorm(nn.Module):
    """Batch normalization over the global masked batch; `layers.BatchNorm` has the formulas.

    Its state has torch's names (`running_mean`, `running_var`, `weight`, `bias`). `nn.BatchNorm2d`
    and `nn.SyncBatchNorm` take no mask, and the latter doesn't run on a CPU.
    """

    running_mean: torch.Tensor
    running_var: torch.Tensor
    __call__: Callable[..., torch.Tensor]

    def __init__(self, layer: spec.BatchNorm, channels: int):
        super().__init__()
        self.layer = layer
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.weight = nn.Parameter(torch.ones(channels)) if layer.affine else None
        self.bias = nn.Parameter(torch.zeros(channels)) if layer.affine else None

    def forward(
        self, x: torch.Tensor, mask: torch.Tensor | None = None, processes: int = 1
    ) -> torch.Tensor:
        """Normalize (batch, channels, ...), fp32 inside.

        Args:
            x: this process's rows of the batch.
            mask: (batch,), 0 for rows that the statistics leave out; None where all count.
            processes: number of processes that share the global batch.
        """
        wide, shape = x.float(), (-1, *(1,) * (x.ndim - 2))
        mean, variance = self.running_mean, self.running_var
        if self.training:
            mean, variance = self._batch_statistics(wide, mask, processes)
        y = (wide - mean.view(shape)) * (variance.view(shape) + self.layer.epsilon).rsqrt()
        if self.weight is not None and self.bias is not None:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y.to(x.dtype)

    def _batch_statistics(
        self, x: torch.Tensor, mask: torch.Tensor | None, processes: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The batch's mean and biased variance; also updates the running statistics."""
        axes, shape = [0, *range(2, x.ndim)], (-1, *(1,) * (x.ndim - 2))
        weight = x.new_ones(len(x)) if mask is None else mask
        weight = weight.view(-1, 1, *(1,) * (x.ndim - 2))
        count = _total(weight.sum(), processes) * math.prod(x.shape[2:])
        mean = _total((x * weight).sum(axes), processes) / count.clamp(min=1)
        # Around the mean, in a second pass: a difference of squares would lose its digits.
        squares = (x - mean.view(shape)).square() * weight
        variance = _total(squares.sum(axes), processes) / count.clamp(min=1)
        with torch.no_grad():
            share = (1 - self.layer.momentum) * (count > 0)
            unbiased = variance * (count / (count - 1).clamp(min=1))
            self.running_mean.copy_((1 - share) * self.running_mean + share * mean)
            self.running_var.copy_((1 - share) * self.running_var + share * unbiased)
        return mean, variance

    def extra_repr(self) -> str:
        """The layer's numbers."""
        return repr(self.layer)


class _Total(torch.autograd.Function):
    """The sum over processes; its gradient is the sum of their gradients."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: torch.Tensor) -> torch.Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: torch.Tensor) -> torch.Tensor:
        return _Total.forward(ctx, grad.contiguous())


def _total(x: torch.Tensor, processes: int) -> torch.Tensor:
    return cast(torch.Tensor, _Total.apply(x)) if processes > 1 else x


class Dropout(nn.Module):
    """Dropout whose mask is a function of a key, bit for bit the one that JAX draws.

    Args:
        layer: its rate is from 0 to below 1.
        map_shape: (H, W, C) where the input is a feature map, as it is or flattened in torch's
            C, H, W order: the mask belongs to positions in the canonical H, W, C order.
    """

    def __init__(self, layer: spec.Dropout, map_shape: MapShape | None = None):
        super().__init__()
        self.layer, self.map_shape = layer, map_shape

    def forward(
        self, x: torch.Tensor, key: threefry.Key | None = None, first_row: int = 0
    ) -> torch.Tensor:
        """Zero a share of each row, or in evaluation scale all, as `layers.Dropout` says.

        Args:
            x: this process's rows of the batch, (rows, features) or (rows, C, H, W).
            key: two unsigned 32-bit words; by default drawn from torch's own generator.
            first_row: the position of x's first row in the global batch.
        """
        kept = 1 - self.layer.rate
        if not self.training or kept == 1:
            return x if self.layer.inverted else x * kept
        if key is None:
            key = tuple(torch.randint(0, 2**32, (2,)).tolist())
        rows_and_features = torch.Size((x.shape[0], math.prod(x.shape[1:])))
        bits = random_bits(key, rows_and_features, first_row, x.device)
        if self.map_shape:
            bits = bits.view(-1, *self.map_shape).permute(0, 3, 1, 2).reshape(x.shape)
        return torch.where(bits < _threshold(kept), x / kept if self.layer.inverted else x, 0.0)

    def extra_repr(self) -> str:
        """The layer's numbers."""
        return repr(self.layer)


def random_bits(
    key: threefry.Key, shape: torch.Size, first_row: int, device: torch.device
) -> torch.Tensor:
    """Random int32 of a (batch, features) shape, from key and position in the global batch.

    They are the bits of `jax.random.bits` with the top bit flipped, so that signed comparison
    orders them as unsigned numbers.
    """
    return cast(torch.Tensor, _random_bits(*key, *shape, first_row, device))


# One operator, opaque to torch.compile: otherwise it inlines twenty rounds of threefry into one
# expression, each repeating the one before several times, and had not finished after ten minutes.
@torch.library.custom_op("alexnet::random_bits", mutates_args=())
def _random_bits(
    key_high: int, key_low: int, rows: int, features: int, first_row: int, device: torch.device
) -> torch.Tensor:
    start = first_row * features
    # conversion to int32 wraps, which keeps positions from 2^31 on as the unsigned words they are
    place = torch.arange(start, start + rows * features, device=device).to(torch.int32)
    high, low = threefry.threefry2x32((key_high, key_low), torch.zeros_like(place), place)
    return (high ^ low ^ -(2**31)).view(rows, features)


@_random_bits.register_fake
def _(
    key_high: int, key_low: int, rows: int, features: int, first_row: int, device: torch.device
) -> torch.Tensor:
    return torch.empty((rows, features), dtype=torch.int32, device=device)


def _threshold(share: float) -> int:
    """The int32 below which `share` of all int32 lie."""
    return round(share * 2**32) - 2**31
