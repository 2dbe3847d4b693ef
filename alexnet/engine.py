"""The interface through which training, evaluation and the commands run a network."""

import importlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from alexnet.config import DevicesConfig, OptimConfig
from alexnet.errors import UserError
from alexnet.layers import Spec
from alexnet.preprocess import Preprocess
from alexnet.user_cache import own_folder, processor, trim

METRICS = ("loss", "top1", "top5")  # of a training step
_MOST_COMPILED = 1 << 30  # bytes of compiled programs to keep; one network's take some 10 MB

# image (uint8 [B, S, S, C]), label (int32 [B]), mask (float32 [B]), example (int32 [B]) and, with
# color noise, color_shift (float32 [B, C]) and perhaps color_scale (float32 [B], a factor applied
# after mean subtraction); B is the number of this process's rows of the global batch. Images larger
# than the network's input come with crop (int32 [B, 2], first row and column) and flip (uint8 [B],
# 1 to mirror).
Batch = Mapping[str, np.ndarray]
# The parts of a batch that the steps use.
ON_DEVICE = ("image", "label", "mask", "crop", "flip", "color_shift", "color_scale")


class Engine(Protocol):
    """One network on this framework's devices, with momentum if it is to be trained.

    Metrics stay on the device until `fetch`, so that the caller can hand over the next batch
    while a step is still running.
    """

    framework: str
    rows: np.ndarray  # the rows of a global batch that this process hands over, ascending

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
        """Put canonical weights on the devices and, with `optim`, momentum for training.

        Args:
            spec: the network.
            arrays: all arrays of `layers.variables(spec)`.
            preprocess: its mean and standard deviation are applied on the device.
            batch_size: size of the global batch.
            precision: fp32 or bf16, for convolutions and dense layers.
            devices: how JAX distributes the work; by default over all devices.
            seed: seed for dropout.
            optim: update rule, groups and loss; required for training.

        Raises:
            UserError: if the batch can't be divided among the devices, or a group matches nothing.
        """

    def describe(self) -> str:
        """The framework's version and the devices it runs on, in words."""

    def train_step(self, batch: Batch, *, step: int, rates: Mapping[str, float]) -> Any:
        """Do the update after `step` completed ones; return mean `loss`, `top1` and `top5`.

        The batch has this process's rows; the means are over all processes. `rates` come from
        `schedule.rates`.
        """

    def eval_step(self, batch: Batch) -> Any:
        """Sums of `loss`, `top1`, `top5` and `count` over all processes' unmasked examples."""

    def eval_outputs(self, batch: Batch) -> tuple[Any, np.ndarray]:
        """The results of `eval_step` and `logits`, for the cost of one."""

    def logits(self, batch: Batch) -> np.ndarray:
        """Logits of this process's rows in evaluation: (B, classes) float32."""

    def is_done(self, metrics: Any) -> bool:
        """Return True if a step's metrics are ready, so that `fetch` will not wait."""

    def fetch(self, metrics: Any) -> dict[str, float]:
        """Wait for a step's metrics and bring them to the host."""

    def weights(self) -> dict[str, np.ndarray]:
        """The current weights and statistics as canonical arrays."""

    def is_finite(self) -> bool:
        """Return True if every weight, statistic and momentum is finite."""

    def snapshot(self) -> Any:
        """A snapshot of the current state, unaffected by later steps."""

    def write(self, directory: Path, snapshot: Any) -> None:
        """Write a snapshot into an empty directory; called from another thread."""

    def restore(self, directory: Path) -> None:
        """Restore the state that `write` wrote."""


def check_parts(batch_size: int, devices: int, optim: OptimConfig | None) -> None:
    """Refuse a batch that can't be divided equally among this many devices.

    Raises:
        UserError: suggesting a size that can.
    """
    parts = optim.accumulate if optim else 1
    if batch_size % (parts * devices):
        whole = parts * devices
        nearest = max(1, round(batch_size / whole)) * whole
        each = f" by {devices} devices" if devices > 1 else ""
        raise UserError(
            f"--batch-size {batch_size} can't be computed in {parts} equal parts{each}, as "
            f"--accumulate asks: use --batch-size {nearest}"
        )


def load_engine(framework: str) -> type[Engine]:
    """The engine class of a framework, imported as `import_framework` does."""
    return import_framework(framework, "engine").Engine


def import_framework(framework: str, module: str) -> ModuleType:
    """Import `alexnet_jax.<module>` or `alexnet_torch.<module>`.

    Raises:
        UserError: if a package it needs is not installed.
    """
    if framework == "jax" and "jax" not in sys.modules:
        _keep_compiled()
    try:
        return importlib.import_module(f"alexnet_{framework}.{module}")
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("alexnet"):
            raise
        raise UserError(
            f"--framework {framework} needs the package '{error.name}', which is not installed: "
            f"run `pip install -c constraints.txt -e '.[{framework}]'`"
        ) from error


def _keep_compiled() -> None:
    """Have JAX cache compiled programs for this user, unless the environment says otherwise."""
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    try:
        folder = own_folder(f"jax/{processor()}")
        trim(folder, _MOST_COMPILED)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    except (OSError, UserError) as error:
        print(f"note: compiled programs are not kept: {error}", file=sys.stderr)
        return
    # The default, one second, would skip programs that account for a quarter of the start-up time.
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
