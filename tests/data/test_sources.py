import json
import os
import resource
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from alexnet.data import folder
from alexnet.data.images import BadImage, decode
from alexnet.data.sources import open_dataset
from alexnet.errors import UserError
from alexnet.files import walk


def refusal(name, **options):
    with pytest.raises(UserError) as caught:
        open_dataset(name, **options)
    return str(caught.value)


def labels_of(source):
    return [source[i][1] for i in range(len(source))]


# --- bundled and made-up data ------------------------------------------------------------------


def test_digits():
    data = open_dataset("digits")
    assert data.class_names == tuple("0123456789")
    assert data.num_classes == 10
    assert len(data.train) + len(data.eval) == 1797
    image, label = data.train[0]
    assert image.shape == (8, 8)
    assert image.dtype == np.uint8
    assert isinstance(label, int)
    assert data.train.images.max() == 255
    shares = np.bincount(data.eval.labels) / (
        np.bincount(data.train.labels) + np.bincount(data.eval.labels)
    )
    assert np.abs(shares - 0.2).max() < 0.004
    together = {image.tobytes() for image in data.train.images}
    assert not together & {image.tobytes() for image in data.eval.images}


def test_digits_are_split_alike_for_every_seed():
    first, second = (open_dataset("digits", seed=seed) for seed in (0, 1))
    np.testing.assert_array_equal(first.eval.images, second.eval.images)


def test_synthetic_is_a_function_of_the_index():
    first, second = open_dataset("synthetic", size=32), open_dataset("synthetic", size=32)
    assert (len(first.train), len(first.eval), first.num_classes) == (1024, 256, 1000)
    image, label = first.train[7]
    again, label_again = second.train[7]
    np.testing.assert_array_equal(image, again)
    assert label == label_again
    assert image.shape == (32, 32, 3)
    assert image.dtype == np.uint8
    assert 120 < image.mean() < 135
    assert not np.array_equal(image, first.eval[7][0])
    assert 0 <= min(labels_of(first.eval)) < max(labels_of(first.eval)) < 1000
    assert len(set(labels_of(first.eval))) > 200


@pytest.mark.parametrize(("name", "hint"), [
    ("digit", "'digits'"), ("tfds", "'tfds:NAME'"), ("folder:", "'folder:PATH'"),
    ("synthetics", "'synthetic'"), ("digits:x", "'digits'"),
])  # fmt: skip
def test_unknown_name(name, hint):
    assert f"did you mean {hint}" in refusal(name)


@pytest.mark.parametrize("name", ["imagenet", "cifar10", "mnist", ""])
def test_no_name_is_suggested_that_is_not_near(name):
    message = refusal(name)
    assert "did you mean" not in message
    assert "known are digits, tfds:NAME" in message


def test_path_without_folder(tmp_path):
    assert f"write folder:{tmp_path}" in refusal(str(tmp_path))


# --- folders -----------------------------------------------------------------------------------


def test_folder_with_train_and_val(image_folder):
    root = image_folder(
        "train/cat/a.jpg", "train/cat/deep/er/b.JPEG", "train/dog/c.Png", "train/dog/.hidden.jpg",
        "val/cat/d.webp", "val/dog/e.bmp", "train/.cache/x.png",
    )  # fmt: skip
    (root / "train" / "dog" / "notes.txt").write_text("not an image")
    data = open_dataset(f"folder:{root}")
    assert data.class_names == ("cat", "dog")
    names = [Path(data.train.describe(i)).name for i in range(len(data.train))]
    assert names == ["a.jpg", "b.JPEG", "c.Png"]
    assert labels_of(data.train) == [0, 0, 1]
    assert labels_of(data.eval) == [0, 1]
    path, _ = data.eval[0]
    assert decode(path, 3).shape == (24, 32, 3)


@pytest.mark.parametrize("name", ["validation", "test"])
def test_other_names_for_the_evaluation_folder(image_folder, name):
    data = open_dataset(f"folder:{image_folder('train/a/1.png', f'{name}/a/2.png')}")
    assert data.eval.describe(0).endswith("2.png")


