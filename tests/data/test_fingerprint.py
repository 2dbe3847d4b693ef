"""Fingerprints: equal for equal data, wherever it lies, and for nothing else."""

import json
import os

import numpy as np
import pytest
from data_helpers import SHARED

from alexnet.data.dataset import ArraySource, Dataset, fingerprint
from alexnet.data.sources import open_dataset

FILES = ("cats/1.png", "cats/2.png", "dogs/1.png", "dogs/deep/2.png")


def of_folder(root):
    return fingerprint(open_dataset(f"folder:{root}"))


@pytest.fixture
def photos(image_folder):
    return image_folder(*(f"{part}/{file}" for part in ("train", "val") for file in FILES))


def test_a_moved_folder_is_the_same_data(photos, tmp_path):
    before = of_folder(photos)
    moved = photos.rename(tmp_path / "elsewhere")
    assert of_folder(moved) == before == json.loads(json.dumps(before))
    assert before["class_names"] == ["cats", "dogs"]
    assert before["train"]["examples"] == 4


def test_a_folder_is_the_same_data_from_within(image_folder, monkeypatch):
    root = image_folder(*(f"{name}/{i}.png" for name in "ab" for i in range(3)))
    before = of_folder(root)
    monkeypatch.chdir(root)
    assert of_folder(".") == of_folder("../photos") == before


def test_every_change_of_a_folder_is_seen(photos):
    found = [of_folder(photos)]
    for old, new in (("val/cats/1.png", "val/cats/0.png"), ("val/cats/2.png", "val/dogs/3.png")):
        os.rename(photos / old, photos / new)
        found.append(of_folder(photos))
    (photos / "val" / "dogs" / "3.png").unlink()
    found.append(of_folder(photos))
    assert len({one["train"]["digest"] for one in found}) == 1
    assert len({one["eval"]["digest"] for one in found}) == 4
    for part in ("train", "val"):
        (photos / part / "cats").rename(photos / part / "cows")
    assert of_folder(photos)["train"] != found[0]["train"]


def test_a_seed_that_splits_a_folder_is_seen(image_folder):
    root = image_folder(*(f"{name}/{i}.png" for name in "ab" for i in range(10)))
    one, other = (fingerprint(open_dataset(f"folder:{root}", seed=seed)) for seed in (0, 1))
    assert one["train"] != other["train"]


def test_names_that_are_not_utf8(photos):
    os.rename(photos / "val/cats/1.png", os.fsencode(photos / "val/cats") + b"/\xff.png")
    of_folder(photos)


def test_arrays():
    images, labels = np.zeros((4, 2, 2), np.uint8), np.arange(4)

    def digest(images, labels):
        source = ArraySource("arrays", images, labels)
        return fingerprint(Dataset("arrays", source, source, tuple("abcd")))["train"]["digest"]

    digests = [digest(images, labels), digest(images, labels[::-1]), digest(images + 1, labels)]
    assert len(set(digests)) == 3
    assert digest(images.copy(), labels.astype(np.int32)) == digests[0]


def test_digests_are_the_same_in_every_version():
    """A run that began under an earlier version must still be known by its data."""
    digits, synthetic = (fingerprint(open_dataset(name)) for name in ("digits", "synthetic"))
    assert digits["train"]["digest"].startswith("d5c82736ceca529d")
    assert synthetic["eval"]["digest"].startswith("054535ea21127bea")


def test_a_prepared_data_set():
    pytest.importorskip("tensorflow_datasets")
    if not (SHARED / "data" / "tfds").is_dir():
        pytest.skip("needs shared/data/tfds")
    found = fingerprint(open_dataset("tfds:cifar10_jpeg", data_dir=SHARED / "data" / "tfds"))
    assert (found["train"]["examples"], found["eval"]["examples"]) == (50_000, 10_000)
    assert found["train"]["digest"] != found["eval"]["digest"]
