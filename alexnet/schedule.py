"""Learning rates as plain functions of the step, so that both frameworks get the same numbers."""

import math
from collections.abc import Iterable, Mapping, Sequence

from alexnet.config import OptimConfig
from alexnet.errors import UserError
from alexnet.layers import Variable
from alexnet.options import MOST


def rates(
    optim: OptimConfig, variables: Mapping[str, Variable], rate: float, epoch: float = 0.0
) -> dict[str, float]:
    """The rate of each learned variable after `epoch` epochs, if the schedule's rate is `rate`.

    `--rate-of` multiplies it, and so does `--rate-at` from its epoch on; `--freeze` makes it 0.

    Raises:
        UserError: for a group that matches nothing.
    """
    factors = rate_multipliers(optim, variables)
    later = [pair for start, pair in _timed("--rate-at", optim.rate_at) if epoch >= start]
    for name, factor in _multipliers(variables, later).items():
        factors[name] *= rate * factor
    return factors


def learning_rate(
    optim: OptimConfig,
    step: int,
    *,
    total_steps: int,
    steps_per_epoch: int,
    eval_losses: Sequence[float] = (),
) -> float:
    """The schedule's rate for the update that follows `step` completed updates.

    During warm-up the rate rises as a power of the step, to the full rate at its last step. Cosine
    then falls to zero at `total_steps` (Loshchilov and Hutter 2017, arXiv:1608.03983, equation 5,
    without restarts), and so does poly, as if there had been no warm-up (Caffe, sgd_solver.cpp).
    `eval_losses` are the evaluations so far, oldest first; only the plateau schedule reads them.
    """
    if step < optim.warmup_steps:
        share = ((step + 1) / optim.warmup_steps) ** optim.warmup_power
        return optim.warmup_start + (optim.learning_rate - optim.warmup_start) * share
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
        case "poly":
            return max(0.0, 1.0 - step / total_steps) ** optim.poly_power
        case "cosine":
            length = max(1, total_steps - optim.warmup_steps)
            done = min(1.0, (step - optim.warmup_steps) / length)
            return 0.5 * (1.0 + math.cos(math.pi * done))
        case "plateau":
            return optim.drop_factor ** plateaus(eval_losses, optim.patience)
    raise ValueError(f"unknown schedule {optim.schedule}")


def plateaus(losses: Sequence[float], patience: int) -> int:
    """Number of times that `patience` losses in a row were no lower than the lowest before them."""
    best, waited, count = math.inf, 0, 0
    for loss in losses:
        if loss < best:
            best, waited = loss, 0
        else:
            waited += 1
        if waited == patience:
            waited, count = 0, count + 1
    return count


# --- groups of variables ---------------------------------------------------------------------


def learned(variables: Mapping[str, Variable]) -> list[str]:
    """The names of all variables but the statistics, in order."""
    return [name for name, variable in variables.items() if variable.role != "statistic"]


def rate_multipliers(optim: OptimConfig, variables: Mapping[str, Variable]) -> dict[str, float]:
    """The factor on the schedule's rate for each learned variable; 0 freezes it.

    Raises:
        UserError: for a group that matches nothing.
    """
    frozen = dict.fromkeys(optim.freeze, 0.0)
    return _multipliers(variables, [*_pairs("--rate-of", optim.rate_of), *frozen.items()])


def frozen(optim: OptimConfig, variables: Mapping[str, Variable]) -> frozenset[str]:
    """The names of the variables whose rate is always 0.

    Raises:
        UserError: if nothing is left to learn.
    """
    # Refuses an unknown group in --rate-at at the start, not epochs later.
    _multipliers(variables, [pair for _, pair in _timed("--rate-at", optim.rate_at)])
    factors = rate_multipliers(optim, variables)
    if not any(factors.values()):
        raise UserError("--freeze and --rate-of leave nothing to learn")
    return frozenset(name for name, factor in factors.items() if not factor)


def decays(optim: OptimConfig, variables: Mapping[str, Variable]) -> dict[str, float]:
    """The weight decay of each learned variable; 0 if it is frozen.

    Raises:
        UserError: for a group that matches nothing.
    """
    factors = _multipliers(variables, _pairs("--decay-of", optim.decay_of))
    for name, rate in rate_multipliers(optim, variables).items():
        if not rate or (not optim.decay_biases and variables[name].role != "kernel"):
            factors[name] = 0.0
    return {name: optim.weight_decay * factor for name, factor in factors.items()}


def trusted(optim: OptimConfig, variables: Mapping[str, Variable]) -> frozenset[str]:
    """The names of the variables whose rate LARS multiplies by a trust ratio; none for other rules.

    Kernels have one and, with `lars_biases`, so do biases, as in NVCaffe (sgd_solver.cpp,
    GetLocalRate).
    """
    roles = {"kernel", "bias"} if optim.lars_biases else {"kernel"}
    found = (name for name, variable in variables.items() if variable.role in roles)
    return frozenset(found) if optim.rule == "lars" else frozenset()


def _pairs(option: str, texts: Iterable[str]) -> list[tuple[str, float]]:
    """Parse groups and factors from texts such as `fc8=10`."""
    pairs = []
    for text in texts:
        group, equals, number = text.partition("=")
        try:
            factor = float(number)
        except ValueError:
            factor = -1.0
        if not equals or not 0 <= factor <= MOST:
            need = f"GROUP=FACTOR, such as fc8=10, and at most {MOST:g}"
            raise UserError(f"{option} {text} must read {need}")
        pairs.append((group, factor))
    return pairs


def _timed(option: str, texts: Iterable[str]) -> list[tuple[float, tuple[str, float]]]:
    """Parse epochs, groups and factors from texts such as `67:conv1=0.1`."""
    found = []
    for text in texts:
        epoch, _, pair = text.partition(":")
        try:
            start = float(epoch)
        except ValueError:
            start = -1.0
        if not 0 <= start < math.inf or not pair:
            raise UserError(f"{option} {text} must read EPOCH:GROUP=FACTOR, such as 67:conv1=0.1")
        found += [(start, one) for one in _pairs(f"{option} {epoch}:", [pair])]
    return found


def _multipliers(
    variables: Mapping[str, Variable], pairs: Iterable[tuple[str, float]]
) -> dict[str, float]:
    """The product, for each variable, of the factors of all groups that it belongs to.

    A group is a variable (`fc8.kernel`), a layer (`fc8`) or a role (`bias`).
    """
    factors = dict.fromkeys(learned(variables), 1.0)
    for group, factor in pairs:
        members = [
            name
            for name in factors
            if group in (name, name.partition(".")[0], variables[name].role)
        ]
        if not members:
            layers = list(dict.fromkeys(name.partition(".")[0] for name in factors))
            raise UserError(
                f"no learned variable is in the group '{group}': name a layer "
                f"({', '.join(layers)}), a variable such as {layers[0]}.kernel, or a role (kernel, "
                "bias, scale, shift)"
            )
        for name in members:
            factors[name] *= factor
    return factors
