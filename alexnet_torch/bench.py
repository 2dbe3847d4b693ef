"""Answers for `alexnet bench` from the torch side: device, memory, matrix products, layers."""

import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from alexnet.bench.layers import FORWARD, OF_INPUT, OF_WEIGHTS, place
from alexnet.layers import Spec, count_dropouts
from alexnet.threefry import dropout_keys
from alexnet_torch.engine import DTYPES
from alexnet_torch.model import AlexNet
from alexnet_torch.plain import FORMATS, network

Run = Callable[[int], None]


def device() -> dict[str, Any]:
    """The version, the device's kind, and torch's threads."""
    on_gpu = torch.cuda.is_available()
    return {
        "version": torch.__version__,
        "platform": "gpu" if on_gpu else "cpu",
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "threads": torch.get_num_threads(),
    }


def peak_device_memory() -> int | None:
    """Peak bytes that torch reserved on a GPU; None without one."""
    return torch.cuda.max_memory_reserved() if torch.cuda.is_available() else None


def matrix_product(size: int, precision: str) -> Run:
    """A function that multiplies two size x size matrices N times and waits for the result."""
    torch.backends.cuda.matmul.allow_tf32 = False
    on = "cuda" if torch.cuda.is_available() else "cpu"
    a, b = (torch.randn(size, size, device=on).to(DTYPES[precision]) for _ in range(2))
    out = torch.empty_like(a)

    @torch.no_grad()
    def run(count: int) -> None:
        for _ in range(count):
            torch.matmul(a, b, out=out)
        out[0, 0].item()

    return run


def layer_passes(
    spec: Spec, arrays: Mapping[str, np.ndarray], images: np.ndarray, *, precision: str, plain: bool
) -> dict[str, Run]:
    """Functions that run a one-layer network, or its gradients, N times and wait for the result.

    Args:
        spec: the network.
        arrays: its weights.
        images: (B, H, W, C) float32.
        precision: fp32 or bf16.
        plain: use torch's own layers, each pass in its faster memory format.
    """
    on = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    x = torch.from_numpy(images).permute(0, 3, 1, 2).to(on, DTYPES[precision])
    if at := place(spec):
        x = x.flatten(1)
    if not plain:
        ours = list(AlexNet(spec, weights=arrays).children())[at]
        return _passes(ours, x, torch.channels_last, dropout_keys(0, 0, count_dropouts(spec)))
    found = []
    for layout in FORMATS.values():
        layer = network(spec, arrays)[at]
        if isinstance(layer, nn.ReLU):  # its input is used again here
            layer.inplace = False
        found.append(_passes(layer, x, layout))
    return {name: _faster([passes[name] for passes in found]) for name in found[0]}


def _passes(
    layer: nn.Module, x: torch.Tensor, layout: torch.memory_format, keys: Any = ()
) -> dict[str, Run]:
    """The forward pass, and the gradients for a given gradient of the output.

    `keys` are for our dropout.
    """
    layer.to(x.device, memory_format=layout).train()  # type: ignore[call-overload]
    x = (x.contiguous(memory_format=layout) if x.ndim == 4 else x).detach().requires_grad_()
    given = [tuple(map(int, key)) for key in keys]
    low_precision = x.dtype == torch.bfloat16

    def forward(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=low_precision):
            return layer(x, *given)

    y = forward(x)
    gradient = torch.randn_like(y)

    def backward(*of: torch.Tensor) -> Any:
        return torch.autograd.grad(y, of, gradient, retain_graph=True)

    passes: dict[str, Callable[[], Any]] = {
        FORWARD: lambda: forward(x),
        OF_INPUT: lambda: backward(x),
    }
    if weights := [p for p in layer.parameters() if p.requires_grad]:
        passes[OF_WEIGHTS] = lambda: backward(*weights)
    return {name: functools.partial(_repeat, work) for name, work in passes.items()}


def _repeat(work: Callable[[], Any], count: int) -> None:
    for _ in range(count):
        work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _faster(runs: list[Run]) -> Run:
    """The run whose best of three calls takes less time."""

    def seconds(run: Run) -> float:
        start = time.perf_counter()
        run(1)
        return time.perf_counter() - start

    return min(runs, key=lambda run: min(seconds(run) for _ in range(3)))
