"""Two networks side by side, layer by layer."""

import difflib
import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from alexnet.layers import AvgPool, Conv, Dense, Gaussian, Init, LeCun, MaxPool, Row, Spec, trace


def comparison(one: Spec, other: Spec) -> dict[str, Any]:
    """Both networks' totals, and their layers in pairs, marked where the two are the same.

    Layers are paired by name, in order; one without a partner is paired with an empty text.
    """
    rows, others = list(trace(one)), list(trace(other))
    names, other_names = ([row.name for row in side] for side in (rows, others))
    pairs: list[tuple[Row | None, Row | None]] = []
    for tag, a, b, c, d in difflib.SequenceMatcher(None, names, other_names, False).get_opcodes():
        if tag == "equal":
            pairs += zip(rows[a:b], others[c:d], strict=True)
        else:
            pairs += [(row, None) for row in rows[a:b]] + [(None, row) for row in others[c:d]]
    layers = []
    for left, right in pairs:
        texts = [_words(row) if row else "" for row in (left, right)]
        name = (left or right).name  # type: ignore[union-attr]
        layers.append({"name": name, "one": texts[0], "other": texts[1],
                       "same": texts[0] == texts[1]})  # fmt: skip
    return {"one": _totals(one, rows), "other": _totals(other, others), "layers": layers}


def _totals(spec: Spec, rows: list[Row]) -> dict[str, Any]:
    return {
        "variant": spec.name,
        "image_size": spec.image_size,
        "params": spec.num_params,
        "multiply_adds": sum(row.multiply_adds for row in rows),
    }


def _words(row: Row) -> str:
    """A layer in words: its output, its settings, its initial weights."""
    layer = row.layer
    shape = "x".join(map(str, row.out_shape))
    if isinstance(layer, Conv):
        groups = f", {layer.groups} groups" if layer.groups > 1 else ""
        text = f"{layer.kernel}x{layer.kernel}, stride {layer.stride}, padding {layer.padding}"
        text += ", rounding up" if layer.ceil else ""
        return f"{text}{groups} -> {shape}; {_init(layer.init)}"
    if isinstance(layer, Dense):
        return f"-> {shape}; {_init(layer.init)}"
    if isinstance(layer, MaxPool | AvgPool):
        rounding = "up" if layer.ceil else "down"
        return (
            f"{layer.window}x{layer.window}, stride {layer.stride}, rounding {rounding} -> {shape}"
        )
    settings = ", ".join(
        f"{k} {v:g}" for k, v in vars(layer).items() if k != "name" and v is not True
    )
    return f"{settings} -> {shape}" if settings else f"-> {shape}"


def _init(init: Init) -> str:
    match init:
        case Gaussian(std, bias):
            return f"N(0, {std:g}^2), bias {bias:g}"
        case LeCun():
            return "N(0, 1/fan_in)"
        case _:
            return "U(+-1/sqrt(fan_in))"


def print_comparison(found: dict[str, Any]) -> None:
    """Print the layers that differ, and count those that don't."""
    one, other = found["one"], found["other"]
    table = Table(box=None, pad_edge=False)
    for name in ("", one["variant"], other["variant"]):
        table.add_column(name, overflow="fold")
    for key, label in (("image_size", "input"), ("params", "parameters"),
                       ("multiply_adds", "multiply-adds")):  # fmt: skip
        same = "" if one[key] != other[key] else " (the same)"
        table.add_row(label, f"{one[key]:,}{same}", f"{other[key]:,}{same}")
    table.add_section()
    differing = [layer for layer in found["layers"] if not layer["same"]]
    for layer in differing:
        table.add_row(layer["name"], layer["one"] or "-", layer["other"] or "-")
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    console.print(table)
    same_count = len(found["layers"]) - len(differing)
    console.print(f"{len(differing)} layers differ, {same_count} are the same")
