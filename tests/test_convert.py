"""`alexnet convert`: weights between files, runs between frameworks, and --verify."""

import dataclasses
import importlib
import json

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard

import alexnet_jax
import alexnet_torch
from alexnet import cli, porting
from alexnet.checkpoints import best_step
from alexnet.errors import UserError
from alexnet.init import initial_weights
from alexnet.layers import LeCun
from alexnet.preparation import PreparationConfig
from alexnet.preprocess import EvalProtocol, Normalize, Preprocess
from alexnet.spec import variant
from alexnet.trained import open_weights
from alexnet.verify import verify
from alexnet.weights import Weights, load, save
from alexnet.weights.layout import to_state_dict
from alexnet.weights.names import TORCHVISION_KEYS
from alexnet_torch.inspection import layer_outputs
from tests.conftest import NARROW, run_train

FRAMEWORKS = ("jax", "torch")
STEPS = ("--steps", 40, "--checkpoint-every", 20, "--eval-every", 20, "--warmup-steps", 30)


def train_lines(path):
    lines = map(json.loads, (path / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["split"] == "train"]


@pytest.fixture(scope="module", params=FRAMEWORKS)
def finished(request, tmp_path_factory):
    """A run of 40 steps with checkpoints at 20 and 40."""
    path = tmp_path_factory.mktemp(request.param) / "run"
    run_train("--framework", request.param, *NARROW, *STEPS, "--flip", "--workdir", path)
    return request.param, path


def test_a_half_trained_run_goes_on_in_the_other_framework(finished, tmp_path, capsys):
    framework, whole = finished
    other = next(f for f in FRAMEWORKS if f != framework)
    path = tmp_path / "moved"
    assert cli.main(["convert", str(whole), str(path), "--step", "20"]) == 0
    assert f"--framework {other} --workdir {path} --resume" in capsys.readouterr().out
    run_train("--framework", other, "--workdir", path, "--resume")
    moved, stayed = train_lines(path), train_lines(whole)
    assert [line["step"] for line in moved] == list(range(1, 41))
    assert [line["loss"] for line in moved[:20]] == [line["loss"] for line in stayed[:20]]
    apart = [abs(a["loss"] - b["loss"]) / b["loss"] for a, b in zip(moved, stayed, strict=True)]
    print(f"{framework} to {other}, steps 21 to 40: {max(apart):.1e} (bound 1e-4)")
    assert max(apart) < 1e-4


def test_a_run_survives_the_round_trip_bit_for_bit(finished, tmp_path):
    framework, whole = finished
    other = next(f for f in FRAMEWORKS if f != framework)
    porting.convert(whole, tmp_path / "there", target_format=other)
    porting.convert(tmp_path / "there", tmp_path / "back", target_format=framework)
    before, after = porting.read_run(whole), porting.read_run(tmp_path / "back")
    assert before.arrays.keys() == after.arrays.keys() == {"params", "momentum"}
    for part in before.arrays:
        assert any(array.any() for array in before.arrays[part].values())
        for name, array in before.arrays[part].items():
            assert (array == after.arrays[part][name]).all(), (part, name)
    assert before.meta["evals"] == after.meta["evals"]
    assert before.metrics == after.metrics
    assert (before.step, before.spec) == (after.step, after.spec)


def test_control_momentum_left_behind_is_noticed(finished, tmp_path):
    _, whole = finished
    state = porting.read_run(whole, 20)
    zeros = {name: np.zeros_like(array) for name, array in state.arrays["momentum"].items()}
    bare = dataclasses.replace(state, arrays={**state.arrays, "momentum": zeros})
    framework = state.config.framework
    porting.write_run(tmp_path / "bare", bare, framework)
    run_train("--framework", framework, "--workdir", tmp_path / "bare", "--resume")
    assert train_lines(tmp_path / "bare")[30]["loss"] != train_lines(whole)[30]["loss"]


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".onnx", ".msgpack"])
def test_a_runs_weights_as_a_file(finished, suffix, tmp_path, capsys):
    _, whole = finished
    target = tmp_path / f"weights{suffix}"
    assert cli.main(["convert", str(whole), str(target), "--json"]) == 0
    assert "parameters" in json.loads(capsys.readouterr().out)["done"]
    expected = load(whole / "weights.safetensors").arrays
    arrays = load(target, variant="torchvision").arrays
    assert all((arrays[name] == expected[name]).all() for name in expected)


