"""What a framework has to offer for the one training loop to drive it."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from alexnet.config import TrainConfig
from alexnet.errors import UserError
from alexnet.spec import Spec

Batch = Mapping[str, np.ndarray]
ON_DEVICE = ("image", "label", "mask", "color_shift")  # what a step reads; `example` stays here


class Engine(Protocol):
    """One network with its optimiser, on this framework's devices.

    Metrics stay on the device until `fetch`, so that the loop can hand over the next batch
    while a step is still running.
    """

    framework: str
    rows: np.ndarray  # which rows of a global batch this process hands over, ascending

    def __init__(self, config: TrainConfig, spec: Spec, weights: Mapping[str, np.ndarray]):
        """Put canonical weights and zero momentum on the devices.

        Raises:
            UserError: where the devices can't share the batch.
        """

    def describe(self) -> str:
        """The framework's version and the devices it runs on, in words."""

    def train_step(self, batch: Batch, *, step: int, learning_rate: float) -> Any:
        """The update after `step` completed ones; gives `loss`, `top1`, `top5` as means.

        The batch has this process's rows; the means are over all processes.
        """

    def eval_step(self, batch: Batch) -> Any:
        """Sums of `loss`, `top1`, `top5` and `count` over the unmasked examples of all."""

    def fetch(self, metrics: Any) -> dict[str, float]:
        """Wait for a step's metrics and bring them to the host."""

    def weights(self) -> dict[str, np.ndarray]:
        """The current weights as canonical arrays."""

    def is_finite(self) -> bool:
        """Whether every weight and momentum is a finite number."""

    def snapshot(self) -> Any:
        """A copy of weights and momentum that later steps leave alone."""

    def write(self, directory: Path, snapshot: Any) -> None:
        """Write a snapshot into an empty directory; called from another thread."""

    def restore(self, directory: Path) -> None:
        """Take weights and momentum from what `write` wrote."""


def load_engine(framework: str) -> type[Engine]:
    """The engine class of a framework; only that framework is imported.

    Raises:
        UserError: where the framework is not installed.
    """
    return import_framework(framework, "engine").Engine


def import_framework(framework: str, module: str) -> ModuleType:
    """`alexnet_jax.<module>` or `alexnet_torch.<module>`.

    Raises:
        UserError: where something that it needs is not installed.
    """
    try:
        return importlib.import_module(f"alexnet_{framework}.{module}")
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("alexnet"):
            raise
        raise UserError(
            f"--framework {framework} needs the package '{error.name}', which is not installed: "
            f"run `pip install -c constraints.txt '.[{framework}]'`"
        ) from error
