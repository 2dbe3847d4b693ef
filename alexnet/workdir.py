"""A run's work directory: `config.json`, `metrics.jsonl`, TensorBoard events, `checkpoints/`."""

import contextlib
import dataclasses
import json
import re
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from alexnet import files
from alexnet.config import TrainConfig, from_json, to_json
from alexnet.errors import RunError, UserError
from alexnet.options import flag, shown

CONFIG, METRICS, CHECKPOINTS = "config.json", "metrics.jsonl", "checkpoints"
WEIGHTS, CURVE, EVENTS = "weights.safetensors", "curve.png", "tensorboard"
# The names that a run's own files have in its folders.
_IN_FOLDERS = {
    CHECKPOINTS: re.compile(r"(damaged-)?\d{8,}"),
    EVENTS: re.compile(r"events\.out\.tfevents\..*"),
}


def prepare(config: TrainConfig) -> Path:
    """Make the work directory, or check that the run in it may be resumed or deleted.

    Raises:
        UserError: where something is in the way, or the run there is not the one described.
        RunError: where a bucket can't be reached.
    """
    path = files.as_path(config.run.workdir or ".")
    try:
        return _prepare(path, config)
    except ConnectionError as error:
        raise RunError(f"--workdir {path}: {error.strerror}") from error
    except OSError as error:
        raise UserError(f"--workdir {path} can't be used: {error.strerror}") from error


def _prepare(path: Path, config: TrainConfig) -> Path:
    if path.exists() and not path.is_dir():
        raise UserError(f"--workdir {path} is a file: give a directory")
    is_run = (path / CONFIG).is_file()
    if config.run.resume:
        if not is_run:
            raise UserError(f"--resume: there is no run in {path} (no {CONFIG})")
        _check_same_run(read_config(path), config)
        return path
    if not is_run and path.is_dir() and any(path.iterdir()):
        raise UserError(f"{path} has files in it but no run: give another --workdir")
    if is_run and not config.run.overwrite:
        raise UserError(
            f"{path} holds a run already: --resume goes on with it, --overwrite deletes it first"
        )
    if is_run:
        _delete_run(path)
    path.mkdir(parents=True, exist_ok=True)
    write_config(path, config)
    return path


def _delete_run(path: Path) -> None:
    """Delete what a run writes, and nothing else; the configuration, its mark, last.

    Raises:
        UserError: where the configuration is none of a run: somebody else's files.
    """
    try:
        read_config(path)
    except UserError as error:
        raise UserError(f"--overwrite deletes runs only, and this is none: {error}") from error
    for folder, written in _IN_FOLDERS.items():
        inside = list((path / folder).iterdir()) if (path / folder).is_dir() else []
        own = [one for one in inside if written.fullmatch(one.name)]
        for one in own:
            files.remove_tree(one) if one.is_dir() else one.unlink(missing_ok=True)
        if inside and len(own) == len(inside):
            files.remove_tree(path / folder)
    for name in (METRICS, WEIGHTS, CURVE, CONFIG):
        if (path / name).is_file():
            (path / name).unlink()


def write_config(path: Path, config: TrainConfig) -> None:
    """Write down how a run began; --resume and --overwrite are not part of that."""
    as_begun = dataclasses.replace(config.run, resume=False, overwrite=False)
    files.write_json(path / CONFIG, to_json(dataclasses.replace(config, run=as_begun)))


def read_config(path: Path) -> TrainConfig:
    """The configuration of the run in a work directory; a UserError where it can't be read."""
    try:
        values = json.loads((path / CONFIG).read_text())
    except OSError as error:
        raise UserError(f"there is no run in {path}: {CONFIG}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path / CONFIG} is not JSON: {error}") from error
    return from_json(values, str(path / CONFIG))


# Fields whose change leaves the numbers of a resumed run as they are. A bad image that is to be
# skipped from now on has not been seen before: the run would have stopped at it.
_FREE_ON_RESUME = {
    "workdir", "resume", "overwrite", "checkpoint_every", "keep_checkpoints", "log_every",
    "loader_threads", "data_dir", "init_from", "on_bad_image",
}  # fmt: skip
_LENGTH = {"epochs", "steps"}
_BY_TOTAL = ("cosine",)  # schedules whose every rate depends on the number of steps


