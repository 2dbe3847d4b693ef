"""Predictions for a data set, and their statistics: accuracies, confusions, intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from alexnet.engine import Batch
from alexnet.errors import RunError
from alexnet.processes import Processes

LISTED = 5  # classes kept of each example's outputs, for top-5


@dataclass(frozen=True, eq=False)
class Predictions:
    """The K = min(5, classes) highest outputs for each example of a data set."""

    example: np.ndarray  # int32 [N], ascending: numbers in the source
    label: np.ndarray  # int32 [N]
    classes: np.ndarray  # int32 [N, K], highest first; of equal ones the lower number first
    probability: np.ndarray  # float32 [N, K]
    loss: np.ndarray  # float32 [N]: minus the logarithm of the label's probability

    def __len__(self) -> int:
        return len(self.example)

    @property
    def hits(self) -> np.ndarray:
        """Boolean array [N, K]: True where the class is the label."""
        return self.classes == self.label[:, None]


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log probabilities in float64, over the last axis.

    Raises:
        RunError: if a logit is not a finite number.
    """
    if not np.isfinite(logits).all():
        raise RunError(
            "the network's outputs are not finite: its weights, or its input, are broken"
        )
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def mean_softmax(views: np.ndarray) -> np.ndarray:
    """The log of the mean softmax over views: (views, B, classes) to (B, classes) float64.

    Averaging after the softmax follows the paper (section 4.1).
    """
    probability = np.exp(log_softmax(views)).mean(axis=0)
    return np.log(np.maximum(probability, np.finfo(np.float64).tiny))


def predictions_of(batch: Batch, log_probability: np.ndarray) -> Predictions:
    """The predictions for a batch's unmasked examples from its outputs (B, classes)."""
    rows = batch["mask"] > 0
    outputs, label = log_probability[rows], batch["label"][rows]
    best = np.argsort(-outputs, axis=1, kind="stable")[:, :LISTED]
    return Predictions(
        example=batch["example"][rows],
        label=label,
        classes=best.astype(np.int32),
        probability=np.exp(np.take_along_axis(outputs, best, axis=1)).astype(np.float32),
        # Not -x, which would give -0.0 at probability 1: `_gathered` needs bits below 2^31.
        loss=(0 - np.take_along_axis(outputs, label[:, None], axis=1)[:, 0]).astype(np.float32),
    )


def join(parts: Sequence[Predictions], processes: Processes, most: int) -> Predictions:
    """All batches' predictions, from all processes, sorted by example; each has `most` at most.

    Raises:
        RunError: if an example was counted twice.
    """
    columns = {
        f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(parts[0])
    }
    if processes.count > 1:
        columns = {name: _gathered(column, processes, most) for name, column in columns.items()}
    order = np.argsort(columns["example"], kind="stable")
    joined = Predictions(**{name: column[order] for name, column in columns.items()})
    if (np.diff(joined.example) == 0).any():
        raise RunError("an example was evaluated twice")
    return joined


def _gathered(column: np.ndarray, processes: Processes, most: int) -> np.ndarray:
    """A column gathered from all processes, which may have different numbers of rows.

    Its bits are sent as integers: those of non-negative numbers are below 2^31.
    """
    padded = np.zeros((most, *column.shape[1:]), column.dtype)
    padded[: len(column)] = column
    count, numbers = len(column), padded.view(np.int32).ravel().tolist()
    everyones = processes.gather([count, *numbers]).astype(np.int32)
    shape = (most, *column.shape[1:])
    return np.concatenate(
        [row[1:].view(column.dtype).reshape(shape)[: row[0]] for row in everyones]
    )


def means(predictions: Predictions) -> dict[str, float]:
    """Mean `loss`, `top1` and `top5`, and `count`."""
    hits = predictions.hits
    return {
        "loss": float(predictions.loss.mean(dtype=np.float64)),
        "top1": float(hits[:, 0].mean()),
        "top5": float(hits.any(axis=1).mean()),
        "count": len(predictions),
    }


def interval(hits: int, count: int) -> tuple[float, float]:
    """The 95 % confidence interval of a proportion of `hits` in `count` (Wilson 1927)."""
    z = 1.959963984540054  # 95 % of the standard normal distribution is within this
    share, extra = hits / count, z * z / count
    middle = (share + extra / 2) / (1 + extra)
    half = z / (1 + extra) * math.sqrt(share * (1 - share) / count + extra / (4 * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def per_class(predictions: Predictions, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """For each class, its examples and the correctly classified ones: int64 [classes] each."""
    right = predictions.label[predictions.hits[:, 0]]
    examples = np.bincount(predictions.label, minlength=num_classes)
    return examples, np.bincount(right, minlength=num_classes)


def confusion(predictions: Predictions, num_classes: int) -> np.ndarray:
    """Counts of examples by true class (row) and predicted one: int64 [classes, classes]."""
    pairs = predictions.label.astype(np.int64) * num_classes + predictions.classes[:, 0]
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def confused(predictions: Predictions, most: int) -> list[tuple[int, int, int]]:
    """The most frequent confusions: true class, predicted class, count."""
    wrong = ~predictions.hits[:, 0]
    pairs = np.stack([predictions.label[wrong], predictions.classes[wrong, 0]], axis=1)
    found, counts = np.unique(pairs, axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:most]
    return [(int(a), int(b), int(n)) for (a, b), n in zip(found[order], counts[order], strict=True)]


def worst(predictions: Predictions, most: int) -> list[int]:
    """The most confident mistakes: indices into `predictions`, the most confident first."""
    wrong = np.flatnonzero(~predictions.hits[:, 0])
    order = np.argsort(-predictions.probability[wrong, 0], kind="stable")[:most]
    return wrong[order].tolist()


def entropies(log_probability: np.ndarray) -> np.ndarray:
    """The entropy of each row's probabilities (N, classes), in nats: float64 [N]."""
    return -(np.exp(log_probability) * log_probability).sum(axis=1)


def is_flat(entropy: np.ndarray, num_classes: int) -> bool:
    """Return True if outputs with these entropies are nearly the same for all classes.

    That suggests an untrained network, or one with wrong preprocessing: the mean entropy is above
    95 % of the maximum, as when logits differ by less than one.
    """
    return num_classes > 1 and float(entropy.mean()) > 0.95 * math.log(num_classes)
