"""Nearest pictures by the last hidden layer, as in the 2012 paper's Figure 4."""

import numpy as np

from alexnet.errors import UserError
from alexnet.report.page.features import Features, hidden_of
from alexnet.report.page.html import Html, joined, scrolled, tag
from alexnet.report.page.network import Network, last_hidden
from alexnet.report.page.pictures import in_rgb, jpeg, picture
from alexnet.report.page.subject import Subject
from alexnet.scores import Predictions

QUERIES, NEAREST = 5, 6
PIXELS = 112


def nearest(query: np.ndarray, others: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of `others` at the smallest Euclidean distances from each query, and those distances.

    Args:
        query: float32 [Q, D].
        others: float32 [N, D].
        count: of neighbours, at most N.

    Returns:
        int and float64 [Q, count], nearest first.
    """
    distance = np.stack([np.linalg.norm(others.astype(np.float64) - one, axis=1) for one in query])
    order = np.argsort(distance, axis=1, kind="stable")[:, :count]
    return order, np.take_along_axis(distance, order, axis=1)


def of_classes(predictions: Predictions, count: int) -> np.ndarray:
    """Examples to query, ascending, from `count` different classes if there are that many."""
    right = predictions.label == predictions.classes[:, 0]
    order = np.argsort(~right, kind="stable")  # correct ones first
    _, first = np.unique(predictions.label[order], return_index=True)
    places = order[first]
    if len(places) > count:
        places = places[np.linspace(0, len(places) - 1, count).round().astype(int)]
    rest = np.setdiff1d(np.arange(len(order)), places)[: count - len(places)]
    return np.sort(predictions.example[np.concatenate([places, rest])])


def section(
    subject: Subject, network: Network, predictions: Predictions, features: Features
) -> Html:
    """Five evaluation pictures, each followed by its six nearest in the training set.

    Raises:
        UserError: where the network has no hidden dense layer.
    """
    dataset, name = subject.dataset, last_hidden(network.weights.spec)
    if not features.hidden.shape[1] or dataset is None:
        raise UserError("the network has no hidden dense layer whose outputs could be compared")
    views, queries = network.views(dataset.eval, of_classes(predictions, QUERIES))
    order, distance = nearest(hidden_of(network, views), features.hidden, NEAREST)
    examples = features.example[order]
    found, numbers = network.views(dataset.train, examples.ravel())
    by_number = dict(zip(numbers.tolist(), found, strict=True))
    label = dict(zip(predictions.example.tolist(), predictions.label.tolist(), strict=True))

    def shown(view: np.ndarray, class_number: int, words: str, same: bool | None) -> Html:
        order = network.weights.preprocess.normalize.channel_order
        name = subject.class_name(class_number)
        mark = "" if same is None else "✓ " if same else "✗ "
        image = picture(jpeg(in_rgb(view, order), PIXELS), name, width=96, height=96)
        return tag("td", image, tag("div", mark, name, class_="name"), tag("small", words))

    rows = []
    for view, query, near, away in zip(views, queries, examples, distance, strict=True):
        own = label[int(query)]
        cells = [shown(view, own, "query", None)]
        for example, length in zip(near.tolist(), away.tolist(), strict=True):
            other = dataset.train[example][1]
            cells.append(shown(by_number[example], other, f"{length:.3g}", other == own))
        rows.append(tag("tr", cells))
    head = [tag("th", "query", scope="col")]
    head += [tag("th", f"nearest {n + 1}", scope="col") for n in range(order.shape[1])]
    caption = f"Euclidean distance in {name} after its ReLU, {features.hidden.shape[1]:,} features"
    whole = tag(
        "table",
        tag("caption", caption),
        tag("thead", tag("tr", head)),
        tag("tbody", rows),
        class_="gallery",
    )
    about = (
        f"Queries are pictures of the evaluation set; candidates are {len(features.example):,} of "
        f"the {len(dataset.train):,} training pictures, evenly apart."
    )
    return joined(tag("p", about), scrolled("Nearest neighbours", whole))
