"""What `alexnet summary` and `alexnet convert --verify` ask of the JAX side."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

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


def layer_outputs(
    spec: Spec, weights: Mapping[str, np.ndarray], images: np.ndarray
) -> dict[str, np.ndarray]:
    """Every layer's output for normalised NHWC images, in evaluation, by name."""
    graphdef, state = nnx.split(AlexNet(spec, weights=weights))
    outputs = jax.jit(lambda state, x: nnx.merge(graphdef, state).activations(x))(
        state, jnp.asarray(images)
    )
    return {name: np.asarray(output) for name, output in outputs.items()}


def print_native(spec: Spec) -> bool:
    """False: `nnx.tabulate` lists modules, and most layers here are functions."""
    return False
