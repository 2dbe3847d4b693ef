"""Preprocessing: printed where weights are used, taken from elsewhere, overridden."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from alexnet import cli, porting
from alexnet.errors import UserError
from alexnet.preparation import PreparationConfig, prepared, said
from alexnet.preprocess import EvalProtocol, Normalize, Preprocess
from alexnet.text import printable, storable
from alexnet.trained import open_weights
from alexnet.weights import load, save
from tests.weights.helpers import narrow

GIVEN = Normalize((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
OPTIONS = ["--mean", "1", "2", "3", "--std", "4", "5", "6", "--resize-rule", "warp"]


@pytest.fixture
def bare(tmp_path):
    """A file that says nothing of preprocessing."""
    save(tmp_path / "bare.pth", narrow("torchvision"))
    return tmp_path / "bare.pth"


@pytest.fixture
def other(tmp_path):
    """A file of another network, with a preprocessing of its own."""
    weights = narrow("caffe", image_size=100)
    own = Preprocess(GIVEN, EvalProtocol("warp", 200, 100))
    save(tmp_path / "other.safetensors", dataclasses.replace(weights, preprocess=own))
    return tmp_path / "other.safetensors"


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.mark.parametrize("given", [OPTIONS, "from"], ids=["options", "--preprocess-from"])
def test_convert_writes_it_to_the_target(given, bare, other, tmp_path, capsys):
    given = ["--preprocess-from", str(other)] if given == "from" else given
    target = tmp_path / "w.safetensors"
    assert cli.main(["convert", str(bare), str(target), "--json", *given]) == 0
    told, found = json.loads(capsys.readouterr().out), load(target)
    assert found.preprocess.normalize == GIVEN
    size = 448 if given[0] == "--preprocess-from" else 256  # twice the crop, as the other has it
    assert found.preprocess.protocol == EvalProtocol("warp", size, 224)
    assert told["preprocess"]["mean"] == [1, 2, 3]
    assert (str(other) if size == 448 else "--mean and --std") in told["preprocess_from"]


def test_convert_says_what_was_assumed_and_what_a_target_cannot_hold(bare, tmp_path, capsys):
    assert cli.main(["convert", str(bare), str(tmp_path / "w.onnx")]) == 0
    out = capsys.readouterr().out
    assert "assumed, as for torchvision's weights: the file does not say" in out
    assert "class names: none" in out
    assert "hold neither" not in out
    assert cli.main(["convert", str(bare), str(tmp_path / "w.msgpack")]) == 0
    assert "flax files hold neither preprocessing nor class names" in capsys.readouterr().out


def test_an_override_without_effect_is_refused(bare, tmp_path, capsys):
    assert cli.main(["convert", str(bare), str(tmp_path / "w.msgpack"), *OPTIONS]) == 2
    assert "--mean, --std, --resize-rule would have no effect" in capsys.readouterr().err
    assert not (tmp_path / "w.msgpack").exists()


def test_single_options_go_before_what_is_taken(bare, other):
    config = PreparationConfig(mean=(7.0,), preprocess_from=str(other))
    found = open_weights(bare, preparation=config)
    assert found.preprocess.normalize == Normalize((7.0,) * 3, GIVEN.std)
    assert found.preprocess_from == f"--mean, else {other}"


def test_a_mean_image_is_said_until_a_mean_is_given(tmp_path):
    weights = dataclasses.replace(narrow("caffe"), mean_image=True)
    save(tmp_path / "w.safetensors", weights)
    found = load(tmp_path / "w.safetensors")
    assert said(found).endswith("(the file, with its mean image's channel means)")
    assert not prepared(found, PreparationConfig(mean=(1.0,))).mean_image
    assert prepared(found, PreparationConfig(std=(1.0,))).mean_image


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"mean": (1.0, 2.0)}, "--mean has 2 numbers, but the network's input has 3 channels"),
        ({"std": (0.0,)}, "--std is 0.0, but it must be above 0"),
        ({"mean": (float("nan"),)}, "finite"),
        ({"preprocess_from": "/nowhere"}, "can't read /nowhere"),
    ],
)
def test_what_does_not_fit_is_refused(config, message, bare):
    with pytest.raises(UserError, match=message):
        open_weights(bare, preparation=PreparationConfig(**config))


def test_preprocessing_of_another_number_of_channels_is_refused(bare, tmp_path):
    save(tmp_path / "gray.safetensors", narrow("torchvision", channels=1))
    config = PreparationConfig(preprocess_from=str(tmp_path / "gray.safetensors"))
    with pytest.raises(UserError, match="is for 1 channels, and these weights are for 3"):
        open_weights(bare, preparation=config)


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_predict_and_evaluate_use_and_tell_it(command, bare, photo, capsys):
    words = [str(photo)] if command == "predict" else ["--dataset", "synthetic"]
    arguments = [command, str(bare), *words, "--framework", "torch"]
    if command == "evaluate":
        folder = photo.parent / "data"
        for name in range(7):
            (folder / f"val/class {name}").mkdir(parents=True)
            Image.open(photo).save(folder / f"val/class {name}/a.png")
            (folder / f"train/class {name}").mkdir(parents=True)
            Image.open(photo).save(folder / f"train/class {name}/a.png")
        arguments[3] = f"folder:{folder}"
    assert cli.main(arguments) == 0
    assert "preprocessing: the short side to 256" in capsys.readouterr().err
    found = []
    for given in ([], OPTIONS):
        assert cli.main([*arguments, "--json", *given]) == 0
        told = json.loads(capsys.readouterr().out)
        found.append(told if command == "predict" else told[0])
    assert found[0]["preprocess_from"].startswith("assumed")
    assert found[1]["preprocess"]["resize_rule"] == "warp"
    assert found[1]["preprocess_from"].startswith("--mean and --std and --resize-rule")
    assert found[0]["class_names_from"] == found[1]["class_names_from"]
    key = "images" if command == "predict" else "loss"
    assert found[0][key] != found[1][key]


def test_class_names_that_do_not_fit_are_left_out_and_said(tmp_path):
    from alexnet.weights.assemble import usable_names

    spec = narrow("torchvision").spec
    assert usable_names(["a"] * 7, spec) == (("a",) * 7, ())
    assert usable_names(["a"], spec)[1] == ("its 1 class names are left out: it has 7 classes",)


def test_a_source_is_named_as_it_was_given(tmp_path, capsys):
    save(tmp_path / "a.safetensors", dataclasses.replace(narrow("torchvision"), source="run old"))
    assert cli.main(["convert", str(tmp_path / "a.safetensors"), str(tmp_path / "x.pth")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{tmp_path / 'a.safetensors'} -> {tmp_path / 'x.pth'}: ")
    assert lines[1] == "origin: run old"


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_not_converted(number, tmp_path, capsys):
    weights = narrow("torchvision")
    weights.arrays["fc7.bias"][:2] = number
    save(tmp_path / "a.safetensors", weights)
    assert cli.main(["convert", str(tmp_path / "a.safetensors"), str(tmp_path / "x.pth")]) == 2
    assert "NaN or infinite in fc7.bias (2)" in capsys.readouterr().err
    assert not (tmp_path / "x.pth").exists()


def test_a_directory_with_a_config_json_is_no_run(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match="is no run that can be read"):
        open_weights(tmp_path)
    with pytest.raises(UserError, match="is no run that can be read"):
        porting.convert(tmp_path, tmp_path / "w.safetensors")


def test_long_names_in_a_file_make_no_long_message(tmp_path):
    weights = narrow("torchvision")
    arrays = {f"{'x' * 99}{n}": np.zeros(1, "f4") for n in range(1000)}
    save_file(arrays | {"conv1.bias": weights.arrays["conv1.bias"]}, tmp_path / "w")
    with pytest.raises(UserError, match="unexpected") as error:
        load(tmp_path / "w")
    assert len(str(error.value)) < 2000


def test_verify_compares_with_the_rounded_numbers(tmp_path, capsys):
    save(tmp_path / "a.safetensors", narrow("torchvision", image_size=67))
    words = ["convert", str(tmp_path / "a.safetensors"), str(tmp_path / "b.safetensors")]
    assert cli.main([*words, "--dtype", "bf16", "--verify", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["verify"]["passed"]
    assert "the target's numbers are rounded to bf16" in told["notes"]


@pytest.mark.parametrize(
    "name", ["a[[/b].pth", "[/b", "caf\udce9.pth", "n\nl\x1b[31m.pth", "[red]"]
)
def test_odd_names_are_names(name, tmp_path, capsys):
    """Not markup, nor text that a terminal obeys."""
    (tmp_path / name).parent.mkdir(exist_ok=True)
    save(tmp_path / name, narrow("torchvision"), "torchvision")
    assert cli.main(["convert", str(tmp_path / name), str(tmp_path / "w.safetensors")]) == 0
    out = capsys.readouterr().out
    assert printable(name) in out
    assert "\x1b" not in out
    assert len(out.splitlines()) == 3
    assert load(tmp_path / "w.safetensors").source == storable(f"{Path(name).name} (torch)")
