"""Files that evaluate and predict write: checked before the work, and written row by row."""

import dataclasses
import os
import tracemalloc

import numpy as np
import pytest

import alexnet
from alexnet import cli
from alexnet.commands.evaluate import _save
from alexnet.data.dataset import ArraySource, Dataset
from alexnet.features import feature_file
from alexnet.trained import data_of
from alexnet.weights import load, save
from tests.weights.helpers import narrow


@pytest.mark.parametrize("place", ["missing/f", "folder", "device"])
def test_where_nothing_can_be_written_is_said_before_the_work(place, tmp_path, capsys):
    """That is, before it is found that there are no such weights."""
    (tmp_path / "folder.npz").mkdir()
    os.mkfifo(tmp_path / "device.npz")
    target = f"{tmp_path / place}.npz"
    for command in (
        ["predict", "w.safetensors", "a.jpg", "--features", "fc7", target],
        ["evaluate", "w.safetensors", "--dataset", "synthetic", "--save", target],
    ):
        assert cli.main(command) == 2
        assert f"can't write {target}" in capsys.readouterr().err


def test_features_of_many_images_are_not_kept_in_memory(tmp_path):
    rows = np.arange(1 << 20, dtype="f4").reshape(1, -1)
    tracemalloc.start()
    try:
        with feature_file(str(tmp_path / "f.npz"), "fc7") as take:
            for number in range(20):
                take(rows + np.float32(number), [f"{number}.jpg"])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 40e6  # of 84 MB
    with np.load(tmp_path / "f.npz") as found:
        assert found["features"].shape == (20, 1 << 20)
        assert (found["features"][7] == rows[0] + 7).all()
        assert found["names"].tolist() == [f"{number}.jpg" for number in range(20)]
        assert str(found["layer"]) == "fc7"
    assert os.listdir(tmp_path) == ["f.npz"]


def test_a_file_of_features_of_nothing_is_not_written(tmp_path):
    with feature_file(str(tmp_path / "f.npz"), "fc7"):
        pass
    assert not list(tmp_path.iterdir())


def test_class_names_that_utf_8_cannot_hold_are_escaped_in_a_table(tmp_path):
    names = ("caf\udce9", *(f"class {n}" for n in range(1, 7)))  # a folder's Latin-1 name
    images = ArraySource("d", np.zeros((7, 9, 9, 3), np.uint8), np.arange(7))
    weights = dataclasses.replace(narrow("torchvision", image_size=67), class_names=names)
    found = alexnet.evaluate(weights, Dataset("d", images, images, names), framework="torch")
    _save(str(tmp_path / "table.csv"), found)
    assert r"caf\udce9" in (tmp_path / "table.csv").read_text()


def test_names_of_data_are_compared_as_weights_hold_them(tmp_path):
    names = ("a", "caf\udce9", "c", "d", "e", "f", "g")  # one is a folder's Latin-1 name
    images = ArraySource("d", np.zeros((7, 9, 9, 3), np.uint8), np.arange(7))
    save(tmp_path / "w.safetensors", dataclasses.replace(narrow("torchvision"), class_names=names))
    data, notes = data_of(
        load(tmp_path / "w.safetensors"), None, Dataset("d", images, images, names)
    )
    assert not notes
    assert data.eval[1][1] == 1
    other = ("a", "tea", *names[2:])
    _, (note,) = data_of(
        load(tmp_path / "w.safetensors"), None, Dataset("d", images, images, other)
    )
    assert r"(tea for caf\udce9, ...): they are compared by number" in note
