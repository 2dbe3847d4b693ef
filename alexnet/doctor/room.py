"""Whether a run has room: its work directory, the disk below it, and memory."""

import dataclasses
import math
import secrets
import shutil
from pathlib import Path
from typing import Any

from alexnet import workdir
from alexnet.config import TrainConfig
from alexnet.doctor.finding import OK, WARNING, WRONG, Finding, size
from alexnet.files import as_path, atomic_write, is_remote
from alexnet.layers import Spec, trace

_FLOAT = 4  # bytes; weights and momentum are fp32 whatever the precision
# Of the size of all weights: weights, momentum, gradients, and a checkpoint's copy of the first two
_DEVICE_COPIES = 5
# The initial weights, and what is being written of weights and momentum.
_HOST_COPIES = 3
_LIBRARIES = 300 * 2**20  # bytes that Python and a framework take before any work


def check_workdir(config: TrainConfig, processes: int) -> Finding:
    """Whether files can be written there, and whether a run is in the way; leaves nothing behind.

    Raises:
        UserError: where `alexnet train` would refuse the directory.
        RunError: where the disk does.
    """
    run, path = config.run, _path(config)
    if run.workdir is None and processes > 1:
        found = f"{processes} processes need one that all of them share"
        return Finding("work directory", WRONG, found, "--workdir DIRECTORY, or gs://BUCKET/NAME")
    occupied = path.exists() and (not path.is_dir() or any(path.iterdir()))
    replaced = run.overwrite and (path / workdir.CONFIG).is_file()
    if run.workdir and (run.resume or occupied) and not replaced:
        # Refuses as training will; --overwrite is taken away so that nothing can be deleted.
        kept = dataclasses.replace(run, overwrite=False)
        workdir.prepare(dataclasses.replace(config, run=kept))
    here = path if is_remote(path) else _existing(path)
    trial = here / f".alexnet-doctor-{secrets.token_hex(4)}"
    with atomic_write(trial) as file:
        file.write(bytes(4096))
    trial.unlink()
    if replaced:
        return Finding("work directory", OK, f"{path} holds a run, which --overwrite deletes")
    what = "holds the run to go on with" if run.resume else "can be written"
    return Finding("work directory", OK, f"{path} {what}")


def check_disk(config: TrainConfig, spec: Spec) -> Finding:
    """Free disk space against the checkpoints that are kept."""
    path = _path(config)
    if is_remote(path):
        return Finding("disk", OK, f"not looked at: {path} is in a bucket, which grows")
    weights = spec.num_params * _FLOAT
    one = weights * (2 if config.optim.momentum else 1)
    count = config.run.keep_checkpoints + 2  # the best one, and the one being written
    need = count * one + weights
    held = sum(f.stat().st_size for f in (path / workdir.CHECKPOINTS).rglob("*") if f.is_file())
    free = shutil.disk_usage(_existing(path)).free
    found = (
        f"{size(free)} free, {size(need)} needed (computed: {count} checkpoints of {size(one)} "
        f"and the weights)"
    )
    if held:
        found += f"; {size(held)} of checkpoints there count as free"
    if free + held >= need:
        return Finding("disk", OK, found)
    fix = "give a --workdir on another disk, or --keep-checkpoints 1"
    return Finding("disk", WRONG, found, fix)


def check_memory(config: TrainConfig, spec: Spec, seen: dict[str, Any]) -> list[Finding]:
    """Memory against an estimate of what the run takes.

    Args:
        config: of the run.
        spec: its network.
        seen: the devices, from `devices.probe`; only those of a CPU share the host's memory.
    """
    device, host = estimate(config, spec, seen.get("count", 1), seen.get("processes", 1))
    if seen.get("platform", "cpu") == "cpu":
        local = max(seen.get("count", 1) // seen.get("processes", 1), 1)
        return [_memory("memory", host + local * device, available_memory())]
    return [
        _memory("memory", host, available_memory()),
        _memory("device memory", device, seen["memory"]),
    ]


def estimate(config: TrainConfig, spec: Spec, devices: int, processes: int) -> tuple[int, int]:
    """Bytes that a run takes: on each device, and on each host besides.

    On the device: five times the weights, and every layer's output with its gradient for the
    device's images. On the host: three times the weights, the libraries, and the batches that
    loader threads hold ready.
    """
    weights, rows = spec.num_params * _FLOAT, config.data.batch_size / devices
    outputs = sum(math.prod(row.out_shape) for row in trace(spec))
    bytes_ = 2 if config.model.precision == "bf16" else _FLOAT
    device = _DEVICE_COPIES * weights + 2 * rows * outputs * bytes_
    pixels = config.image_size**2 * config.model.channels
    batch = config.data.batch_size / processes * pixels
    batches = (config.data.loader_threads + 2) * batch
    return int(device), int(_HOST_COPIES * weights + _LIBRARIES + batches)


def available_memory() -> int | None:
    """Bytes that this process can still take; None where the system doesn't tell."""
    found = [_meminfo(), _cgroup()]
    return min((n for n in found if n is not None), default=None)


def _path(config: TrainConfig) -> Path:
    """The work directory, or where training makes a new one."""
    return as_path(config.run.workdir or "runs")


def _memory(name: str, need: int, available: int | None) -> Finding:
    if available is None:
        return Finding(
            name, OK, f"about {size(need)} needed (computed); how much there is, unknown"
        )
    found = f"{size(available)} available, about {size(need)} needed (computed)"
    if need <= available:
        return Finding(name, OK, found)
    return Finding(name, WARNING, found, "a smaller --batch-size, fewer --loader-threads")


def _existing(path: Path) -> Path:
    """The path, or the nearest directory above it that exists."""
    path = path.absolute()
    return next(p for p in (path, *path.parents) if p.exists())


def _meminfo() -> int | None:
    """Linux's estimate of what can be taken without swapping."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    fields = dict(line.split(":", 1) for line in lines)
    return int(fields["MemAvailable"].split()[0]) * 1024


def _cgroup(folder: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What a container's limit leaves."""
    try:
        limit = (folder / "memory.max").read_text().strip()
        used = int((folder / "memory.current").read_text())
    except (OSError, ValueError):
        return None
    return None if limit == "max" else max(int(limit) - used, 0)
