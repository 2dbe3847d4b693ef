"""The JAX half of a run: what the training loop drives."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from alexnet.config import TrainConfig
from alexnet.engine import ON_DEVICE
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
        mesh = parallel.run_mesh(config)
        parallel.check_sizes(config, spec, mesh)
        model = AlexNet(spec, weights=weights, dtype=_DTYPES[config.model.precision])
        graphdef, params = nnx.split(model)
        state = init_state(params, config)
        self._train, self._eval = parallel.compile_steps(graphdef, state, config, mesh)
        self._mesh, self._config = mesh, config
        self._state = self._held(parallel.put_state(state, mesh))
        self._dropouts = sum(isinstance(layer, Dropout) for layer in spec)
        self.rows = parallel.local_rows(config.data.batch_size, mesh)

    def describe(self) -> str:
        devices = jax.devices()
        mesh = "x".join(str(size) for size in self._mesh.devices.shape)
        return f"jax {jax.__version__} on {len(devices)} {devices[0].device_kind} device(s)" + (
            f", mesh {mesh} by {self._config.devices.spmd}" if len(devices) > 1 else ""
        )

    def train_step(
        self, batch: Mapping[str, np.ndarray], *, step: int, learning_rate: float
    ) -> Any:
        keys = dropout_keys(self._config.run.seed, step, self._dropouts)
        self._state, metrics = self._train(
            self._state, self._put(batch), np.float32(learning_rate), keys
        )
        return metrics

    def eval_step(self, batch: Mapping[str, np.ndarray]) -> Any:
        return self._eval(self._state.params, self._put(batch))

    def fetch(self, metrics: Any) -> dict[str, float]:
        return {name: float(value) for name, value in jax.device_get(metrics).items()}

    def weights(self) -> dict[str, np.ndarray]:
        params = parallel.whole_copies(self._global().params, self._mesh)
        return {
            f"{layer}.{name}": np.asarray(array)
            for layer, arrays in nnx.to_pure_dict(params).items()
            for name, array in arrays.items()
        }

    def is_finite(self) -> bool:
        return bool(_all_finite(self._state))

    def snapshot(self) -> Any:
        return checkpoint.snapshot(self._global())

    def write(self, directory: Path, snapshot: Any) -> None:
        checkpoint.write(directory, snapshot)

    def restore(self, directory: Path) -> None:
        self._state = self._held(checkpoint.read(directory, self._global()))

    def _put(self, batch: Mapping[str, np.ndarray]) -> dict[str, Any]:
        config = self._config
        batch = {name: batch[name] for name in ON_DEVICE if name in batch}
        return parallel.put_batch(batch, config.data.batch_size, self._mesh, config.devices.spmd)

    def _held(self, state: Any) -> Any:
        """The state as the compiled steps take it: pmap sees this process's part of arrays."""
        if self._config.devices.spmd == "pmap":
            return parallel.local_view(state, self._mesh)
        return state

    def _global(self) -> Any:
        """The state as arrays over all processes."""
        if self._config.devices.spmd == "pmap":
            return parallel.global_view(self._state, self._mesh)
        return self._state


@jax.jit
def _all_finite(tree: Any) -> jax.Array:
    return jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]))
