"""Runs damaged by hand, with right digests; conversions of runs that meet, or are killed."""

import dataclasses
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from alexnet import cli, metrics, porting, sealed, weights
from alexnet.checkpoints import STATE, _digests
from alexnet.config import ModelConfig, OptimConfig, TrainConfig
from alexnet.errors import RunError, UserError
from alexnet.init import initial_weights
from alexnet.staging import staging
from alexnet.trained import open_weights

FRAMEWORKS = ("jax", "torch")


def run_state(framework: str) -> porting.RunState:
    """A narrow run after three steps, as if it had been trained."""
    config = TrainConfig(
        framework, model=ModelConfig(width=0.03), optim=OptimConfig(warmup_steps=0)
    )
    spec, line = config.spec(4), {"step": 3, "split": "eval", "loss": 1.0, "top1": 0.5, "top5": 1.0}
    arrays = {part: initial_weights(spec, 0) for part in ("params", "momentum")}
    meta = {"evals": [line], "score": [0.5, -1.0], "num_classes": 4, "class_names": list("abcd")}
    return porting.RunState(config, spec, arrays, {**meta, "step": 3}, [line])


@pytest.fixture(scope="module", params=FRAMEWORKS)
def whole(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / request.param
    porting.write_run(path, run_state(request.param), request.param)
    return path


@pytest.fixture
def run(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "run")


def edited(run, **fields):
    """The run with other fields in its checkpoint's `meta.json`, and digests of what is there."""
    checkpoint = run / "checkpoints/00000003"
    meta = sealed.read(checkpoint / "meta.json")
    sealed.write(checkpoint / "meta.json", meta | {"files": _digests(checkpoint / STATE)} | fields)


@pytest.mark.parametrize(
    "fields",
    [
        *({"num_classes": value} for value in (None, True, "4", 0, -1, 5, 10**30, [4])),
        *({"step": value} for value in (None, True, "3", 4, 3.5)),
    ],
)
def test_odd_numbers_in_a_checkpoint_are_a_sentence(fields, run):
    edited(run, **fields)
    with pytest.raises(RunError, match="can't be read: ") as error:
        open_weights(run)
    assert "there is no other checkpoint" in str(error.value)
    assert len(str(error.value)) < 2000
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("damage", [lambda _: b"", lambda data: data[:40], lambda _: b"x" * 9])
def test_a_damaged_state_with_right_digests_is_a_sentence(damage, run):
    for file in (run / "checkpoints/00000003" / STATE).rglob("*"):
        if file.is_file():
            file.write_bytes(damage(file.read_bytes()))
    edited(run)
    with pytest.raises(RunError, match="can't be read: "):
        porting.read_run(run)


def test_a_damaged_log_keeps_nobody_from_the_weights(run):
    log = run / "metrics.jsonl"
    log.write_bytes(log.read_bytes().replace(b"3", b"4", 1))
    weights.save(run / "weights.safetensors", dataclasses.replace(open_weights(run), source="old"))
    with pytest.raises(UserError):
        porting.read_run(run)
    assert open_weights(run).source == "run run, step 3"


def test_weights_of_a_runs_end_are_said_to_be_those(run):
    weights.save(run / "weights.safetensors", open_weights(run))
    shutil.rmtree(run / "checkpoints")
    (note,) = open_weights(run).notes
    assert note.endswith("no checkpoint yet: these are its weights.safetensors, of run run, step 3")


@pytest.mark.parametrize("record", [{}, {"top1": 1e300}, {"top1": 10**200}])
def test_a_model_card_leaves_out_what_is_no_measurement(record, run, tmp_path):
    metrics.write_all(run, [{"step": 3, "split": "eval", "loss": 1.0, "top5": 1.0} | record])
    porting.convert(run, tmp_path / "folder", target_format="hf-folder")
    assert "Not measured." in (tmp_path / "folder/README.md").read_text()


def test_class_names_of_other_classes_are_left_out_and_said(run, tmp_path):
    edited(run, class_names=["a"])
    whole, lines = porting.convert(run, tmp_path / "w.safetensors")
    assert "its 1 class names are left out: it has 4 classes" in lines
    assert whole.class_names is None


def test_of_several_conversions_to_one_run_one_wins_whole(whole, tmp_path):
    def move(_):
        try:
            return porting.convert(whole, tmp_path / "new", target_format="torch")
        except UserError as error:
            return str(error)

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(move, range(4)))
    lost = [each for each in results if isinstance(each, str)]
    assert len(lost) == 3
    assert all("is there already, and a run is never overwritten" in each for each in lost)
    assert os.listdir(tmp_path) == ["new"]
    assert porting.read_run(tmp_path / "new").step == 3


def test_a_conversion_that_fails_leaves_nothing(whole, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(porting.workdir, "write_config", refuse)
    with pytest.raises(RunError, match="No space left on device"):
        porting.convert(whole, tmp_path / "new", target_format="torch")
    assert not list(tmp_path.iterdir())


def test_what_a_killed_conversion_left_is_removed_by_the_next(whole, tmp_path):
    code = (
        "import os, sys, pathlib; from alexnet.staging import staging\n"
        "with staging(pathlib.Path(sys.argv[1])) as d: (d / 'a').touch(); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "new"], check=False)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".new.")
    with staging(tmp_path / "new") as other, staging(tmp_path / "other"):  # of a living process
        assert not left.exists()
        porting.convert(whole, tmp_path / "new", target_format="torch")
        assert other.exists()
    assert os.listdir(tmp_path) == ["new"]


def test_a_moved_run_keeps_what_it_is(whole, tmp_path, capsys):
    given = ["convert", str(whole), str(tmp_path / "new"), "--to", "torch"]
    assert cli.main([*given, "--mean", "1"]) == 2
    assert "is to be a run, which keeps its preprocessing" in capsys.readouterr().err
    assert cli.main([*given, "--dtype", "fp16"]) == 2
    assert not list(tmp_path.iterdir())


def test_a_diverged_run_is_not_moved(tmp_path):
    state = run_state("torch")
    state.arrays["momentum"]["fc7.bias"][0] = float("nan")
    porting.write_run(tmp_path / "run", state, "torch")
    with pytest.raises(UserError, match=r"momentum of fc7.bias \(1\): .*--step takes"):
        porting.convert(tmp_path / "run", tmp_path / "new", target_format="jax")
    porting.convert(tmp_path / "run", tmp_path / "w.safetensors")  # the weights are sound
    damaged = dataclasses.replace(state, arrays={"params": state.arrays["momentum"]})
    porting.write_run(tmp_path / "other", damaged, "torch")
    with pytest.raises(UserError, match=r"in fc7.bias \(1\)"):
        porting.convert(tmp_path / "other", tmp_path / "v.safetensors")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "paper"}, "it is 'torchvision' for .* pixels, as it says itself"),
        ({"image_size": 99}, "it is 'torchvision' for .* pixels, as it says itself"),
        ({"source_format": "torch"}, "--from is for files, and .* is a directory: omit it"),
    ],
)
def test_options_for_files_that_leave_it_open_are_not_ignored(options, message, whole, tmp_path):
    with pytest.raises(UserError, match=message):
        porting.convert(whole, tmp_path / "w.safetensors", **options)
    assert not list(tmp_path.iterdir())


def test_a_runs_variant_may_be_named(whole):
    assert open_weights(whole, variant="torchvision").spec.name == "torchvision"
    with pytest.raises(UserError, match="not 'paper' for"):
        open_weights(whole, variant="paper")
