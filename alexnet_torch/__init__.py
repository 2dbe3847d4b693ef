"""AlexNet in PyTorch: `AlexNet(spec)`, a training step, and its engine."""

from alexnet_torch.model import AlexNet

__all__ = ["AlexNet"]
