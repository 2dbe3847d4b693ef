"""The JAX half of a run: what the training loop drives."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from alexnet.config import TrainConfig
from alexnet.spec import Dropout, Spec
from alexnet.threefry import dropout_keys
from alexnet_jax import checkpoint, parallel
from alexnet_jax.model import AlexNet
from alexnet_jax.step import init_state

_DTYPES = {"fp32": jnp.float32, "bf16": jnp.bfloat16}


class Engine:
    """`alexnet.engine.Engine` in JAX; state stays on the devices, replaced by every step."""

    framework = "jax"

    def __init__(self, config: TrainConfig, spec: Spec, weights: Mapping[str, np.ndarray]):
        self._mesh = parallel.data_mesh()
        parallel.check_batch_size(config.data.batch_size, self._mesh)
        model = AlexNet(spec, weights=weights, dtype=_DTYPES[config.model.precision])
        graphdef, params = nnx.split(model)
        self._state = parallel.replicate(init_state(params, config), self._mesh)
        self._train, self._eval = parallel.compile_steps(graphdef, config, self._mesh)
        self._seed = config.run.seed
        self._dropouts = sum(isinstance(layer, Dropout) for layer in spec)

    def describe(self) -> str:
        devices = jax.devices()
        return f"jax {jax.__version__} on {len(devices)} {devices[0].device_kind} device(s)"

    def train_step(
        self, batch: Mapping[str, np.ndarray], *, step: int, learning_rate: float
    ) -> Any:
        keys = dropout_keys(self._seed, step, self._dropouts)
        self._state, metrics = self._train(
            self._state, parallel.put_batch(batch, self._mesh), np.float32(learning_rate), keys
        )
        return metrics

    def eval_step(self, batch: Mapping[str, np.ndarray]) -> Any:
        return self._eval(self._state.params, parallel.put_batch(batch, self._mesh))

    def fetch(self, metrics: Any) -> dict[str, float]:
        return {name: float(value) for name, value in jax.device_get(metrics).items()}

    def weights(self) -> dict[str, np.ndarray]:
        params = jax.device_get(nnx.to_pure_dict(self._state.params))
        return {
            f"{layer}.{name}": np.asarray(array)
            for layer, arrays in params.items()
            for name, array in arrays.items()
        }

    def is_finite(self) -> bool:
        return bool(_all_finite(self._state))

    def snapshot(self) -> Any:
        return checkpoint.snapshot(self._state)

    def write(self, directory: Path, snapshot: Any) -> None:
        checkpoint.write(directory, snapshot)

    def restore(self, directory: Path) -> None:
        self._state = checkpoint.read(directory, self._state)


@jax.jit
def _all_finite(tree: Any) -> jax.Array:
    return jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]))
