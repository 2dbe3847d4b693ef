"""Predicted classes as people and programs read them: bars, lines, JSON, CSV."""

import contextlib
import csv
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any, Literal

from rich.console import Console
from rich.text import Text

from alexnet.names import ClassNames
from alexnet.prediction import Prediction
from alexnet.preprocess import describe, to_json
from alexnet.protocols import Views
from alexnet.text import printable
from alexnet.weights import Weights

_BAR = 24  # characters of a bar for 100 %


@contextlib.contextmanager
def printer(
    kind: Literal["text", "json", "csv"], weights: Weights, view: Views, names: ClassNames
) -> Iterator[Callable[[Prediction], None]]:
    """A function that prints one image's classes, or, for JSON, keeps them until the end."""
    if kind == "json":
        kept: list[dict[str, Any]] = []
        yield lambda found: kept.append(_plain(found, names))
        print(json.dumps(_about(weights, view, names) | {"images": kept}, indent=2))
    elif kind == "csv":
        table = csv.writer(sys.stdout, lineterminator="\n")
        table.writerow(["image", "rank", "class", "wnid", "name", "probability"])
        yield lambda found: table.writerows(_rows(found, names))
    else:
        console = Console(highlight=False, soft_wrap=True)
        about = Console(stderr=True, highlight=False, soft_wrap=True)
        about.print(f"weights: {printable(weights.source)}", markup=False)
        about.print(f"preprocessing: {describe(weights.preprocess)}", markup=False)
        about.print(f"  from {printable(weights.preprocess_from)}", markup=False)
        about.print(f"class names: {printable(names.origin)}", markup=False)
        show = _bars if console.is_terminal else _line
        yield lambda found: console.print(show(found, names), markup=False)


def _about(weights: Weights, view: Views, names: ClassNames) -> dict[str, Any]:
    return {
        "weights": weights.source,
        "variant": weights.spec.name,
        "preprocess": to_json(weights.preprocess),
        "preprocess_from": weights.preprocess_from,
        "views": view.describe(),
        "class_names_from": names.origin,
    }


def _plain(found: Prediction, names: ClassNames) -> dict[str, Any]:
    return {
        "image": found.name,
        "classes": [
            {"class": label, "name": name, "probability": probability}
            | ({"wnid": names.wnids[label]} if names.wnids else {})
            for label, name, probability in zip(
                found.classes, found.class_names, found.probabilities, strict=True
            )
        ],
    }


def _rows(found: Prediction, names: ClassNames) -> Iterator[list[Any]]:
    for rank, label in enumerate(found.classes, 1):
        wnid = names.wnids[label] if names.wnids else ""
        probability = f"{found.probabilities[rank - 1]:.6g}"
        yield [found.name, rank, label, wnid, printable(names.names[label]), probability]


def _line(found: Prediction, names: ClassNames) -> str:
    """One image on one line: its name, then classes and percents."""
    pairs = zip(found.classes, found.probabilities, strict=True)
    classes = [f"{names.show(label)} {100 * share:.2f} %" for label, share in pairs]
    return f"{found.name}: " + ", ".join(classes)


def _bars(found: Prediction, names: ClassNames) -> Text:
    """One image as a heading and a bar for each class."""
    text = Text(found.name, style="bold")
    for label, share in zip(found.classes, found.probabilities, strict=True):
        text.append(f"\n  {100 * share:6.2f} % ", style="not bold")
        text.append(_bar(share), style="not bold cyan")
        text.append(f" {names.show(label)}", style="not bold")
    return text


def _bar(share: float) -> str:
    """A bar of whole and partial blocks, padded to the width of 100 %."""
    eighths = round(share * _BAR * 8)
    whole, part = divmod(eighths, 8)
    return ("█" * whole + " ▏▎▍▌▋▊▉"[part] * (part > 0)).ljust(_BAR)
