"""Sources of examples, and data sets made from them, before any decoding or augmentation."""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from alexnet.errors import UserError
from alexnet.text import printable, storable


class Source(Protocol):
    """Examples by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[np.ndarray | bytes | Path, int]:
        """An image, as `images.decode` takes it, and its label."""
        ...

    def describe(self, index: int) -> str:
        """The example's name in a message: its file, or its number and split."""
        ...


class AlikeSource(Source, Protocol):
    """Examples whose images are all square and of one size, so that the device can crop them."""

    @property
    def side(self) -> int:
        """Height and width of all images."""
        ...

    @property
    def channels(self) -> int:
        """Channels of all images."""
        ...

    def read(self, indices: np.ndarray, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Fill `images` (uint8 [B, side, side, channels], contiguous).

        Returns the labels, and which images were readable; for the others, `__getitem__` says why
        they aren't.
        """
        ...


@dataclass(frozen=True)
class Dataset:
    """A training and an evaluation source with the same classes."""

    name: str
    train: Source
    eval: Source
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuse an empty source: with one, a run would fail only after it had trained."""
        for source, what in ((self.train, "train"), (self.eval, "evaluate")):
            if len(source) == 0:
                raise UserError(f"'{self.name}' has no examples to {what} on: add some")

    @property
    def num_classes(self) -> int:
        """Number of classes; labels run from 0 to one less."""
        return len(self.class_names)


def checked_label(source: Source, index: int, label: Any, num_classes: int) -> int:
    """An example's label, checked: in a loss, one out of range may raise obscurely or not at all.

    Raises:
        UserError: if it is not the number of a class.
    """
    try:
        number = operator.index(label)
    except TypeError:
        number = -1
    if not 0 <= number < num_classes:
        raise UserError(
            f"{source.describe(index)} has the label {label!r:.60}, but labels must be whole "
            f"numbers from 0 to {num_classes - 1}, one for each class: correct the data set"
        )
    return number


def fingerprint(dataset: Dataset) -> dict[str, Any]:
    """A data set's content as JSON values, equal as long as examples and labels are the same.

    Neither the files' location nor the content of image files matters: reading every file of a
    large data set would take hours. For a source without a `digest`, only its length counts.
    """
    found: dict[str, Any] = {
        "kind": dataset.name.partition(":")[0],
        "class_names": list(dataset.class_names),
    }
    for part, source in (("train", dataset.train), ("eval", dataset.eval)):
        digest = getattr(source, "digest", lambda: "")
        found[part] = {"examples": len(source), "digest": digest()}
    return found


def changed(meta: Mapping[str, Any], class_names: Sequence[str], data: Mapping[str, Any]) -> str:
    """A clause that describes how the data has changed since a run's checkpoint; "" if unchanged.

    Args:
        meta: the checkpoint's, with its `class_names` and, as `data`, its `fingerprint`.
        class_names: the data's current class names.
        data: its current fingerprint.
    """
    names, before = [*map(storable, class_names)], meta.get("class_names")
    if before and len(before) != len(names):
        return f"it had {len(before)} classes, and has {len(names)} now"
    for number, (old, new) in enumerate(zip(before or (), names, strict=False)):
        if old != new:
            return f"class {number} was {printable(old):.60}, and is {printable(new):.60} now"
    for part, words in (("train", "training"), ("eval", "test")):
        then, now = (meta.get("data") or {}).get(part), data.get(part)
        if not isinstance(then, dict) or then == now or not now:
            continue
        if then.get("examples") != now["examples"]:
            return f"it had {then.get('examples')} {words} examples, and has {now['examples']} now"
        return f"its {now['examples']} {words} examples are others than before"
    return ""


@dataclass(frozen=True)
class ArraySource:
    """Images held in memory."""

    name: str
    images: np.ndarray  # uint8 [N, H, W] or [N, H, W, C]
    labels: np.ndarray  # integers [N]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return self.images[index], np.asarray(self.labels[index]).item()

    def describe(self, index: int) -> str:
        """The example's number and split."""
        return f"example {index} of {self.name}"

    def digest(self) -> str:
        """Digest of images and labels."""
        digest = sha256(repr((self.images.shape, self.images.dtype)).encode())
        digest.update(np.ascontiguousarray(self.images).data)
        digest.update(np.asarray(self.labels).astype("<i8").data)
        return digest.hexdigest()
