"""The command line: what is parsed, what --help says, and how mistakes end."""

import dataclasses
import importlib
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass

import pytest

import alexnet
from alexnet import cli, weights
from alexnet.commands.train import parse_train
from alexnet.config import TrainConfig
from alexnet.init import initial_weights
from alexnet.options import _comments, flag, parse
from alexnet.recipes import RECIPES
from alexnet.spec import VARIANTS, variant
from alexnet.workdir import write_config
from tests.conftest import ROOT


def test_every_option_of_the_design_is_on_the_command_line(tmp_path):
    config = parse_train(
        f"--framework torch --recipe paper --variant single --dataset synthetic "
        f"--data-dir {tmp_path} "
        f"--batch-size 4 --steps 7 --image-size 99 --precision bf16 --seed 5 --workdir {tmp_path} "
        "--overwrite --checkpoint-every 3 --log-every 2 --init-from w --on-bad-image skip".split()
    )
    assert (config.framework, config.recipe, config.model.variant) == ("torch", "paper", "single")
    assert (config.run.steps, config.run.epochs, config.run.checkpoint_every) == (7, None, 3)
    assert (config.data.on_bad_image, config.model.precision) == ("skip", "bf16")
    assert config.optim.drop_epochs == (25.0, 51.0, 79.0)  # the rest is the recipe's
    assert (config.run.workdir, config.model.init_from) == (str(tmp_path), "w")


def test_recipe_follows_the_data_set():
    assert parse_train([]) == RECIPES["digits"].config
    assert parse_train(["--dataset", "folder:x"]).recipe == "torchvision"
    assert parse_train(["--dataset=folder:x"]).recipe == "torchvision"
    assert parse_train(["--dataset", "folder:x"]).data.dataset == "folder:x"
    assert parse_train(["--epochs", "2"]).run.epochs == 2


def test_forms_of_options():
    options = "--no-decay-biases --flip --drop-epochs 1 2.5 --mean 1 2 3 --image-size None"
    config = parse_train(f"{options} --checkpoint-every None --seed 1 --seed 2".split())
    assert (config.optim.decay_biases, config.data.flip) == (False, True)
    assert (config.optim.drop_epochs, config.data.mean) == ((1, 2.5), (1, 2, 3))
    assert (config.model.image_size, config.run.checkpoint_every, config.run.seed) == (
        None,
        None,
        2,
    )
    assert not parse_train(["--recipe", "paper", "--no-flip"]).data.flip


def test_options_that_are_lists_of_words():
    @dataclass(frozen=True)
    class Options:
        freeze: tuple[str, ...] = ()
        rate_of: tuple[str, ...] = ("a=1",)

    found = parse(Options, ["--freeze", "conv1", "conv2"], prog="x")
    assert found == Options(("conv1", "conv2"), ("a=1",))
    assert parse(Options, ["--rate-of", "fc8=10", "fc7=2"], prog="x").rate_of == ("fc8=10", "fc7=2")
    assert parse(Options, ["--rate-of"], prog="x").rate_of == ()


