"""Answers for `alexnet bench` from the torch side: device, memory, matrix products."""

from collections.abc import Callable
from typing import Any

import torch

from alexnet_torch.engine import DTYPES


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
    """The most bytes that torch held on a GPU; None without one."""
    return torch.cuda.max_memory_reserved() if torch.cuda.is_available() else None


def matrix_product(size: int, precision: str) -> Callable[[int], None]:
    """A function that multiplies two size x size matrices so many times, and waits."""
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
