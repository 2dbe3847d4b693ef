"""AlexNet in PyTorch: `AlexNet(spec)`, a training step, and what runs it."""

from alexnet_torch.model import AlexNet

__all__ = ["AlexNet"]
