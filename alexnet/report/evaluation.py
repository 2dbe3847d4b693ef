"""Evaluations as people and programs read them."""

import hashlib
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from alexnet.data.dataset import Dataset
from alexnet.evaluation import Evaluation, Observer, distance
from alexnet.names import class_names
from alexnet.preparation import said
from alexnet.preprocess import to_json as preprocess_to_json
from alexnet.real import real_top1
from alexnet.scores import LISTED, confused, interval, per_class, worst
from alexnet.text import counted, printable
from alexnet.weights import Weights

_LISTED = 10  # classes and pairs
_PLAIN = (
    "protocol", "geometry", "framework", "dataset", "loss", "top1", "top1_interval", "top5",
    "top5_interval", "left_out", "preprocess_from", "examples_per_second", "apart",
)  # fmt: skip
Real = list[list[int]] | None


class Progress(Observer):
    """Headline and notes on standard error, and a bar where that is a terminal."""

    def __init__(self, shown: bool):
        self._shown = shown
        self._console = Console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty())
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not (shown and self._console.is_terminal),
            transient=True,
        )
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._bar.stop()

    def _note(self, text: str) -> None:
        self._console.print(printable(text), markup=False)

    def begin(self, weights: Weights, data: Dataset, engine: str, notes: list[str]) -> None:
        """Print the weights, the data and the engine."""
        if not self._shown:
            return
        self._note(f"weights: {weights.source}, variant {weights.spec.name}")
        self._note(said(weights))
        self._note(f"class names: {class_names(weights, data.class_names).origin}")
        self._note(f"data: {data.name}, {len(data.eval)} examples")
        for note in (engine, *notes):
            self._note(note)

    def progress(self, protocol: str, total: int, done: int) -> None:
        """Move the protocol's bar."""
        if protocol not in self._tasks:
            self._tasks[protocol] = self._bar.add_task(protocol, total=total)
        self._bar.update(self._tasks[protocol], completed=done)

    def left_out(self, sentences: list[str]) -> None:
        """Name unreadable images."""
        for sentence in sentences:
            self._note(f"left out: {sentence}")


def print_evaluations(found: Sequence[Evaluation], most: int, real: Real) -> None:
    """Print the protocols side by side, then classes, confusions and mistakes of the first."""
    # Piped lines need not fit a terminal.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    first = found[0]
    top5 = len(first.class_names.names) > LISTED  # with fewer classes it is always 100 %
    table = Table(box=None, pad_edge=False)
    for name in ("protocol", "top-1", "95 %", "top-5", "95 %", "loss", "images", "geometry"):
        words = name in ("protocol", "geometry")
        table.add_column(name, justify="left" if words else "right", no_wrap=name != "geometry")
    for one in found:
        table.add_row(
            one.protocol,
            f"{100 * one.top1:.2f} %",
            _percents(one.top1_interval),
            *((f"{100 * one.top5:.2f} %", _percents(one.top5_interval)) if top5 else ("-", "-")),
            f"{one.loss:.4f}",
            str(int(one.count)),
            one.geometry,
        )
    console.print(table)
    if first.left_out:
        console.print(f"left out, as they could not be read: {first.left_out} images")
    if first.apart is not None:
        console.print(distance(max(one.apart or 0 for one in found)))
    for one in found if real else ():
        told, count = _real(one, real)
        console.print(
            f"ReaL labels, {one.protocol}: top-1 {100 * told / count:.2f} %, "
            f"{_percents(interval(told, count))} ({count} images)"
        )
    _print_classes(console, first)
    for place in worst(first.predictions, most):
        console.print(_mistake(first, place), markup=False)


def _print_classes(console: Console, found: Evaluation) -> None:
    names, predictions = found.class_names, found.predictions
    examples, right = per_class(predictions, len(names.names))
    shares = sorted(
        (r / n, label) for label, (n, r) in enumerate(zip(examples, right, strict=True)) if n
    )
    if len(shares) > 1:
        console.print(
            "\nlowest accuracy by class" if len(shares) > _LISTED else "\naccuracy by class"
        )
    for share, label in shares[:_LISTED] if len(shares) > 1 else ():
        images = counted(examples[label], "image")
        line = f"  {100 * share:6.2f} %  {names.show(label)} ({images})"
        console.print(line, markup=False)
    pairs = confused(predictions, _LISTED)
    if pairs:
        console.print("\nmost often confused")
    for label, taken_for, count in pairs:
        console.print(
            f"  {count:6d}  {names.show(label)} taken for {names.show(taken_for)}", markup=False
        )


def _mistake(found: Evaluation, place: int) -> str:
    names, predictions = found.class_names, found.predictions
    label, taken_for = int(predictions.label[place]), int(predictions.classes[place, 0])
    return printable(
        f"{100 * predictions.probability[place, 0]:6.2f} % sure of {names.show(taken_for)}, but "
        f"it is {names.show(label)}: {found.name(place)}"
    )


def to_json(found: Evaluation, most: int, real: Real) -> dict[str, Any]:
    """One evaluation as plain values, with `most` of the most confident mistakes."""
    names, predictions = found.class_names, found.predictions
    examples, right = per_class(predictions, len(names.names))
    plain = {name: getattr(found, name) for name in _PLAIN}
    preprocess, image = preprocess_to_json(found.preprocess), found.preprocess.normalize.image
    if image:  # megabytes, for each protocol
        preprocess["image"] = f"sha256:{hashlib.sha256(image).hexdigest()}"
    plain |= {
        "preprocess": preprocess,
        "class_names_from": names.origin,
        "count": int(found.count),
        "classes": [
            {"class": label, "name": names.names[label], "examples": int(n), "correct": int(r)}
            for label, (n, r) in enumerate(zip(examples, right, strict=True))
        ],
        "confused": [
            {"label": label, "predicted": taken_for, "count": count}
            for label, taken_for, count in confused(predictions, 100)
        ],
        "worst": [
            {
                "name": found.name(place),
                "label": int(predictions.label[place]),
                "predicted": int(predictions.classes[place, 0]),
                "probability": float(predictions.probability[place, 0]),
            }
            for place in worst(predictions, most)
        ],
    }
    if real:
        told, count = _real(found, real)
        plain["real"] = {"top1": told / count, "interval": interval(told, count), "count": count}
    return plain


def _real(found: Evaluation, real: Real) -> tuple[int, int]:
    """The number of examples that ReaL labels call right, and of those that count."""
    names = [found.name(place) for place in range(len(found.predictions))]
    return real_top1(found.predictions, names, real or [])


def _percents(bounds: tuple[float, float]) -> str:
    return f"{100 * bounds[0]:.2f} to {100 * bounds[1]:.2f}"
