"""Metadata of prepared data sets: no code of theirs is loaded, broken files are named."""

import json
import os
import random
import sys

import pytest

from alexnet.data.sources import open_dataset
from alexnet.errors import UserError

CANARY = "canary_of_a_data_set"


@pytest.fixture
def folder(tfds_dir):
    return tfds_dir / "cifar10_jpeg" / "1.0.0"


@pytest.fixture
def features(folder):
    """The data set's features, to be changed and written."""
    return json.loads((folder / "features.json").read_text())


@pytest.fixture
def canary(tmp_path, monkeypatch):
    """A module in the working directory that anyone who imports it leaves a trace of."""
    (tmp_path / f"{CANARY}.py").write_text("open('sung', 'w')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "sung"
    sys.modules.pop(CANARY, None)


def refusal(folder):
    with pytest.raises(UserError) as caught:
        open_dataset("tfds:cifar10_jpeg", data_dir=folder.parents[1])
    message = str(caught.value)
    assert len(message) < 600
    return message


NAME = f"{CANARY}.Feature"
OLD = {"type": NAME, "content": {}}


@pytest.mark.parametrize("hidden", [
    {"pythonClassName": NAME, "image": {}},
    {"python_class_name": NAME, "image": {}},
    OLD,
    {"pythonClassName": "tensorflow_datasets.core.features.features_dict.FeaturesDict",
     "jsonFeature": {"json": json.dumps({"x": OLD})}},
    {"pythonClassName": "tensorflow_datasets.core.features.sequence_feature.Sequence",
     "sequence": {"feature": {"pythonClassName": NAME, "text": {}}}},
])  # fmt: skip
@pytest.mark.parametrize("whole", [False, True])
def test_no_module_is_imported(folder, features, canary, hidden, whole):
    features["featuresDict"]["features"]["id"] = hidden
    (folder / "features.json").write_text(json.dumps(hidden if whole else features))
    message = refusal(folder)
    assert not canary.exists()
    assert CANARY not in sys.modules
    assert f"{CANARY}.Feature" in message or "old tensorflow_datasets" in message


def test_a_module_named_in_the_info_is_not_imported(folder, canary):
    info = json.loads((folder / "dataset_info.json").read_text())
    (folder / "dataset_info.json").write_text(json.dumps(info | {"moduleName": CANARY}))
    open_dataset("tfds:cifar10_jpeg", data_dir=folder.parents[1])
    assert not canary.exists()


def test_features_with_the_names_of_keys(folder, features):
    fields = features["featuresDict"]["features"]
    fields["type"] = fields["json"] = fields.pop("id")
    (folder / "features.json").write_text(json.dumps(features))
    open_dataset("tfds:cifar10_jpeg", data_dir=folder.parents[1])


@pytest.mark.parametrize("text", [
    "", "[]", "{", "5", '{"pythonClassName": 5}', '{"featuresDict": 5}', "[" * 100_000, "\0{}",
    json.dumps({"pythonClassName": "x" * 5000}), '{"a": NaN}', "{}",
])  # fmt: skip
@pytest.mark.parametrize("name", ["features.json", "dataset_info.json"])
def test_malformed_files(folder, text, name):
    (folder / name).write_text(text)
    assert "1.0.0" in refusal(folder)


SHARD = "cifar10_jpeg-train.array_record-00000-of-00001"


@pytest.mark.parametrize("name", ["features.json", "label.labels.txt", SHARD])
def test_files_that_are_none(folder, name):
    (folder / name).unlink()
    os.mkfifo(folder / name)
    assert f"{name}: it is not a regular file" in refusal(folder)


def test_a_file_larger_than_metadata_is(folder, monkeypatch):
    monkeypatch.setattr("alexnet.data.prepared.MAX_BYTES", 100)
    assert "more than the 100 bytes" in refusal(folder)


@pytest.mark.parametrize("name", ["features.json", "dataset_info.json", "label.labels.txt"])
def test_damaged_metadata_is_a_sentence(folder, name):
    """Flipped bits, lost parts and other values: a data set, or a user's mistake."""
    draw, whole = random.Random(0), (folder / name).read_bytes()
    refused = 0
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(draw.choice([1, 1, 4])):
            place = draw.randrange(len(data))
            if draw.random() < 0.3:
                del data[place : place + draw.randrange(20)]
            else:
                data[place] ^= 1 << draw.randrange(8)
        (folder / name).write_bytes(bytes(data))
        try:
            open_dataset("tfds:cifar10_jpeg", data_dir=folder.parents[1])
        except UserError:
            refused += 1
    assert refused > 5 or name == "label.labels.txt"