def _check_same_run(saved: TrainConfig, now: TrainConfig) -> None:
    """Refuse options that would change the numbers of the run that is gone on with."""
    path, before, after = now.run.workdir, _flat(saved), _flat(now)
    if saved.framework != now.framework:
        raise UserError(
            f"the run in {path} was trained by {saved.framework}, not {now.framework}: resume it "
            f"with --framework {saved.framework}, or move it with `alexnet convert {path} NEW --to "
            f"{now.framework}`"
        )
    by_total = saved.optim.schedule in _BY_TOTAL
    free = _FREE_ON_RESUME if by_total else _FREE_ON_RESUME | _LENGTH
    if changed := [n for n, value in before.items() if n not in free and value != after[n]]:
        words = ", ".join(
            f"{flag(n)} was {shown(before[n]):.60}, not {shown(after[n]):.60}" for n in changed
        )
        if not _LENGTH.isdisjoint(changed):
            words += f", and its {saved.optim.schedule} schedule depends on the total"
        raise UserError(
            f"--resume goes on with the run in {path} as it began: {words}; "
            "leave that out, or start another run from its weights: "
            f"`alexnet convert {path} START.safetensors`, then --init-from START.safetensors"
        )


def _flat(config: TrainConfig) -> dict[str, Any]:
    """All fields but those of the devices."""
    parts = (config.model, config.data, config.optim, config.run)
    return {"recipe": config.recipe} | {k: v for part in parts for k, v in vars(part).items()}


UPLOAD_EVERY = 30  # seconds; Google takes one version of an object a second


class MetricsLog:
    """`metrics.jsonl`, a line at a time, and the same numbers as TensorBoard events.

    An object on gs:// can't be appended to: there both are written in a temporary directory and
    uploaded whole, from time to time and by `flush`.

    Args:
        path: the work directory.
        from_step: lines of later steps are dropped first; they came after the checkpoint that
            the run goes on from, and will be written again.
    """

    def __init__(self, path: Path, from_step: int):
        from alexnet.imports import hidden

        # What tensorboardX imports wherever it is installed, and isn't needed for files.
        with hidden("torch", "google.cloud.storage"):
            from tensorboardX import SummaryWriter
        self._path = path
        self._temporary = tempfile.TemporaryDirectory() if files.is_remote(path) else None
        self._local = Path(self._temporary.name) if self._temporary else path
        kept = [record for record in read_metrics(path) if record["step"] <= from_step]
        with files.atomic_write(self._local / METRICS) as whole:
            whole.write("".join(map(_line, kept)).encode())
        self._file = (self._local / METRICS).open("a")
        self._events = SummaryWriter(str(self._local / EVENTS), purge_step=from_step + 1)
        self._new, self._due = True, 0.0  # lines since the last upload, and when the next is due
        self.flush()

    def write(self, record: dict[str, Any]) -> None:
        """Append one record; it is in the file when this returns, on gs:// some time later."""
        self._file.write(_line(record))
        self._file.flush()
        for name, value in record.items():
            if name not in ("step", "split"):
                self._events.add_scalar(f"{record['split']}/{name}", value, record["step"])
        self._new = True
        if time.monotonic() > self._due:
            self.flush()

    def flush(self) -> None:
        """Return when all lines are where the run is; before a checkpoint, for one.

        Raises:
            UserError, RunError: where they can't be uploaded.
        """
        if not (self._temporary and self._new):
            return
        start = time.monotonic()
        self._events.flush()  # a thread of its own writes them: the last ones may come next time
        for file in files.list_files(self._local):
            with files.staged(self._path / file.relative_to(self._local)) as still:
                shutil.copyfile(file, still)  # that thread may append while it is uploaded
        # A long run's files grow: a fiftieth of the time is the most that goes into them.
        end = time.monotonic()
        self._new, self._due = False, end + max(UPLOAD_EVERY, 50 * (end - start))

    def close(self) -> None:
        """Flush and close both."""
        self._file.close()
        self._events.close()
        self._new = True  # the last events
        with self._temporary or contextlib.nullcontext():  # is deleted in the end
            self.flush()


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
            record["split"]
            if type(record["step"]) is not int:
                raise ValueError
        except (ValueError, TypeError, KeyError) as error:
            if number == len(lines) and not line.endswith("\n"):
                break
            raise UserError(f"{file}, line {number} is not a record of metrics") from error
        records.append(record)
    return records
