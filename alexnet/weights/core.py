"""Canonical weights: their definition, and the one check that all of them pass.

Arrays are fp32 and named `conv1.kernel` (HWIO), `conv1.bias`, ..., `fc6.kernel` (in, out), with
fc6 rows in H, W, C order and conv1 inputs in R, G, B order.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from alexnet.errors import UserError
from alexnet.layers import Spec, show, variables
from alexnet.preprocess import Preprocess
from alexnet.text import is_text

BF16 = np.dtype([("bfloat16", "<u2")])  # as files have it; NumPy lacks it
# Float types that are read; all become fp32 in the end.
READABLE = (np.dtype("<f4"), np.dtype("<f2"), np.dtype("<f8"), BF16)
_FP32 = READABLE[:1]
LONGEST_TEXT = 1000  # characters of a class name, and of words on where weights are from
_LISTED = 20  # unexpected names that an error spells out


@dataclass(frozen=True, eq=False)
class Weights:
    """Learned arrays together with all that is needed to use them."""

    arrays: dict[str, np.ndarray]  # aligned, in any memory order; some are views of one buffer
    spec: Spec
    preprocess: Preprocess
    class_names: tuple[str, ...] | None = None
    source: str = ""  # where they came from, in words
    preprocess_from: str = ""  # where the preprocessing is from, in words
    # The source subtracts a mean image, of which only the channel means are here.
    mean_image: bool = False
    notes: tuple[str, ...] = ()  # sentences on changes and omissions made while reading


def names_from_json(names: Any, count: int | None) -> tuple[str, ...]:
    """Class names from a file's JSON, checked.

    Args:
        names: the value.
        count: of the network's classes, where it is known.

    Raises:
        UserError: where they are not texts, or not one for each class.
    """
    if not isinstance(names, list) or not all(is_text(name, LONGEST_TEXT) for name in names):
        raise UserError(f"class names must be texts of at most {LONGEST_TEXT} characters")
    if count is not None and len(names) != count:
        raise UserError(f"there are {len(names)} class names for {count} classes")
    return tuple(names)


CHANNEL_MEANS = ", with its mean image's channel means"


def from_file(mean_image: bool) -> str:
    """The source, in words, of preprocessing that a file describes."""
    return f"the file{CHANNEL_MEANS}" if mean_image else "the file"


def check(
    arrays: Mapping[str, np.ndarray],
    spec: Spec,
    *,
    names: Mapping[str, str] | None = None,
    extra: Iterable[str] = (),
    dtypes: Collection[np.dtype] = _FP32,
) -> None:
    """Refuse arrays that are not exactly the weights of `spec`.

    Args:
        arrays: by canonical name.
        spec: the network that they must fit.
        names: the source's names for them, for the message.
        extra: names in the source that have no canonical one.
        dtypes: types that the arrays may have.

    Raises:
        UserError: listing everything that is missing, unexpected, misshapen or not of `dtypes`.
    """
    if not isinstance(arrays, Mapping):
        raise UserError(f"arrays by name are needed, not {type(arrays).__name__}")
    expected = {name: variable.shape for name, variable in variables(spec).items()}

    def call(name: str) -> str:
        other = (names or {}).get(name, name)
        return name if other == name else f"{name} ({other})"

    missing = [call(name) for name in expected if name not in arrays]
    unexpected = [*(name for name in arrays if name not in expected), *extra]
    if unexpected and len(missing) == len(expected):
        raise UserError(
            f"no array has a name that is known: unexpected {_listed(unexpected)}; missing "
            f"{', '.join(missing[:2])}, ..., as variant '{spec.name}' has them"
        )
    problems = []
    if missing:
        problems.append("missing " + ", ".join(missing))
    if unexpected:
        problems.append("unexpected " + _listed(unexpected))
    for name, shape in expected.items():
        array = arrays.get(name)
        if array is None:
            continue
        found, dtype = np.shape(array), getattr(array, "dtype", type(array).__name__)
        if found != shape:
            problems.append(f"{call(name)} is {show(found)}, not {show(shape)}")
        if dtype not in dtypes:
            problems.append(f"{call(name)} is {dtype}, not float32")
    if problems:
        raise UserError(f"the arrays are not those of variant '{spec.name}': {'; '.join(problems)}")


def _listed(names: list[str]) -> str:
    shown = ", ".join(
        name if name.isprintable() and len(name) < 100 else repr(name[:100])
        for name in names[:_LISTED]
    )
    more = len(names) - _LISTED
    return f"{shown} and {more} more" if more > 0 else shown
