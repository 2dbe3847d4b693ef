"""Learning curves: a bounded number of points of each run, which the page's script draws."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from alexnet.report.curves import SPAN, smoothed
from alexnet.report.page.html import Html, clean, embedded, joined, tag
from alexnet.report.page.subject import Subject

POINTS = 500  # of each series


def section(subjects: Sequence[Subject]) -> Html:
    """Two charts, their controls and their data."""
    series = [
        {"place": place, **curve}  # the place decides the color, as in the cards
        for place, subject in enumerate(subjects)
        if (curve := curves_of(subject))
    ]
    damaged = [
        tag("p", clean(f"Not shown of {s.name}: {s.missing['metrics']}", 400), class_="missing")
        for s in subjects
        if "metrics" in s.missing
    ]
    if not series:
        nothing = tag("p", "No metrics have been written yet.", class_="missing")
        return joined(damaged or nothing)
    legend = tag("div", id="legend", class_="legend", role="group", aria_label="Runs shown")
    switches = tag("div", _switch("log-loss", "log loss"), _switch("log-step", "log steps"))
    lost = {k: max(curve["left_out"][k] for curve in series) for k in ("train", "eval")}
    note = (
        f"Thinned to {POINTS} points a curve, of each stretch the one farthest from the mean. "
        if max(lost.values())
        else ""
    )
    return joined(
        damaged,
        tag("div", legend, switches, class_="controls"),
        tag("div", _chart("loss", "Loss"), _chart("error", "Top-1 error, %"), class_="charts"),
        tag("p", "", id="readout", class_="readout", role="status", aria_live="polite"),
        tag(
            "p",
            "Training loss on each logged batch is faint, its running mean "
            f"(over {100 * SPAN:.0f} % of the run, at least five lines) solid; circles are "
            f"evaluations. {note}"
            "Arrow keys move from step to step in a chart, Home and End to its ends.",
            class_="note",
        ),
        tag("noscript", tag("p", "The curves are drawn by the page's script, which is off.")),
        embedded({"runs": series}, "curve-data"),
    )


def _switch(id_: str, label: str) -> Html:
    return tag("label", tag("input", type="checkbox", id=id_), f" {label}", class_="switch")


def _chart(key: str, title: str) -> Html:
    return tag(
        "figure",
        tag("figcaption", title),
        tag("div", id=f"chart-{key}", class_="chart", data_key=key, data_title=title),
    )


def curves_of(subject: Subject) -> dict[str, Any] | None:
    """A run's curves, or None where there are none.

    `train` and `eval` have `step`, `loss` and `error` (top-1, in %), lists of one length of at
    most POINTS; `train` also `mean_loss` and `mean_error`. `left_out` counts points left out.
    """
    split = {
        name: [r for r in subject.metrics if r["split"] == name and {"loss", "top1"} <= r.keys()]
        for name in ("train", "eval")
    }
    if not any(split.values()):
        return None
    found: dict[str, Any] = {"name": subject.name, "left_out": {}}
    for name, records in split.items():
        step = np.array([record["step"] for record in records])
        loss = np.array([record["loss"] for record in records])
        error = 100 * (1 - np.array([record["top1"] for record in records]))
        columns = {"step": step, "loss": loss, "error": error}
        if name == "train":
            columns |= {"mean_loss": smoothed(loss), "mean_error": smoothed(error)}
        kept = thinned(loss, columns.get("mean_loss", smoothed(loss)), POINTS)
        found[name] = {k: _rounded(column[kept]) for k, column in columns.items()}
        found["left_out"][name] = len(step) - len(kept)
    return found


def thinned(values: np.ndarray, mean: np.ndarray, most: int) -> np.ndarray:
    """Indices of at most `most` values: the ends, and each stretch's farthest from the mean."""
    count = len(values)
    if count <= most:
        return np.arange(count)
    edges = np.linspace(1, count - 1, most - 1).astype(int)
    away = np.abs(values - mean)
    inner = [a + int(away[a:b].argmax()) for a, b in pairwise(edges)]
    return np.array([0, *inner, count - 1])


def _rounded(values: np.ndarray) -> list[float]:
    return [float(f"{value:.5g}") if abs(value) < 1e5 else float(value) for value in values]