def test_a_run_as_a_hugging_face_folder(finished, tmp_path):
    framework, whole = finished
    folder = tmp_path / "folder"
    assert cli.main(["convert", str(whole), str(folder), "--to", "hf-folder"]) == 0
    expected = load(whole / "weights.safetensors")
    for found in (open_weights(folder), open_weights(whole)):
        assert all((found.arrays[n] == a).all() for n, a in expected.arrays.items())
    assert open_weights(folder).preprocess == expected.preprocess
    measured = porting.read_run(whole).metrics[-1]
    card = ModelCard.load(folder / "README.md")
    assert measured["top1"] in [result.metric_value for result in card.data.eval_results]
    assert f"| framework | {framework} |" in card.text
    assert "40 of 32 examples" in card.text


def make_weights(name="paper", size=67):
    spec = variant(name, num_classes=12, image_size=size, width=0.0625, init=LeCun())
    return Weights(
        initial_weights(spec, 0), spec, Preprocess(protocol=EvalProtocol(resize_to=size, crop=size))
    )


def test_verify_passes_a_right_conversion(tmp_path, capsys):
    save(tmp_path / "a.safetensors", make_weights("torchvision"))
    arguments = ["convert", str(tmp_path / "a.safetensors"), str(tmp_path / "b.pth")]
    assert cli.main([*arguments, "--verify"]) == 0
    output = capsys.readouterr().out
    assert "passed" in output
    assert "fc8" in output


def _unpermuted(weights):
    kernel = weights.arrays["fc6.kernel"]
    maps = kernel.reshape(6, 6, -1, kernel.shape[1]).transpose(2, 0, 1, 3)
    return {"fc6.kernel": maps.reshape(kernel.shape)}


@pytest.mark.parametrize(
    "damage",
    [
        _unpermuted,
        lambda w: {"conv1.kernel": w.arrays["conv1.kernel"][:, :, ::-1]},
        lambda w: {"conv2.kernel": w.arrays["conv2.kernel"].swapaxes(0, 1)},
        lambda w: {"fc7.bias": w.arrays["fc7.bias"] + 0.01},
    ],
    ids=["fc6 rows", "BGR", "conv transposed", "bias"],
)
def test_control_verify_refuses_a_wrong_one(damage):
    right = make_weights("torchvision", 100)
    assert verify(right, right, None)["passed"]
    wrong = dataclasses.replace(right, arrays=right.arrays | damage(right))
    assert not verify(right, wrong, None)["passed"]


