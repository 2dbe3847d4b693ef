"""The torch engine: a network on one device, driven by training, evaluation and the commands."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from alexnet import memory
from alexnet.config import DevicesConfig, OptimConfig
from alexnet.engine import ON_DEVICE, check_parts
from alexnet.errors import UserError
from alexnet.layers import Spec, count_dropouts, variables
from alexnet.preprocess import Preprocess
from alexnet.schedule import frozen
from alexnet.threefry import dropout_keys
from alexnet_torch import checkpoint
from alexnet_torch.compiled import compile_network, failures_told
from alexnet_torch.model import AlexNet
from alexnet_torch.optim import Momentum
from alexnet_torch.step import eval_step, train_step

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Engine:
    """`alexnet.engine.Engine` in torch: this process's GPU, or the CPU."""

    framework = "torch"

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
        _be_reproducible()
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if self._device.type == "cpu":
            memory.keep_freed()
        model = AlexNet(spec, weights=arrays, dtype=DTYPES[precision])
        self._model = cast(Any, model).to(self._device, memory_format=torch.channels_last)
        if devices and devices.compile:
            compile_network(self._model)
        together = dist.is_initialized()
        self._processes = dist.get_world_size() if together else 1
        self._rank = dist.get_rank() if together else 0
        self.rows = _rows(batch_size, self._rank, self._processes)
        check_parts(batch_size, self._processes, optim)
        self._spec, self._normalization, self._seed, self._optim = (
            spec,
            preprocess.normalize,
            seed,
            optim,
        )
        self._dropouts = count_dropouts(spec)
        self._lent: list[checkpoint.Snapshot] = []  # states that may not be written yet
        self._optimizer = self._prepare(optim) if optim else None
        self._trained = (
            DistributedDataParallel(
                self._model, gradient_as_bucket_view=True, broadcast_buffers=False
            )
            if together and optim
            else self._model
        )

    def _prepare(self, optim: OptimConfig) -> Momentum:
        """The optimizer; frozen variables get no gradient."""
        arrays, parameters = variables(self._spec), self._model.named_variables()
        still = frozen(optim, arrays)
        learned = {name: p for name, p in parameters.items() if isinstance(p, torch.nn.Parameter)}
        for name, parameter in learned.items():
            parameter.requires_grad_(name not in still)
        optimizer = Momentum(learned, optim, arrays)
        lent = self._lent  # not `self`: an engine that refers to itself stays in memory for long
        optimizer.register_step_pre_hook(lambda *_: checkpoint.take_back(lent))
        return optimizer

    def describe(self) -> str:
        on_gpu = self._device.type == "cuda"
        device = torch.cuda.get_device_name(self._device) if on_gpu else "cpu"
        return f"torch {torch.__version__} on {self._processes} {device} device(s)"

    def train_step(
        self, batch: Mapping[str, np.ndarray], *, step: int, rates: Mapping[str, float]
    ) -> Any:
        if self._optimizer is None or self._optim is None:
            raise ValueError("an engine without optim can't train")
        with failures_told():
            return train_step(
                self._trained,
                self._optimizer,
                self._put(batch),
                rates,
                dropout_keys(self._seed, step, self._dropouts).tolist(),
                normalization=self._normalization,
                image_size=self._spec.image_size,
                label_smoothing=self._optim.label_smoothing,
                parts=self._optim.accumulate,
                first_row=int(self.rows[0]),
                processes=self._processes,
            )

    def eval_step(self, batch: Mapping[str, np.ndarray]) -> Any:
        return self._evaluate(batch)[0]

    def eval_outputs(self, batch: Mapping[str, np.ndarray]) -> tuple[Any, np.ndarray]:
        sums, logits = self._evaluate(batch)
        return sums, logits.cpu().numpy()

    def logits(self, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        return self.eval_outputs(batch)[1]

    def _evaluate(self, batch: Mapping[str, np.ndarray]) -> tuple[Any, torch.Tensor]:
        with failures_told():
            return eval_step(
                self._model,
                self._put(batch),
                normalization=self._normalization,
                image_size=self._spec.image_size,
                processes=self._processes,
            )

    def is_done(self, metrics: Any) -> bool:
        return all(value.device.type == "cpu" for value in metrics.values())

    def fetch(self, metrics: Any) -> dict[str, float]:
        return {name: float(value) for name, value in metrics.items()}

    def weights(self) -> dict[str, np.ndarray]:
        self._model.zero_grad(set_to_none=True)  # makes room for a copy
        return self._model.weights()

    def is_finite(self) -> bool:
        return all(map(_is_finite, checkpoint.tensors(self._model, self._optimizer).values()))

    def snapshot(self) -> Any:
        if self._rank != 0:
            return None
        found = checkpoint.snapshot(self._model, self._optimizer)
        if found.lent:
            self._lent.append(found)
        return found

    def write(self, directory: Path, snapshot: Any) -> None:
        if self._rank == 0:  # every process has the same state
            checkpoint.write(directory, snapshot)

    def restore(self, directory: Path) -> None:
        checkpoint.take_back(self._lent)
        checkpoint.read(directory, self._model, self._optimizer)

    def _put(self, batch: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
        return {
            name: torch.from_numpy(batch[name]).to(self._device)
            for name in ON_DEVICE
            if name in batch
        }


def _is_finite(tensor: torch.Tensor) -> bool:
    """Test the sum first: if it is finite, so is every term; testing each takes more memory."""
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


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
