"""Accuracy of each class, and the classes that are confused with each other."""

import numpy as np

from alexnet.report.page.html import Html, clean, embedded, joined, scrolled, table, tag
from alexnet.report.page.pictures import picture, png
from alexnet.report.page.subject import Subject
from alexnet.scores import (
    Predictions,
    confused,
    confusion,
    interval,
    per_class,
)

MATRIX = 100  # classes up to which the matrix is drawn cell by cell
COUNTED, NAMED = 20, 40  # classes up to which cells have numbers, and axes have names
ROWS, PAIRS = 1000, 30
_THUMBNAIL = 250  # pixels a side
RIGHT, WRONG = (45, 125, 210), (214, 69, 30)  # colors: readable on white and on black


def section(subject: Subject, found: Predictions, asked: int, available: int) -> Html:
    """The result with its interval, the confusion matrix and the classes' table.

    Args:
        subject: whose classes they are.
        found: predictions.
        asked: number of predictions asked for.
        available: examples in the evaluation set.
    """
    classes = _classes(subject)
    return joined(
        [tag("p", clean(note, 400), class_="note") for note in subject.notes],
        tag("p", _result(found, asked, available)),
        tag("div", _matrix(subject, found, classes), _pairs(subject, found), class_="pair"),
        _table(subject, found, classes),
    )


def _classes(subject: Subject) -> int:
    assert subject.weights is not None
    return subject.weights.spec.num_classes


def _result(found: Predictions, asked: int, available: int) -> list[object]:
    hits, count = found.classes == found.label[:, None], len(found.label)
    right = int(hits[:, 0].sum())
    low, high = interval(right, count)
    words = f" Loss {found.loss.mean(dtype=np.float64):.4f}."
    if hits.shape[1] >= 5:
        words = f", top-5 accuracy {100 * hits.any(axis=1).mean():.2f} %." + words
    else:
        words = "." + words
    if count == available:
        words += f" Measured on the whole evaluation set, {count:,} examples."
    else:
        words += f" Measured on {count:,} of the evaluation set's {available:,} examples, spread "
        words += "evenly over it" + ("; --examples takes more." if asked < available else ".")
    if count < asked:
        words += f" {asked - count:,} could not be read."
    return [
        "Top-1 accuracy ",
        tag("strong", f"{100 * right / count:.2f} %"),
        f" (95 % interval {100 * low:.2f} to {100 * high:.2f})",
        words,
    ]


