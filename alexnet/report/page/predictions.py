"""A network's predictions for a data set, and what follows from them."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from alexnet.data.dataset import Source
from alexnet.errors import RunError
from alexnet.report.page.network import Network

LISTED = 5  # classes kept of each example


@dataclass(frozen=True, eq=False)
class Predictions:
    """The highest outputs for each example, K = min(5, classes) of them."""

    example: np.ndarray  # int32 [N], ascending: numbers in the source
    label: np.ndarray  # int32 [N]
    classes: np.ndarray  # int32 [N, K], highest first
    probability: np.ndarray  # float32 [N, K]
    loss: np.ndarray  # float32 [N]


def collect(
    network: Network,
    source: Source,
    indices: np.ndarray,
    on_progress: Callable[[int], None] = lambda done: None,
) -> Predictions:
    """Predictions for the examples numbered; those that can't be read are left out.

    Raises:
        RunError: where none can be read, or the outputs aren't finite.
    """
    parts = []
    for batch in network.batches(source, indices):
        rows, label = batch["mask"] > 0, batch["label"]
        outputs = log_softmax(network.engine.logits(batch))
        best = np.argsort(-outputs, axis=1, kind="stable")[:, :LISTED]
        found = Predictions(
            example=batch["example"][rows],
            label=label[rows],
            classes=best[rows].astype(np.int32),
            probability=np.exp(np.take_along_axis(outputs, best, 1))[rows].astype(np.float32),
            loss=-np.take_along_axis(outputs, label[:, None], 1)[rows, 0].astype(np.float32),
        )
        parts.append(found)
        on_progress(sum(len(part.example) for part in parts))
    whole = {name: np.concatenate([vars(p)[name] for p in parts]) for name in vars(parts[0])}
    if not len(whole["example"]):
        raise RunError("none of the data set's examples can be read")
    return Predictions(**whole)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Logarithms of probabilities in float64, over the last axis.

    Raises:
        RunError: where a logit is not a finite number.
    """
    if not np.isfinite(logits).all():
        raise RunError("the network's outputs are not finite: its weights are broken")
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def confusion(predictions: Predictions, num_classes: int) -> np.ndarray:
    """Counts by true class (row) and predicted one (column): int64 [classes, classes]."""
    pairs = predictions.label.astype(np.int64) * num_classes + predictions.classes[:, 0]
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def per_class(predictions: Predictions, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Examples and correct predictions of each class: int64 [classes] each."""
    right = predictions.label[predictions.label == predictions.classes[:, 0]]
    examples = np.bincount(predictions.label, minlength=num_classes)
    return examples, np.bincount(right, minlength=num_classes)


def confused(predictions: Predictions, most: int) -> list[tuple[int, int, int]]:
    """The pairs confused most often: true class, predicted one, how often."""
    wrong = predictions.label != predictions.classes[:, 0]
    pairs = np.stack([predictions.label[wrong], predictions.classes[wrong, 0]], axis=1)
    found, counts = np.unique(pairs, axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:most]
    return [(int(a), int(b), int(n)) for (a, b), n in zip(found[order], counts[order], strict=True)]


def interval(hits: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a share measured as `hits` of `count` (Wilson 1927)."""
    z = 1.959963984540054  # of the standard normal distribution: 95 % lie within
    share, extra = hits / count, z * z / count
    middle = (share + extra / 2) / (1 + extra)
    half = z / (1 + extra) * math.sqrt(share * (1 - share) / count + extra / (4 * count))
    return max(0.0, middle - half), min(1.0, middle + half)
