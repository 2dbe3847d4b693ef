"""A run's work directory: `config.json`, `metrics.jsonl`, TensorBoard events, `checkpoints/`."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

from alexnet.config import TrainConfig, changed_fields, from_json, to_json
from alexnet.errors import UserError
from alexnet.files import atomic_write, write_json

CONFIG, METRICS, CHECKPOINTS = "config.json", "metrics.jsonl", "checkpoints"
WEIGHTS, CURVE, EVENTS = "weights.safetensors", "curve.png", "tensorboard"
_OWN = (CONFIG, METRICS, CHECKPOINTS, WEIGHTS, CURVE, EVENTS)


def prepare(config: TrainConfig) -> Path:
    """Make the work directory, or check that the run in it may be resumed or deleted.

    Raises:
        UserError: where something is in the way, or the run there is not the one described.
    """
    path = config.run.workdir
    if path.exists() and not path.is_dir():
        raise UserError(f"--workdir {path} is a file: give a directory")
    occupied = path.is_dir() and any(path.iterdir())
    is_run = (path / CONFIG).is_file()
    if config.run.resume:
        if not is_run:
            raise UserError(f"--resume: there is no run in {path} (no {CONFIG})")
        _check_same_run(read_config(path), config)
        return path
    if occupied and not is_run:
        raise UserError(f"{path} has files in it but no run: give another --workdir")
    if occupied and not config.run.overwrite:
        raise UserError(
            f"{path} holds a run already: --resume goes on with it, --overwrite deletes it first"
        )
    if occupied:
        _delete_run(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        write_config(path, config)
    except OSError as error:
        raise UserError(f"--workdir {path} can't be written: {error.strerror}") from error
    return path


def write_config(path: Path, config: TrainConfig) -> None:
    """Write down how a run began; --resume and --overwrite are not part of that."""
    as_begun = dataclasses.replace(config.run, resume=False, overwrite=False)
    write_json(path / CONFIG, to_json(dataclasses.replace(config, run=as_begun)))


def read_config(path: Path) -> TrainConfig:
    """The configuration of the run in a work directory.

    Raises:
        UserError: where there is none, or it can't be read.
    """
    try:
        return from_json(json.loads((path / CONFIG).read_text()))
    except OSError as error:
        raise UserError(f"there is no run in {path}: {CONFIG}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path / CONFIG} is not JSON: {error}") from error


def _check_same_run(saved: TrainConfig, now: TrainConfig) -> None:
    if "framework" in (changed := changed_fields(saved, now)):
        raise UserError(
            f"the run in {now.run.workdir} was trained by {saved.framework}, not {now.framework}: "
            f"resume it with --framework {saved.framework}, or move it with `alexnet convert "
            f"{now.run.workdir} NEW --to {now.framework}`"
        )
    if changed:
        options = ", ".join("--" + name.replace("_", "-") for name in changed)
        raise UserError(
            f"--resume goes on with the run in {now.run.workdir} as it began, which had other "
            f"values of {options}: leave them out, or start another run"
        )


def _delete_run(path: Path) -> None:
    """Remove what a run wrote and nothing else."""
    for name in _OWN:
        target = path / name
        if target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)


class MetricsLog:
    """`metrics.jsonl`, a line at a time, and the same numbers as TensorBoard events.

    Args:
        path: the work directory.
        from_step: lines of later steps are dropped first; they came after the checkpoint that
            the run goes on from, and will be written again.
    """

    def __init__(self, path: Path, from_step: int):
        from alexnet.imports import hidden

        with hidden("torch"):  # tensorboardX imports torch wherever it is installed
            from tensorboardX import SummaryWriter
        file = path / METRICS
        kept = [line for line in read_metrics(path) if line["step"] <= from_step]
        with atomic_write(file) as whole:
            whole.write("".join(_line(record) for record in kept).encode())
        self._file = file.open("a")
        self._events = SummaryWriter(str(path / EVENTS), purge_step=from_step + 1)

    def write(self, record: dict[str, Any]) -> None:
        """Append one record; it is in the file when this returns."""
        self._file.write(_line(record))
        self._file.flush()
        for name, value in record.items():
            if name not in ("step", "split"):
                self._events.add_scalar(f"{record['split']}/{name}", value, record["step"])

    def close(self) -> None:
        """Flush and close both."""
        self._file.close()
        self._events.close()


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record, allow_nan=False) + "\n"


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a work directory; a last line that was cut off is left out.

    Raises:
        UserError: where another line is not a record.
    """
    file = path / METRICS
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            record["step"], record["split"]
        except (ValueError, TypeError, KeyError) as error:
            if number == len(lines) and not line.endswith("\n"):
                break
            raise UserError(f"{file}, line {number} is not a record of metrics") from error
        records.append(record)
    return records
