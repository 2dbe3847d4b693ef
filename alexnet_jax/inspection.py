"""Answers for `alexnet summary`, `doctor` and `convert --verify` from the JAX side."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from alexnet.config import TrainConfig
from alexnet.layers import Spec, variables
from alexnet_jax import onednn, parallel
from alexnet_jax.model import AlexNet


def output_shapes(spec: Spec) -> dict[str, tuple[int, ...]]:
    """Each layer's output for one image, NHWC, from tracing the model."""

    def activations(images: jax.Array, weights: Any) -> dict[str, jax.Array]:
        return AlexNet(spec, weights=weights).activations(images)

    size = (1, spec.image_size, spec.image_size, spec.channels)
    images = jax.ShapeDtypeStruct(size, np.float32)
    weights: Any = {
        name: jax.ShapeDtypeStruct(variable.shape, np.float32)
        for name, variable in variables(spec).items()
    }
    outputs = jax.eval_shape(activations, images, weights)
    return {name: output.shape for name, output in outputs.items()}


def layer_outputs(
    spec: Spec, weights: Mapping[str, np.ndarray], images: np.ndarray
) -> dict[str, np.ndarray]:
    """Every layer's output for normalized NHWC images, in evaluation, by name."""
    return layer_function(spec, weights)(images)


def layer_function(
    spec: Spec, weights: Mapping[str, np.ndarray], names: Sequence[str] | None = None
) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """A function from normalized NHWC images to layer outputs in evaluation, by name.

    Maps come as NHWC, flattened ones in H, W, C order. `names` selects layers; all by default.
    """
    graphdef, state = nnx.split(AlexNet(spec, weights=weights))

    @jax.jit
    def outputs(state: nnx.State, images: jax.Array) -> dict[str, jax.Array]:
        found = nnx.merge(graphdef, state).activations(images)
        return {name: found[name] for name in names or found}

    return lambda images: jax.tree.map(np.asarray, outputs(state, jnp.asarray(images)))


def print_native(spec: Spec) -> bool:
    """Return False: `nnx.tabulate` lists modules, and most layers here are functions."""
    return False


def devices(config: TrainConfig) -> dict[str, Any]:
    """The devices of all processes: platform, kind, count, and the heavy layers' kernels.

    Raises:
        UserError: where they can't share the configured batch or form the configured mesh.
    """
    found = jax.devices()
    mesh = parallel.device_mesh(found, *parallel.mesh_shape(config.devices.mesh, len(found)))
    spec = config.spec(num_classes=1000)
    parallel.check_sizes(spec, config.data.batch_size, config.devices, mesh)
    return {
        "version": jax.__version__,
        "platform": found[0].platform,
        "kind": found[0].device_kind,
        "count": len(found),
        "processes": jax.process_count(),
        "kernels": onednn.described(found),
    }
