"""ImageNet's classes: their order, their names, and other people's lists of them."""

import importlib.util
from pathlib import Path

import pytest

from alexnet.imagenet import classes
from tests.conftest import ROOT

SAMPLE = ROOT.parent / "shared" / "data" / "imagenet_sample"


def test_a_thousand_classes_sorted_by_their_ids():
    wnids = [wnid for wnid, _ in classes()]
    assert len(wnids) == len(set(wnids)) == 1000
    assert wnids == sorted(wnids)
    assert all(len(wnid) == 9 and wnid[0] == "n" and wnid[1:].isdigit() for wnid in wnids)


def test_labels_that_everybody_knows():
    assert classes()[0] == ("n01440764", "tench")
    assert classes()[1] == ("n01443537", "goldfish")
    assert classes()[281] == ("n02123045", "tabby")
    assert classes()[999] == ("n15075141", "toilet tissue")


def test_names_are_printable_and_differ():
    names = [name for _, name in classes()]
    assert all(name.isprintable() and name == name.strip() and name for name in names)
    assert len(set(names)) == 1000
    near = {134: "crane bird", 517: "crane", 638: "maillot", 639: "maillot tank suit"}
    near |= {657: "missile", 744: "projectile", 836: "sunglass", 837: "sunglasses"}
    assert {label: names[label] for label in near} == near


def test_agrees_with_the_names_of_photographs():
    if not SAMPLE.is_dir():
        pytest.skip("needs shared/data/imagenet_sample")
    names = [path.stem.split("_", 1) for path in SAMPLE.glob("*.JPEG")]
    assert len(names) > 50
    of_wnid = dict(classes())
    for wnid, name in names:
        assert of_wnid[wnid] == name.replace("_", " ")


def test_agrees_with_tensorflow_datasets():
    found = importlib.util.find_spec("tensorflow_datasets")  # not imported: that takes seconds
    if found is None or found.origin is None:
        pytest.skip("needs tensorflow_datasets")
    labels = Path(found.origin).parent / "datasets" / "imagenet2012" / "labels.txt"
    if not labels.is_file():
        pytest.skip("this tensorflow_datasets has no datasets/imagenet2012/labels.txt")
    assert labels.read_text().split() == [wnid for wnid, _ in classes()]
