"""Prepared TensorFlow Datasets, read without TensorFlow."""

import os
import re
import resource
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from alexnet.data.dataset import Dataset, Source
from alexnet.data.prepared import INFO, check_metadata
from alexnet.data.tfrecord import RecordFiles
from alexnet.errors import RunError, UserError, unknown
from alexnet.files import at_home
from alexnet.text import printable

_VERSION = re.compile(r"\d+\.\d+\.\d+")
OTHER_FILES = 256  # files that a run has open besides shards: libraries, devices, sockets


@dataclass(frozen=True, eq=False)
class TfrecordExamples:
    """One split in TFRecord, which tfds's own data sources don't support."""

    dataset_info: Any
    split: str
    decoders: Any
    records: RecordFiles

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        features = self.dataset_info.features
        return features.deserialize_example_np(self.records[index], decoders=self.decoders)


@dataclass(frozen=True)
class TfdsSource:
    """One split; images stay encoded, for `images.decode` to decode like all others."""

    name: str
    records: Any  # a tfds data source
    image_key: str
    label_key: str
    file_key: str | None  # feature with the name of an image's original file
    reopen: tuple[str, PurePath, str]  # the data set's name, its folder, and train or eval

    def __len__(self) -> int:
        return len(self.records)

    def __reduce__(self) -> tuple[Any, ...]:
        """Reopen the source when it is unpickled: open shards can't be pickled."""
        return _reopened, self.reopen

    def digest(self) -> str:
        """Digest of the data set's version, its splits' sizes and shards, and this split's name."""
        info = self.records.dataset_info
        splits = sorted((s.name, int(s.num_bytes), s.shard_lengths) for s in info.splits.values())
        return sha256(repr((info.full_name, self.records.split, splits)).encode()).hexdigest()

    def __getitem__(self, index: int) -> tuple[bytes | np.ndarray, int]:
        record = self._record(index)
        label = record[self.label_key]
        if label == -1:  # tfds's marker for no label
            raise UserError(f"{self.describe(index)} has no label: its split can't be used")
        return record[self.image_key], label

    def describe(self, index: int) -> str:
        """The example's number and split, and its file name if the data set has those."""
        file = ""
        if self.file_key:
            raw = self._record(index)[self.file_key]
            text = raw.decode(errors="replace") if isinstance(raw, bytes) else str(raw)
            file = f"{printable(text)}, "
        return f"{file}example {index} of {self.name}"

    def _record(self, index: int) -> dict[str, Any]:
        try:
            return self.records[index]
        except Exception as error:  # on damaged shards the readers raise nearly anything
            reason = printable(" ".join(f"{type(error).__name__}: {error}".split())[:200])
            raise RunError(f"example {index} of {self.name} can't be read: {reason}") from error


