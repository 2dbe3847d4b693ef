"""The learning-curve picture: drawn whatever a run leaves, and legible."""

import math

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from alexnet.report.curves import draw_curves

TITLE = "AlexNet 'paper' on digits, jax"


def records(steps, high=2.0, low=0.1):
    loss = np.geomspace(high, low, steps)
    lines = [
        {"step": n + 1, "split": "train", "loss": float(loss[n]), "top1": 0.5} for n in range(steps)
    ]
    return [*lines, {"step": steps, "split": "eval", "loss": low, "top1": 0.5, "count": 3}]


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """A function that draws, and gives the axes of what was drawn."""
    figures = []
    save = Figure.savefig

    def watched(figure, *args, **kwargs):
        figures.append(figure)
        save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", watched)

    def draw(lines, title=TITLE, **options):
        draw_curves(lines, tmp_path / "curve.png", title, **options)
        with Image.open(tmp_path / "curve.png") as image:
            assert image.size == (1080, 456)
        return figures[-1].axes

    return draw


def labels(axis):
    return [text.get_text() for text in axis.get_legend().get_texts()]


def ticks(axis):
    low, high = axis.get_ylim()
    every = zip(axis.get_yticks(), axis.get_yticklabels(), strict=True)
    return [label.get_text() for at, label in every if low <= at <= high and label.get_text()]


def test_noise_is_smoothed_and_stays_visible(drawn):
    loss, error = drawn(records(400))
    for axis in (loss, error):
        faint, mean, tested = axis.lines
        assert faint.get_alpha() < 0.5
        assert len(faint.get_xdata()) == len(mean.get_xdata()) == 400
        assert tested.get_marker() == "o"
        assert labels(axis) == ["training, running mean", "test set"]


def test_few_steps_are_marked(drawn):
    training, tested = drawn(records(3))[0].lines
    assert training.get_marker() == tested.get_marker().replace("o", ".")
    assert training.get_ydata()[0] == 2.0


@pytest.mark.parametrize(("high", "low"), [(2.3, 2.1), (2.3, 0.4), (2.3, 0.1), (7, 1e-4)])
def test_ticks_are_plain_digits_and_more_than_one(drawn, high, low):
    found = ticks(drawn(records(50, high, low))[0])
    assert len(found) >= 3
    assert all(text.replace(".", "").replace("1e-", "").isdigit() for text in found)


def test_label_smoothing_is_explained_where_it_counts(drawn):
    loss, error = drawn(records(50), label_smoothing=0.1)
    assert "label smoothing 0.1" in labels(loss)[0]
    assert "smoothing" not in labels(error)[0]


@pytest.mark.parametrize("name", [
    "/tmp/we$ird_$x^^{", r"$\frac{1}{$", "\x1b[31m\n\u202e\udcff\0", "漢字 🦊", "x" * 5000,
])  # fmt: skip
def test_any_name_is_drawn_as_it_is(drawn, name):
    axes = drawn(records(3), f"folder:{name}")
    title = axes[0].figure.get_suptitle()
    assert title.isprintable()
    assert len(title) <= 100
    if "{" in name:
        assert name in title


@pytest.mark.parametrize("lines", [
    [], [{"split": "train", "step": 1}], [{"split": "eval", "step": 1, "loss": 0.0, "top1": 1.0}],
    [{"split": "train", "step": 10**400, "loss": 1, "top1": 0}],
    [{"split": "train", "step": 1, "loss": math.nan, "top1": 0},
     {"split": "train", "step": 2, "loss": math.inf, "top1": None}],
    [{"split": "train", "step": 1, "loss": "1.x", "top1": []}],
    [{"split": "train", "step": 5, "loss": 1e300, "top1": 0.0}] * 50,
])  # fmt: skip
def test_whatever_is_in_the_log_a_picture_is_drawn(drawn, lines):
    assert len(drawn(lines)) == 2


def test_a_users_matplotlib_settings_change_nothing(drawn):
    with mpl.rc_context({"text.usetex": True, "figure.dpi": 10}):
        drawn(records(3))
