"""What `alexnet summary` asks of the JAX side."""

import jax
import numpy as np

from alexnet.spec import Spec, weight_shapes
from alexnet_jax.model import AlexNet


def output_shapes(spec: Spec) -> dict[str, tuple[int, ...]]:
    """Each layer's output for one image, NHWC, from tracing the model."""

    def activations(images: jax.Array, weights: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return AlexNet(spec, weights=weights).activations(images)

    size = (1, spec.image_size, spec.image_size, spec.channels)
    images = jax.ShapeDtypeStruct(size, np.float32)
    weights = {
        name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in weight_shapes(spec).items()
    }
    outputs = jax.eval_shape(activations, images, weights)
    return {name: output.shape for name, output in outputs.items()}


def print_native(spec: Spec) -> bool:
    """False: `nnx.tabulate` lists modules, and most layers here are functions."""
    return False
