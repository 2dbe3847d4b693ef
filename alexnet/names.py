"""Class names: those stored with the weights, else ImageNet's, else numbers."""

from collections.abc import Sequence
from dataclasses import dataclass

from alexnet import imagenet
from alexnet.text import printable
from alexnet.weights.core import Weights

_IMAGENET_CLASSES = 1000
_AFTER_WNID = ("", "_", "-", " ", ".")  # as in a folder called n02012849_crane


@dataclass(frozen=True)
class ClassNames:
    """The names of a network's classes."""

    names: tuple[str, ...]
    wnids: tuple[str, ...] | None  # WordNet's identifiers: names repeat in some lists
    origin: str  # source of the names, in words

    @property
    def identities(self) -> tuple[str, ...]:
        """Unique identifiers of the classes: WNIDs if known, else the names."""
        return self.wnids or self.names

    def show(self, label: int) -> str:
        """A class for a table: its name and any WNID, without terminal control codes."""
        name = printable(self.names[label])
        return f"{name} ({self.wnids[label]})" if self.wnids else name


def class_names(weights: Weights, data: Sequence[str] = ()) -> ClassNames:
    """The names of a network's classes: its own, else those of data with as many."""
    if weights.class_names:
        return named(weights.class_names, "the weights")
    if len(data) == weights.spec.num_classes:
        return named(data, "the data")
    if weights.spec.num_classes == _IMAGENET_CLASSES:
        wnids, names = zip(*imagenet.classes(), strict=True)
        return ClassNames(names, wnids, "ImageNet's, for want of others: there are 1000 classes")
    numbers = tuple(f"class {number}" for number in range(weights.spec.num_classes))
    return ClassNames(numbers, None, "numbers: the weights come without names")


def named(names: Sequence[str], origin: str) -> ClassNames:
    """Names as they are, or ImageNet's words for them if all begin with ImageNet WNIDs."""
    words = dict(imagenet.classes())
    wnids = tuple(name[:9] for name in names)
    if all(w in words and name[9:10] in _AFTER_WNID for w, name in zip(wnids, names, strict=True)):
        return ClassNames(tuple(words[wnid] for wnid in wnids), wnids, origin)
    return ClassNames(tuple(names), None, origin)
