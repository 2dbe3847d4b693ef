"""The learning-curve picture of a run."""

from pathlib import Path
from typing import Any

from alexnet.files import atomic_write


def draw_curves(records: list[dict[str, Any]], path: Path, title: str) -> None:
    """Draw loss and top-1 error by step, training and test, as a PNG.

    Args:
        records: lines of `metrics.jsonl`.
        path: of the picture.
        title: above it.
    """
    from matplotlib.figure import Figure  # without pyplot, which would look for a display

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    axes = figure.subplots(1, 2)
    for split, label, style in (
        ("train", "training batch", {"color": "tab:blue", "linewidth": 1.0, "alpha": 0.8}),
        ("eval", "test set", {"color": "tab:orange", "marker": "o", "markersize": 4}),
    ):
        rows = [record for record in records if record["split"] == split]
        steps = [row["step"] for row in rows]
        axes[0].plot(steps, [row["loss"] for row in rows], label=label, **style)
        axes[1].plot(steps, [100 * (1 - row["top1"]) for row in rows], label=label, **style)
    for axis, name in zip(axes, ("loss (log scale)", "top-1 error, %"), strict=True):
        axis.set(xlabel="step", ylabel=name)
        axis.grid(alpha=0.3)
        axis.legend()
    if any(record["loss"] > 0 for record in records):
        axes[0].set_yscale("log")
    axes[1].set_ylim(bottom=0)
    figure.suptitle(title)
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=120)
