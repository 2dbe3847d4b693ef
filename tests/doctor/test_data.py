"""Data sets that are whole, and some that are not."""

import io
import json
import os
import resource

import numpy as np
import pytest
from PIL import Image

from alexnet.doctor import data
from alexnet.doctor.finding import OK, WARNING, WRONG
from alexnet.errors import UserError
from tests.doctor.helpers import config, statuses


def photo_folder(root, broken=()):
    """train/ and val/ with two classes of three pictures; some of them cut off."""
    picture = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    for split in ("train", "val"):
        for name in ("cat/0", "cat/1", "cat/2", "dog/0", "dog/1", "dog/2"):
            file = root / split / f"{name}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(file)
            if f"{split}/{name}" in broken:
                file.write_bytes(file.read_bytes()[:300])
    return root


def look_at(*options):
    this = config(*options, "--image-size", "64", "--batch-size", "4")
    return data.check(this.open_dataset(), this)


@pytest.mark.parametrize("name", ["digits", "synthetic"])
def test_data_that_comes_along(name):
    findings = look_at("--dataset", name)
    assert statuses(findings) == {"data": OK, "examples": OK}
    assert "64 decoded" in findings[-1].found


def test_an_image_folder(tmp_path):
    findings = look_at("--dataset", f"folder:{photo_folder(tmp_path)}")
    assert statuses(findings) == {"data": OK, "examples": OK}
    assert "6 training and 6 test examples, 2 classes, 1 step an epoch" in findings[0].found


@pytest.mark.parametrize(("policy", "status"), [("raise", WRONG), ("skip", WARNING)])
def test_images_that_cannot_be_read(tmp_path, policy, status):
    root = photo_folder(tmp_path, broken=("train/cat/1", "val/dog/2"))
    findings = look_at("--dataset", f"folder:{root}", "--on-bad-image", policy)
    assert statuses(findings) == {"data": OK, "examples": status}
    for part in ("2 of 12", "train/cat/1.png", "val/dog/2.png"):
        assert part in findings[1].found


def test_a_run_among_its_own_images(tmp_path, monkeypatch):
    photo_folder(tmp_path)
    monkeypatch.chdir(tmp_path / "train")
    with pytest.raises(UserError, match=r"^runs is inside the image folder \.,"):
        look_at("--dataset", "folder:.")
    assert look_at("--dataset", "folder:.", "--workdir", tmp_path / "run")


def test_a_batch_larger_than_the_training_set(tmp_path):
    this = config("--dataset", f"folder:{photo_folder(tmp_path)}", "--batch-size", "7")
    with pytest.raises(UserError, match="--batch-size is 7"):
        data.check(this.open_dataset(), this)


@pytest.fixture
def tfds(tmp_path):
    """A prepared data set of three shards to train on and one to test, five pictures in each."""
    pytest.importorskip("tensorflow_datasets")
    tf = pytest.importorskip("array_record.python.array_record_module")
    from tensorflow_datasets.proto import tf_example_pb2

    folder = tmp_path / "tfds" / "tiny" / "1.0.0"
    folder.mkdir(parents=True)
    rng, file = np.random.default_rng(0), io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (48, 48, 3), np.uint8)).save(file, "JPEG", quality=100)
    example = tf_example_pb2.Example()
    example.features.feature["image"].bytes_list.value.append(file.getvalue())
    example.features.feature["label"].int64_list.value.append(1)
    lengths = {"train": 3, "test": 1}
    for split, shards in lengths.items():
        for shard in range(shards):
            name = f"tiny-{split}.array_record-{shard:05d}-of-{shards:05d}"
            writer = tf.ArrayRecordWriter(str(folder / name), "group_size:1")
            for _ in range(5):
                writer.write(example.SerializeToString())
            writer.close()
    _write_info(folder, {split: ["5"] * shards for split, shards in lengths.items()})
    return folder


def _write_info(folder, lengths):
    """The metadata that `download_and_prepare` leaves beside the shards."""
    import tensorflow_datasets as tfds

    features = tfds.features.FeaturesDict(
        {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(names=["no", "yes"])}
    )
    features.save_config(str(folder))
    template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    splits = [
        {"name": split, "shardLengths": shards, "numBytes": "1", "filepathTemplate": template}
        for split, shards in lengths.items()
    ]
    info = {"name": "tiny", "version": "1.0.0", "fileFormat": "array_record", "splits": splits}
    (folder / "dataset_info.json").write_text(json.dumps(info))


def look_at_tfds(folder):
    return look_at("--dataset", "tfds:tiny", "--data-dir", folder.parents[1])


def shard(folder, number):
    return folder / f"tiny-train.array_record-{number:05d}-of-00003"


def test_a_prepared_data_set(tfds):
    findings = look_at_tfds(tfds)
    assert statuses(findings) == {"data": OK, "shards": OK, "examples": OK}
    assert "all 4 are whole" in findings[1].found
    assert "20 decoded" in findings[2].found


def test_a_shard_that_was_cut_off(tfds):
    whole = shard(tfds, 1).read_bytes()
    shard(tfds, 1).write_bytes(whole[: len(whole) * 2 // 3])
    findings = look_at_tfds(tfds)
    assert statuses(findings) == {"data": OK, "shards": WRONG}
    assert "1 of 4" in findings[1].found
    assert shard(tfds, 1).name in findings[1].found


def test_shards_that_are_missing_or_too_short(tfds):
    shard(tfds, 0).unlink()
    _write_info(tfds, {"train": ["5", "5", "6"], "test": ["5"]})
    findings = look_at_tfds(tfds)
    assert statuses(findings) == {"data": OK, "shards": WRONG}
    for part in ("2 of 4", f"{shard(tfds, 0)} is missing", shard(tfds, 2).name):
        assert part in findings[1].found


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts in /proc")
def test_reading_keeps_every_shard_open(tfds):
    source = config("--dataset", "tfds:tiny", "--data-dir", tfds.parents[1]).open_dataset().train
    before = open_files()
    for index in range(len(source)):
        source[index]
    print(f"{open_files() - before} more open files after reading 3 shards")
    assert open_files() - before == 3


def test_more_shards_than_files_may_be_open(tfds, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (100, 200))
    findings = look_at_tfds(tfds)
    assert statuses(findings) == {"data": OK, "shards": WRONG}
    assert findings[1].fix == "as root: ulimit -H -n 260; ulimit -n 260"
