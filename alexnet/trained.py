"""Trained weights from any kind of source, and data to use them on."""

from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path, PurePath
from typing import Any

from alexnet import hub, weights, workdir
from alexnet.checkpoints import checkpoint_path, read_meta, saved_steps
from alexnet.config import Framework, TrainConfig
from alexnet.data.dataset import Dataset, Source, changed, checked_label, fingerprint
from alexnet.data.sources import open_dataset
from alexnet.errors import UserError
from alexnet.files import as_path
from alexnet.layers import Spec
from alexnet.names import class_names, named
from alexnet.porting import is_run, no_weights, read_run, run_config, run_weights
from alexnet.preparation import PreparationConfig, prepared
from alexnet.text import printable, storable
from alexnet.weights import Weights
from alexnet.weights.formats import agreeing

_TRIES = 5  # at reading the newest checkpoint of a run in training


def open_weights(
    source: str | PurePath | Weights,
    *,
    step: int | None = None,
    format: str | None = None,
    variant: str | None = None,
    image_size: int | None = None,
    preparation: PreparationConfig | None = None,
) -> Weights:
    """Weights with their preprocessing and, if known, class names.

    Args:
        source: a run's work directory, a file of any format in `weights.FORMATS`, a Hugging Face
            folder, or hf://ORG/NAME@REVISION; weights are returned as they are.
        step: step of a run's checkpoint; by default the last.
        format: a file's format; by default detected from its content.
        variant: the network, for sources that don't say.
        image_size: height and width of its input, likewise.
        preparation: preprocessing that replaces their own.

    Raises:
        UserError: if nothing can be read there.
        RunError: if a run's checkpoint is damaged.
    """
    whole = _open(source, step, format, variant, image_size)
    return prepared(whole, preparation) if preparation else whole


def open_alike(source: str | PurePath, spec: Spec) -> Weights:
    """Weights; if their source doesn't name the network, they are taken to be for `spec`."""
    try:
        return open_weights(source)
    except UserError:
        return open_weights(source, variant=spec.name, image_size=spec.image_size)


def _open(
    source: str | PurePath | Weights,
    step: int | None,
    format: str | None,
    variant: str | None,
    image_size: int | None,
) -> Weights:
    if isinstance(source, Weights):
        return source
    path = hub.local(source)
    if is_run(path):
        return agreeing(_of_run(path, step), variant, image_size)
    if hub.is_folder(path):
        return hub.read_folder(path, variant=variant, image_size=image_size)
    if step is not None:
        raise UserError(f"--step names a checkpoint of a run, and {path} is none: leave it out")
    if path.is_dir():
        raise no_weights(path)
    return weights.load(path, format, variant=variant, image_size=image_size)


def _of_run(path: Path, step: int | None) -> Weights:
    """A run's weights at a checkpoint.

    If none is left, or its framework isn't installed, they are the weights it wrote at its end.
    """
    checkpoints, final = path / workdir.CHECKPOINTS, path / workdir.WEIGHTS
    try:
        return _of_checkpoint(path, checkpoints, step)
    except UserError as error:
        if step is not None or not final.is_file():
            raise
        reason = str(error)
    whole = weights.load(final)
    note = f"{reason}: these are its {final.name}, of {whole.source}"
    return replace(whole, notes=(*whole.notes, note))


def _of_checkpoint(path: Path, checkpoints: Path, step: int | None) -> Weights:
    for _ in range(_TRIES - 1):
        before = saved_steps(checkpoints) if checkpoints.is_dir() else []
        try:
            return run_weights(read_run(path, step, with_log=False), path)
        except Exception:  # if a checkpoint vanishes, the frameworks raise nearly anything
            # A run in training deletes older checkpoints, perhaps the one being read.
            if step is not None or not checkpoints.is_dir() or saved_steps(checkpoints) == before:
                raise
    return run_weights(read_run(path, step, with_log=False), path)


def config_of(source: str | PurePath | Weights) -> TrainConfig | None:
    """A run's configuration; None for anything else."""
    if isinstance(source, Weights) or hub.is_url(source) or not is_run(as_path(source)):
        return None
    return run_config(as_path(source))


def framework_for(source: str | PurePath | Weights) -> Framework:
    """The default framework: a run's own, else one that is installed."""
    if (config := config_of(source)) and find_spec(config.framework):
        return config.framework
    return "jax" if find_spec("jax") or not find_spec("torch") else "torch"


