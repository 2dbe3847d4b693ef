"""Folders that this project didn't write: read where they are right, refused where they lie."""

import dataclasses
import hashlib
import json
import os
import re

import numpy as np
import pytest

from alexnet import hub
from alexnet.errors import UserError
from alexnet.hub.folder import CONFIG, MAX_CONFIG, MODEL
from alexnet.preprocess import IMAGENET_STD, EvalProtocol, Normalize, Preprocess
from tests.weights.helpers import CLASSES, narrow, same, written

from .helpers import edited, hf_weights, published


def test_a_published_folder_is_read(tmp_path):
    back = hub.read_folder(published(tmp_path / "f"))
    same(back, hf_weights())
    assert back.spec.name == "torchvision"
    assert back.class_names == hf_weights().class_names
    assert back.preprocess == Preprocess(protocol=EvalProtocol("short", 76, 67))  # 67 / 0.875


def test_its_preprocessing_is_what_it_says(tmp_path):
    path = published(tmp_path / "f")
    changes = {"crop_pct": 1.0, "crop_mode": "squash", "mean": [0.5] * 3, "std": [1] * 3}
    edited(path, lambda values: values["pretrained_cfg"].update(changes))
    expected = Preprocess(Normalize((127.5,) * 3, (255.0,) * 3), EvalProtocol("warp", 67, 67))
    assert hub.read_folder(path).preprocess == expected


def test_fields_at_the_top_and_fields_left_out(tmp_path):
    path = published(tmp_path / "f")
    (path / CONFIG).write_text(json.dumps({"input_size": [3, 67, 67], "mean": [0, 0, 0]}))
    back = hub.read_folder(path)
    assert back.class_names is None
    assert back.preprocess.normalize == Normalize((0.0,) * 3, IMAGENET_STD)
    assert back.preprocess.protocol == EvalProtocol("short", 76, 67)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda v: v.update(architecture="resnet50"), "no AlexNet"),
        (lambda v: v.update(architecture=["alexnet"]), "no AlexNet"),
        (lambda v: v.update(num_classes=8), "7 class names for 8"),
        (lambda v: v.update(num_classes=8, label_names=None), "says 8 classes"),
        (lambda v: v.update(num_classes=True), "num_classes"),
        (lambda v: v.update(num_classes=10**30), "num_classes"),
        (lambda v: v.update(label_names="cat"), "class names"),
        (lambda v: v.update(label_names=[["cat"]] * 7), "class names"),
        (lambda v: v.update(label_names=["x" * 2000] * 7), "class names"),
        (lambda v: v.update(pretrained_cfg=[]), "pretrained_cfg"),
        (lambda v: v["pretrained_cfg"].update(input_size=[3, 67, 68]), "square"),
        (lambda v: v["pretrained_cfg"].update(input_size=[3, 10**9, 10**9]), "square"),
        (lambda v: v["pretrained_cfg"].update(input_size=224), "input_size"),
        (lambda v: v["pretrained_cfg"].update(input_size=[1, 67, 67]), "1 channels"),
        (lambda v: v["pretrained_cfg"].update(input_size=[3, 10, 10]), "too small|nothing"),
        (lambda v: v["pretrained_cfg"].update(crop_pct=0.0), "crop_pct"),
        (lambda v: v["pretrained_cfg"].update(crop_pct=float("nan")), "crop_pct"),
        (lambda v: v["pretrained_cfg"].update(crop_mode="border"), "crop_mode"),
        (lambda v: v["pretrained_cfg"].update(crop_mode=[]), "crop_mode"),
        (lambda v: v["pretrained_cfg"].update(interpolation="bicubic"), "bilinear"),
        (lambda v: v["pretrained_cfg"].update(mean=[0.5]), "mean"),
        (lambda v: v["pretrained_cfg"].update(mean="0.5"), "mean"),
        (lambda v: v["pretrained_cfg"].update(std=[0, 1, 1]), "std"),
        (lambda v: v["pretrained_cfg"].update(std=[float("inf")] * 3), "std"),
        (lambda v: v["pretrained_cfg"].update(mean=[10**400] * 3), "1e37"),
        (lambda v: v.update(alexnet=None), "section"),
    ],
)  # fmt: skip
def test_a_config_that_lies_is_refused(edit, message, tmp_path):
    path = published(tmp_path / "f")
    hub.read_folder(path)
    edited(path, edit)
    with pytest.raises(UserError, match=message) as error:
        hub.read_folder(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda v: v["alexnet"].update(sha256="0" * 64), "SHA-256"),
        (lambda v: v["alexnet"].update(sha256=""), "SHA-256"),
        (lambda v: v["alexnet"].update(sha256=1), "must have"),
        (lambda v: v["alexnet"].update(format_version=2), "version"),
        (lambda v: v["alexnet"].pop("source"), "must have"),
        (lambda v: v["alexnet"].update(more=1), "must have"),
        (lambda v: v["alexnet"].update(mean_image="yes"), "must have"),
        (lambda v: v["alexnet"]["network"].update(name="../x"), "name"),
        (lambda v: v["alexnet"]["network"].update(image_size=10**9), "image_size"),
        (lambda v: v["alexnet"]["network"]["layers"].pop(), "must end|differ"),
        (lambda v: v["alexnet"]["preprocess"].update(crop=0), "impossible crop"),
        (lambda v: v["alexnet"]["preprocess"].update(resize_to=99), "crop_pct differ"),
        (lambda v: v["pretrained_cfg"].update(mean=[0, 0, 0]), "mean differ"),
        (lambda v: v.update(num_features=1), "num_features differ"),
        (lambda v: v.pop("pretrained_cfg"), "differ"),
    ],
)  # fmt: skip
def test_a_section_of_ours_that_lies_is_refused(edit, message, tmp_path):
    hub.write_folder(tmp_path / "f", hf_weights())
    edited(tmp_path / "f", edit)
    with pytest.raises(UserError, match=message):
        hub.read_folder(tmp_path / "f")


