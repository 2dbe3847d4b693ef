"""AlexNet in Flax NNX: `AlexNet(spec, rngs=...)`, a pure training step, and its engine."""

from alexnet_jax.model import AlexNet

__all__ = ["AlexNet"]