def open_tfds(name: str, data_dir: str | PurePath | None = None) -> Dataset:
    """Open a data set that was prepared in `data_dir`.

    It is described by its files on disk alone, so a custom data set needs no code here. The
    evaluation split is validation, else test, else the last 20 % of train.

    Args:
        name: NAME, NAME/CONFIG, NAME:VERSION or NAME/CONFIG:VERSION; without a version, the
            newest.
        data_dir: by default $TFDS_DATA_DIR or ~/tensorflow_datasets.

    Raises:
        UserError: for data that is missing, isn't prepared for random access, or has no image
            with a class label.
    """
    root = _local(str(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"))
    folder = _find(name, root)
    tfds = _import_tfds()
    check_metadata(folder)
    try:
        return _open(tfds, tfds.builder_from_directory(folder), name, root)
    except UserError:
        raise
    except Exception as error:  # on malformed metadata tfds raises nearly anything
        reason = printable(" ".join(f"{type(error).__name__}: {error}".split())[:200])
        raise UserError(f"{folder} is not a data set that tfds can open: {reason}") from error


def _open(tfds: Any, builder: Any, name: str, root: Path) -> Dataset:
    image_key, label_key = _keys(tfds, builder.info, name)
    decoders = {image_key: tfds.decode.SkipDecoding()}
    _allow_open_files(sum(split.num_shards for split in builder.info.splits.values()))

    def source(part: str, split: str) -> TfdsSource:
        return TfdsSource(
            f"tfds:{name}, {split}",
            _examples(builder, split, decoders),
            image_key,
            label_key,
            "file_name" if "file_name" in builder.info.features else None,  # as imagenet2012 has
            (name, root, part),
        )

    try:
        splits = zip(("train", "eval"), _splits(builder.info, name), strict=True)
        train, held_out = (source(part, split) for part, split in splits)
    except NotImplementedError as error:
        elsewhere = root.with_name(f"{root.name}_array_record")  # tfds would do nothing in `root`
        raise UserError(
            f"tfds:{name} has {builder.info.file_format.value} files, which can't be read in "
            f"random order without TensorFlow; {_how_to_prepare(name, elsewhere)}"
        ) from error
    names = builder.info.features[label_key].names
    return Dataset(f"tfds:{name}", train, held_out, tuple(names))


def _reopened(name: str, root: PurePath, part: str) -> Source:
    return getattr(open_tfds(name, root), part)


def _examples(builder: Any, split: str, decoders: Any) -> Any:
    """The examples of a split, as a sequence.

    Raises:
        NotImplementedError: for a format that can't be read in random order.
    """
    try:
        return builder.as_data_source(split=split, decoders=decoders)
    except NotImplementedError:
        if builder.info.file_format.value != "tfrecord":
            raise
    parts = [
        (Path(part.filename), part.skip, part.take)
        for part in builder.info.splits[split].file_instructions
    ]
    return TfrecordExamples(builder.info, split, decoders, RecordFiles(parts))


def _local(data_dir: str) -> Path:
    if data_dir.startswith("gs:/"):
        bucket = "gs://" + data_dir[4:].lstrip("/")  # pathlib merges the two slashes
        raise UserError(
            f"--data-dir is {bucket}, but examples can't be read in random order from gs://: "
            "mount the bucket with gcsfuse, or copy the data set to a local disk"
        )
    return at_home(Path(data_dir))


def _allow_open_files(shards: int) -> None:
    """Raise the limit on open files if it is too low for all shards to stay open.

    ImageNet has 1,088 shards, and many systems start with a limit of 1,024 files.
    """
    need = shards + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if soft != unlimited and soft < need and (hard == unlimited or need <= hard):
        resource.setrlimit(resource.RLIMIT_NOFILE, (need, hard))


def _import_tfds() -> Any:
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise UserError(
            f"tfds: data sets need a package that isn't installed ({error.name}): "
            "run pip install -c constraints.txt -e '.[tfds]' in this project's checkout"
        ) from error
    return tfds


def _find(name: str, data_dir: Path) -> Path:
    """The folder with the data set's files: NAME[/CONFIG]/VERSION below `data_dir`."""
    path, _, version = name.partition(":")
    here = data_dir
    for part in path.split("/"):
        known = _prepared_in(here)
        if part not in known:
            raise _not_prepared(name, part, here, known, data_dir)
        here = here / part
    if (here / INFO).is_file():
        return here
    versions = sorted(
        (part for part in _prepared_in(here) if _VERSION.fullmatch(part)),
        key=lambda text: [int(number) for number in text.split(".")],
    )
    if not versions:
        configs = ", ".join(f"{path}/{config}" for config in _prepared_in(here))
        raise UserError(f"tfds:{path} has several configs: name one of {configs}")
    if version and version not in versions:
        raise unknown(f"version of {path}", version, versions)
    return here / (version or versions[-1])


def _prepared_in(folder: Path) -> list[str]:
    """Names of the folders in `folder` that hold a prepared data set."""
    if not folder.is_dir():
        return []
    return sorted(
        entry.name
        for entry in folder.iterdir()
        if any(next(entry.glob(f"{depth}{INFO}"), None) for depth in ("", "*/", "*/*/"))
    )


def _not_prepared(name: str, part: str, here: Path, known: list[str], data_dir: Path) -> UserError:
    how = _how_to_prepare(name, data_dir)
    if not here.is_dir():
        return UserError(f"there is no folder {here} with prepared data sets; {how}")
    if not known:
        return UserError(f"no data set is prepared in {here}; {how}")
    return UserError(f"{unknown(f'data set in {here}', part, known)}; {how}")


def _how_to_prepare(name: str, data_dir: Path) -> str:
    return (
        'prepare it once with: python -c "import tensorflow_datasets as tfds; tfds.builder('
        f"'{name}', data_dir='{data_dir}', file_format='array_record').download_and_prepare()\" "
        "(data sets that don't come as image files need pip install tensorflow for this step)"
    )


def _keys(tfds: Any, info: Any, name: str) -> tuple[str, str]:
    """Names of the image feature and the label feature."""
    kinds = dict(sorted(info.features.items()))  # tfds gives them in a new order in each process
    image_keys = [key for key, kind in kinds.items() if isinstance(kind, tfds.features.Image)]
    label_keys = [key for key, kind in kinds.items() if isinstance(kind, tfds.features.ClassLabel)]
    if not image_keys or not label_keys:
        raise UserError(
            f"tfds:{name} has no image with one class label; its features are {', '.join(kinds)}"
        )
    # If there are several, the data set may say which pair is meant.
    pair = info.supervised_keys
    if pair and len(pair) == 2 and pair[0] in image_keys and pair[1] in label_keys:
        return pair[0], pair[1]
    return image_keys[0], label_keys[0]


def _splits(info: Any, name: str) -> tuple[str, str]:
    """The splits for training and for evaluation, in tfds's notation."""
    if "train" not in info.splits:
        raise UserError(f"tfds:{name} has no split 'train'; it has {', '.join(info.splits)}")
    for held_out in ("validation", "test"):
        if held_out in info.splits:
            return "train", held_out
    return "train[:80%]", "train[80%:]"
