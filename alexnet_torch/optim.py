"""The optimizer's rules as a `torch.optim.Optimizer`; the rates are passed in at every step."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import torch
from torch import nn
from torch.optim.sgd import sgd

from alexnet.config import OptimConfig
from alexnet.layers import Variable
from alexnet.schedule import decays, trusted


class Momentum(torch.optim.Optimizer):
    """Gradient descent with momentum by the rules that `alexnet_jax.optim` states.

    Every variable is a parameter group of its own, with `name`, `lr` and `weight_decay`; `lr` is
    set by `set_rates` before each step.

    Args:
        parameters: by canonical name.
        optim: rule, momentum and decay.
        variables: of the network, from `layers.variables`.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        optim: OptimConfig,
        variables: Mapping[str, Variable],
    ):
        self.optim, decay = optim, decays(optim, variables)
        with_ratio = trusted(optim, variables)
        groups = [
            {
                "params": [parameter],
                "name": name,
                "lr": 0.0,
                "weight_decay": decay[name],
                "trust": name in with_ratio,
            }
            for name, parameter in parameters.items()
        ]
        super().__init__(groups, {})
        if optim.momentum:  # created now, so that a checkpoint before the first step has it
            for parameter in parameters.values():
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)

    def set_rates(self, rates: Mapping[str, float]) -> None:
        """Set each variable's rate."""
        for group in self.param_groups:
            group["lr"] = rates[group["name"]]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self.optim.clip_norm:
            clip((p for group in self.param_groups for p in group["params"]), self.optim.clip_norm)
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: nn.Parameter, group: Mapping[str, Any]) -> None:
        optim, rate, wd = self.optim, group["lr"], group["weight_decay"]
        gradient = cast(torch.Tensor, parameter.grad)
        buffer = self.state[parameter]["momentum_buffer"] if optim.momentum else None
        if optim.rule == "sgd":  # torch's own, in one pass over the memory
            if buffer is not None:
                self.state[parameter]["momentum_buffer"] = buffer = _laid_out(buffer, parameter)
            sgd(
                [parameter], [_laid_out(gradient, parameter)], [buffer], fused=True,
                weight_decay=wd, lr=rate, momentum=optim.momentum, dampening=0.0,
                nesterov=optim.nesterov, maximize=False,
            )  # fmt: skip
            return
        change = gradient.add(parameter, alpha=wd) if wd else gradient
        if group["trust"]:
            change = change * trust_ratio(optim, wd, parameter, gradient, change)
        change = change * rate
        if buffer is not None:
            buffer.mul_(optim.momentum).add_(change)
            change = change.add(buffer, alpha=optim.momentum) if optim.nesterov else buffer
        parameter.sub_(change)


def _laid_out(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A tensor in another's strides, as torch's fused step goes through memory without checking."""
    return x if x.stride() == like.stride() else torch.empty_like(like).copy_(x)


def trust_ratio(
    optim: OptimConfig,
    wd: float,
    weight: torch.Tensor,
    gradient: torch.Tensor,
    decayed: torch.Tensor,
) -> torch.Tensor:
    """LARS's factor on a layer's rate; 1 where the weights or the gradient are all zero.

    `OptimConfig.lars_formula` names the three forms and their sources; in `optax`, the gradient
    includes the decay.
    """
    norm = torch.linalg.vector_norm
    size = norm(weight)
    change = norm(decayed if optim.lars_formula == "optax" else gradient)
    below = change + wd * size if optim.lars_formula == "paper" else change
    ratio = optim.lars_eta * size / below
    return torch.where((size > 0) & (change > 0), ratio, torch.ones_like(ratio))


@torch.no_grad()
def clip(parameters: Iterable[nn.Parameter], max_norm: float) -> None:
    """Scale gradients whose joint norm is above `max_norm` down to it.

    `nn.utils.clip_grad_norm_` adds 1e-6 to the norm, which matters for small gradients; optax adds
    nothing, and neither does this.
    """
    grads = [p.grad for p in parameters if p.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
    torch._foreach_mul_(grads, max_norm / norm.clamp(min=max_norm))
