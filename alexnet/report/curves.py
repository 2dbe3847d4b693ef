"""The learning-curve picture of a run."""

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alexnet.files import atomic_write
from alexnet.text import printable

SPAN = 0.02  # share of a series that its smoothed form averages over
_FEW = 12  # points drawn unsmoothed and with markers, since so few are easily missed
_LONGEST = 100  # characters of the title


def draw_curves(
    records: Sequence[dict[str, Any]], path: Path, title: str, label_smoothing: float = 0.0
) -> None:
    """Draw loss and top-1 error by step, training and test, as a PNG.

    Args:
        records: lines of `metrics.jsonl`; those without finite numbers are left out.
        path: of the picture.
        title: above it.
        label_smoothing: of the training loss.
    """
    from matplotlib import style
    from matplotlib.figure import Figure  # without pyplot, which would look for a display

    with style.context("default"), warnings.catch_warnings():  # not a user's matplotlibrc
        warnings.simplefilter("ignore")  # about letters that its font lacks
        figure = Figure(figsize=(9, 3.8), layout="constrained")
        for axis, (name, values_of) in zip(figure.subplots(1, 2), _CHARTS.items(), strict=True):
            _draw(axis, records, values_of, label_smoothing if name == "loss" else 0)
            axis.set(xlabel="step", ylabel=name)
            axis.grid(alpha=0.3)
            if axis.lines:
                axis.legend()
        figure.suptitle(printable(title)[:_LONGEST], parse_math=False)
        with atomic_write(path) as file:
            figure.savefig(file, format="png", dpi=120)


_CHARTS = {
    "loss": lambda record: record["loss"],
    "top-1 error, %": lambda record: 100 * (1 - record["top1"]),
}


def _draw(axis: Any, records: Sequence[dict[str, Any]], values_of: Any, smoothing: float) -> None:
    """One chart: single training batches faint, their running mean, and evaluations."""
    steps, values = _points(records, "train", values_of)
    if len(steps):
        mean = "training" if len(steps) <= _FEW else "training, running mean"
        if smoothing:
            mean += f"\n(label smoothing {smoothing:g}\nraises this loss)"
        marker = "." if len(steps) <= _FEW else None
        blue: dict[str, Any] = {"color": "tab:blue", "marker": marker}
        if len(steps) > _FEW:
            axis.plot(steps, values, alpha=0.25, linewidth=0.8, **blue)
        axis.plot(steps, smoothed(values) if len(steps) > _FEW else values, label=mean, **blue)
    tested, test_values = _points(records, "eval", values_of)
    if len(tested):
        axis.plot(tested, test_values, "o-", markersize=4, color="tab:orange", label="test set")
    _scale(axis, np.concatenate([values, test_values]))


def _points(
    records: Sequence[dict[str, Any]], split: str, values_of: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of a split, float64 [N] each."""
    found = []
    for record in records:
        try:
            point = (float(record["step"]), float(values_of(record)))
        except (KeyError, TypeError, ValueError, OverflowError):
            continue
        if record.get("split") == split and all(map(math.isfinite, point)):
            found.append(point)
    steps, values = np.array(found, float).reshape(-1, 2).T
    return steps, values


def _scale(axis: Any, values: np.ndarray) -> None:
    """A log scale where values span more than a power of ten; ticks in plain digits."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(values) and values.min() > 0 and values.max() > 10 * values.min():
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.yaxis.set_minor_formatter(NullFormatter())
    else:
        axis.set_ylim(0, 1.08 * max(values.max(initial=0), 1e-9))


def smoothed(values: np.ndarray) -> np.ndarray:
    """A running mean over the values around each, fewer at the ends: float64 [N]."""
    reach = max(2, round(SPAN * len(values) / 2))
    sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    places = np.arange(len(values))
    first, last = np.maximum(places - reach, 0), np.minimum(places + reach + 1, len(values))
    return (sums[last] - sums[first]) / (last - first)
