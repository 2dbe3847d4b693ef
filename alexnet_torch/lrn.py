"""Local response normalization in torch, across channels or within maps, with its own gradients.

`nn.LocalResponseNorm` pools over channels, which takes several times as long on CPU as the matrix
products here (docs/performance.md).
"""

import functools
from typing import Any, cast

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from alexnet import layers as spec
from alexnet.band import band


class LRN(nn.Module):
    """Local response normalization over channels; `layers.LRN` has the formula. fp32 inside."""

    def __init__(self, layer: spec.LRN):
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalize (batch, channels, height, width)."""
        if _in_plain_operators(x):
            return _by_slices(x, self.layer)
        return cast(torch.Tensor, _Normalize.apply(x, self.layer))

    def extra_repr(self) -> str:
        """The layer's numbers."""
        return repr(self.layer)


class SpatialLRN(nn.Module):
    """Local response normalization within maps, in fp32; `layers.SpatialLRN` has the formula."""

    def __init__(self, layer: spec.SpatialLRN):
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalize (batch, channels, height, width)."""
        if _in_plain_operators(x):
            return _within(x.float(), self.layer)[0].to(x.dtype)
        return cast(torch.Tensor, _NormalizeWithin.apply(x, self.layer))

    def extra_repr(self) -> str:
        """The layer's numbers."""
        return repr(self.layer)


class _Normalize(torch.autograd.Function):
    """LRN on rows of channels: NHWC memory is read as it is, NCHW memory is copied first."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: spec.LRN) -> torch.Tensor:
        rows, near = _rows(x), _near(layer, x.shape[1], x.device)
        with torch.autocast(x.device.type, enabled=False):
            scale = torch.addmm(
                rows.new_full((), layer.k), rows.square(), near, alpha=layer.alpha / layer.size
            )
        power = _inverse_power(scale, layer.beta)
        ctx.save_for_backward(x, scale, power, near)
        ctx.layer = layer
        return _maps(rows * power, x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        """dx = g s^-b - 2 b alpha/n x (sum of g x s^(-b-1) over all that have x as a neighbor)."""
        x, scale, power, near = ctx.saved_tensors
        layer, rows, grad = ctx.layer, _rows(x), _rows(grads[0])
        direct = grad * power
        factor = -2 * layer.beta * layer.alpha / layer.size
        with torch.autocast(x.device.type, enabled=False):
            others = (direct * rows / scale) @ near.T
        return _maps(torch.addcmul(direct, rows, others, value=factor), x), None


class _NormalizeWithin(torch.autograd.Function):
    """The same within maps."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: spec.SpatialLRN) -> torch.Tensor:
        y, scale, power = _within(x.float(), layer)
        ctx.save_for_backward(x, scale, power)
        ctx.layer = layer
        return y.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        """The same as `_Normalize.backward`, but with window means, so the factor has no n."""
        x, scale, power = ctx.saved_tensors
        layer, wide = ctx.layer, x.float()
        direct = grads[0].float() * power
        others = _window_means(direct * wide / scale, layer.size, back=True)
        factor = -2 * layer.beta * layer.alpha
        return torch.addcmul(direct, wide, others, value=factor).to(grads[0].dtype), None


def _in_plain_operators(x: torch.Tensor) -> bool:
    """Check for exporters, torch.func and meta tensors, which can't use the functions above."""
    return (
        torch.jit.is_tracing()
        or torch.compiler.is_exporting()
        or torch._C._are_functorch_transforms_active()
        or x.is_meta
    )


def _within(
    x: torch.Tensor, layer: spec.SpatialLRN
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The normalized NCHW maps, the scale, and its power."""
    scale = layer.k + layer.alpha * _window_means(x.square(), layer.size)
    power = _inverse_power(scale, layer.beta)
    return x * power, scale, power


def _window_means(x: torch.Tensor, size: int, back: bool = False) -> torch.Tensor:
    """Sums over size x size windows, over size^2; with `back`, over the windows holding a pixel."""
    before, behind = size // 2, (size - 1) // 2
    if before == behind:
        return functional.avg_pool2d(x, size, 1, padding=before)
    edges = (behind, before) * 2 if back else (before, behind) * 2
    return functional.avg_pool2d(functional.pad(x, edges), size, 1)


@functools.lru_cache(maxsize=64)
def _near(layer: spec.LRN, channels: int, device: torch.device) -> torch.Tensor:
    """The band on a device, made once: a copy in each step would wait for a GPU."""
    with torch.inference_mode(False):  # training can't use an inference tensor
        return torch.from_numpy(band(layer, channels)).to(device)


def _rows(x: torch.Tensor) -> torch.Tensor:
    """NCHW maps as fp32 rows (positions, channels)."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]).float()


def _maps(rows: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Rows as NCHW maps again, in NHWC memory, with the shape and type of `like`."""
    batch, channels, height, width = like.shape
    return rows.view(batch, height, width, channels).permute(0, 3, 1, 2).to(like.dtype)


def _by_slices(x: torch.Tensor, layer: spec.LRN) -> torch.Tensor:
    """The same in the operators that exported files use, and are recognized by."""
    channels, wide = x.shape[1] // layer.groups, x.float()
    squares = wide.square().unflatten(1, (layer.groups, channels))
    padded = functional.pad(squares, (0, 0, 0, 0, layer.size // 2, (layer.size - 1) // 2))
    sums = padded[:, :, :channels]
    for i in range(1, layer.size):
        sums = sums + padded[:, :, i : i + channels]
    scale = layer.k + layer.alpha / layer.size * sums.flatten(1, 2)
    return (wide * _inverse_power(scale, layer.beta)).to(x.dtype)


def _inverse_power(x: torch.Tensor, beta: float) -> torch.Tensor:
    """x ** -beta; for the usual 3/4 by square roots, which cost half as much as a power.

    `Tensor.sqrt` is not used: in one process of six its first call on two threads was wrong by
    3e-4 of the value in one thread's half (torch 2.13.0 on CPU, JAX loaded beside it; a second
    call on the same tensor was right, and `rsqrt` always was).
    """
    if beta == 0.75:
        root = x.rsqrt()
        return root * root * root.rsqrt()
    return x**-beta
