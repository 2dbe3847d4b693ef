"""Learning rates, as plain functions of the step: both frameworks are handed the same number."""

import math
from collections.abc import Sequence

from alexnet.config import OptimConfig


def learning_rate(
    optim: OptimConfig,
    step: int,
    *,
    total_steps: int,
    steps_per_epoch: int,
    eval_losses: Sequence[float] = (),
) -> float:
    """The rate for the update that follows `step` completed updates.

    Warm-up rises as a power of the step and reaches the full rate at its last step; cosine then
    falls to zero at `total_steps` (Loshchilov and Hutter 2017, arXiv:1608.03983, equation 5,
    without restarts).
    `eval_losses` are the evaluations so far, oldest first; only the plateau schedule reads them.
    """
    if step < optim.warmup_steps:
        return optim.learning_rate * ((step + 1) / optim.warmup_steps) ** optim.warmup_power
    return optim.learning_rate * _factor(optim, step, total_steps, steps_per_epoch, eval_losses)


def _factor(
    optim: OptimConfig,
    step: int,
    total_steps: int,
    steps_per_epoch: int,
    eval_losses: Sequence[float],
) -> float:
    match optim.schedule:
        case "constant":
            return 1.0
        case "step":
            drops = sum(step >= epoch * steps_per_epoch for epoch in optim.drop_epochs)
            return optim.drop_factor**drops
        case "cosine":
            length = max(1, total_steps - optim.warmup_steps)
            done = min(1.0, (step - optim.warmup_steps) / length)
            return 0.5 * (1.0 + math.cos(math.pi * done))
        case "plateau":
            return optim.drop_factor ** plateaus(eval_losses, optim.patience)
    raise ValueError(f"unknown schedule {optim.schedule}")


def plateaus(losses: Sequence[float], patience: int) -> int:
    """How often `patience` losses in a row were no lower than the lowest before them."""
    best, waited, count = math.inf, 0, 0
    for loss in losses:
        if loss < best:
            best, waited = loss, 0
        else:
            waited += 1
        if waited == patience:
            waited, count = 0, count + 1
    return count
