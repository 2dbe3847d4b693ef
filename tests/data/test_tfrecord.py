"""TFRecord without TensorFlow: whole, in random order, and refused where it is damaged."""

import itertools
import json
import os
import shutil
import struct
import time

import google_crc32c
import numpy as np
import pytest
from data_helpers import make_photo
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tensorboardX.record_writer import RecordWriter

from alexnet.data import tfrecord
from alexnet.data.dataset import fingerprint
from alexnet.data.images import decode
from alexnet.data.sources import open_dataset
from alexnet.data.tfrecord import RecordFiles, record_starts
from alexnet.errors import RunError, UserError


@pytest.fixture(autouse=True)
def index_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "alexnet" / "tfrecord"


def masked(data):
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def write(path, records):
    with path.open("wb") as file:
        for record in records:
            length = struct.pack("<Q", len(record))
            file.write(length + masked(length) + record + masked(record))
    return path


def all_of(files):
    return [files[i] for i in range(len(files))]


@settings(max_examples=20, deadline=None)
@given(shards=st.lists(st.lists(st.binary(max_size=40), min_size=1, max_size=5), min_size=1,
                       max_size=3), data=st.data())  # fmt: skip
def test_records_of_parts_of_files(tmp_path_factory, shards, data):
    folder = tmp_path_factory.mktemp("shards")
    parts, expected = [], []
    for number, records in enumerate(shards):
        skip = data.draw(st.integers(0, len(records)))
        take = data.draw(st.integers(0, len(records) - skip))
        parts.append((write(folder / str(number), records), skip, take))
        expected += records[skip : skip + take]
    for _ in range(2):  # the second time from the index that was kept
        files = RecordFiles(parts)
        assert all_of(files) == expected
    for index in (-1, len(expected)):
        with pytest.raises(IndexError):
            files[index]


def test_files_that_another_program_wrote(tmp_path):
    writer = RecordWriter(str(tmp_path / "events"))
    records = [b"one", b"", os.urandom(5000)]
    for record in records:
        writer.write(record)
    writer.close()
    assert all_of(RecordFiles([(tmp_path / "events", 0, 3)])) == records


def test_the_index_is_found_once(tmp_path, index_folder, monkeypatch):
    path = write(tmp_path / "a", [b"one", b"two"])
    starts = record_starts(path)
    assert starts.tolist() == [0, 19, 38]
    (kept,) = index_folder.iterdir()
    monkeypatch.setattr(tfrecord, "_scan", None)
    np.testing.assert_array_equal(record_starts(path), starts)
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(index_folder.parents[1]))
    for damage in (b"", b"rubbish", kept.read_bytes()[:-8]):
        kept.write_bytes(damage)
        np.testing.assert_array_equal(record_starts(path), starts)
    np.save(kept, np.array([0, 7, 38]))  # records that are too short to be any
    np.testing.assert_array_equal(record_starts(path), starts)
    write(path, [b"three", b"two"])  # another size and time: another index
    assert record_starts(path).tolist() == [0, 21, 40]


def test_a_slow_disk_is_spoken_of(tmp_path, monkeypatch, capsys):
    path, said = write(tmp_path / "a", [b"one"]), []
    RecordFiles([(path, 0, 1)])
    assert capsys.readouterr().err == ""

    def slow(_):
        end = time.monotonic() + 20
        while not said and time.monotonic() < end:
            time.sleep(0.01)
            said.extend(capsys.readouterr().err.splitlines())
        return np.array([0, 19])

    monkeypatch.setattr(tfrecord, "_SLOW", 0.01)
    monkeypatch.setattr(tfrecord, "record_starts", slow)
    RecordFiles([(path, 0, 1)])
    assert said == ["finding the records in 1 TFRecord file, which is done once"]


