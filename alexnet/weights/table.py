"""A network's table of layers as JSON, for self-describing files.

A table from a file is checked and bounded before anything is built from it.
"""

import dataclasses
import math
import re
import types
from collections.abc import Mapping
from typing import Any, get_args

from alexnet.errors import UserError
from alexnet.kinds import LAYERS
from alexnet.layers import (
    LRN,
    MAX_FEATURES,
    MAX_PARAMS,
    MAX_SIDE,
    AdaptiveAvgPool,
    AvgPool,
    BatchNorm,
    Conv,
    Dense,
    FanIn,
    Flatten,
    Layer,
    MaxPool,
    SpatialLRN,
    Spec,
    trace,
    variables,
)
from alexnet.spec import VARIANTS, like, refuse_outdated, variant

KINDS: dict[str, type] = {kind.__name__: kind for kind in LAYERS}
# Fields that older files lack, with the value that those imply; it is not written to files.
_ADDED = {("Conv", "ceil"): False, ("Dropout", "inverted"): True}
MAX_LAYERS = 200
_NAME = re.compile(r"[a-z_]{1,20}[0-9]{1,4}[a-z0-9_]{0,20}")  # no model has such an attribute
_SIZES = ("image_size", "num_classes", "channels")
_SMALLEST = {"padding": 0, "alpha": 0.0, "beta": 0.0, "momentum": 0.0, "rate": 0.0, "k": 1e-6,
             "epsilon": 1e-12}  # fmt: skip
_LARGEST = {"features": MAX_FEATURES, "groups": MAX_FEATURES, "momentum": 1.0, "rate": 0.999}


def to_json(spec: Spec) -> dict[str, Any]:
    """A network as plain JSON values; initial weights, of no use once it has weights, are left out.

    Raises:
        UserError: for a table that `from_json` would refuse.
    """
    layers = [_described(layer) for layer in spec.layers]
    values = {"name": spec.name, **{size: getattr(spec, size) for size in _SIZES}, "layers": layers}
    from_json(values)
    return values


def from_json(values: Any) -> Spec:
    """The network that `to_json` described; a variant gets its initial weights back.

    Raises:
        UserError: for anything missing, unknown or out of range, or for no valid network.
    """
    if not isinstance(values, Mapping) or set(values) != {"name", "layers", *_SIZES}:
        raise UserError("the description of the network must have a name, sizes and layers")
    for size in _SIZES:
        _check(size, values[size], int, 1, MAX_FEATURES if size == "num_classes" else MAX_SIDE)
    name, layers = values["name"], values["layers"]
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_.-]{1,50}", name):
        raise UserError("the network's name must be 1 to 50 letters, digits and _ . -")
    if not isinstance(layers, list) or not 1 <= len(layers) <= MAX_LAYERS:
        raise UserError(f"a network must have from 1 to {MAX_LAYERS} layers")
    sizes = {size: values[size] for size in _SIZES}
    spec = Spec(name, tuple(map(_layer, layers)), **sizes)
    _check_shapes(spec)
    if name in VARIANTS:
        known = like(VARIANTS[name], spec)
        if without_init(known) == without_init(spec):
            return known
    return spec


def from_json_1(values: Any) -> Spec:
    """The network of a file of format 1, which held only a variant's name and sizes.

    Raises:
        UserError: for fields that are missing, unknown or out of range.
    """
    kinds = {"variant": str, "num_classes": int, "channels": int, "image_size": int, "width": float}
    if not isinstance(values, Mapping) or set(values) != set(kinds):
        raise UserError(f"the network's description must have exactly {', '.join(kinds)}")
    if not isinstance(values["variant"], str):
        raise UserError("the network's description has no variant")
    for size in _SIZES:
        _check(size, values[size], int, 1, MAX_FEATURES if size == "num_classes" else MAX_SIDE)
    _check("width", values["width"], float, 0.0, 1.0)
    refuse_outdated(values["variant"], 1, "convert the original ONNX file again")
    sizes = {name: value for name, value in values.items() if name != "variant"}
    return variant(values["variant"], **sizes)


