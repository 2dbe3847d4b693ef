"""Checks of the work directory, and of the disk space that a run's checkpoints take."""

import dataclasses
import secrets
import shutil
from pathlib import Path

from alexnet import workdir
from alexnet.config import TrainConfig
from alexnet.doctor.finding import OK, WRONG, Finding
from alexnet.files import as_path, atomic_write, is_remote
from alexnet.layers import Spec

_FLOAT = 4  # bytes; weights and momentum are fp32 whatever the precision
_MIB = 2**20


def check_workdir(config: TrainConfig, processes: int) -> Finding:
    """Check that a file can be written there, and no run is in the way; leave nothing behind.

    Raises:
        UserError: if `alexnet train` would refuse the directory.
        RunError: if the disk can't be written to.
    """
    run, path = config.run, _path(config)
    if run.workdir is None and processes > 1:
        found = f"{processes} processes need one that all of them share"
        return Finding("work directory", WRONG, found, "--workdir DIRECTORY, or gs://BUCKET/NAME")
    occupied = path.exists() and (not path.is_dir() or any(path.iterdir()))
    replaced = run.overwrite and (path / workdir.CONFIG).is_file()
    if run.workdir and (run.resume or occupied) and not replaced:
        # Fails just as training would; --overwrite is removed so that nothing can be deleted.
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


def check_space(config: TrainConfig, spec: Spec) -> list[Finding]:
    """Compare free disk space with the size of the checkpoints kept; skipped for a bucket."""
    path = _path(config)
    if is_remote(path):
        return []
    weights = spec.num_params * _FLOAT
    one = weights * (2 if config.optim.momentum else 1)
    count = config.run.keep_checkpoints + 2  # the best one, and the one being written
    need = count * one + weights
    held = sum(f.stat().st_size for f in (path / workdir.CHECKPOINTS).rglob("*") if f.is_file())
    free = shutil.disk_usage(_existing(path)).free
    found = (
        f"{free / _MIB:,.0f} MiB free, {need / _MIB:,.0f} MiB needed (computed: {count} "
        f"checkpoints of {one / _MIB:,.1f} MiB and the weights)"
    )
    if held:
        found += f"; {held / _MIB:,.0f} MiB of checkpoints there count as free"
    if free + held >= need:
        return [Finding("disk", OK, found)]
    fix = "give a --workdir on another disk, or --keep-checkpoints 1"
    return [Finding("disk", WRONG, found, fix)]


def _path(config: TrainConfig) -> Path:
    """The work directory, or the folder in which training makes a new one."""
    return as_path(config.run.workdir or "runs")


def _existing(path: Path) -> Path:
    """The path, or the nearest directory above it that exists."""
    path = path.absolute()
    return next(p for p in (path, *path.parents) if p.exists())