def test_resume_goes_on_from_the_runs_own_values(tmp_path):
    began = parse_train(f"--recipe paper --workdir {tmp_path} --steps 9 --seed 3".split())
    write_config(tmp_path, dataclasses.replace(began, framework="torch"))
    now = parse_train(["--workdir", str(tmp_path), "--resume", "--log-every", "7"])
    assert (now.framework, now.recipe, now.run.seed, now.run.steps) == ("torch", "paper", 3, 9)
    assert (now.run.resume, now.run.log_every) == (True, 7)
    longer = parse_train(["--workdir", str(tmp_path), "--resume", "--epochs", "2"])
    assert (longer.run.steps, longer.run.epochs) == (None, 2)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_lists_every_option(name, capsys):
    assert cli.main([name, "--help"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    command = importlib.import_module(f"alexnet.commands.{name}")
    assert cli.COMMANDS[name] in printed

    def options(kind):
        for field in dataclasses.fields(kind):
            if dataclasses.is_dataclass(field.type):
                yield from options(field.type)
            else:
                yield field

    for field in options(command.Options):
        shown = field.name.upper() if field.metadata else flag(field.name)
        assert f"{shown} " in printed or f"{shown}, --no-" in printed, field.name
    if name not in ("recipes", "push", "prepare"):
        assert "--variant {" + ",".join(VARIANTS) + "}" in printed


def test_help_shows_the_recipes_defaults(capsys):
    assert cli.main(["train", "--recipe", "paper", "--help"]) == 0
    paper = capsys.readouterr().out
    assert "(default: 25.0 51.0 79.0)" in paper
    assert cli.main(["train", "--resume", "--workdir", "nowhere", "--help"]) == 0
    capsys.readouterr()
    assert "Dataset and preprocessing:" in paper
    assert "--recipe {" + ",".join(RECIPES) + "}" in paper
    assert cli.main(["compile", "--help"]) == 0
    compile_ = capsys.readouterr().out
    assert "(default: 30.0 60.0)" in compile_
    assert "usage: alexnet compile --topology TOPOLOGY [OPTIONS]" in compile_


def test_every_option_has_a_help_text():
    modules = [importlib.import_module(f"alexnet.commands.{name}") for name in cli.COMMANDS]
    parts = [f.type for f in dataclasses.fields(TrainConfig) if dataclasses.is_dataclass(f.type)]
    for kind in (TrainConfig, *parts, *(module.Options for module in modules)):
        explained = _comments(kind)
        for field in dataclasses.fields(kind):
            assert explained[field.name] or dataclasses.is_dataclass(field.type), field.name


MISTAKES = {
    "train --batchsize 3": "unknown option --batchsize: did you mean --batch-size? see "
    "`alexnet train --help`",
    "train --batch_size=3": "did you mean --batch-size?",
    "compile --topolgy v5e:2x2": "did you mean --topology? see `alexnet compile --help`",
    "compile": "--topology is missing; see `alexnet compile --help`",
    "compile --topology v5e:2x2 --framework torch": "leave it out",
    "doctor --foo": "unknown option --foo: see `alexnet doctor --help`",
    "train --steps many": "--steps: 'many' is not a whole number; see `alexnet train --help`",
    "train --learning-rate fast": "'fast' is not a number",
    "train --steps": "--steps: expected one argument",
    "recipes word": "unexpected argument 'word'; see `alexnet recipes --help`",
    "train --recipe papr": "did you mean 'paper'",
    "summary --variant papr": "did you mean 'paper'",
    "summary --image-size 100000": "--image-size is 100000",
    "summary --num-classes 0": "--num-classes is 0",
    "summary --width 3": "--width is 3",
    "convert": "SOURCE is missing; see `alexnet convert --help`",
    "convert a.pth": "TARGET is missing",
    "convert a b c": "unexpected argument 'c'",
    "convert a b --images photos": "--images is for --verify",
    "convert a b --overwrite": "--overwrite is for --to hf-folder",
    "push": "FOLDER is missing; see `alexnet push --help`",
    "push a b --message=": "--message: the value is empty",
    "bench --batch-size 0": "--batch-size is 0",
    "bench --variant papr": "did you mean 'paper'",
    "bench --block-seconds 0": "--block-seconds is 0.0",
    "bench --image-size 10": "the smallest that works is 63",
    "bench --what convert --against plain": "--against is for networks",
    "bench --what input --layers": "--layers is for networks",
    "bench --what infer --dataset digits": "--dataset and --data-dir are for --what input",
    "bench --data-dir /nowhere": "--data-dir is for --dataset tfds:NAME",
    "bench --dataset digits --against plain": "leave --against or --dataset out",
    "bench --layers --dataset digits": "--dataset and --data-dir are for --what input",
    "bench --dataset digits --num-classes 2": "give --num-classes 10",
    "bench --what input --dataset digits --batch-size 9999": "1,438 training examples",
    "convert a b --to-variant papr": "did you mean 'paper'",
    "convert a b --verify --images /nowhere/at/all": "/nowhere/at/all",
    "trian": "did you mean 'train'",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_gets_one_sentence_and_exit_code_2(words, capsys):
    assert cli.main(words.split()) == 2
    error = capsys.readouterr().err
    assert MISTAKES[words] in error
    assert error.startswith("error: ")
    assert len(error.splitlines()) == 1


def test_options_of_convert_may_stand_anywhere(tmp_path, capsys):
    a, b = str(tmp_path / "a.pth"), str(tmp_path / "b.pth")
    for words in ([a, b, "--step", "3"], [a, "--step", "3", b], ["--step=3", a, b]):
        assert cli.main(["convert", *words]) == 2
        assert "--step names a checkpoint of a run" in capsys.readouterr().err


def test_photographs_are_looked_at_before_anything_is_written(tmp_path, capsys):
    spec = variant("torchvision", num_classes=10, image_size=64, width=0.0625)
    preprocess = RECIPES["digits"].config.preprocess
    weights.save(
        tmp_path / "a.safetensors", weights.Weights(initial_weights(spec, 0), spec, preprocess)
    )
    photos = tmp_path / "photos"
    photos.mkdir()
    command = ["convert", str(tmp_path / "a.safetensors"), str(tmp_path / "b.pth"), "--verify"]
    for broken in (False, True):
        if broken:
            (photos / "a.jpg").write_bytes(b"no picture")
        assert cli.main([*command, "--images", str(photos)]) == 2
        assert f"--images {photos}" in capsys.readouterr().err
        assert not (tmp_path / "b.pth").exists()


def test_recipes(capsys):
    assert cli.main(["recipes"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed and r.source in printed for name, r in RECIPES.items())
    assert cli.main(["recipes", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed["paper"]["config"]["optim"]["drop_epochs"] == [25.0, 51.0, 79.0]


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"alexnet {alexnet.__version__}\n"
    assert alexnet.__version__[0].isdigit()


@pytest.mark.parametrize("framework", ["jax", "torch"])
def test_summary_takes_a_width(framework, capsys):
    options = ["--width", "0.0625", "--image-size", "64", "--framework", framework, "--json"]
    assert cli.main(["summary", *options]) == 0
    assert json.loads(capsys.readouterr().out)["layers"][0]["params"] == 11 * 11 * 3 * 4 + 4


def test_torchs_own_summary_counts_in_digits(capsys):
    options = ["--width", "0.0625", "--image-size", "64", "--framework", "torch"]
    assert cli.main(["summary", *options]) == 0
    printed = capsys.readouterr().out
    assert "Units." not in printed
    assert "Total params: 481,580\n" in printed
    assert re.search(r"Total mult-adds: [\d,]+\n", printed)


def test_output_that_nobody_reads_is_no_traceback():
    """The pipe's reader is gone before anything is printed, as `| head` is after a line."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "alexnet", "recipes", "--json"]
    result = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    os.close(write)
    assert (result.returncode, result.stderr) == (1, "")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (MemoryError("72.2 GiB"), 1, "failed: not enough memory: 72.2 GiB"),
        (MemoryError(), 1, "failed: not enough memory"),
        (FileNotFoundError(2, "No such file", "x"), 2, "error: x: No such file"),
        (OSError(28, "No space left", "x"), 1, "failed: x: No space left"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_other_errors_are_sentences_too(error, code, line, monkeypatch, capsys):
    def fail(*_):
        raise error

    monkeypatch.setattr(cli, "_run", fail)
    assert cli.main([]) == code
    assert capsys.readouterr().err == line + "\n"


def test_messages_are_one_short_printable_line(monkeypatch, capsys):
    def fail(*_):
        raise cli.UserError("\x1b[2Jé\n" + "x" * 10_000)

    monkeypatch.setattr(cli, "_run", fail)
    assert cli.main([]) == 2
    error = capsys.readouterr().err
    assert error.startswith(r"error: \x1b[2Jé\nxxx")
    assert len(error) < 2100


def test_two_variants_side_by_side_without_a_framework(capsys):
    assert cli.main(["summary", "--compare", "caffe", "caffenet", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["one"]["params"] == found["other"]["params"] == 60_965_224
    rows = {(row["name"], bool(row["one"]), bool(row["other"])): row for row in found["layers"]}
    assert rows["conv1", True, True]["same"]
    assert not rows["conv2", True, True]["same"]  # biases begin from 0.1 and from 1
    assert {("pool1", True, False), ("pool1", False, True)} <= rows.keys()  # before, after the LRN
    for name in VARIANTS:
        assert cli.main(["summary", "--compare", name, name, "--num-classes", "7"]) == 0
        assert "0 layers differ" in capsys.readouterr().out
    assert cli.main(["summary", "--compare", "paper", "cafe"]) == 2
    assert "did you mean 'caffe'" in capsys.readouterr().err
    assert cli.main(["summary", "--compare", "paper"]) == 2


def test_recipes_tell_what_is_published_and_what_was_run(capsys):
    assert cli.main(["recipes"]) == 0
    text = capsys.readouterr().out
    for name, found in RECIPES.items():
        assert f"{name}: variant {found.config.model.variant}" in text
        assert found.published in text
        assert found.measured in text
    assert cli.main(["recipes", "--json"]) == 0
    keys = {"source", "published", "measured", "config"}
    assert all(one.keys() == keys for one in json.loads(capsys.readouterr().out).values())
