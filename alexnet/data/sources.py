"""Data sets by name: where examples come from, before any decoding or augmentation."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from alexnet.config import TrainConfig
from alexnet.data.draws import FAKE, bits, stratified_split
from alexnet.errors import UserError, unknown
from alexnet.files import as_path

KINDS = ("digits", "tfds:NAME", "folder:PATH", "synthetic")


class Source(Protocol):
    """Examples by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[np.ndarray | bytes | Path, int]:
        """An image, as `images.decode` takes it, and its label."""
        ...

    def describe(self, index: int) -> str:
        """What to call the example in a message: its file, or its number and split."""
        ...


@dataclass(frozen=True)
class Dataset:
    """A training and an evaluation source with the same classes."""

    name: str
    train: Source
    eval: Source
    class_names: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        """Labels run from 0 to one less."""
        return len(self.class_names)


def open_dataset(config: TrainConfig) -> Dataset:
    """The data set that `config.data.dataset` names.

    Raises:
        UserError: for an unknown name, or data that isn't there or isn't as it must be.
    """
    name = config.data.dataset
    kind, colon, rest = name.partition(":")
    if name == "digits":
        return _digits()
    if name == "synthetic":
        return _synthetic(config)
    if kind == "folder" and rest:
        from alexnet.data.folder import open_folder

        return open_folder(as_path(rest).expanduser(), name, config.run.seed)
    if kind == "tfds" and rest:
        from alexnet.data.tfds import open_tfds

        folder = config.data.data_dir
        return open_tfds(rest, None if folder is None else as_path(folder))
    if not colon and Path(name).expanduser().is_dir():
        raise UserError(f"unknown data set '{name}': for a folder of images write folder:{name}")
    raise unknown("data set", name, KINDS)


@dataclass(frozen=True)
class ArraySource:
    """Images held in memory."""

    name: str
    images: np.ndarray  # uint8 [N, H, W] or [N, H, W, C]
    labels: np.ndarray  # [N]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return self.images[index], int(self.labels[index])

    def describe(self, index: int) -> str:
        """Its number and split."""
        return f"example {index} of {self.name}"


def _digits() -> Dataset:
    """1,797 handwritten digits, 8x8 gray, which scikit-learn brings along.

    The split is the same in every run, whatever its seed, so that results can be compared.
    """
    from sklearn.datasets import load_digits

    loaded = load_digits()
    images = np.rint(loaded.images * (255 / 16)).astype(np.uint8)  # stored as 0..16
    labels = loaded.target.astype(np.int32)
    train, held_out = stratified_split(labels, seed=0)
    return Dataset(
        "digits",
        ArraySource("digits, train", images[train], labels[train]),
        ArraySource("digits, eval", images[held_out], labels[held_out]),
        tuple(str(digit) for digit in range(10)),
    )


SYNTHETIC_CLASSES, SYNTHETIC_TRAIN, SYNTHETIC_EVAL = 1000, 1024, 256


@dataclass(frozen=True)
class SyntheticSource:
    """Noise made on demand: no disk, no decoding, nothing to learn but by heart."""

    split: int  # 0 for train, 1 for eval
    count: int
    side: int
    channels: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        shape = (self.side, self.side, self.channels)
        words = bits(1 + -(-int(np.prod(shape)) // 8), FAKE, self.split, index=index)
        pixels = words[1:].view(np.uint8)[: np.prod(shape)].reshape(shape)
        return pixels, int(words[0] % SYNTHETIC_CLASSES)

    def describe(self, index: int) -> str:
        """Its number and split."""
        return f"synthetic example {index} of {('train', 'eval')[self.split]}"


def _synthetic(config: TrainConfig) -> Dataset:
    """Random images of the size they are resized to, with 1000 random labels."""
    sources = [
        SyntheticSource(split, count, config.resize_to, config.model.channels)
        for split, count in enumerate((SYNTHETIC_TRAIN, SYNTHETIC_EVAL))
    ]
    return Dataset("synthetic", *sources, tuple(f"class{i}" for i in range(SYNTHETIC_CLASSES)))
