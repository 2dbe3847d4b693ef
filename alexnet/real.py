"""ReaL labels of ImageNet's validation set: all classes that appear in each photograph.

Beyer et al. 2020, "Are we done with ImageNet?" (arXiv:2006.07159). Their real.json is a list of
50,000 lists of classes, in the order of the photographs' numbers; photographs without a class
do not count.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from alexnet.errors import UserError
from alexnet.files import open_file, read_all
from alexnet.scores import Predictions

_PHOTOGRAPHS, _CLASSES = 50_000, 1000
_MOST_BYTES = 64 << 20
_NUMBER = re.compile(r"ILSVRC2012_val_(\d{8})")


def read_real(path: str | Path) -> list[list[int]]:
    """Read the labels in a real.json.

    Raises:
        UserError: for any other kind of file.
    """
    with open_file(path, _MOST_BYTES) as file:
        try:
            labels = json.loads(bytes(read_all(file)))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path} is not JSON: {error}") from error
    if not isinstance(labels, list) or len(labels) != _PHOTOGRAPHS or not all(map(_valid, labels)):
        raise UserError(
            f"{path} does not hold ReaL labels: those are {_PHOTOGRAPHS:,} lists of classes from 0 "
            f"to {_CLASSES - 1}"
        )
    return labels


def _valid(labels: object) -> bool:
    return isinstance(labels, list) and all(type(n) is int and 0 <= n < _CLASSES for n in labels)


def real_top1(
    predictions: Predictions, names: Sequence[str], labels: list[list[int]]
) -> tuple[int, int]:
    """Count the photographs classified correctly by ReaL labels, and those that count at all.

    Args:
        predictions: predictions of a network with ImageNet's 1000 classes.
        names: the examples' names, which hold the photographs' numbers, as in
            ILSVRC2012_val_00000001.JPEG.
        labels: from `read_real`.

    Raises:
        UserError: if a name has no such number, or none of the photographs counts.
    """
    right = count = 0
    best: np.ndarray = predictions.classes[:, 0]
    for name, predicted in zip(names, best.tolist(), strict=True):
        found = _NUMBER.search(name)
        number = int(found[1]) if found else 0
        if not 1 <= number <= _PHOTOGRAPHS:
            raise UserError(
                f"ReaL labels go by the names of ImageNet's validation photographs "
                f"(ILSVRC2012_val_00000001.JPEG), and {name:.100} has none"
            )
        own = labels[number - 1]
        count += bool(own)
        right += predicted in own
    if count == 0:
        raise UserError("none of these photographs has a ReaL label, so there is nothing to count")
    return right, count
