"""Sources of examples and data sets made of them, before any decoding or augmentation."""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import numpy as np


class Source(Protocol):
    """Examples by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[np.ndarray | bytes | Path, int]:
        """An image, as `images.decode` takes it, and its label."""
        ...

    def describe(self, index: int) -> str:
        """The example's name in a message: its file, or its number and split."""
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
        """Number of classes; labels run from 0 to one less."""
        return len(self.class_names)


def fingerprint(dataset: Dataset) -> dict[str, Any]:
    """A data set's content as JSON values: the same as long as examples and labels are the same.

    Where the files lie doesn't matter, nor what is in an image file: reading every file of a large
    data set would take hours. A source that has no `digest` goes by its length alone.
    """
    found: dict[str, Any] = {
        "kind": dataset.name.partition(":")[0],
        "class_names": list(dataset.class_names),
    }
    for part, source in (("train", dataset.train), ("eval", dataset.eval)):
        digest = getattr(source, "digest", lambda: "")
        found[part] = {"examples": len(source), "digest": digest()}
    return found


@dataclass(frozen=True)
class ArraySource:
    """Images held in memory."""

    name: str
    images: np.ndarray  # uint8 [N, H, W] or [N, H, W, C]
    labels: np.ndarray  # integers [N]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return self.images[index], int(self.labels[index])

    def describe(self, index: int) -> str:
        """The example's number and split."""
        return f"example {index} of {self.name}"

    def digest(self) -> str:
        """Digest of images and labels."""
        digest = sha256(repr((self.images.shape, self.images.dtype)).encode())
        digest.update(np.ascontiguousarray(self.images).data)
        digest.update(np.asarray(self.labels).astype("<i8").data)
        return digest.hexdigest()