def test_a_flipped_bit_is_noticed(tmp_path):
    hub.write_folder(tmp_path / "f", hf_weights())
    data = bytearray((tmp_path / "f" / MODEL).read_bytes())
    data[-9] ^= 1
    (tmp_path / "f" / MODEL).write_bytes(data)
    with pytest.raises(UserError, match="damaged"):
        hub.read_folder(tmp_path / "f")


@pytest.mark.parametrize(
    "text", ["", "[1]", "{", "[" * 100_000, "1" * 5000, '{"a": \ud800', "\x00"], ids=len
)
def test_a_config_that_is_no_json_object_is_refused(text, tmp_path):
    path = published(tmp_path / "f")
    (path / CONFIG).write_text(text, errors="surrogatepass")
    with pytest.raises(UserError, match=re.escape(str(path / CONFIG))):
        hub.read_folder(path)


def test_a_huge_config_is_not_read(tmp_path):
    path = published(tmp_path / "f")
    os.truncate(path / CONFIG, MAX_CONFIG + 1)
    with pytest.raises(UserError, match="more than"):
        hub.read_folder(path)


@pytest.mark.parametrize("name", [CONFIG, MODEL])
def test_what_is_missing_or_no_file_is_named(name, tmp_path):
    path = published(tmp_path / "f")
    (path / name).unlink()
    with pytest.raises(UserError, match=name):
        hub.read_folder(path)
    os.mkfifo(path / name)  # opening it would wait for ever
    with pytest.raises(UserError, match="not a regular file"):
        hub.read_folder(path)


@pytest.mark.parametrize("name", [CONFIG, MODEL])
def test_links_lead_to_regular_files_or_nowhere(name, tmp_path):
    """The hub's cache is made of links, so they are followed."""
    path = published(tmp_path / "f")
    (path / name).rename(tmp_path / "blob")
    (path / name).symlink_to(tmp_path / "blob")
    same(hub.read_folder(path), hf_weights())
    for target, message in (("/dev/zero", "not a regular file"), ("gone", "No such file")):
        (path / name).unlink()
        (path / name).symlink_to(target)
        with pytest.raises(UserError, match=message):
            hub.read_folder(path)


def test_arrays_of_the_wrong_shape_are_refused(tmp_path):
    path = published(tmp_path / "f")
    other = narrow("torchvision", image_size=67, num_classes=CLASSES, width=1 / 8)
    (path / MODEL).write_bytes(written(other, "torch-safetensors"))
    hub.read_folder(path)  # another width is another network, and fits
    arrays = other.arrays | {"fc7.kernel": np.zeros((3, 3), np.float32)}
    wrong = dataclasses.replace(other, arrays=arrays)
    (path / MODEL).write_bytes(written(wrong, "torch-safetensors"))
    with pytest.raises(UserError, match="fc7"):
        hub.read_folder(path)


def test_our_section_does_not_excuse_wrong_arrays(tmp_path):
    hub.write_folder(tmp_path / "f", hf_weights())
    data = bytes(written(narrow("torchvision", image_size=67, width=1 / 8), "torch-safetensors"))
    (tmp_path / "f" / MODEL).write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    edited(tmp_path / "f", lambda values: values["alexnet"].update(sha256=digest))
    with pytest.raises(UserError, match="conv2"):
        hub.read_folder(tmp_path / "f")
