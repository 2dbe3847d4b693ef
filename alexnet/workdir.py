"""A run's work directory: `config.json`, `metrics.jsonl`, TensorBoard events, `checkpoints/`."""

import contextlib
import dataclasses
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alexnet import files, sealed
from alexnet.config import RunConfig, TrainConfig
from alexnet.config_json import from_json, to_json
from alexnet.data import mean_image
from alexnet.errors import RunError, UserError
from alexnet.lock import LOCK, Lock, acquire
from alexnet.metrics import DAMAGED, DIGESTS, EVENTS, METRICS
from alexnet.options import flag, shown
from alexnet.text import is_text

_LONGEST_PATH = 1 << 16  # more than any system allows
CONFIG, CHECKPOINTS = "config.json", "checkpoints"
WEIGHTS, CURVE = "weights.safetensors", "curve.png"
PAGE, PAGE_MARK = "report.html", "alexnet report"  # the mark is in each page's head
OWN = (
    METRICS,
    DIGESTS,
    DAMAGED,
    WEIGHTS,
    CURVE,
    mean_image.FILE,
)  # besides the configuration, which marks a run
# The names of a run's own files in its folders.
_IN_FOLDERS = {
    CHECKPOINTS: re.compile(r"(damaged-)?[0-9]{8,}(-[0-9]+)?"),
    EVENTS: re.compile(r"events\.out\.tfevents\..*"),
}
_TEMPORARY = re.compile(rf"\.({'|'.join(map(re.escape, (CONFIG, *OWN)))})\..*\.tmp")


def claim(config: TrainConfig) -> Lock:
    """Make the work directory, or take over the run in it, as its only writer.

    Returns:
        The directory's lock.

    Raises:
        UserError: if something is in the way, another run is writing there, or the run there is not
            the one described.
        RunError: if a bucket can't be reached.
    """
    path = files.as_path(config.run.workdir or ".")
    check_name(path)
    with _in_a_sentence(path):
        if not path.is_dir() and config.run.resume:
            raise UserError(f"--resume: there is no run in {path} (no {CONFIG})")
        if path.exists() and not path.is_dir():
            raise UserError(f"--workdir {path} is a file: give a directory")
        path.mkdir(parents=True, exist_ok=True)
        lock = acquire(path)
        try:
            _prepare(path, config)
        except BaseException:
            lock.release()
            raise
        return lock


def check_name(path: Path) -> None:
    """Refuse a name that checkpoints can't store in their metadata.

    Raises:
        UserError: if it is not valid UTF-8.
    """
    whole = str(path)
    if not files.is_remote(path):
        with contextlib.suppress(OSError):  # the current folder is gone
            whole = os.path.abspath(path)
    if not is_text(whole, _LONGEST_PATH):
        raise UserError(
            f"the work directory {path} is not UTF-8 text in this locale: give another name, or "
            "set a locale that is UTF-8, as LC_ALL=C.UTF-8"
        )


def prepare(config: TrainConfig) -> Path:
    """Do what `claim` does, but release the directory again."""
    claim(config).release()
    return files.as_path(config.run.workdir or ".")


@contextlib.contextmanager
def _in_a_sentence(path: Path) -> Iterator[None]:
    try:
        yield
    except ConnectionError as error:
        raise RunError(f"--workdir {path}: {error.strerror}") from error
    except OSError as error:
        kind = RunError if files.is_full(error) else UserError
        raise kind(f"--workdir {path} can't be used: {error.strerror or error}") from error


def _prepare(path: Path, config: TrainConfig) -> None:
    _remove_temporaries(path)
    is_run = (path / CONFIG).is_file()
    if config.run.resume:
        if not is_run:
            raise UserError(f"--resume: there is no run in {path} (no {CONFIG})")
        _check_same_run(read_config(path), config)
        return
    if not is_run and not all(map(_is_before_a_run, path.iterdir())):
        raise UserError(f"{path} has files in it but no run: give another --workdir")
    if is_run and not config.run.overwrite:
        raise UserError(
            f"{path} holds a run already: --resume goes on with it, --overwrite deletes it first"
        )
    _ = config.preprocess  # read it before deleting a run that it may belong to
    if is_run:
        _delete_run(path)
    (path / mean_image.FILE).unlink(missing_ok=True)
    write_config(path, config)


def _is_before_a_run(path: Path) -> bool:
    """Return True for a file left by a run that was killed before it began."""
    if path.name != mean_image.FILE:
        return path.name == LOCK
    try:
        return "preprocess" in sealed.read(path)
    except (OSError, ValueError):  # another program's or the user's own
        return False


def _remove_temporaries(path: Path) -> None:
    """Delete a killed run's unfinished files; the lock ensures that no run is writing."""
    if files.is_remote(path):
        return
    found = [one for one in path.iterdir() if _TEMPORARY.fullmatch(one.name)]
    for temporary in (*found, *path.glob(f"{CHECKPOINTS}/*/.meta.json.*.tmp")):
        temporary.unlink(missing_ok=True)


