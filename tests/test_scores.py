"""What outputs say of a data set, against SciPy and scikit-learn, and by hand."""

import numpy as np
import pytest
import scipy.special
import scipy.stats
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet.errors import RunError
from alexnet.processes import Processes
from alexnet.scores import (
    confused,
    confusion,
    entropies,
    interval,
    is_flat,
    join,
    log_softmax,
    mean_softmax,
    means,
    per_class,
    predictions_of,
    worst,
)

CLASSES = 7


def predictions(logits, labels, mask=None):
    count = len(labels)
    batch = {
        "label": np.array(labels, np.int32),
        "mask": np.ones(count, np.float32) if mask is None else np.float32(mask),
        "example": np.arange(count, dtype=np.int32),
    }
    return predictions_of(batch, log_softmax(np.asarray(logits, np.float32)))


@pytest.fixture(scope="module")
def scored():
    rng = np.random.default_rng(3)
    logits, labels = rng.normal(size=(200, CLASSES)), rng.integers(0, CLASSES, 200)
    logits[np.arange(200), labels] += 1
    return logits, labels, predictions(logits, labels)


def test_softmax_and_loss_are_scipys_and_sklearns(scored):
    logits, labels, found = scored
    expected = scipy.special.log_softmax(logits.astype(np.float32).astype(np.float64), axis=1)
    np.testing.assert_allclose(log_softmax(logits.astype(np.float32)), expected, atol=1e-12)
    numbers = means(found)
    assert numbers["loss"] == pytest.approx(sklearn.metrics.log_loss(labels, np.exp(expected)))
    for k, name in ((1, "top1"), (5, "top5")):
        assert numbers[name] == sklearn.metrics.top_k_accuracy_score(labels, expected, k=k)


def test_confusions_and_classes_are_sklearns(scored):
    _, labels, found = scored
    table = sklearn.metrics.confusion_matrix(labels, found.classes[:, 0])
    np.testing.assert_array_equal(confusion(found, CLASSES), table)
    examples, right = per_class(found, CLASSES)
    np.testing.assert_array_equal(examples, table.sum(axis=1))
    np.testing.assert_array_equal(right, table.diagonal())
    pairs = confused(found, 3)
    off = table - np.diag(table.diagonal())
    assert [n for _, _, n in pairs] == sorted(off.ravel(), reverse=True)[:3]
    assert all(off[a, b] == n for a, b, n in pairs)


@given(st.integers(1, 5000), st.data())
def test_the_interval_is_scipys(count, data):
    hits = data.draw(st.integers(0, count))
    expected = scipy.stats.binomtest(hits, count).proportion_ci(0.95, method="wilson")
    assert interval(hits, count) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_of_equal_outputs_the_lower_class_ranks_higher():
    found = predictions([[0, 0, 0, 0, 0, 0, 0]], [6])
    assert found.classes.tolist() == [[0, 1, 2, 3, 4]]
    assert means(found)["top5"] == 0  # a network that says nothing does not score


def test_masked_rows_do_not_count_and_the_worst_come_first():
    logits = [[5, 0], [9, 0], [0, 3], [2, 0]]
    found = predictions(logits, [1, 1, 1, 1], mask=[1, 0, 1, 1])
    assert found.example.tolist() == [0, 2, 3]
    assert [int(found.example[place]) for place in worst(found, 9)] == [0, 3]
    assert worst(found, 1) == [0]


def test_views_are_averaged_after_the_softmax():
    logits = np.random.default_rng(0).normal(size=(10, 3, 4)).astype(np.float32) * 5
    expected = scipy.special.softmax(logits.astype(np.float64), axis=2).mean(axis=0)
    np.testing.assert_allclose(np.exp(mean_softmax(logits)), expected, rtol=1e-12)
    before = scipy.special.softmax(logits.mean(axis=0), axis=1)  # what it must not be
    assert np.abs(expected - before).max() > 0.01


def test_outputs_that_are_not_finite_end_it():
    with pytest.raises(RunError, match="not finite"):
        log_softmax(np.array([[1, np.nan]], np.float32))


def test_flat_outputs_are_told_from_others():
    rng = np.random.default_rng(0)
    for scale, flat in ((0.1, True), (0.5, True), (3.0, False)):
        logits = scale * rng.normal(size=(20, 1000))
        assert is_flat(entropies(log_softmax(logits)), 1000) is flat, scale


class Three(Processes):
    """Three processes in one: what each would hand over, in turn."""

    count = 3

    def __init__(self, parts, most):
        self.parts, self.most, self.column = parts, most, 0

    def gather(self, numbers):
        names = ("example", "label", "classes", "probability", "loss")
        rows = []
        for part in self.parts:
            column = getattr(part, names[self.column])
            padded = np.zeros((self.most, *column.shape[1:]), column.dtype)
            padded[: len(column)] = column
            rows.append([len(column), *padded.view(np.int32).ravel().tolist()])
        self.column += 1
        assert rows[0] == list(numbers)
        assert min(map(min, rows)) >= 0, "gather takes numbers from 0 on"
        return np.array(rows, np.int64)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_processes_together_have_every_example_once_in_order(seed):
    rng = np.random.default_rng(seed)
    whole = predictions(rng.normal(size=(30, CLASSES)) * 40, rng.integers(0, CLASSES, 30))
    owner = rng.integers(0, 3, 30)
    parts = [
        type(whole)(**{name: column[owner == process] for name, column in vars(whole).items()})
        for process in range(3)
    ]
    joined = join([parts[0]], Three(parts, 30), 30)
    for name, column in vars(whole).items():
        np.testing.assert_array_equal(getattr(joined, name), column, err_msg=name)


def test_an_example_seen_twice_is_an_error(scored):
    _, _, found = scored
    with pytest.raises(RunError, match="twice"):
        join([found, found], Processes(), 400)
