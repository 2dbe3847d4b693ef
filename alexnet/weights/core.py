"""Canonical weights: what they are, and the one check that all of them pass.

Arrays are fp32 and named `conv1.kernel` (HWIO), `conv1.bias`, ..., `fc6.kernel` (in, out), with
fc6 rows in H, W, C order and conv1 inputs in R, G, B order.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from alexnet.errors import UserError
from alexnet.preprocess import Preprocess
from alexnet.spec import REVISION, Spec, refuse_outdated, variant, weight_shapes

_LISTED = 20  # unexpected names that an error spells out


@dataclass(frozen=True, eq=False)
class Weights:
    """Learned arrays together with all that is needed to use them."""

    arrays: dict[str, np.ndarray]  # aligned, in any memory order; some are views of one buffer
    spec: Spec
    preprocess: Preprocess
    class_names: tuple[str, ...] | None = None
    source: str = ""  # where they came from, in words
    # The source subtracts a mean image; `preprocess.mean` holds its channel means.
    mean_image: bool = False


def check(
    arrays: Mapping[str, np.ndarray],
    spec: Spec,
    *,
    names: Mapping[str, str] | None = None,
    extra: Iterable[str] = (),
) -> None:
    """Refuse arrays that are not exactly the weights of `spec`.

    Args:
        arrays: by canonical name.
        spec: the network that they must fit.
        names: what the source calls them, for the message.
        extra: names in the source that have no canonical one.

    Raises:
        UserError: listing everything that is missing, unexpected, misshapen or not fp32.
    """
    expected = weight_shapes(spec)

    def call(name: str) -> str:
        other = (names or {}).get(name, name)
        return name if other == name else f"{name} ({other})"

    missing = [call(name) for name in expected if name not in arrays]
    unexpected = [*(name for name in arrays if name not in expected), *extra]
    problems = []
    if missing:
        problems.append("missing " + ", ".join(missing))
    if unexpected:
        problems.append("unexpected " + _listed(unexpected))
    for name, shape in expected.items():
        array = arrays.get(name)
        if array is None:
            continue
        if array.shape != shape:
            problems.append(f"{call(name)} is {show(array.shape)}, not {show(shape)}")
        if array.dtype != np.float32:
            problems.append(f"{call(name)} is {array.dtype}, not float32")
    if problems:
        raise UserError(f"the arrays are not those of variant '{spec.name}': {'; '.join(problems)}")


def show(shape: tuple[int, ...]) -> str:
    """A shape as people write it: 11x11x3x64."""
    return "x".join(map(str, shape)) or "a scalar"


def _listed(names: list[str]) -> str:
    shown = ", ".join(
        name if name.isprintable() and len(name) < 100 else repr(name[:100])
        for name in names[:_LISTED]
    )
    more = len(names) - _LISTED
    return f"{shown} and {more} more" if more > 0 else shown


def spec_to_json(spec: Spec) -> dict[str, Any]:
    """What `spec_from_json` needs to build the network again, initial weights aside.

    Raises:
        UserError: for a table that is not a named variant's at these sizes.
    """
    values = {
        "variant": spec.name,
        "num_classes": spec.num_classes,
        "channels": spec.channels,
        "image_size": spec.image_size,
        "width": spec.width,
        "revision": REVISION,
    }
    if without_init(spec_from_json(values)) != without_init(spec):
        raise UserError(f"only named variants can be saved, and this is not '{spec.name}' as named")
    return values


def spec_from_json(values: Mapping[str, Any]) -> Spec:
    """The network that `spec_to_json` described.

    Raises:
        UserError: for fields that are missing, unknown or out of range, or an outdated table.
    """
    values = dict(values)
    revision = values.pop("revision", 1)
    kinds = {"variant": str, "num_classes": int, "channels": int, "image_size": int, "width": float}
    if set(values) != set(kinds) or any(
        type(values[name]) is not kind and not (kind is float and type(values[name]) is int)
        for name, kind in kinds.items()
    ):
        raise UserError(f"the network's description must have exactly {', '.join(kinds)}")
    if max(values[name] for name in ("num_classes", "channels", "image_size")) > 1 << 20:
        raise UserError(f"the network's description has sizes past all use: {values}")
    if type(revision) is not int or not 1 <= revision <= REVISION:
        raise UserError(
            f"its tables are of revision {revision!r:.20}, and {REVISION} is known here"
        )
    refuse_outdated(values["variant"], revision, "convert the original ONNX file again")
    sizes = {name: value for name, value in values.items() if name != "variant"}
    return variant(values["variant"], **sizes)


def without_init(spec: Spec) -> tuple[Any, ...]:
    """All of a spec but its initial weights, which no longer matter once it has weights."""
    layers = tuple(
        dataclasses.replace(layer, init=None) if hasattr(layer, "init") else layer
        for layer in spec.layers
    )
    return (*dataclasses.astuple(dataclasses.replace(spec, layers=())), layers)


def preprocess_from_json(values: Mapping[str, Any], channels: int) -> Preprocess:
    """The preprocessing that `dataclasses.asdict` wrote down.

    Raises:
        UserError: for fields that are missing, unknown or out of range.
    """
    try:
        made = Preprocess(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
        numbers = [float(number) for number in (*made.mean, *made.std)]
        valid = (
            made.resize_rule in ("short", "warp")
            and made.channel_order in ("RGB", "BGR", "L")
            and type(made.resize_to) is type(made.crop) is int
            and 1 <= made.crop <= 1 << 20
            and 1 <= made.resize_to <= 1 << 20
            and len(made.mean) == len(made.std) == channels
            and bool(np.isfinite(numbers).all())
            and all(std > 0 for std in made.std)
        )
    except (TypeError, ValueError) as error:
        raise UserError(f"the preprocessing's description is unreadable: {error}") from error
    if not valid:
        raise UserError("the preprocessing's description has values that none can have")
    return made