def data_of(
    whole: Weights,
    config: TrainConfig | None,
    dataset: str | Dataset | None,
    data_dir: str | None = None,
    seed: int | None = None,
) -> tuple[Dataset, list[str]]:
    """The data set to use weights on, with the network's labels, and sentences for the user.

    Args:
        whole: the weights.
        config: the configuration of the run that they come from, if any.
        dataset: a value of `--dataset`, or an open data set; by default a run's own.
        data_dir: directory of prepared TFDS data sets.
        seed: splits a folder that isn't split on disk; by default a run's own, else 0.

    Raises:
        UserError: if there is no such data, or its classes are not the network's.
    """
    if isinstance(dataset, Dataset):
        return _with_labels_of(whole, dataset)
    if dataset is None:
        if config is None:
            raise UserError("only a run knows its data set, and this is none: give --dataset")
        dataset, data_dir = config.data.dataset, data_dir or config.data.data_dir
    if seed is None:
        seed = config.run.seed if config else 0
    found = open_dataset(
        dataset,
        data_dir=data_dir,
        seed=seed,
        channels=whole.spec.channels,
        size=whole.preprocess.protocol.resize_to,
    )
    return _with_labels_of(whole, found)


def changes_since(
    source: str | PurePath | Weights,
    config: TrainConfig | None,
    name: str | Dataset | None,
    data: Dataset,
    step: int | None = None,
) -> list[str]:
    """A sentence if a run's data set has changed since a checkpoint, by default the last.

    Args:
        source: the run; for anything else nothing is compared.
        config: the run's, or None.
        name: the data set asked for; only the run's own, or None, is compared.
        data: the data set, opened.
        step: of the checkpoint.
    """
    if config is None or isinstance(source, Weights) or name not in (None, config.data.dataset):
        return []
    folder = as_path(source) / workdir.CHECKPOINTS
    try:
        latest = saved_steps(folder)[-1] if step is None else step
        meta = read_meta(checkpoint_path(folder, latest), check_files=False)
    except (OSError, ValueError, IndexError):  # nothing to compare with
        return []
    change = changed(meta, data.class_names, fingerprint(data))
    if not change:
        return []
    return [
        f"warning: the run's data is not what it was when it was trained: {change}. Of a folder "
        "that isn't split on disk, images that it was trained on may be tested now"
    ]


def _with_labels_of(whole: Weights, data: Dataset) -> tuple[Dataset, list[str]]:
    """The data set with the network's labels: by name if it knows the names, else by number."""
    own, texts = class_names(whole), [storable(name) for name in data.class_names]
    theirs = named(texts, "the data").identities
    if theirs == own.identities:
        return data, []
    places = {name: label for label, name in enumerate(own.identities)}
    if len(places) == len(own.names) and all(name in places for name in theirs):
        labels = tuple(places[name] for name in theirs)
        train, held_out = _Relabeled(data.train, labels), _Relabeled(data.eval, labels)
        note = f"{len(theirs)} classes of the data are found by name among the network's "
        return Dataset(data.name, train, held_out, own.identities), [f"{note}{len(own.names)}"]
    if len(theirs) != len(own.names):
        strange = next((name for name in theirs if name not in places), theirs[0])
        raise UserError(
            f"the network has {len(own.names)} classes, but {data.name} has {len(theirs)}, which "
            f"are not all among them by name: {printable(strange):.60}, ..."
        )
    if not whole.class_names:
        return data, []
    pairs = zip(theirs, own.identities, strict=True)
    other, name = next((a, b) for a, b in pairs if a != b)
    note = (
        f"the data's classes have other names than the network's ({printable(other):.60} for "
        f"{printable(name):.60}, ...): they are compared by number"
    )
    moved = next((a for n, a in enumerate(theirs) if places.get(a, n) != n), None)
    if moved is not None:
        note = (
            f"warning: {note}, although {printable(moved):.60} is class {places[moved]} of the "
            f"network and {theirs.index(moved)} of the data: name the data's classes as the "
            "network's to compare them by name"
        )
    return data, [note]


@dataclass(frozen=True)
class _Relabeled:
    """A source relabeled for a network that has more classes, or another order."""

    source: Source
    labels: tuple[int, ...]  # the network's label for each of the source's

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image, label = self.source[index]
        return image, self.labels[checked_label(self.source, index, label, len(self.labels))]

    def describe(self, index: int) -> str:
        """The example's name in a message."""
        return self.source.describe(index)
