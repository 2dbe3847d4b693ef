"""Labels that are no class's end a run in one sentence before they reach a loss."""

import itertools
import json

import numpy as np
import pytest
from data_helpers import evaluating, make_config, training

from alexnet.data.dataset import ArraySource, Dataset
from alexnet.data.pipeline import eval_batches
from alexnet.errors import UserError
from alexnet.trained import _Relabeled
from tests.conftest import NARROW, run_train

GOOD = np.arange(8, dtype=np.int64) % 4


def dataset(labels):
    source = ArraySource("made up", np.zeros((8, 8, 8), np.uint8), labels)
    return Dataset("made up", source, source, tuple("abcd"))


@pytest.mark.parametrize("bad", [4, -1, 2**31, -(2**40), 2**32 + 1, 1.5, 2.0, float("nan")])
def test_a_label_out_of_range_is_named(bad):
    labels = GOOD.astype(type(bad))
    labels[5] = bad
    data, config = dataset(labels), make_config(batch_size=8)
    messages = []
    for batches in (training(data, config), of_evaluation(data, config)):
        with pytest.raises(UserError) as caught:
            list(itertools.islice(batches, 1))
        messages.append(str(caught.value))
    named = "example 5 of made up has the label" if isinstance(bad, int) else "has the label"
    for message in messages:
        assert named in message
        assert "whole numbers from 0 to 3, one for each class" in message


def of_evaluation(data, config):
    protocol = config.preprocess.protocol
    return eval_batches(data.eval, protocol, config.loading(), num_classes=data.num_classes)


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int64, np.uint64])
def test_whole_numbers_of_any_size_are_labels(kind):
    data, config = dataset(GOOD.astype(kind)), make_config(batch_size=8)
    for batches in (training(data, config), of_evaluation(data, config)):
        (batch,) = itertools.islice(batches, 1)
        assert sorted(batch["label"]) == sorted(GOOD)
        assert batch["label"].dtype == np.int32


def test_a_negative_label_is_not_counted_from_the_end_where_labels_are_another_networks():
    source = _Relabeled(dataset(GOOD - 1).eval, (7, 8, 9, 10))
    assert source[1][1] == 7
    with pytest.raises(UserError, match="example 0 of made up has the label -1"):
        source[0]


def test_images_of_no_known_class_need_no_label():
    (batch,) = evaluating(dataset(GOOD - 9).eval, make_config(batch_size=8))
    assert batch["mask"].all()


@pytest.mark.parametrize("framework", ["jax", "torch"])
def test_a_run_ends_in_the_same_sentence(framework, tfds_dir):
    pytest.importorskip(framework)
    folder = tfds_dir / "cifar10_jpeg" / "1.0.0"
    features = json.loads((folder / "features.json").read_text())
    features["featuresDict"]["features"]["label"]["classLabel"]["numClasses"] = "3"
    (folder / "features.json").write_text(json.dumps(features))
    (folder / "label.labels.txt").write_text("a\nb\nc\n")
    result = run_train(
        *NARROW, "--framework", framework, "--dataset", "tfds:cifar10_jpeg", "--data-dir", tfds_dir,
        "--image-size", 63, "--steps", 2, "--batch-size", 16, "--workdir", tfds_dir / "run",
        "--loader-threads", 1, check=2,
    )  # fmt: skip
    assert result.stderr == (
        "error: example 24137 of tfds:cifar10_jpeg, train has the label 6, but labels must be "
        "whole numbers from 0 to 2, one for each class: correct the data set\n"
    )
