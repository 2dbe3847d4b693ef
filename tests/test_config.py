import dataclasses

import pytest

from alexnet.cli import parse_train
from alexnet.config import CHOICES, TrainConfig, changed_fields, check, from_json, to_json
from alexnet.errors import UserError
from alexnet.recipes import RECIPES


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_valid_and_survive_json(name):
    config = RECIPES[name].config
    check(config)
    assert config.recipe == name
    assert from_json(to_json(config)) == config


def test_every_option_of_the_design_is_on_the_command_line(tmp_path):
    config = parse_train(
        f"--framework torch --recipe paper --variant single --dataset synthetic "
        f"--data-dir {tmp_path} "
        f"--batch-size 4 --steps 7 --image-size 99 --precision bf16 --seed 5 --workdir {tmp_path} "
        "--overwrite --checkpoint-every 3 --log-every 2 --init-from w --on-bad-image skip".split()
    )
    check(config)
    assert (config.framework, config.recipe, config.model.variant) == ("torch", "paper", "single")
    assert (config.run.steps, config.run.epochs, config.run.checkpoint_every) == (7, None, 3)
    assert (config.data.on_bad_image, config.model.precision) == ("skip", "bf16")
    assert config.optim.drop_epochs == (25.0, 51.0, 79.0)  # the rest is the recipe's


def test_recipe_follows_the_data_set():
    assert parse_train([]).recipe == "digits"
    assert parse_train(["--dataset", "folder:x"]).recipe == "torchvision"
    assert parse_train(["--dataset=folder:x"]).recipe == "torchvision"
    assert parse_train(["--dataset", "folder:x"]).data.dataset == "folder:x"
    assert parse_train(["--epochs", "2"]).run.epochs == 2


@pytest.mark.parametrize("name", CHOICES)
def test_a_misspelt_word_gets_the_nearest(name):
    right = CHOICES[name][0]
    config = parse_train([f"--{name.replace('_', '-')}", right + "x"])
    with pytest.raises(UserError, match=f"did you mean '{right}'"):
        check(config)


@pytest.mark.parametrize(
    "options",
    [
        "--batch-size 0", "--learning-rate -1", "--momentum 1", "--momentum 0 --nesterov",
        "--label-smoothing 1", "--seed -1", "--epochs 0", "--steps -2", "--log-every 0",
        "--resize-to 10", "--std 0", "--mean 1 2", "--channels 1 --color-noise 0.1",
        "--steps 1 --epochs 1", "--resume --overwrite", "--keep-checkpoints 0", "--clip-norm -1",
        "--warmup-steps -1", "--patience 0", "--loader-threads 0", "--eval-every 0",
    ],
)  # fmt: skip
def test_values_that_no_run_can_have_are_refused(options):
    with pytest.raises(UserError, match="--"):
        check(parse_train(options.split()))


def test_only_fields_that_leave_the_numbers_alone_may_change_on_resume():
    config = TrainConfig()
    free = dataclasses.replace(config, run=dataclasses.replace(config.run, log_every=3))
    assert changed_fields(config, free) == []
    other = dataclasses.replace(config, run=dataclasses.replace(config.run, seed=3))
    assert changed_fields(config, other) == ["seed"]


@pytest.mark.parametrize(
    "broken", [[1], {"model": 3}, {"model": {"nope": 1}}, {"wrong": 3}, {"run": {"seed": "0"}}]
)
def test_a_strange_config_is_refused(broken):
    with pytest.raises(UserError, match=r"config\.json"):
        from_json(broken)


def test_a_run_of_the_wrong_zoo_is_refused():
    """Runs that began before the tables had a revision trained another network by that name."""
    values = to_json(parse_train(["--variant", "onnx_zoo"]))
    assert from_json(values).model.variant == "onnx_zoo"
    del values["tables"]
    with pytest.raises(UserError, match=r"27 and 13 where .* 26 and 12.*'caffe' at 224 pixels"):
        from_json(values)