def _matrix(subject: Subject, found: Predictions, classes: int) -> Html:
    if classes > MATRIX:
        return _thumbnail(found, classes)
    counts = confusion(found, classes)
    names = [subject.class_name(number) for number in range(classes)]
    cell = 26 if classes <= COUNTED else max(5, 520 // classes)
    edge = cell * classes
    left = 8 * min(14, max(map(len, names))) + 12 if classes <= NAMED else 10
    size = f"0 0 {left + edge + 2} {left + edge + 2}"
    labels = _axes(names, cell, left) if classes <= NAMED else None
    numbers = _numbers(counts, cell, left) if classes <= COUNTED else None
    image = tag("image", href=png(shaded(counts)), x=left, y=left, width=edge, height=edge,
                class_="heat-area pixelated", preserveAspectRatio="none")  # fmt: skip
    frame = tag("rect", x=left, y=left, width=edge, height=edge, class_="frame")
    words = (
        f"Confusion matrix of {classes} classes, true ones as rows, predicted ones as columns; "
        "arrow keys move through its cells"
    )
    drawing = tag("svg", image, frame, numbers, labels, viewBox=size, aria_hidden="true")
    data = {"rows": names, "columns": names, "values": counts.tolist(), "kind": "confusion"}
    return tag(
        "figure",
        tag("figcaption", "Confusion matrix: true classes as rows, predicted ones as columns"),
        heat("confusion", drawing, words, data),
    )


def heat(id_: str, drawing: Html, words: str, data: dict) -> Html:
    """A grid whose cells show their values, by pointer and by arrow keys.

    The drawing holds one element of class `heat-area`; `data` has rows, columns, values and kind.
    """
    return tag(
        "div",
        tag(
            "div",
            drawing,
            class_="heat",
            tabindex=0,
            role="application",
            aria_label=words,
            aria_describedby=f"{id_}-value",
            data_heat=f"{id_}-data",
        ),
        tag("output", " ", id=f"{id_}-value", class_="readout"),
        embedded(data, f"{id_}-data"),
    )


def shaded(counts: np.ndarray) -> np.ndarray:
    """A matrix of counts as RGBA: the share of each row's sum as opacity; errors in red.

    The opacity is the square root of the share, so that rare confusions are visible.
    """
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    pixels = np.zeros((*counts.shape, 4), np.uint8)
    pixels[:, :, :3] = WRONG
    pixels[np.arange(len(counts)), np.arange(len(counts)), :3] = RIGHT
    pixels[:, :, 3] = np.rint(255 * np.sqrt(share))
    return pixels


def _axes(names: list[str], cell: int, left: int) -> list[Html]:
    short = [name if len(name) <= 14 else name[:13] + "…" for name in names]
    labels = []
    for place, name in enumerate(short):
        at = left + cell * (place + 0.5)
        labels.append(tag("text", name, x=left - 6, y=at + 4, text_anchor="end", class_="small"))
        turned = f"rotate(-90 {at + 4} {left - 6})" if max(map(len, short)) > 2 else None
        anchor = "start" if turned else "middle"
        x = at + 4 if turned else at
        labels.append(tag("text", name, x=x, y=left - 6, text_anchor=anchor, transform=turned,
                          class_="small"))  # fmt: skip
    return labels


def _numbers(counts: np.ndarray, cell: int, left: int) -> list[Html]:
    return [
        tag("text", int(counts[row, column]), text_anchor="middle",
            class_="count",
            x=left + cell * (column + 0.5), y=left + cell * (row + 0.5) + 4)
        for row, column in zip(*np.nonzero(counts), strict=True)
    ]  # fmt: skip


def _thumbnail(found: Predictions, classes: int) -> Html:
    side = min(classes, _THUMBNAIL)
    both = (found.label, found.classes[:, 0])
    places = [labels.astype(np.int64) * side // classes for labels in both]
    counts = np.bincount(places[0] * side + places[1], minlength=side * side).reshape(side, side)
    words = f"Confusion matrix of {classes:,} classes in {side} by {side} cells"
    image = picture(png(shaded(counts)), words, pixelated=True, width=500)
    return tag("figure", tag("figcaption", f"{words}: true classes as rows"), image)


def _pairs(subject: Subject, found: Predictions) -> Html:
    pairs = confused(found, PAIRS if _classes(subject) > MATRIX else 12)
    if not pairs:
        return tag("p", "No example was taken for another class.")
    rows = (
        (tag("bdi", subject.class_name(true)), tag("bdi", subject.class_name(other)), f"{count:,}")
        for true, other, count in pairs
    )
    head = ("true class", "taken for", "examples")
    pairs_table = table("Confused most often", head, rows, class_="numbers pairs")
    return tag("div", scrolled("Confused most often", pairs_table))


def _table(subject: Subject, found: Predictions, classes: int) -> Html:
    examples, right = per_class(found, classes)
    taken: dict[int, int] = {}
    for true, other, _ in confused(found, len(found.label)):
        taken.setdefault(true, other)
    shown = np.flatnonzero(examples)
    if len(shown) > ROWS:  # the worst
        worst = np.argsort(right[shown] / examples[shown], kind="stable")[:ROWS]
        shown = np.sort(shown[worst])
    rows = (_class_row(subject, int(c), int(examples[c]), int(right[c]), taken) for c in shown)
    labels = ("class", "examples", "right", "accuracy", "95 % interval", "mostly taken for")
    head = [
        tag("button", label, type="button", data_column=column)
        for column, label in enumerate(labels)
    ]
    caption = "Accuracy by class"
    if len(shown) < np.count_nonzero(examples):
        caption += f": the {ROWS:,} lowest"
    whole = table(caption, head, rows, class_="numbers sortable")
    return scrolled(caption, whole, class_="scroll tall")


def meter(share: float) -> Html:
    """A bar for a share of 1, beside the number."""
    full = {"height": "100%", "rx": 2}
    back, part = (
        tag("rect", width=f"{100 * width:.1f}%", class_=kind, **full)
        for width, kind in ((1.0, "bar-back"), (share, "params"))
    )
    return tag("svg", back, part, class_="meter", aria_hidden="true")


def _class_row(
    subject: Subject, number: int, examples: int, right: int, taken: dict[int, int]
) -> tuple[object, ...]:
    share = right / examples
    low, high = interval(right, examples)
    other = tag("bdi", subject.class_name(taken[number])) if number in taken else ""
    return (
        tag("bdi", subject.class_name(number)),
        examples,
        right,
        joined(f"{100 * share:.1f} %", meter(share)),
        f"{100 * low:.1f} to {100 * high:.1f}",
        other,
    )
