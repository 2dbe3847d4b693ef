"""Settings of the plain networks that `alexnet bench --against plain` runs beside the engines."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PlainOptions:
    """Arithmetic and training of a plain network."""

    mean: tuple[float, ...]  # per channel, in units of 0..255
    std: tuple[float, ...]
    precision: str = "fp32"  # or bf16; fp32 means fp32 on every device
    train: bool = False  # apply dropout, and normalize by the batch's statistics
    compiled: bool = False  # by torch.compile; JAX always compiles
    rate: float = 1e-4
    momentum: float = 0.9
    weight_decay: float = 5e-4
