"""The torch half of a run: what the training loop drives."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from alexnet.config import TrainConfig
from alexnet.engine import ON_DEVICE
from alexnet.errors import UserError
from alexnet.spec import Dropout, Spec
from alexnet.threefry import dropout_keys
from alexnet_torch import checkpoint, optim
from alexnet_torch.model import AlexNet
from alexnet_torch.step import eval_step, train_step

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Engine:
    """`alexnet.engine.Engine` in torch: this process's GPU, or the CPU."""

    framework = "torch"

    def __init__(self, config: TrainConfig, spec: Spec, weights: Mapping[str, np.ndarray]):
        _be_reproducible()
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model = AlexNet(spec, weights=weights, dtype=_DTYPES[config.model.precision])
        self._model = model.to(self._device, memory_format=torch.channels_last)
        together = dist.is_initialized()
        self._processes = dist.get_world_size() if together else 1
        self._rank = dist.get_rank() if together else 0
        self.rows = _rows(config.data.batch_size, self._rank, self._processes)
        self._trained = (
            DistributedDataParallel(self._model, gradient_as_bucket_view=True)
            if together
            else self._model
        )
        self._optimizer = optim.optimizer(self._model, config.optim)
        self._config = config
        self._dropouts = sum(isinstance(layer, Dropout) for layer in spec)

    def describe(self) -> str:
        on_gpu = self._device.type == "cuda"
        device = torch.cuda.get_device_name(self._device) if on_gpu else "cpu"
        return f"torch {torch.__version__} on {self._processes} {device} device(s)"

    def train_step(
        self, batch: Mapping[str, np.ndarray], *, step: int, learning_rate: float
    ) -> Any:
        keys = dropout_keys(self._config.run.seed, step, self._dropouts).tolist()
        return train_step(
            self._trained,
            self._optimizer,
            self._put(batch),
            learning_rate,
            keys,
            config=self._config,
            first_row=int(self.rows[0]),
            processes=self._processes,
        )

    def eval_step(self, batch: Mapping[str, np.ndarray]) -> Any:
        return eval_step(
            self._model, self._put(batch), config=self._config, processes=self._processes
        )

    def fetch(self, metrics: Any) -> dict[str, float]:
        return {name: float(value) for name, value in metrics.items()}

    def weights(self) -> dict[str, np.ndarray]:
        return self._model.weights()

    def is_finite(self) -> bool:
        tensors = checkpoint.tensors(self._model, self._optimizer).values()
        return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)

    def snapshot(self) -> Any:
        return checkpoint.snapshot(self._model, self._optimizer) if self._rank == 0 else None

    def write(self, directory: Path, snapshot: Any) -> None:
        if self._rank == 0:  # every process has the same state
            checkpoint.write(directory, snapshot)

    def restore(self, directory: Path) -> None:
        checkpoint.read(directory, self._model, self._optimizer)

    def _put(self, batch: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
        return {
            name: torch.from_numpy(batch[name]).to(self._device)
            for name in ON_DEVICE
            if name in batch
        }


def _rows(batch_size: int, rank: int, processes: int) -> np.ndarray:
    if batch_size % processes:
        raise UserError(
            f"--batch-size {batch_size} can't be shared evenly by {processes} processes: use a "
            f"multiple of {processes}"
        )
    return np.arange(batch_size).reshape(processes, -1)[rank]


def _be_reproducible() -> None:
    """Choose the same kernels in every run, and fp32 arithmetic where fp32 is asked for."""
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