def test_folder_split_by_seed(image_folder):
    root = image_folder(*[f"{name}/{i}.png" for name, n in
                          [("a", 10), ("b", 3), ("c", 1)] for i in range(n)])  # fmt: skip
    splits = set()
    for seed in range(3):
        data = open_dataset(f"folder:{root}", seed=seed)
        assert Counter(labels_of(data.train)) == {0: 8, 1: 2, 2: 1}
        assert Counter(labels_of(data.eval)) == {0: 2, 1: 1}
        assert not set(data.train.files) & set(data.eval.files)
        splits.add(tuple(data.eval.files))
        again = open_dataset(f"folder:{root}", seed=seed)
        assert again.eval.files == data.eval.files
    assert len(splits) > 1


def test_class_called_train(image_folder):
    root = image_folder("train/1.png", "train/2.png", "bus/3.png", "bus/4.png")
    assert open_dataset(f"folder:{root}").class_names == ("bus", "train")


def test_linked_class_and_link_in_a_circle(image_folder, tmp_path):
    root = image_folder("a/1.png", "a/2.png")
    (tmp_path / "elsewhere").mkdir()
    for name in ("1.png", "2.png"):
        shutil.copy(root / "a" / name, tmp_path / "elsewhere")
    (root / "b").symlink_to(tmp_path / "elsewhere")
    (root / "a" / "up").symlink_to(root / "a")
    (root / "a" / "to_all_classes").symlink_to(root)
    data = open_dataset(f"folder:{root}")
    assert Counter(labels_of(data.train) + labels_of(data.eval)) == {0: 2, 1: 2}


@pytest.mark.parametrize("backwards", [False, True])
def test_two_ways_to_a_folder_whatever_the_order_on_disk(image_folder, monkeypatch, backwards):
    root = image_folder("a/1.png", "a/there/2.png")
    (root / "a" / "link").symlink_to(root / "a" / "there")

    def walk_in_order(directory):
        for here, folders, names in walk(directory):
            folders.sort(reverse=backwards)
            yield here, folders, names

    monkeypatch.setattr(folder, "walk", walk_in_order)
    found = folder.images_below(root / "a")
    assert found == [str(root / "a" / name) for name in ("1.png", "link/2.png")]


def test_what_is_called_an_image_and_is_none(image_folder, tmp_path):
    """A folder is gone into; all else is an image that can't be read, and none is waited for."""
    root = image_folder("a/1.png", "a/2.png", "a/folder.jpg/3.png", "b/1.png", "b/2.png")
    (root / "a" / "gone.jpg").symlink_to(tmp_path / "gone.jpg")
    (root / "a" / "circle.jpg").symlink_to(root / "a" / "circle.jpg")
    (root / "a" / "device.jpg").symlink_to("/dev/zero")
    (root / "a" / "empty.jpg").touch()
    os.mkfifo(root / "a" / "pipe.jpg")
    data = open_dataset(f"folder:{root}")
    reasons = {}
    for source in (data.train, data.eval):
        for i in range(len(source)):
            try:
                decode(source[i][0], 3)
            except BadImage as error:
                reasons[Path(source.describe(i)).stem] = str(error)
    assert reasons == {
        "gone": "the file can't be read: No such file or directory",
        "circle": "the file can't be read: Too many levels of symbolic links",
        "device": "it is not a regular file",
        "pipe": "it is not a regular file",
        "empty": "the file is empty",
    }
    assert len(data.train) + len(data.eval) == 5 + len(reasons)


