"""A run or a weights file as the page shows it: what can be read of it, and why the rest can't."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alexnet import weights, workdir
from alexnet.checkpoints import saved_steps
from alexnet.config import TrainConfig
from alexnet.data.dataset import Dataset
from alexnet.data.sources import open_dataset
from alexnet.errors import RunError, UserError
from alexnet.files import as_path
from alexnet.layers import Spec
from alexnet.porting import RunState, is_run, read_run, run_weights
from alexnet.report.page.html import clean
from alexnet.weights import Weights

_TRIES = 5
_WNID = re.compile(r"n\d{8}[_. -](.+)", re.DOTALL)


@dataclass(eq=False)
class Subject:
    """What is known of one run or file; `missing` has a sentence for each part that is not."""

    name: str
    path: Path
    config: TrainConfig | None = None
    metrics: list[dict[str, Any]] = field(default_factory=list)
    weights: Weights | None = None
    dataset: Dataset | None = None
    missing: dict[str, str] = field(default_factory=dict)

    @property
    def spec(self) -> Spec | None:
        """The network, also of a run without a checkpoint."""
        if self.weights is not None:
            return self.weights.spec
        if self.config and self.dataset:
            return self.config.spec(self.dataset.num_classes)
        return None

    def class_name(self, number: int) -> str:
        """A class's name, bounded and printable."""
        names = self.dataset.class_names if self.dataset else None
        if not names and self.weights:
            names = self.weights.class_names
        if not names or number >= len(names):
            return f"class {number}"
        wnid = _WNID.match(names[number])  # ImageNet's folders: n02012849_crane
        return clean(wnid[1].replace("_", " ") if wnid else names[number], 60)


@dataclass(frozen=True)
class Reading:
    """Options by which subjects are read."""

    dataset: str | None = None
    data_dir: str | None = None
    variant: str | None = None
    image_size: int | None = None


def open_subject(
    source: str, reading: Reading, with_weights: bool = True, with_data: bool = True
) -> Subject:
    """Read a run's work directory or a weights file.

    Args:
        source: its path.
        reading: what is not in it.
        with_weights: read a run's weights, besides its configuration and metrics.
        with_data: open its data set.

    Raises:
        UserError: where neither is there.
    """
    path = as_path(source)
    if not is_run(path):
        if path.is_dir():
            raise UserError(f"{path} is a directory, but no run's work directory (no config.json)")
        loaded = weights.load(path, variant=reading.variant, image_size=reading.image_size)
        subject = Subject(clean(path.name), path, weights=loaded)
        if with_data:
            _open_data(subject, reading)
        return subject
    name = path.name if path.name else path.absolute().name
    subject = Subject(clean(name), path, workdir.read_config(path))
    try:
        subject.metrics = _checked(workdir.read_metrics(path))
    except UserError as error:
        subject.missing["metrics"] = str(error)
    if with_weights:
        try:
            subject.weights = _weights_of(path)
        except (UserError, RunError, OSError) as error:
            subject.missing["weights"] = str(error)
    if with_data:
        _open_data(subject, reading)
    return subject


def _weights_of(path: Path) -> Weights:
    """The weights of a run's newest checkpoint, or those written at its end."""
    try:
        return run_weights(_newest(path), path)
    except (UserError, RunError):
        if not (path / workdir.WEIGHTS).is_file():
            raise
    return weights.load(path / workdir.WEIGHTS)  # needs no framework


def _newest(path: Path) -> RunState:
    """The run at its last checkpoint, also while it trains and deletes its older ones."""
    directory = path / workdir.CHECKPOINTS
    for _ in range(_TRIES):
        before = saved_steps(directory) if directory.is_dir() else []
        try:
            return read_run(path)
        except Exception:  # of a checkpoint that vanishes the frameworks raise nearly anything
            if not before or saved_steps(directory) == before:
                raise
    raise RunError(f"the checkpoints in {path} change faster than they can be read: try again")


def _open_data(subject: Subject, reading: Reading) -> None:
    try:
        subject.dataset = _dataset(subject, reading)
    except (UserError, RunError, OSError) as error:
        subject.missing["dataset"] = str(error)
        return
    found = subject.weights
    if found and subject.dataset and found.spec.num_classes != subject.dataset.num_classes:
        subject.missing["dataset"] = (
            f"the network has {found.spec.num_classes:,} classes, but the data set has "
            f"{subject.dataset.num_classes:,}"
        )
        subject.dataset = None


def _dataset(subject: Subject, reading: Reading) -> Dataset:
    config, found = subject.config, subject.weights
    if reading.dataset is None and config:
        return config.open_dataset()
    if reading.dataset is None:
        raise UserError("there is no data set to show it on: name one with --dataset")
    protocol = (config.preprocess if config or not found else found.preprocess).protocol  # type: ignore[union-attr]
    channels = config.model.channels if config else found.spec.channels if found else 3
    return open_dataset(
        reading.dataset,
        data_dir=reading.data_dir,
        seed=config.run.seed if config else 0,
        channels=channels,
        size=protocol.resize_to,
    )


def _checked(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those records of metrics whose step and numbers are numbers."""
    kept = []
    for record in records:
        numbers = {k: v for k, v in record.items() if type(v) in (int, float)}
        # NaN is not below; an integer may be too large for a float, and is compared as it is.
        finite = {k: float(v) for k, v in numbers.items() if abs(v) < 1e30}
        if "step" in finite and record["split"] in ("train", "eval"):
            kept.append({**finite, "split": record["split"]})
    return sorted(kept, key=lambda record: record["step"])
