"""The interface by which training, evaluation and the commands run a network."""

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
_MOST_COMPILED = 1 << 30  # bytes of compiled programs that are kept; a network's are some 10 MB

# image (uint8 [B, S, S, C]), label (int32 [B]), mask (float32 [B]), example (int32 [B]) and, with
# color noise, color_shift (float32 [B, C]) and perhaps color_scale (float32 [B], a factor once the
# mean is subtracted); B are this process's rows of the global batch. Images larger than the
# network's input come with crop (int32 [B, 2], first row and column) and flip (uint8 [B], 1 to
# mirror).
Batch = Mapping[str, np.ndarray]
# What the steps take of a batch.
ON_DEVICE = ("image", "label", "mask", "crop", "flip", "color_shift", "color_scale")


class Engine(Protocol):
    """One network on this framework's devices, with momentum where it is to learn.

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
        """Put canonical weights on the devices, and with `optim`, which training needs, momentum.

        Args:
            spec: the network.
            arrays: every one of `layers.variables(spec)`.
            preprocess: its mean and standard deviation are applied on the device.
            batch_size: of the global batch.
            precision: fp32 or bf16, of convolutions and dense layers.
            devices: how JAX spreads the work; by default over all devices.
            seed: of dropout.
            optim: rule, groups and loss.

        Raises:
            UserError: where the devices can't share the batch, or a group matches nothing.
        """

    def describe(self) -> str:
        """The framework's version and the devices it runs on, in words."""

    def train_step(self, batch: Batch, *, step: int, rates: Mapping[str, float]) -> Any:
        """The update after `step` completed ones; gives `loss`, `top1`, `top5` as means.

        The batch has this process's rows; the means are over all processes. `rates` are those of
        `schedule.rates`.
        """

    def eval_step(self, batch: Batch) -> Any:
        """Sums of `loss`, `top1`, `top5` and `count` over the unmasked examples of all."""

    def eval_outputs(self, batch: Batch) -> tuple[Any, np.ndarray]:
        """`eval_step` and `logits` for the price of one."""

    def logits(self, batch: Batch) -> np.ndarray:
        """Logits of this process's rows in evaluation: (B, classes) float32."""

    def is_done(self, metrics: Any) -> bool:
        """Tell whether a step's metrics are there already, so that `fetch` will not wait."""

    def fetch(self, metrics: Any) -> dict[str, float]:
        """Wait for a step's metrics and bring them to the host."""

    def weights(self) -> dict[str, np.ndarray]:
        """The current weights and statistics as canonical arrays."""

    def is_finite(self) -> bool:
        """Tell whether every weight, statistic and momentum is a finite number."""

    def snapshot(self) -> Any:
        """The state as it is now, whatever later steps do."""

    def write(self, directory: Path, snapshot: Any) -> None:
        """Write a snapshot into an empty directory; called from another thread."""

    def restore(self, directory: Path) -> None:
        """Take the state from what `write` wrote."""


def check_parts(batch_size: int, devices: int, optim: OptimConfig | None) -> None:
    """Refuse a batch that can't be computed in equal parts by so many devices.

    Raises:
        UserError: with a size that can.
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
        UserError: where something that it needs is not installed.
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
    """Have JAX keep what it compiles for this user, unless the environment says something else."""
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    try:
        folder = own_folder(f"jax/{processor()}")
        trim(folder, _MOST_COMPILED)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    except (OSError, UserError) as error:
        print(f"note: compiled programs are not kept: {error}", file=sys.stderr)
        return
    # The default, a second, leaves out a quarter of what the start takes.
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
