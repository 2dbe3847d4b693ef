"""SGD with momentum as `torch.optim.SGD`; the learning rate comes in with every step."""

from collections.abc import Iterable

import torch
from torch import nn

from alexnet.config import OptimConfig


def optimizer(model: nn.Module, optim: OptimConfig) -> torch.optim.SGD:
    """v = m v + (g + wd w); w = w - lr v, with biases in a group of their own."""
    kernels = [p for name, p in model.named_parameters() if name.endswith(".weight")]
    biases = [p for name, p in model.named_parameters() if name.endswith(".bias")]
    sgd = torch.optim.SGD(
        [
            {"params": kernels, "weight_decay": optim.weight_decay},
            {"params": biases, "weight_decay": optim.weight_decay if optim.decay_biases else 0.0},
        ],
        lr=0.0,  # set by every step
        momentum=optim.momentum,
        nesterov=optim.nesterov,
    )
    if optim.momentum:  # there from the start, so that a checkpoint before the first step has it
        for parameter in model.parameters():
            sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return sgd


@torch.no_grad()
def clip(parameters: Iterable[nn.Parameter], max_norm: float) -> None:
    """Scale gradients whose joint norm is above `max_norm` down to it.

    `nn.utils.clip_grad_norm_` adds 1e-6 to the norm, which is far from nothing where gradients
    are small; optax does not, and nor does this.
    """
    grads = [p.grad for p in parameters]
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
    torch._foreach_mul_(grads, max_norm / norm.clamp(min=max_norm))
