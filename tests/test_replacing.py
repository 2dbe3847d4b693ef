"""Outputs never replace a run's or a cache's own files, nor what a command reads."""

import json
import os

import pytest

from alexnet import cli, weights
from alexnet.config_json import to_json
from alexnet.errors import UserError
from alexnet.recipes import recipe
from alexnet.replacing import check_replaceable
from tests.conftest import NARROW, run_train
from tests.photographs import photographs
from tests.weights.helpers import narrow


def file(path, data=b"x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@pytest.fixture
def run(tmp_path):
    """Files as a run has them."""
    for name in ("metrics.jsonl", "weights.safetensors", "checkpoints/00000001/x"):
        file(tmp_path / "run" / name)
    file(tmp_path / "run" / "config.json", json.dumps(to_json(recipe("digits"))).encode())
    return tmp_path / "run"


@pytest.mark.parametrize(
    "name", ["config.json", "metrics.jsonl", "weights.safetensors", "checkpoints/00000001/x"]
)
def test_a_runs_files_stay(name, run):
    with pytest.raises(UserError, match="it is a file of the run in"):
        check_replaceable(run / name)


def test_other_files_of_a_runs_folder_may_be_replaced(run):
    check_replaceable(file(run / "predictions.csv"))
    check_replaceable(run / "weights.onnx")  # new
    check_replaceable(file(run.parent / "config.json"))  # in no run: its folder has this file alone


def test_links_are_seen_through(run, tmp_path):
    os.symlink(run / "config.json", tmp_path / "link.json")
    with pytest.raises(UserError, match="it is a file of the run in"):
        check_replaceable(tmp_path / "link.json")
    source = file(tmp_path / "w.safetensors")
    os.symlink(source, tmp_path / "same")
    with pytest.raises(UserError, match="same is what is read"):
        check_replaceable(tmp_path / "same", source)


def test_others_projects_are_no_runs(tmp_path):
    for name in ("config.json", "checkpoints/x", "metrics.jsonl"):
        check_replaceable(file(tmp_path / name, b'{"model": "bert"}'))
    for name in ("config.json", "checkpoints/x"):
        check_replaceable(tmp_path / name)


def test_sources_are_told_by_place_and_addresses_are_none(tmp_path):
    target = file(tmp_path / "folder" / "model.safetensors")
    check_replaceable(target, "hf://ORG/NAME@main")
    check_replaceable(target, tmp_path)
    with pytest.raises(UserError, match="is what is read"):
        check_replaceable(target, tmp_path / "folder")
    os.symlink(tmp_path / "loop", tmp_path / "loop")
    check_replaceable(tmp_path / "loop", target)


@pytest.mark.parametrize("name", ["meta.json", "train.images", "eval.index", "statistics.npz"])
@pytest.mark.parametrize("mark", ["meta.json", "plan.json"])
def test_a_caches_files_stay(name, mark, tmp_path):
    file(tmp_path / mark)
    with pytest.raises(UserError, match="it is a file of the cache in"):
        check_replaceable(file(tmp_path / name))
    check_replaceable(file(tmp_path / "other.npz"))


def test_every_command_that_writes_asks(run, tmp_path, capsys):
    photos, whole = photographs(tmp_path / "photos", 1), tmp_path / "w.safetensors"
    weights.save(whole, narrow("torchvision", image_size=67, num_classes=10))
    features = file(run.parent / "cache" / "statistics.npz")
    file(features.parent / "meta.json")
    before = whole.read_bytes()
    for words in (
        ["convert", whole, whole, "--dtype", "fp16"],
        ["convert", whole, run / "config.json", "--to", "onnx"],
        ["evaluate", whole, "--dataset", "digits", "--save", run / "config.json"],
        ["predict", whole, photos, "--features", "fc7", features],
        ["report", whole, "--output", run / "config.json", "--overwrite"],
    ):
        assert cli.main([*map(str, words)]) == 2
        assert "write to another" in capsys.readouterr().err
    assert whole.read_bytes() == before


def test_no_run_is_put_into_a_run(tmp_path, capsys):
    run = str(tmp_path / "run")
    run_train("--framework", "torch", *NARROW, "--steps", "1", "--workdir", run)
    assert cli.main(["convert", run, f"{run}/sub/deep", "--to", "jax"]) == 2
    assert "is inside the run in" in capsys.readouterr().err
    assert cli.main(["report", run, "--variant", "bn"]) == 2
    assert "leave --variant and --image-size out" in capsys.readouterr().err
