"""Sample predictions, as the authors' own tool of 2012 showed them."""

import numpy as np

from alexnet.draws import order
from alexnet.report.page.html import Html, joined, tag
from alexnet.report.page.network import Network
from alexnet.report.page.pictures import in_rgb, jpeg, picture
from alexnet.report.page.subject import Subject
from alexnet.scores import Predictions

SAMPLES = 8
_SEED = 2012  # of the choice of examples: the same page each time


def chosen(found: Predictions, count: int, only: str = "all") -> np.ndarray:
    """Positions in `found` of random examples, of `all`, the `errors` or the `right` ones."""
    shuffled = order(len(found.label), _SEED, 0)
    right = found.classes[shuffled, 0] == found.label[shuffled]
    kept = {"all": right | True, "errors": ~right, "right": right}[only]
    return shuffled[kept][:count]


def section(subject: Subject, network: Network, found: Predictions, only_errors: bool) -> Html:
    """Pictures with the five highest classes below, as cuda-convnet's shownet.py draws them."""
    assert subject.dataset is not None
    places = chosen(found, SAMPLES, "errors" if only_errors else "all")
    if not len(places):
        return tag("p", "No example was predicted wrong.")
    views, numbers = network.views(subject.dataset.eval, found.example[places])
    shown = dict(zip(numbers.tolist(), views, strict=True))
    figures = [_sample(network, subject, found, place, shown) for place in places.tolist()]
    words = "mistakes" if only_errors else "examples"
    return joined(
        tag("p", f"{len(figures)} {words} at random, with the classes held most probable. "
                 "The true class is marked with ✓ and in another color."),
        tag("div", figures, class_="predictions"),
    )  # fmt: skip


def _sample(
    network: Network,
    subject: Subject,
    found: Predictions,
    place: int,
    views: dict[int, np.ndarray],
) -> Html:
    number, label = int(found.example[place]), int(found.label[place])
    name = subject.class_name(label)
    bars = [
        _bar(subject.class_name(int(c)), float(p), int(c) == label)
        for c, p in zip(found.classes[place], found.probability[place], strict=True)
    ]
    return tag(
        "figure",
        picture(small(network, views[number], 224), f"Example {number}, {name}"),
        tag("figcaption", tag("bdi", name)),
        tag("ol", bars, class_="bars"),
    )


def _bar(name: str, probability: float, true: bool) -> Html:
    fill = tag("rect", width=f"{100 * probability:.1f}%", height="100%", class_="fill")
    mark = joined(" ✓", tag("span", " (true class)", class_="hidden")) if true else None
    return tag(
        "li",
        tag("svg", fill, aria_hidden="true"),
        tag("span", tag("bdi", name), mark, class_="name"),
        tag("span", f"{100 * probability:.1f} %", class_="number"),
        class_="true" if true else None,
    )


def small(network: Network, view: np.ndarray, longest: int) -> str:
    """A view in RGB or gray, as a JPEG of at most `longest` pixels a side."""
    return jpeg(in_rgb(view, network.weights.preprocess.normalize.channel_order), longest)