def test_verify_that_fails_exits_with_1(tmp_path, monkeypatch, capsys):
    save(tmp_path / "a.safetensors", make_weights())
    monkeypatch.setattr("alexnet.verify.BOUND", 1e-12)
    arguments = ["convert", str(tmp_path / "a.safetensors"), str(tmp_path / "b.msgpack")]
    assert cli.main([*arguments, "--verify", "--json"]) == 1
    assert not json.loads(capsys.readouterr().out)["verify"]["passed"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{tmp}/none.pth", "{tmp}/b.safetensors"], "can't read"),
        (["{tmp}", "{tmp}/b.safetensors"], "no config.json"),
        (["{tmp}/a.safetensors", "{tmp}/b"], "no format is known"),
        (["{tmp}/a.safetensors", "{tmp}/b", "--to", "jax"], "--init-from"),
        (["{tmp}/a.safetensors", "{tmp}/b.caffemodel", "--to", "caffe"], "read only"),
        (["{tmp}/a.safetensors", "{tmp}/b.pth", "--to", "torchvision"], "torchvision's keys"),
        (["{tmp}/a.safetensors", "{tmp}/b.pth", "--to-variant", "single"], "exactly"),
        (["{tmp}/a.safetensors", "{tmp}/b.pth", "--from", "onx"], "did you mean 'onnx'"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_cant_be_converted_is_refused(arguments, message, tmp_path, capsys):
    save(tmp_path / "a.safetensors", make_weights())
    words = [word.format(tmp=tmp_path) for word in arguments]
    assert cli.main(["convert", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert {path.name for path in tmp_path.iterdir()} == {"a.safetensors"}


def test_runs_are_never_overwritten(finished, tmp_path):
    framework, whole = finished
    (tmp_path / "there").mkdir()
    (tmp_path / "there/file").write_text("x")
    with pytest.raises(UserError, match="never overwritten"):
        porting.convert(whole, tmp_path / "there", target_format=framework)
    with pytest.raises(UserError, match="no checkpoint of step 7"):
        porting.convert(whole, tmp_path / "other", step=7)


@pytest.mark.parametrize(("size", "words"), [(67, ["--image-size", "67"]), (224, [])])
def test_the_options_that_a_plain_file_needs_are_said(size, words, tmp_path, capsys):
    source, target = tmp_path / "w.safetensors", tmp_path / "w.pth"
    save(source, own := make_weights("torchvision", size))
    assert cli.main(["convert", str(source), str(target)]) == 0
    options = ["--preprocess-from", str(source), *words]
    assert capsys.readouterr().out.endswith(f"use the file with {' '.join(options)}\n")
    config = PreparationConfig(preprocess_from=str(source))
    found = open_weights(target, image_size=size if words else None, preparation=config)
    assert found.preprocess == own.preprocess


def test_the_checkpoints_that_stay_are_named(finished, tmp_path):
    _, whole = finished
    for step, other in ((20, 40), (40, 20)):
        _, (_, note) = porting.convert(whole, tmp_path / f"at-{step}", step=step)
        assert f"only step {step} was moved: {other} stay in {whole}" in note
        assert (f"step {other} has the best" in note) is (best_step(whole / "checkpoints") == other)
    _, lines = porting.convert(tmp_path / "at-20", tmp_path / "alone")
    assert len(lines) == 1


def test_one_checkpoint_is_a_source_too(finished, tmp_path):
    _, whole = finished
    checkpoint = whole / "checkpoints/00000020"
    _, lines = porting.convert(checkpoint, tmp_path / "a.safetensors")
    assert any("step 20" in line for line in lines)


def test_folding_changes_the_input_and_not_the_output(tmp_path):
    right = make_weights("single")  # conv1 has no padding
    preprocess = Preprocess(Normalize((1, 2, 3), (2, 2, 2)), right.preprocess.protocol)
    right = dataclasses.replace(right, preprocess=preprocess)
    save(tmp_path / "a.safetensors", right)
    folded, _ = porting.convert(
        tmp_path / "a.safetensors", tmp_path / "b.safetensors", change=porting.Change(fold=True)
    )
    assert folded.preprocess.normalize.mean != (1, 2, 3)
    outputs = []
    for each in (right, folded):
        pixels = np.random.default_rng(0).integers(0, 255, (2, 67, 67, 3)).astype(np.float32)
        normalize = each.preprocess.normalize
        images = (pixels - np.float32(normalize.mean)) / np.float32(normalize.std)
        outputs.append(layer_outputs(each.spec, each.arrays, images)["fc8"])
    assert np.abs(outputs[0] - outputs[1]).max() < 1e-4 * outputs[0].std()
    padded = dataclasses.replace(make_weights("torchvision"), preprocess=right.preprocess)
    save(tmp_path / "c.safetensors", padded)  # conv1 has padding
    with pytest.raises(UserError, match="pads by 2"):
        porting.convert(
            tmp_path / "c.safetensors", tmp_path / "d.pth", change=porting.Change(fold=True)
        )


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_torchvisions_keys_come_out_of_either_model(framework):
    weights = make_weights("torchvision")
    module = importlib.import_module(f"alexnet_{framework}")
    model = module.AlexNet(weights.spec, weights=weights.arrays)
    state = to_state_dict(model.weights(), model.spec, TORCHVISION_KEYS)
    expected = ["features.0", "features.3", "features.6", "features.8", "features.10",
                "classifier.1", "classifier.4", "classifier.6"]  # fmt: skip
    assert [*state] == [f"{key}.{part}" for key in expected for part in ("weight", "bias")]
    assert state["features.0.weight"].shape == (4, 3, 11, 11)
    assert state["classifier.1.weight"].shape == (256, 576)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".onnx"])
def test_from_weights_gives_the_same_network_in_both(suffix, tmp_path):
    weights = make_weights("torchvision")
    save(tmp_path / f"a{suffix}", weights)
    images = np.random.default_rng(0).standard_normal((2, 67, 67, 3), dtype=np.float32)
    options = {"image_size": 67} if suffix == ".pth" else {}
    ours = alexnet_jax.AlexNet.from_weights(tmp_path / f"a{suffix}", **options)(images)
    model = alexnet_torch.AlexNet.from_weights(tmp_path / f"a{suffix}", **options).eval()
    theirs = model(torch.tensor(images).permute(0, 3, 1, 2)).detach().numpy()
    assert np.abs(ours - theirs).max() < 1e-4 * theirs.std()