def without_init(spec: Spec) -> Spec:
    """The network with default initial weights, for comparisons: they don't change what it is."""
    layers = (
        dataclasses.replace(layer, init=FanIn()) if isinstance(layer, Conv | Dense) else layer
        for layer in spec.layers
    )
    return dataclasses.replace(spec, layers=tuple(layers))


def _fields(kind: type) -> dict[str, Any]:
    """Names and types of a layer's fields, its initial weights aside."""
    return {f.name: f.type for f in dataclasses.fields(kind) if f.name != "init"}


def _described(layer: Layer) -> dict[str, Any]:
    kind = type(layer).__name__
    fields = {name: getattr(layer, name) for name in _fields(type(layer))}
    kept = {name: n for name, n in fields.items() if n is not _ADDED.get((kind, name), ...)}
    return {"kind": kind, **kept}


def _layer(values: Any) -> Layer:
    kind = KINDS.get(values.get("kind")) if _is_plain(values) else None
    if kind is None:
        raise UserError(f"a layer must be one of {', '.join(KINDS)}")
    fields = _fields(kind)
    older = {
        name: _ADDED[kind.__name__, name] for name in fields if (kind.__name__, name) in _ADDED
    }
    values = older | values
    if set(values) != {"kind", *fields}:
        raise UserError(f"a {kind.__name__} must have exactly {', '.join(fields)}")
    for name, type_ in fields.items():
        value = values[name]
        if name == "name":
            if not isinstance(value, str) or not _NAME.fullmatch(value):
                raise UserError(
                    f"a {kind.__name__}'s name is {value!r:.40}, but it must be small letters and "
                    "a number, such as conv1"
                )
        elif type_ is bool:
            if not isinstance(value, bool):
                raise UserError(f"{name} of a {kind.__name__} must be true or false")
        elif not (value is None and isinstance(type_, types.UnionType)):
            type_ = get_args(type_)[0] if isinstance(type_, types.UnionType) else type_
            _check(name, value, type_, _SMALLEST.get(name, 1), _LARGEST.get(name, MAX_SIDE))
    return kind(**{name: values[name] for name in fields})


def _is_plain(values: Any) -> bool:
    return isinstance(values, dict) and isinstance(values.get("kind"), str)


def _check(name: str, value: Any, type_: type, low: float, high: float) -> None:
    right = type(value) in ((int,) if type_ is int else (int, float))
    if not right or not low <= value <= high or not math.isfinite(value):
        raise UserError(f"{name} of the network is {value!r:.40}, and must be from {low} to {high}")


_MAPS = (Conv, LRN, SpatialLRN, MaxPool, AvgPool, AdaptiveAvgPool, Flatten)  # take a map


def _check_shapes(spec: Spec) -> None:
    """Refuse a table whose layers don't fit one another."""
    shape: tuple[int, ...] = (0, 0, spec.channels)
    flattened = False
    for layer in spec.layers:
        inputs, kind = shape[-1], type(layer).__name__
        if isinstance(layer, Dense):
            if len(shape) != 1:
                raise UserError("the network has a Dense layer before its map is flattened")
            shape, flattened = (layer.features or spec.num_classes,), False
        elif isinstance(layer, _MAPS):
            if len(shape) != 3:
                raise UserError(f"the network has a {kind} after its map was flattened")
            groups = getattr(layer, "groups", 1)
            outputs = layer.features if isinstance(layer, Conv) else inputs
            if inputs % groups or outputs % groups:
                raise UserError(f"a {kind} can't share {inputs} channels by {groups} groups")
            flattened = isinstance(layer, Flatten)
            shape = (0,) if flattened else (0, 0, outputs)
        elif isinstance(layer, BatchNorm) and flattened:
            raise UserError(f"{layer.name} must stand before Flatten or after the Dense layer")
    rows = trace(spec)
    if rows[-1].out_shape != (spec.num_classes,):
        raise UserError(f"the network must end in one number for each of its {spec.num_classes} "
                        "classes")  # fmt: skip
    if sum(math.prod(v.shape) for v in variables(spec).values()) > MAX_PARAMS:
        raise UserError(f"the network has more than {MAX_PARAMS:,} parameters")