def _delete_run(path: Path) -> None:
    """Delete a run's own files, and nothing else; the new configuration replaces the old one.

    Raises:
        UserError: if the configuration is not a run's, so the files are somebody else's.
    """
    try:
        config = read_config(path)
    except UserError as error:
        raise UserError(f"--overwrite deletes runs only, and this is none: {error}") from error
    for folder, written in _IN_FOLDERS.items():
        inside = list((path / folder).iterdir()) if (path / folder).is_dir() else []
        own = [one for one in inside if written.fullmatch(one.name)]
        for one in own:
            files.remove_tree(one) if one.is_dir() else one.unlink(missing_ok=True)
        if inside and len(own) == len(inside) and not _is_link(path / folder):
            files.remove_tree(path / folder)
    for name in OWN:
        if (path / name).is_file():
            (path / name).unlink()
    if is_page(path / PAGE):
        (path / PAGE).unlink()
    if config.data.mean_image:  # if killed, don't leave this one with the new run's mean image
        without = dataclasses.replace(config.data, mean_image=None)
        sealed.write(path / CONFIG, to_json(dataclasses.replace(config, data=without)))


def is_page(path: Path) -> bool:
    """Return True if a file is a page that `alexnet report` wrote; others are the user's own."""
    return path.is_file() and f'content="{PAGE_MARK}"'.encode() in files.first_bytes(path, 400)


def _is_link(path: Path) -> bool:
    """Return True if a folder of the run is a link to elsewhere; gs:// has no links."""
    return not files.is_remote(path) and path.is_symlink()


def write_config(path: Path, config: TrainConfig) -> None:
    """Save the configuration that a run began with, without --resume and --overwrite."""
    preprocess = config.preprocess
    as_begun = dataclasses.replace(config.run, resume=False, overwrite=False)
    if config.data.mean_image:  # first, so that a run killed in between has not begun
        mean_image.write(path, preprocess)
    sealed.write(path / CONFIG, to_json(dataclasses.replace(config, run=as_begun)))


def keep_length(path: Path, run: RunConfig) -> None:
    """Save a run's new length."""
    values = sealed.read(path / CONFIG)
    length = {"steps": run.steps, "epochs": run.epochs}
    if any(values["run"].get(name) != value for name, value in length.items()):
        sealed.write(path / CONFIG, {**values, "run": values["run"] | length})


def read_config(path: Path) -> TrainConfig:
    """The configuration of the run in a work directory; a UserError if it can't be read.

    Its mean image, if any, is the copy kept there.
    """
    try:
        values = sealed.read(path / CONFIG)
    except OSError as error:
        raise UserError(f"there is no run in {path}: {CONFIG}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path / CONFIG} is not a run's configuration: {error}") from error
    config = from_json(values, str(path / CONFIG))
    if not config.data.mean_image:
        return config
    data = dataclasses.replace(config.data, mean_image=str(path / mean_image.FILE))
    return dataclasses.replace(config, data=data)


# Fields that can change without changing the numbers of a resumed run. A bad image to be skipped
# from now on can't have been seen before: the run would have stopped at it.
_FREE_ON_RESUME = {
    "workdir", "resume", "overwrite", "checkpoint_every", "keep_checkpoints", "log_every",
    "loader_threads", "loader_workers", "data_dir", "init_from", "preprocess_from", "on_bad_image",
    "mean_image",  # its pixels are compared instead
}  # fmt: skip
_LENGTH = {"epochs", "steps"}
_BY_TOTAL = ("cosine", "poly")  # schedules whose every rate depends on the number of steps


def _check_same_run(saved: TrainConfig, now: TrainConfig) -> None:
    """Refuse options that would change the numbers of the run being resumed."""
    path, before, after = now.run.workdir, _flat(saved), _flat(now)
    if saved.framework != now.framework:
        raise UserError(
            f"the run in {path} was trained by {saved.framework}, not {now.framework}: resume it "
            f"with --framework {saved.framework}, or move it with `alexnet convert {path} NEW --to "
            f"{now.framework}`"
        )
    if saved.preprocess.normalize.image != now.preprocess.normalize.image:
        raise UserError(
            f"--resume goes on with the run in {path} as it began: its mean image was another "
            "than that of --mean-image; leave the option out"
        )
    for name in ("init_from", "preprocess_from"):
        if after[name] and not before[name]:
            raise UserError(
                f"--resume goes on with the run in {path} as it began, without {flag(name)}: leave "
                "that out, or start another run in another --workdir"
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
            f"--init-from {path} with another --workdir"
        )


def _flat(config: TrainConfig) -> dict[str, Any]:
    """All fields except the devices'."""
    parts = (config.model, config.data, config.optim, config.run)
    return {"recipe": config.recipe} | {k: v for part in parts for k, v in vars(part).items()}
