"""Predictions for a data set from a network's outputs: accuracies, confusions, intervals."""

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
    """The highest outputs for each example of a data set, K = min(5, classes) of them."""

    example: np.ndarray  # int32 [N], ascending: numbers in the source
    label: np.ndarray  # int32 [N]
    classes: np.ndarray  # int32 [N, K], highest first; of equal ones the lower number first
    probability: np.ndarray  # float32 [N, K]
    loss: np.ndarray  # float32 [N]: minus the logarithm of the label's probability

    def __len__(self) -> int:
        return len(self.example)

    @property
    def hits(self) -> np.ndarray:
        """Tell, bool [N, K], where the class is the label's."""
        return self.classes == self.label[:, None]


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Logarithms of probabilities in float64, over the last axis.

    Raises:
        RunError: where a logit is not a finite number.
    """
    if not np.isfinite(logits).all():
        raise RunError(
            "the network's outputs are not finite: its weights, or its input, are broken"
        )
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def mean_softmax(views: np.ndarray) -> np.ndarray:
    """Logarithms of the softmax's mean over views: (views, B, classes) to (B, classes) float64.

    Averaging after the softmax is the paper's (section 4.1).
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
        # Not -x, which makes -0.0 of a certain label: `_gathered` takes bits below 2^31.
        loss=(0 - np.take_along_axis(outputs, label[:, None], axis=1)[:, 0]).astype(np.float32),
    )


def join(parts: Sequence[Predictions], processes: Processes, most: int) -> Predictions:
    """All batches' predictions, of all processes, by example; no process has more than `most`.

    Raises:
        RunError: where an example was counted twice.
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
    """A column of all processes, which may have different numbers of rows.

    Its bits travel as integers: those of numbers that are not negative are below 2^31.
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
    """Means of `loss`, `top1` and `top5`, and `count`."""
    hits = predictions.hits
    return {
        "loss": float(predictions.loss.mean(dtype=np.float64)),
        "top1": float(hits[:, 0].mean()),
        "top5": float(hits.any(axis=1).mean()),
        "count": len(predictions),
    }


def interval(hits: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a share that was measured as `hits` of `count` (Wilson 1927)."""
    z = 1.959963984540054  # of the standard normal distribution: 95 % lie within
    share, extra = hits / count, z * z / count
    middle = (share + extra / 2) / (1 + extra)
    half = z / (1 + extra) * math.sqrt(share * (1 - share) / count + extra / (4 * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def per_class(predictions: Predictions, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each class its examples, and those that were told right: int64 [classes] each."""
    right = predictions.label[predictions.hits[:, 0]]
    examples = np.bincount(predictions.label, minlength=num_classes)
    return examples, np.bincount(right, minlength=num_classes)


def confusion(predictions: Predictions, num_classes: int) -> np.ndarray:
    """Counts of examples by true class (row) and predicted one: int64 [classes, classes]."""
    pairs = predictions.label.astype(np.int64) * num_classes + predictions.classes[:, 0]
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def confused(predictions: Predictions, most: int) -> list[tuple[int, int, int]]:
    """The pairs taken for each other most often: true class, predicted one, how often."""
    wrong = ~predictions.hits[:, 0]
    pairs = np.stack([predictions.label[wrong], predictions.classes[wrong, 0]], axis=1)
    found, counts = np.unique(pairs, axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:most]
    return [(int(a), int(b), int(n)) for (a, b), n in zip(found[order], counts[order], strict=True)]


def worst(predictions: Predictions, most: int) -> list[int]:
    """The most confident mistakes: places in `predictions`, the most confident first."""
    wrong = np.flatnonzero(~predictions.hits[:, 0])
    order = np.argsort(-predictions.probability[wrong, 0], kind="stable")[:most]
    return wrong[order].tolist()


def entropies(log_probability: np.ndarray) -> np.ndarray:
    """The entropy of each row's probabilities (N, classes), in nats: float64 [N]."""
    return -(np.exp(log_probability) * log_probability).sum(axis=1)


def is_flat(entropy: np.ndarray, num_classes: int) -> bool:
    """Tell whether outputs of these entropies are nearly the same for all classes.

    That is an untrained network, or one whose input was prepared wrongly: the mean entropy is
    above 95 % of the highest possible, as where logits differ by less than one.
    """
    return num_classes > 1 and float(entropy.mean()) > 0.95 * math.log(num_classes)
