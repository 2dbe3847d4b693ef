"""A training state on disk, by safetensors: `params/...` and `momentum/...`, in torch's layout.

Running statistics are among the params, under torch's names. torch's own `save` pickles;
safetensors holds arrays and nothing else, and is read without running code. The directory, digests
and renaming are left to `alexnet.checkpoints`.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from alexnet.files import fetched, staged
from alexnet.layers import Spec
from alexnet.weights import layout
from alexnet_torch.model import AlexNet, from_numpy

FILE = "state.safetensors"
_PATIENCE = 0.2  # seconds that a step may wait for a checkpoint


@dataclass(frozen=True)
class Snapshot:
    """A state to be written. On a CPU it is lent, not copied: 456 MB for the full network.

    Any code about to change the state must call `take_back` first.
    """

    tensors: dict[str, torch.Tensor]
    lent: tuple[torch.Tensor, ...] = ()  # the model's own, whose memory is among `tensors`
    written: threading.Event = field(default_factory=threading.Event)


def snapshot(model: AlexNet, optimizer: torch.optim.Optimizer | None) -> Snapshot:
    """The state in host memory: tensors that only updates change are lent, the rest copied."""
    found, lent = {}, []
    for name, tensor in tensors(model, optimizer).items():
        learned = isinstance(tensor, torch.nn.Parameter) or name.startswith("momentum/")
        if learned and tensor.device.type == "cpu" and tensor.is_contiguous():
            lent.append(tensor)
            found[name] = tensor.detach()
        else:
            found[name] = tensor.detach().to(
                "cpu", copy=True, memory_format=torch.contiguous_format
            )
    return Snapshot(found, tuple(lent))


def take_back(snapshots: list[Snapshot]) -> None:
    """Make lent tensors safe to change, and forget the snapshots.

    On a slow disk the model goes on with a copy, and leaves its memory to the writer.
    """
    while snapshots:
        one = snapshots.pop()
        if one.lent and not one.written.wait(_PATIENCE):
            for tensor in one.lent:
                tensor.data = tensor.data.clone()


def write(directory: Path, snapshot: Snapshot) -> None:
    """Write a snapshot."""
    try:
        with staged(directory / FILE) as path:
            save_file(snapshot.tensors, path)
            snapshot.written.set()  # before an upload, which needs the file alone
    finally:
        snapshot.written.set()


@torch.no_grad()
def read(directory: Path, model: AlexNet, optimizer: torch.optim.Optimizer | None) -> None:
    """Read a snapshot that `write` wrote into the model and the optimizer.

    Raises:
        ValueError: where names or shapes are not the model's.
    """
    with fetched(directory / FILE) as path:
        loaded = load_file(path)
    own = tensors(model, optimizer)
    if {k: v.shape for k, v in own.items()} != {k: v.shape for k, v in loaded.items()}:
        raise ValueError(f"{directory / FILE} is of another network or optimizer")
    for name, tensor in own.items():
        tensor.copy_(loaded[name])


def read_arrays(directory: Path, spec: Spec) -> dict[str, dict[str, np.ndarray]]:
    """Canonical arrays: `params`, which includes statistics, and `momentum` where there is any."""
    parts: dict[str, dict[str, np.ndarray]] = {}
    with fetched(directory / FILE) as path:
        loaded = load_file(path)
    for name, tensor in loaded.items():
        part, _, key = name.partition("/")
        parts.setdefault(part, {})[key] = tensor.numpy()
    return {part: layout.from_state_dict(state, spec) for part, state in parts.items()}


def write_arrays(
    directory: Path, arrays: Mapping[str, Mapping[str, np.ndarray]], spec: Spec
) -> None:
    """Write arrays for `read_arrays`."""
    write(
        directory,
        Snapshot(
            {
                f"{part}/{key}": from_numpy(np.ascontiguousarray(array))
                for part, named in arrays.items()
                for key, array in layout.to_state_dict(named, spec).items()
            }
        ),
    )


def tensors(model: AlexNet, optimizer: torch.optim.Optimizer | None) -> dict[str, torch.Tensor]:
    """Weights, statistics and momentum by name; the tensors themselves, not copies."""
    named = {f"params/{name}": tensor for name, tensor in model.state_dict(keep_vars=True).items()}
    for name, parameter in model.named_parameters():
        state = optimizer.state.get(parameter, {}) if optimizer else {}
        if "momentum_buffer" in state:
            named[f"momentum/{name}"] = state["momentum_buffer"]
    return named