def test_an_index_that_cannot_be_kept(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert record_starts(write(tmp_path / "a", [b"one"])).tolist() == [0, 19]


@settings(max_examples=60, deadline=None)
@given(place=st.integers(0, 79), bit=st.integers(0, 7))
def test_a_flipped_bit_is_found(tmp_path_factory, place, bit):
    path = write(tmp_path_factory.mktemp("flip") / "a", [b"1234", b"5678", b"9012", b"3456"])
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << bit
    path.write_bytes(data)
    with pytest.raises((UserError, ValueError), match=r"damaged at byte|checksum is another"):
        all_of(RecordFiles([(path, 0, 4)]))


@pytest.mark.parametrize("length", [0, 5, 12, 18, 30])
def test_a_file_that_was_cut(tmp_path, length):
    path = write(tmp_path / "a", [b"one", b"two"])
    os.truncate(path, length)
    with pytest.raises(UserError, match=r"is damaged at byte (0|19)|has 0 records, not the 2"):
        RecordFiles([(path, 0, 2)])


def test_lengths_that_no_record_has(tmp_path):
    path = tmp_path / "a"
    for claimed in (2**63, 2**64 - 1, 2**40):
        length = struct.pack("<Q", claimed)
        path.write_bytes(length + masked(length))
        if claimed == 2**40:
            os.truncate(path, 2**40 + 16)  # a file with a hole is as long as it claims
        with pytest.raises(UserError, match="damaged at byte 0"):
            record_starts(path)


def test_a_file_that_shrinks_while_it_is_read(tmp_path):
    files = RecordFiles([(write(tmp_path / "a", [b"one", b"two"]), 0, 2)])
    os.truncate(tmp_path / "a", 20)
    assert files[0] == b"one"
    with pytest.raises(ValueError, match="shorter"):
        files[1]


# --- prepared data sets ------------------------------------------------------------------------


def write_info(folder, lengths, form="tfrecord"):
    """The metadata that `download_and_prepare` leaves beside the shards."""
    import tensorflow_datasets as tfds

    features = tfds.features.FeaturesDict(
        {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(names=["no", "yes"])}
    )
    features.save_config(str(folder))
    template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    splits = [
        {"name": split, "shardLengths": list(map(str, shards)), "numBytes": "1",
         "filepathTemplate": template}
        for split, shards in lengths.items()
    ]  # fmt: skip
    info = {"name": "tiny", "version": "1.0.0", "fileFormat": form, "splits": splits}
    (folder / "dataset_info.json").write_text(json.dumps(info))


@pytest.fixture
def tiny(tmp_path):
    """A prepared data set of PNG pictures, in shards of 3, 1 and 4."""
    pytest.importorskip("tensorflow_datasets")
    from tensorflow_datasets.proto import tf_example_pb2

    folder = tmp_path / "tfds" / "tiny" / "1.0.0"
    folder.mkdir(parents=True)
    lengths, numbers = [3, 1, 4], itertools.count()
    for shard, length in enumerate(lengths):
        records = []
        for number in itertools.islice(numbers, length):
            Image.fromarray(make_photo(seed=number)).save(folder / "photo.png")
            example = tf_example_pb2.Example()
            image = (folder / "photo.png").read_bytes()
            example.features.feature["image"].bytes_list.value.append(image)
            example.features.feature["label"].int64_list.value.append(number % 2)
            records.append(example.SerializeToString())
        write(folder / f"tiny-train.tfrecord-{shard:05d}-of-00003", records)
    (folder / "photo.png").unlink()
    write_info(folder, {"train": lengths})
    return folder


def test_a_prepared_data_set(tiny):
    data = open_dataset("tfds:tiny", data_dir=tiny.parents[1])
    assert (len(data.train), len(data.eval)) == (6, 2)  # train[:80%], over two shards and a part
    assert data.class_names == ("no", "yes")
    for number in range(8):
        image, label = data.train[number] if number < 6 else data.eval[number - 6]
        np.testing.assert_array_equal(decode(image, 3), make_photo(seed=number))
        assert label == number % 2
    assert data.eval.describe(1) == "example 1 of tfds:tiny, train[80%:]"
    assert fingerprint(data)["train"]["examples"] == 6


def test_damage_in_a_prepared_data_set(tiny):
    path = tiny / "tiny-train.tfrecord-00002-of-00003"
    before = path.read_bytes()
    path.write_bytes(before[:-100] + bytes(100))
    data = open_dataset("tfds:tiny", data_dir=tiny.parents[1])
    with pytest.raises(RunError, match=r"example 1 of tfds:tiny.*its checksum is another"):
        data.eval[1]
    path.write_bytes(before[:-100])
    with pytest.raises(UserError, match=r"tfrecord-00002-of-00003 is damaged at byte"):
        open_dataset("tfds:tiny", data_dir=tiny.parents[1])
    path.unlink()
    with pytest.raises(UserError, match=r"tfrecord-00002-of-00003.*No such file"):
        open_dataset("tfds:tiny", data_dir=tiny.parents[1])


def test_more_records_promised_than_there_are(tiny):
    write_info(tiny, {"train": [3, 2, 4]})
    with pytest.raises(UserError, match="00001-of-00003 has 1 records, not the 2"):
        open_dataset("tfds:tiny", data_dir=tiny.parents[1])


def test_the_same_as_in_array_record(tfds_dir, tmp_path):
    """CIFAR-10's first examples, read by tfds from ArrayRecord and by us from TFRecord."""
    from array_record.python.array_record_module import ArrayRecordReader

    theirs = open_dataset("tfds:cifar10_jpeg", data_dir=tfds_dir)
    source = tfds_dir / "cifar10_jpeg" / "1.0.0"
    folder = tmp_path / "ours" / "cifar10_jpeg" / "1.0.0"
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*array_record*"))
    info = json.loads((source / "dataset_info.json").read_text())
    for split in info["splits"]:
        name = f"cifar10_jpeg-{split['name']}"
        reader = ArrayRecordReader(f"{source}/{name}.array_record-00000-of-00001")
        records = reader.read(0, 50)
        reader.close()
        for shard, part in enumerate((records[:20], records[20:])):
            write(folder / f"{name}.tfrecord-{shard:05d}-of-00002", part)
        split |= {"shardLengths": ["20", "30"]}
    info["fileFormat"] = "tfrecord"
    (folder / "dataset_info.json").write_text(json.dumps(info))
    ours = open_dataset("tfds:cifar10_jpeg", data_dir=tmp_path / "ours")
    for mine, other in ((ours.train, theirs.train), (ours.eval, theirs.eval)):
        assert len(mine) == 50
        assert [mine[i] for i in range(50)] == [other[i] for i in range(50)]
