"""A run or a weights file as the page shows it: its readable parts, and why others are missing."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alexnet import hub, metrics, workdir
from alexnet.config import TrainConfig
from alexnet.data.dataset import Dataset
from alexnet.errors import RunError, UserError
from alexnet.layers import Spec
from alexnet.names import class_names
from alexnet.porting import is_run
from alexnet.report.page.html import clean
from alexnet.trained import changes_since, data_of, open_weights
from alexnet.weights import Weights


@dataclass(eq=False)
class Subject:
    """Everything known of a run or file; `missing` has a sentence for each missing part."""

    name: str
    path: Path
    config: TrainConfig | None = None
    metrics: list[dict[str, Any]] = field(default_factory=list)
    weights: Weights | None = None
    dataset: Dataset | None = None
    notes: list[str] = field(default_factory=list)  # on the data set, as `evaluate` says them
    missing: dict[str, str] = field(default_factory=dict)

    @property
    def spec(self) -> Spec | None:
        """The network, even of a run without a checkpoint."""
        if self.weights is not None:
            return self.weights.spec
        if self.config and self.dataset:
            return self.config.spec(self.dataset.num_classes)
        return None

    def class_name(self, number: int) -> str:
        """A class's name, bounded and printable."""
        names = self.dataset.class_names if self.dataset else ()
        if self.weights:
            names = class_names(self.weights, names).names
        return clean(names[number], 60) if number < len(names) else f"class {number}"


@dataclass(frozen=True)
class Reading:
    """Options for reading subjects."""

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
        reading: options for what is not in it.
        with_weights: read a run's weights, besides its configuration and metrics.
        with_data: open its data set.

    Raises:
        UserError: where there is neither.
    """
    path = hub.local(source)
    if not is_run(path):
        loaded = open_weights(source, variant=reading.variant, image_size=reading.image_size)
        subject = Subject(clean(path.name), path, weights=loaded)
        if with_data:
            _open_data(subject, reading)
        return subject
    name = path.name if path.name else path.absolute().name
    subject = Subject(clean(name), path, workdir.read_config(path))
    try:
        subject.metrics = _checked(metrics.read(path))
    except UserError as error:
        subject.missing["metrics"] = str(error)
    if with_weights:
        try:
            subject.weights = open_weights(path)
        except (UserError, RunError, OSError) as error:
            subject.missing["weights"] = str(error)
    if with_data:
        _open_data(subject, reading)
    return subject


def tell_apart(subjects: Sequence[Subject]) -> None:
    """Name subjects by their paths where several share a name."""
    count = Counter(subject.name for subject in subjects)
    for subject in subjects:
        if count[subject.name] > 1:
            subject.name = clean(subject.path)


def _open_data(subject: Subject, reading: Reading) -> None:
    try:
        subject.dataset = _dataset(subject, reading)
    except (UserError, RunError, OSError) as error:
        subject.missing["dataset"] = str(error)


def _dataset(subject: Subject, reading: Reading) -> Dataset:
    config = subject.config
    if subject.weights:
        found, notes = data_of(subject.weights, config, reading.dataset, reading.data_dir)
        subject.notes = [*notes, *changes_since(subject.path, config, reading.dataset, found)]
        return found
    if reading.dataset or not config:
        raise UserError("there are no weights to show it with")
    return config.open_dataset()  # a run without a checkpoint


def _checked(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records of metrics with a numeric step, with their finite numbers only."""
    kept = []
    for record in records:
        numbers = {k: v for k, v in record.items() if type(v) in (int, float)}
        # NaN fails the comparison; an integer, perhaps too large for a float, is compared as it is.
        finite = {k: float(v) for k, v in numbers.items() if abs(v) < 1e30}
        if "step" in finite and record["split"] in ("train", "eval"):
            kept.append({**finite, "split": record["split"]})
    return sorted(kept, key=lambda record: record["step"])
