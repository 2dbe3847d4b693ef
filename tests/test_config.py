import dataclasses
import typing

import pytest

from alexnet import cli
from alexnet.commands.train import parse_train
from alexnet.config import (
    DataConfig,
    DevicesConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    TrainConfig,
)
from alexnet.config_json import from_json, to_json
from alexnet.errors import UserError
from alexnet.options import without_none
from alexnet.recipes import RECIPES
from alexnet.spec import VARIANTS

PARTS = (TrainConfig, ModelConfig, DataConfig, OptimConfig, RunConfig, DevicesConfig)
WORDS = {
    field.name: typing.get_args(without_none(field.type)[0])
    for part in PARTS
    for field in dataclasses.fields(part)
    if typing.get_origin(without_none(field.type)[0]) is typing.Literal
}


def test_every_variant_can_be_chosen():
    assert WORDS["variant"] == tuple(VARIANTS)
    assert {"framework", "precision", "schedule", "spmd", "on_bad_image"} <= WORDS.keys()


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_survive_json(name):
    config = RECIPES[name].config
    assert config.recipe == name
    assert from_json(to_json(config)) == config


@pytest.mark.parametrize("name", WORDS)
def test_a_misspelt_word_gets_the_nearest(name):
    right = WORDS[name][0]
    with pytest.raises(UserError, match=f"did you mean '{right}'"):
        parse_train([f"--{name.replace('_', '-')}", right + "x"])


@pytest.mark.parametrize(
    "options",
    [
        "--batch-size 0", "--learning-rate -1", "--momentum 1", "--momentum 0 --nesterov",
        "--label-smoothing 1", "--seed -1", "--epochs 0", "--steps -2", "--log-every 0",
        "--resize-to 10", "--std 0", "--mean 1 2", "--channels 1 --color-noise 0.1",
        "--color-noise-until 0.5",
        "--steps 1 --epochs 1", "--resume --overwrite", "--keep-checkpoints 0", "--clip-norm -1",
        "--warmup-steps -1", "--patience 0", "--loader-threads 0", "--eval-every 0",
        "--image-size 100000", "--image-size 0", "--resize-to 1000000", "--loader-threads 100000",
        "--width 0", "--width 2", "--channels 0", "--epochs 1e300", "--steps 9223372036854775808",
        "--processes 2", "--distributed --processes 2", "--framework torch --spmd pmap",
        "--distributed --coordinator a:1 --processes 2 --process 2", "--data-dir s3://b/x",
    ],
)  # fmt: skip
def test_values_that_no_run_can_have_are_refused(options):
    with pytest.raises(UserError, match="--"):
        parse_train(options.split())


NUMBERS = {
    field.name
    for part in PARTS
    for field in dataclasses.fields(part)
    if float in (kind := without_none(field.type)[0], *typing.get_args(kind))
}


@pytest.mark.parametrize("value", ["1e400", "nan", "-inf"])
@pytest.mark.parametrize("name", sorted(NUMBERS))
def test_numbers_are_finite(name, value):
    option = f"--{name.replace('_', '-')}"
    with pytest.raises(UserError, match=f"{option} is .*but it must be"):
        parse_train([f"{option}={value}"])


def test_means_for_another_number_of_channels_say_what_to_give():
    with pytest.raises(UserError, match="--channels is 1: give one number, as --mean 117"):
        parse_train(["--channels", "1", "--mean", "1", "2", "3"])


@pytest.mark.parametrize(
    "broken",
    [
        [1], {"model": 3}, {"model": {"nope": 1}}, {"wrong": 3}, {"run": {"seed": "0"}},
        {"data": {"mean": ["a"]}}, {"data": {"flip": 1}}, {"optim": {"momentum": 2}},
        {"model": {"variant": "papre"}}, {"optim": {"schedule": 3}}, {"run": {"seed": True}},
    ],
)  # fmt: skip
def test_a_strange_config_is_refused(broken):
    with pytest.raises(UserError, match=r"config\.json"):
        from_json(broken)


def test_a_config_from_before_a_field_was_added_gets_its_default():
    values = to_json(RECIPES["paper"].config)
    for part in ("model", "optim", "run"):
        del values[part][sorted(values[part])[0]]
    del values["devices"]
    assert isinstance(from_json(values), TrainConfig)
    del values["optim"]["momentum"]
    assert from_json(values).optim.momentum == OptimConfig().momentum


def test_a_run_moved_from_jax_by_an_older_version_may_have_jaxs_devices():
    values = to_json(TrainConfig(devices=DevicesConfig(spmd="pmap"))) | {"framework": "torch"}
    assert from_json(values).devices == DevicesConfig()


def test_color_noise_that_ended_within_an_epoch_ends_after_it():
    values = to_json(TrainConfig())
    values["data"]["color_noise_until"] = 0.5
    assert from_json(values).data.color_noise_until == 1.0
    values["data"] = [0.5]
    with pytest.raises(UserError, match="is not one that this version wrote"):
        from_json(values)


def test_a_run_of_the_wrong_zoo_is_refused():
    """Runs that began before the tables had a revision trained another network by that name."""
    values = to_json(parse_train(["--variant", "onnx_zoo"]))
    assert from_json(values).model.variant == "onnx_zoo"
    del values["tables"]
    with pytest.raises(UserError, match=r"27 and 13 where .* 26 and 12.*'caffe' at 224 pixels"):
        from_json(values)


@pytest.mark.parametrize(
    "words",
    [
        ["--std", "1e-320"],
        ["--mean", "1e308"],
        ["--learning-rate", "1e308"],
        ["--rate-of", "fc8=1e300"],
        ["--decay-of", "fc8=1e39"],
    ],
)
def test_numbers_that_fp32_cannot_hold_are_refused(words, tmp_path, capsys):
    narrow = ["--width", "0.0625", "--image-size", "67", "--steps", "1"]
    assert cli.main(["train", *narrow, "--workdir", str(tmp_path / "run"), *words]) == 2
    assert words[0] in capsys.readouterr().err


def test_a_home_that_is_not_there_is_a_sentence(capsys):
    assert cli.main(["prepare", "digits", "~no-such-user/x"]) == 2
    assert "there is no such home directory" in capsys.readouterr().err
