"""What a run begins with: weights, their preprocessing and their classes; on resume, its data."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from alexnet import cli
from alexnet.commands.train import parse_train
from alexnet.config import DataConfig, TrainConfig
from alexnet.errors import UserError
from alexnet.files import remove_tree
from alexnet.init import initial_weights
from alexnet.loop import Trainer
from alexnet.preprocess import EvalProtocol, Normalize, Preprocess
from alexnet.recipes import recipe
from alexnet.start import starting_weights
from alexnet.weights import Weights, save
from alexnet.workdir import read_config
from tests.conftest import NARROW, records
from tests.weights.helpers import WIDTH, narrow

CAFFE = Preprocess(
    Normalize((122.68, 116.67, 104.01), (1.0, 1.0, 1.0)), EvalProtocol("warp", 256, 227)
)

GRAY = Preprocess(Normalize((117.0,), (58.0,), "L"), EvalProtocol("short", 256, 224))


@pytest.fixture
def caffe(tmp_path):
    weights = dataclasses.replace(narrow("caffe"), preprocess=CAFFE)
    save(tmp_path / "caffe.safetensors", weights)
    return tmp_path / "caffe.safetensors"


def test_weights_bring_their_preprocessing(caffe):
    """Inputs 58 times too small, else."""
    options = ["--recipe", "paper", "--variant", "caffe", "--init-from", str(caffe)]
    assert parse_train(options).preprocess == CAFFE
    data = parse_train([*options, "--std", "58", "--resize-rule", "short"]).data
    assert (data.mean, data.std, data.resize_rule) == (CAFFE.normalize.mean, (58.0,), "short")
    own = parse_train(options[:4]).preprocess
    assert own != CAFFE
    assert parse_train([*options[:4], "--preprocess-from", str(caffe)]).preprocess == CAFFE
    with pytest.raises(UserError, match="No such file"):
        parse_train([*options[:4], "--preprocess-from", "nowhere.safetensors"])


def test_it_is_said_which_preprocessing_a_run_has(caffe):
    options = ["--recipe", "paper", "--variant", "caffe", "--init-from", str(caffe)]
    options += ["--width", str(WIDTH)]
    config = parse_train(options)
    notes = starting_weights(config, config.spec(narrow("caffe").spec.num_classes))[1]
    assert any("as the weights' (the file)" in note for note in notes), notes
    config = parse_train([*options, "--std", "58"])
    notes = starting_weights(config, config.spec(narrow("caffe").spec.num_classes))[1]
    assert any(note.startswith("warning: these weights take both sides") for note in notes), notes


def digits_with(path, names):
    """A configuration that starts from a narrow network with these classes."""
    base = recipe("digits")
    config = TrainConfig(
        model=dataclasses.replace(base.model, width=1 / 16, init_from=str(path)), data=base.data
    )
    spec = config.spec(len(names))
    arrays = initial_weights(spec, 3)
    save(path, Weights(arrays, spec, config.preprocess, tuple(names)))
    return config, spec, arrays


def test_classes_in_another_order_are_put_in_the_datas(tmp_path):
    config, spec, arrays = digits_with(tmp_path / "w.safetensors", "abc")
    found, notes = starting_weights(config, spec, ("c", "a", "b"))
    assert "put in the order of the data's classes" in notes[1]
    for name in ("fc8.kernel", "fc8.bias"):
        assert np.array_equal(found[name], arrays[name][..., [2, 0, 1]])
    assert np.array_equal(found["fc7.kernel"], arrays["fc7.kernel"])


def test_classes_of_other_names_are_told_of(tmp_path):
    config, spec, arrays = digits_with(tmp_path / "w.safetensors", "abc")
    found, notes = starting_weights(config, spec, ("a", "b\x1b[31m", "c"))
    assert "class 1 is b there and b\\x1b[31m here" in notes[1]
    assert np.array_equal(found["fc8.kernel"], arrays["fc8.kernel"])
    assert len(starting_weights(config, spec, "abc")[1]) == len(notes) - 1


@pytest.fixture
def folder(tmp_path):
    random = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for name in ("cat", "dog"):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 256, (70, 70, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / "data" / split / name / f"{number}.png")
    return tmp_path / "data"


CHANGES = {
    "class 1 was dog, and is eel now": lambda root: [
        (root / split / "dog").rename(root / split / "eel") for split in ("train", "val")
    ],
    "it had 8 training examples, and has 7 now": lambda root: (root / "train/cat/3.png").unlink(),
    "its 4 test examples are others than before": lambda root: (root / "val/cat/1.png").rename(
        root / "val/cat/7.png"
    ),
}


@pytest.mark.parametrize("place", ["runs", "cat/mine", None])
def test_a_run_does_not_become_a_class_of_its_data(place, folder, monkeypatch, capsys):
    """Its curve.png would be an image of that class from then on."""
    unsplit = folder / "train"
    monkeypatch.chdir(unsplit)
    options = ["train", "--framework", "torch", *NARROW, "--dataset", "folder:.", "--steps", "1"]
    assert cli.main([*options, *(["--workdir", place] if place else [])]) == 2
    assert "is inside the image folder ." in capsys.readouterr().err
    assert {path.name for path in unsplit.iterdir()} == {"cat", "dog"}
    assert len(list(unsplit.rglob("*"))) == 2 + 8


@pytest.mark.parametrize("words", [None, *CHANGES])
def test_a_run_is_not_resumed_on_other_data(words, folder, tmp_path, capsys):
    options = ["train", "--framework", "torch", *NARROW, "--dataset", f"folder:{folder}",
               "--image-size", "64", "--batch-size", "4", "--schedule", "constant",
               "--workdir", str(tmp_path / "run")]  # fmt: skip
    assert cli.main([*options, "--steps", "1"]) == 0
    if words:
        CHANGES[words](folder)
    code = cli.main([*options, "--steps", "2", "--resume"])
    said = capsys.readouterr()
    assert code == (2 if words else 0), said.err
    if words:
        assert words in said.err
        assert f"--init-from {tmp_path / 'run'} with another --workdir" in said.err


def test_a_run_killed_before_its_first_checkpoint_begins_with_its_weights_again(tmp_path, capsys):
    path, weights = tmp_path / "run", str(tmp_path / "w.safetensors")
    digits_with(weights, [str(n) for n in range(10)])
    options = ["train", "--framework", "torch", *NARROW, "--steps", "2", "--workdir", str(path)]
    assert cli.main([*options, "--init-from", weights]) == 0
    first = records(path)
    assert first[0]["loss"] != pytest.approx(plain_loss(options, tmp_path))
    capsys.readouterr()

    for gone in ("checkpoints/00000002", "checkpoints"):
        remove_tree(path / gone)
        (path / "weights.safetensors").unlink()
        assert cli.main([*options, "--resume"]) == 0
        assert records(path) == first
    assert f"weights from {weights}" in capsys.readouterr().out  # where not even step 0 was saved

    # With a checkpoint the file is not needed any more, nor is another read.
    assert cli.main([*options, "--resume", "--init-from", "nowhere"]) == 0
    assert "checkpoint's: --init-from nowhere is not read" in capsys.readouterr().out


def plain_loss(options, tmp_path):
    """The first loss of the run with initial weights."""
    other = tmp_path / "other"
    assert cli.main([*options[:-1], str(other)]) == 0
    return records(other)[0]["loss"]


@pytest.fixture
def ended(tmp_path, capsys):
    """A run that has ended: its folder, and the words that began it."""
    path = tmp_path / "run"
    options = ["train", "--framework", "torch", *NARROW, "--workdir", str(path), "--steps", "6",
               "--schedule", "constant", "--checkpoint-every", "2", "--eval-every", "4",
               "--keep-checkpoints", "4"]  # fmt: skip
    assert cli.main(options) == 0
    capsys.readouterr()
    return path, options


def everything(path):
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def test_a_run_without_checkpoints_is_not_begun_anew(ended, capsys):
    path, _ = ended
    remove_tree(path / "checkpoints")
    before = everything(path)
    assert cli.main(["train", "--resume", "--workdir", str(path), "--steps", "9"]) == 2
    assert f"--init-from {path} with another --workdir" in capsys.readouterr().err
    assert everything(path) == before


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--steps", "4", "--keep-checkpoints", "1"], "more than the 4 asked for"),
        (["--init-from", "w.safetensors"], "without --init-from"),
        (["--preprocess-from", "w.safetensors"], "without --preprocess-from"),
    ],
)
def test_a_refused_resume_changes_nothing(words, why, ended, capsys):
    path, _ = ended
    before = everything(path)
    assert cli.main(["train", "--resume", "--workdir", str(path), *words]) == 2
    assert why in capsys.readouterr().err
    assert everything(path) == before


def test_a_length_given_anew_is_the_runs(ended, capsys):
    path, _ = ended
    assert cli.main(["train", "--resume", "--workdir", str(path), "--steps", "7"]) == 0
    assert cli.main(["train", "--resume", "--workdir", str(path)]) == 0
    assert read_config(path).run.steps == 7
    assert records(path)[-1]["step"] == 7


def test_it_is_also_that_of_a_run_that_had_saved_nothing(ended):
    path, _ = ended
    remove_tree(path / "checkpoints")
    (path / "weights.safetensors").unlink()
    assert cli.main(["train", "--resume", "--workdir", str(path), "--steps", "3"]) == 0
    assert read_config(path).run.steps == 3


def test_a_plateau_is_the_same_in_two_parts(tmp_path):
    options = ["train", "--framework", "torch", *NARROW, "--schedule", "plateau", "--patience", "2",
               "--learning-rate", "1e-10", "--warmup-steps", "0", "--eval-every", "2"]  # fmt: skip
    once, twice = tmp_path / "once", tmp_path / "twice"
    assert cli.main([*options, "--steps", "12", "--workdir", str(once)]) == 0
    assert cli.main([*options, "--steps", "5", "--workdir", str(twice)]) == 0
    assert cli.main(["train", "--resume", "--steps", "12", "--workdir", str(twice)]) == 0
    rates = [{r["step"]: r["learning_rate"] for r in records(p) if r["split"] == "train"}
             for p in (once, twice)]  # fmt: skip
    assert rates[0] == rates[1]
    assert len(set(rates[0].values())) > 1


def test_an_evaluation_image_may_be_mended_meanwhile(folder, tmp_path, monkeypatch, capsys):
    bad = folder / "val/cat/1.png"
    good = bad.read_bytes()
    bad.write_bytes(b"junk")
    evaluate = Trainer._evaluate

    def mended(self, stop):
        found = evaluate(self, stop)
        bad.write_bytes(good)
        return found

    monkeypatch.setattr(Trainer, "_evaluate", mended)
    options = ["train", "--framework", "torch", *NARROW, "--dataset", f"folder:{folder}",
               "--image-size", "64", "--batch-size", "4", "--steps", "2", "--eval-every", "1",
               "--on-bad-image", "skip", "--workdir", str(tmp_path / "run")]  # fmt: skip
    assert cli.main(options) == 0, capsys.readouterr().err
    assert capsys.readouterr().out.count("left out: ") == 1
    counts = [r["count"] for r in records(tmp_path / "run") if r["split"] == "eval"]
    assert counts == [3, 4]


def test_evaluating_a_run_on_data_that_changed_is_a_warning(folder, tmp_path, capsys):
    path = tmp_path / "run"
    options = ["--framework", "torch", *NARROW, "--dataset", f"folder:{folder}", "--image-size",
               "64", "--batch-size", "4", "--steps", "1", "--workdir", str(path)]  # fmt: skip
    assert cli.main(["train", *options]) == 0
    assert cli.main(["evaluate", str(path)]) == 0
    assert "warning" not in capsys.readouterr().err
    (folder / "val/cat/1.png").unlink()
    assert cli.main(["evaluate", str(path)]) == 0
    assert "it had 4 test examples, and has 3 now" in " ".join(capsys.readouterr().err.split())


def test_gray_weights_bring_their_preprocessing(tmp_path):
    gray = dataclasses.replace(narrow("torchvision", channels=1), preprocess=GRAY)
    save(tmp_path / "gray.safetensors", gray)
    options = ["--recipe", "torchvision", "--channels", "1", "--width", str(WIDTH)]
    data = parse_train([*options, "--init-from", str(tmp_path / "gray.safetensors")]).data
    assert (data.mean, data.std) == ((117.0,), (58.0,))


def test_weights_may_be_on_the_hub():
    assert parse_train(["--init-from", "hf://org/name"]).model.init_from == "hf://org/name"
    with pytest.raises(UserError, match="--workdir: hf://org/name is a URL that can't be read"):
        parse_train(["--workdir", "hf://org/name"])


def test_defaults_are_those_of_the_recipe():
    assert parse_train([]).data == recipe("digits").data
    assert DataConfig().preprocess_from is None
