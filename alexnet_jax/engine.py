"""The JAX engine: a network on all devices, driven by training, evaluation and the commands."""

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from alexnet.config import DevicesConfig, OptimConfig
from alexnet.engine import ON_DEVICE, check_parts
from alexnet.files import is_remote
from alexnet.layers import Spec, count_dropouts, variables
from alexnet.preprocess import Preprocess
from alexnet.schedule import frozen, learned
from alexnet.threefry import dropout_keys
from alexnet.user_cache import check_own
from alexnet_jax import checkpoint, onednn, parallel
from alexnet_jax.model import XLA, AlexNet, Work
from alexnet_jax.optim import gradient_transformation
from alexnet_jax.step import TrainState, eval_step, split, train_step

DTYPES = {"fp32": jnp.float32, "bf16": jnp.bfloat16}


class Engine:
    """`alexnet.engine.Engine` in JAX; state stays on the devices, replaced by every step."""

    framework = "jax"

    def __init__(
        self,
        spec: Spec,
        arrays: Mapping[str, np.ndarray],
        *,
        preprocess: Preprocess,
        batch_size: int,
        precision: str = "fp32",
        devices: DevicesConfig | None = None,
        seed: int = 0,
        optim: OptimConfig | None = None,
    ):
        check_cache(cast(Any, jax.config).jax_compilation_cache_dir)
        self._devices = devices or DevicesConfig()
        self._mesh = mesh = parallel.run_mesh(self._devices)
        parallel.check_sizes(spec, batch_size, self._devices, mesh)
        check_parts(batch_size, mesh.size, optim)
        model = AlexNet(spec, weights=arrays, dtype=DTYPES[precision])
        work = onednn.fastest(list(mesh.devices.flat))
        state, steps = prepare(model, preprocess, optim, work=work)
        self._steps = parallel.compile_steps(
            steps, state, mesh, self._devices.spmd, self._devices.fsdp
        )
        self._spec, self._batch_size, self._seed = spec, batch_size, seed
        self._state = self._held(parallel.put_state(state, mesh, self._devices.fsdp))
        self._learned = learned(variables(spec))
        self._dropouts = count_dropouts(spec)
        self.rows = parallel.local_rows(batch_size, mesh)

    def describe(self) -> str:
        devices = jax.devices()
        kernels = onednn.described(devices)
        mesh = "x".join(str(size) for size in self._mesh.devices.shape)
        spread = self._devices.spmd + (" with fsdp" if self._devices.fsdp else "")
        return (
            f"jax {jax.__version__} on {len(devices)} {devices[0].device_kind} device(s)"
            + (f", mesh {mesh} by {spread}" if len(devices) > 1 else "")
            + (f", {kernels}" if kernels else "")
        )

    def train_step(
        self, batch: Mapping[str, np.ndarray], *, step: int, rates: Mapping[str, float]
    ) -> Any:
        if self._steps.train is None:
            raise ValueError("an engine without optim can't train")
        vector = np.array([rates[name] for name in self._learned], np.float32)
        keys = dropout_keys(self._seed, step, self._dropouts)
        self._state, metrics = self._steps.train(self._state, self._put(batch), vector, keys)
        return metrics

    def eval_step(self, batch: Mapping[str, np.ndarray]) -> Any:
        return self._steps.evaluate(self._state[:2], self._put(batch))[0]

    def eval_outputs(self, batch: Mapping[str, np.ndarray]) -> tuple[Any, np.ndarray]:
        sums, logits = self._steps.evaluate(self._state[:2], self._put(batch))
        return sums, parallel.local_part(logits, self._devices.spmd)

    def logits(self, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        return self.eval_outputs(batch)[1]

    def is_done(self, metrics: Any) -> bool:
        return all(value.is_ready() for value in metrics.values())

    def fetch(self, metrics: Any) -> dict[str, float]:
        return {name: float(value) for name, value in jax.device_get(metrics).items()}

    def weights(self) -> dict[str, np.ndarray]:
        state = self._global()
        whole = parallel.whole_copies((state.params, state.statistics), self._mesh)
        found = checkpoint.flat(whole[0]) | checkpoint.flat(whole[1])
        return {name: np.asarray(found[name]) for name in variables(self._spec)}

    def is_finite(self) -> bool:
        return bool(_all_finite(self._state))

    def snapshot(self) -> Any:
        return checkpoint.snapshot(self._global())

    def write(self, directory: Path, snapshot: Any) -> None:
        checkpoint.write(directory, snapshot)

    def restore(self, directory: Path) -> None:
        self._state = self._held(checkpoint.read(directory, self._global()))

    def _put(self, batch: Mapping[str, np.ndarray]) -> dict[str, Any]:
        taken = {name: batch[name] for name in ON_DEVICE if name in batch}
        return parallel.put_batch(taken, self._batch_size, self._mesh, self._devices.spmd)

    def _held(self, state: TrainState) -> TrainState:
        """The state as the compiled steps take it: under pmap, this process's part of arrays."""
        if self._devices.spmd == "pmap":
            return parallel.local_view(state, self._mesh)
        return state

    def _global(self) -> TrainState:
        """The state as arrays over all processes."""
        if self._devices.spmd == "pmap":
            return parallel.global_view(self._state, self._mesh)
        return self._state


def check_cache(directory: str | None) -> None:
    """Refuse a directory of compiled programs that others can write to, since JAX runs them.

    Raises:
        UserError: where it belongs to another user, or its group or everybody may write to it.
    """
    if directory is not None and not is_remote(directory) and os.path.exists(directory):
        check_own(directory, "JAX_COMPILATION_CACHE_DIR")


def prepare(
    model: AlexNet,
    preprocess: Preprocess,
    optim: OptimConfig | None,
    *,
    abstract: bool = False,
    work: Work = XLA,
) -> tuple[TrainState, parallel.Steps]:
    """A model's initial state and its pure steps; without `optim`, there is no momentum.

    With `abstract`, the model and the state have shapes in place of arrays.
    """
    graphdef, params, statistics = split(model)
    static: dict[str, Any] = {
        "graphdef": graphdef,
        "normalization": preprocess.normalize,
        "image_size": model.spec.image_size,
        "work": work,
    }
    train, momentum = None, ()
    if optim is not None:
        arrays = variables(model.spec)
        optimizer = gradient_transformation(optim, arrays)
        momentum = jax.eval_shape(optimizer.init, params) if abstract else optimizer.init(params)
        train = partial(
            train_step,
            optimizer=optimizer,
            parts=optim.accumulate,
            label_smoothing=optim.label_smoothing,
            frozen=frozen(optim, arrays),
            **static,
        )
    steps = parallel.Steps(train, partial(eval_step, **static))
    return TrainState(params, statistics, momentum), steps


@jax.jit
def _all_finite(tree: Any) -> jax.Array:
    return jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]))
