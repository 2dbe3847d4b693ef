"""Occlusion maps (Zeiler and Fergus 2014, arXiv:1311.2901, figure 7): where a class is seen."""

import numpy as np

from alexnet.report.page.classes import heat
from alexnet.report.page.examples import chosen, small
from alexnet.report.page.html import Html, joined, tag
from alexnet.report.page.network import Network
from alexnet.report.page.pictures import in_rgb, jpeg, picture
from alexnet.report.page.subject import Subject
from alexnet.scores import Predictions, log_softmax

POSITIONS, PICTURES = 16, 4  # positions a side: 256 views of each picture
SHARE = 0.22  # of a side that is covered: the 50 of 224 pixels that Zeiler's square has
SPAN = 0.05  # of probability: a map that varies less is not stretched over all colors
_SHOWN = 224  # pixels


def section(subject: Subject, network: Network, found: Predictions) -> Html:
    """Pictures, each beside a map of the true class's probability by covered position."""
    assert subject.dataset is not None
    places = np.concatenate([chosen(found, PICTURES, kind) for kind in ("right", "errors")])
    places = np.sort(places[:PICTURES])  # the order of the views
    views, numbers = network.views(subject.dataset.eval, found.example[places])
    labels = dict(zip(found.example.tolist(), found.label.tolist(), strict=True))
    figures = [
        _figure(network, subject, view, labels[number], place)
        for place, (view, number) in enumerate(zip(views, numbers.tolist(), strict=True))
    ]
    side = covering(views.shape[1])[0]
    words = (
        f"A square of {side} pixels in the mean color is moved over the picture in {POSITIONS} by "
        f"{POSITIONS} steps. The map shows the probability of the true class while the square "
        "covers that place: dark is where the network looks. Colors span "
        f"{100 * SPAN:.0f} points of probability or more."
    )
    return joined(tag("p", words), tag("div", figures, class_="occlusion"))


def covering(size: int) -> tuple[int, np.ndarray]:
    """A square's side in pixels, and its POSITIONS centers along an input of `size` pixels."""
    return max(1, round(SHARE * size)), (np.arange(POSITIONS) + 0.5) * size / POSITIONS


def occluded(view: np.ndarray, mean: tuple[float, ...]) -> np.ndarray:
    """The view with each position covered: uint8 [POSITIONS^2, S, S, C], row by row."""
    side, middles = covering(len(view))
    covered = np.repeat(view[None], POSITIONS**2, axis=0)
    color = np.clip(np.rint(mean), 0, 255).astype(np.uint8)
    starts = np.rint(middles - side / 2).astype(int)
    for place, (top, left) in enumerate((y, x) for y in starts for x in starts):
        covered[place, max(0, top) : top + side, max(0, left) : left + side] = color
    return covered


def probabilities(network: Network, view: np.ndarray, label: int) -> tuple[float, np.ndarray]:
    """A class's probability for the whole view, and for each covered place, [rows, columns]."""
    covered = occluded(view, network.weights.preprocess.normalize.mean)
    logits = network.logits(np.concatenate([view[None], covered]))
    probability = np.exp(log_softmax(logits)[:, label])
    return float(probability[0]), probability[1:].reshape(POSITIONS, POSITIONS)


def _figure(network: Network, subject: Subject, view: np.ndarray, label: int, place: int) -> Html:
    whole, grid = probabilities(network, view, label)
    name = subject.class_name(label)
    low, high = float(grid.min()), float(grid.max())
    row, column = np.unravel_index(int(grid.argmin()), grid.shape)
    words = (
        f"Probability of {name} by covered place: {100 * low:.1f} % to {100 * high:.1f} %, lowest "
        f"in row {row + 1}, column {column + 1}; arrow keys move over it"
    )
    order = network.weights.preprocess.normalize.channel_order
    overlaid = picture(jpeg(overlay(in_rgb(view, order), grid), _SHOWN), "", class_="heat-area")
    axis = [str(n + 1) for n in range(POSITIONS)]
    values = [[round(float(v), 4) for v in line] for line in grid]
    data = {"rows": axis, "columns": axis, "values": values, "kind": "occlusion"}
    caption = tag(
        "figcaption",
        tag("bdi", name),
        tag("span", f"{100 * whole:.1f} % uncovered; map {100 * low:.1f} to {100 * high:.1f} %",
            class_="note"),
    )  # fmt: skip
    pair = [picture(small(network, view, _SHOWN), f"Photograph: {name}"),
            heat(f"occlusion-{place}", overlaid, words, data)]  # fmt: skip
    return tag("figure", tag("div", pair, class_="two"), caption)


def overlay(view: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """A heat map over a gray picture, uint8 RGB: light where the grid is highest.

    The lowest value is dark, unless the grid varies by less than SPAN.
    """
    from matplotlib import colormaps
    from PIL import Image

    side = max(_SHOWN, len(view))
    high = float(grid.max())
    span = max(high - float(grid.min()), SPAN)
    scaled = 1 - (high - grid) / span
    smooth = Image.fromarray(scaled.astype(np.float32)).resize(
        (side, side), Image.Resampling.BICUBIC
    )
    colors = colormaps["inferno"](np.clip(np.asarray(smooth), 0, 1))[:, :, :3] * 255
    gray = Image.fromarray(np.rint(view.mean(axis=2)).astype(np.uint8)).resize((side, side))
    mixed = 0.62 * colors + 0.38 * np.asarray(gray)[:, :, None]
    return np.rint(mixed).astype(np.uint8)