def test_a_file_or_folder_that_may_not_be_read(image_folder, monkeypatch):
    root = image_folder("a/1.png", "a/2.png")

    def denied(path, *_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("alexnet.data.images.first_bytes", denied)  # root may read all files
    with pytest.raises(BadImage, match="the file can't be read: Permission denied"):
        decode(root / "a" / "1.png", 3)
    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(PermissionError):  # a command says it in a sentence
        open_dataset(f"folder:{root}")


def test_names_that_cannot_be_printed_are_escaped(image_folder):
    names = ["\x1b[31m", "b\nerror: all is lost", "c", os.fsdecode(b"\xff")]
    root = image_folder(*[f"a/{name}.png" for name in names], "a/e.png")
    data = open_dataset(f"folder:{root}")
    shown = [part.describe(i) for part in (data.train, data.eval) for i in range(len(part))]
    assert all(name.isprintable() and name.isascii() for name in shown)
    assert sum("\\" in name for name in shown) == 3
    for part in (data.train, data.eval):
        assert all(decode(part[i][0], 3).shape == (24, 32, 3) for i in range(len(part)))


def test_missing_folder_names_the_nearest(image_folder):
    root = image_folder("a/1.png")
    message = refusal(f"folder:{root.parent / 'photo'}")
    assert "there is no folder" in message
    assert f"did you mean {root}?" in message
    assert "is a file" in refusal(f"folder:{root / 'a' / '1.png'}")


def test_folders_that_are_refused(image_folder, tmp_path):
    assert "no folders" in refusal(f"folder:{tmp_path}")
    root = image_folder("loose.png")
    assert "images but no folders: put the images into one folder per class" in refusal(
        f"folder:{root}"
    )
    image_folder("cat/1.png", "cat/2.png")
    (root / "dog").mkdir()
    assert "class 'dog'" in refusal(f"folder:{root}")


@pytest.mark.parametrize("names", [("Training", "Testing"), ("Train", "Val", "Test")])
def test_a_split_by_other_names_is_not_taken_for_classes(image_folder, names):
    root = image_folder(
        *(f"{part}/{name}/{i}.png" for part in names for name in "ab" for i in "12")
    )
    assert f"are called {', '.join(sorted(names))}, as if to train" in refusal(f"folder:{root}")


def test_classes_that_are_called_like_parts(image_folder):
    root = image_folder(*(f"{name}/{i}.png" for name in ("Train", "Test", "bus") for i in "12"))
    assert open_dataset(f"folder:{root}").class_names == ("Test", "Train", "bus")


def test_nothing_left_to_evaluate_on(image_folder):
    root = image_folder("a/1.png", "b/2.png")
    assert "one image per class" in refusal(f"folder:{root}")
    other = image_folder("only/train/a/1.png") / "only"
    message = refusal(f"folder:{other}")
    assert "val or validation or test" in message


def test_classes_that_differ_are_named(image_folder):
    root = image_folder("train/cat/1.png", "train/dog/2.png", "val/cat/3.png", "val/hen/4.png")
    message = refusal(f"folder:{root}")
    assert "dog only in train" in message
    assert "hen only in val" in message


# --- tfds --------------------------------------------------------------------------------------


def edit_info(folder, **changes):
    path = folder / "dataset_info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("name", ["cifar10_jpeg", "cifar10_jpeg:1.0.0", "cifar10_jpeg/1.0.0"])
def test_tfds(tfds_dir, name):
    data = open_dataset(f"tfds:{name}", data_dir=tfds_dir)
    assert (len(data.train), len(data.eval), data.num_classes) == (50_000, 10_000, 10)
    assert data.class_names[:2] == ("airplane", "automobile")
    image, label = data.eval[1234]
    assert image.startswith(b"\xff\xd8")
    assert label in range(10)
    assert decode(image, 3).shape == (32, 32, 3)
    assert data.eval.describe(5) == f"example 5 of tfds:{name}, test"


def test_tfds_may_keep_every_shard_open(tfds_dir):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
        open_dataset("tfds:cifar10_jpeg", data_dir=tfds_dir)
        assert 200 < resource.getrlimit(resource.RLIMIT_NOFILE)[0] <= 256 + 20
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_tfds_takes_the_newest_version(tfds_dir):
    newer = tfds_dir / "cifar10_jpeg" / "1.10.0"
    shutil.copytree(tfds_dir / "cifar10_jpeg" / "1.0.0", newer, symlinks=True)
    shutil.copytree(newer, tfds_dir / "cifar10_jpeg" / "1.9.0", symlinks=True)
    (tfds_dir / "cifar10_jpeg" / "2.0.0.incompleteXYZ").mkdir()
    edit_info(newer, version="1.10.0")
    data = open_dataset("tfds:cifar10_jpeg", data_dir=tfds_dir)
    assert str(data.train.records.dataset_info.version) == "1.10.0"
    message = refusal("tfds:cifar10_jpeg:1.1.0", data_dir=tfds_dir)
    assert "unknown version of cifar10_jpeg '1.1.0'" in message


def test_tfds_configs(tfds_dir):
    (tfds_dir / "pets").mkdir()
    shutil.copytree(tfds_dir / "cifar10_jpeg" / "1.0.0", tfds_dir / "pets" / "small" / "1.0.0")
    edit_info(tfds_dir / "pets" / "small" / "1.0.0", name="pets", configName="small")
    assert "pets/small" in refusal("tfds:pets", data_dir=tfds_dir)
    data = open_dataset("tfds:pets/small", data_dir=tfds_dir)
    assert len(data.train) == 50_000


def test_tfds_without_evaluation_split(tfds_dir):
    folder = tfds_dir / "cifar10_jpeg" / "1.0.0"
    splits = json.loads((folder / "dataset_info.json").read_text())["splits"]
    edit_info(folder, splits=[split for split in splits if split["name"] == "train"])
    data = open_dataset("tfds:cifar10_jpeg", data_dir=tfds_dir)
    assert (len(data.train), len(data.eval)) == (40_000, 10_000)
    edit_info(folder, splits=[split for split in splits if split["name"] == "test"])
    message = refusal("tfds:cifar10_jpeg", data_dir=tfds_dir)
    assert "no split 'train'; it has test" in message


def test_tfds_takes_validation_before_test(tfds_dir):
    folder = tfds_dir / "cifar10_jpeg" / "1.0.0"
    splits = json.loads((folder / "dataset_info.json").read_text())["splits"]
    edit_info(folder, splits=[*splits, splits[1] | {"name": "validation"}])
    data = open_dataset("tfds:cifar10_jpeg", data_dir=tfds_dir)
    assert "validation" in data.eval.describe(0)


def test_tfds_in_a_format_without_random_access(tfds_dir):
    edit_info(tfds_dir / "cifar10_jpeg" / "1.0.0", fileFormat="riegeli")
    message = refusal("tfds:cifar10_jpeg", data_dir=tfds_dir)
    assert "riegeli files, which can't be read in random order" in message
    assert f"data_dir='{tfds_dir}_array_record', file_format='array_record'" in message


def test_tfds_not_prepared(tfds_dir, tmp_path):
    message = refusal("tfds:cifar10_jpg", data_dir=tfds_dir)
    assert "did you mean 'cifar10_jpeg'?" in message
    assert "download_and_prepare" in message
    (tmp_path / "other" / "mnist" / "1.0.0.incomplete").mkdir(parents=True)
    message = refusal("tfds:mnist", data_dir=tmp_path / "other")
    assert "no data set is prepared" in message
    assert "there is no folder" in refusal("tfds:mnist", data_dir=tmp_path / "no")


def test_tfds_features_that_do_not_fit(tfds_dir):
    folder = tfds_dir / "cifar10_jpeg" / "1.0.0"
    features = json.loads((folder / "features.json").read_text())
    features["featuresDict"]["features"].pop("label")
    (folder / "features.json").write_text(json.dumps(features))
    message = refusal("tfds:cifar10_jpeg", data_dir=tfds_dir)
    assert "no image with one class label; its features are id, image" in message
    (folder / "features.json").unlink()
    message = refusal("tfds:cifar10_jpeg", data_dir=tfds_dir)
    assert "features.json: No such file" in message


def test_tfds_in_a_bucket():
    message = refusal("tfds:mnist", data_dir=Path("gs://bucket/tfds"))
    assert "--data-dir is gs://bucket/tfds" in message
    assert "gcsfuse" in message


def test_tfds_default_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "from-environment"))
    assert "from-environment" in refusal("tfds:mnist")


def test_tfds_not_installed(tfds_dir, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    message = refusal("tfds:cifar10_jpeg", data_dir=tfds_dir)
    assert "pip install -c constraints.txt -e '.[tfds]'" in message


def test_importing_is_cheap():
    code = (
        "import sys, alexnet.data.pipeline, alexnet.data.folder, alexnet.data.tfds; "
        "heavy = {'sklearn', 'tensorflow_datasets', 'PIL', 'simplejpeg', 'jax', 'torch'}; "
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
