"""`alexnet predict` and `alexnet.predict` on pictures, and `--features`."""

import csv
import dataclasses
import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import alexnet
import alexnet_jax
import alexnet_torch
from alexnet import cli, imagenet, weights
from alexnet.errors import RunError, UserError
from alexnet.evaluation import Pair, open_engine
from alexnet.preprocess import EvalProtocol, Preprocess
from alexnet.weights import Weights
from tests.conftest import ROOT, alexnet_command
from tests.photographs import narrow_1000, photographs
from tests.weights.helpers import narrow

FRAMEWORKS = ("jax", "torch")


def test_predict_names_files_and_counts_what_it_cannot_read(tmp_path, capsys):
    folder = photographs(tmp_path / "photos")
    (folder / "deep").mkdir()
    (folder / "0.png").rename(folder / "deep" / "0.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    file = tmp_path / "w.safetensors"
    weights.save(file, narrow_1000())
    pattern = str(folder / "[12].png")
    code = cli.main(["predict", str(file), str(folder), pattern, str(tmp_path / "none.jpg"),
                     str(folder / "x*"), "--json"])  # fmt: skip
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert code == 1
    assert [os.path.basename(one["image"]) for one in found["images"]] == [
        "1.png", "2.png", "3.png", "4.png", "5.png", "0.png", "1.png", "2.png",
    ]  # fmt: skip
    assert "broken.jpg: " in err
    assert "none.jpg: the file can't be read: No such file" in err
    assert "no file by this pattern" in err
    assert "3 of 11 could not be read" in err
    first = found["images"][0]["classes"]
    assert len(first) == 5
    assert [one["wnid"] for one in first] == [imagenet.classes()[one["class"]][0] for one in first]
    shares = [one["probability"] for one in first]
    assert shares == sorted(shares, reverse=True)


def test_predict_reads_names_from_standard_input_and_writes_csv(tmp_path):
    folder = photographs(tmp_path / "photos", 2)
    file = tmp_path / "w.safetensors"
    weights.save(file, narrow_1000())
    names = f"{folder}/0.png\n\n{folder}/1.png\n"
    result = alexnet_command("predict", file, "-", "--csv", "--top-k", "2", input=names)
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [(row["image"], row["rank"]) for row in rows] == [
        (f"{folder}/{n}.png", k) for n in (0, 1) for k in ("1", "2")
    ]
    plain = alexnet_command("predict", file, folder / "0.png", "--top-k", "2").stdout
    assert plain.startswith(f"{folder}/0.png: ")
    assert "\x1b" not in plain


def test_names_of_any_bytes_reach_no_terminal(tmp_path):
    folder = photographs(tmp_path / "photos", 1)
    odd = os.fsencode(folder) + b"/\x1b[2J\xff.png"
    os.rename(folder / "0.png", odd)
    file = tmp_path / "w.safetensors"
    whole = narrow("torchvision", image_size=67, num_classes=2)
    weights.save(file, dataclasses.replace(whole, class_names=("\x1b[31mred", "\u202edlo")))
    for form in ((), ("--csv",), ("--json",)):
        command = [sys.executable, "-m", "alexnet", "predict", file, "-", *form]
        result = subprocess.run(command, input=odd + b"\n", capture_output=True, cwd=ROOT)
        text = result.stdout.decode()
        assert result.returncode == 0, result.stderr
        assert "\x1b" not in text + result.stderr.decode()
        assert "\u202e" not in text
        assert "[2J" in text


def test_features_are_the_models_activations(tmp_path, capsys):
    folder = photographs(tmp_path / "photos", 3)
    file, out = tmp_path / "w.safetensors", tmp_path / "fc7.npz"
    weights.save(file, whole := narrow_1000())
    arguments = ["predict", str(file), "--features", "fc7", str(out), str(folder)]
    for framework in FRAMEWORKS:
        assert cli.main([*arguments, "--framework", framework]) == 0
        with np.load(out) as found:
            features, names = found["features"], found["names"].tolist()
        assert names == [f"{folder}/{n}.png" for n in range(3)]
        model = alexnet_jax.AlexNet(whole.spec, weights=whole.arrays)
        inputs = np.stack([alexnet.preprocess(name, whole) for name in names])
        expected = np.asarray(model.activations(inputs)["fc7"])
        assert np.abs(features - expected).max() <= 1e-4 * expected.std()
    capsys.readouterr()
    assert cli.main([*arguments[:2], str(folder), "--features", "fc9", str(out)]) == 2
    assert "did you mean 'fc" in capsys.readouterr().err


def test_an_untrained_network_is_told(tmp_path, capsys):
    from alexnet.init import initial_weights
    from alexnet.spec import variant

    folder = photographs(tmp_path / "photos", 2)
    spec = variant("torchvision", image_size=67, width=0.0625)
    file = tmp_path / "w.safetensors"
    for arrays, told in ((initial_weights(spec, 0), True), (narrow_1000().arrays, False)):
        own = narrow_1000() if not told else Weights(arrays, spec, Preprocess())
        weights.save(file, own)
        assert cli.main(["predict", str(file), str(folder)]) == 0
        assert ("looks untrained" in capsys.readouterr().err) is told


def test_both_frameworks_apart_is_exit_code_1(tmp_path, capsys, monkeypatch):
    folder = photographs(tmp_path / "photos", 2)
    file = tmp_path / "w.safetensors"
    weights.save(file, whole := narrow_1000())
    arguments = ["predict", str(file), str(folder), "--framework", "both"]
    assert cli.main(arguments) == 0
    assert "of their spread apart" in capsys.readouterr().err
    broken = {**whole.arrays, "fc8.bias": whole.arrays["fc8.bias"] + np.float32(0.05)}
    true = open_engine

    def other(own, framework, batch_size, **options):
        if framework == "both":
            wrong = Weights(broken, own.spec, own.preprocess)
            return Pair(true(own, "jax", batch_size), true(wrong, "torch", batch_size))
        return true(own, framework, batch_size, **options)

    monkeypatch.setattr("alexnet.evaluation.open_engine", other)
    assert cli.main(arguments) == 1
    monkeypatch.setattr("alexnet.prediction.open_engine", other)
    with pytest.raises(RunError, match="apart"):
        alexnet.predict(str(file), f"{folder}/0.png", framework="both")


def test_the_python_interface_takes_what_people_hold(tmp_path):
    folder = photographs(tmp_path / "photos", 1)
    path = folder / "0.png"
    file = tmp_path / "w.safetensors"
    weights.save(file, whole := narrow_1000())
    with Image.open(path) as picture:
        forms = [str(path), path, path.read_bytes(), picture.copy(), np.asarray(picture)]
    inputs = [alexnet.preprocess(form, file) for form in forms]
    assert all(np.array_equal(one, inputs[0]) for one in inputs)
    assert inputs[0].shape == (67, 67, 3)
    models = [wing.AlexNet.from_pretrained(file) for wing in (alexnet_jax, alexnet_torch)]
    found = [alexnet.predict(source, forms)[0] for source in (file, whole, *models)]
    assert len({one.classes for one in found}) == 1
    assert found[0].name == str(path)
    assert alexnet.predict(whole, []) == []
    for unreadable in ([b"x"], [path] * 9 + [b"x"]):
        with pytest.raises(UserError, match=r"image \d: it is not one of JPEG") as error:
            alexnet.predict(whole, unreadable)
        assert "--on-bad-image" not in str(error.value)  # which is not for it
    with pytest.raises(UserError, match="float64 of shape"):
        alexnet.preprocess(np.zeros((4, 4)), whole)
    bare = alexnet_jax.AlexNet(whole.spec, weights=whole.arrays)
    with pytest.raises(UserError, match="does not know how its input is prepared"):
        alexnet.predict(bare, path)


def test_modules_and_functions_of_one_name_are_both_there():
    from alexnet.evaluate import evaluate

    assert callable(alexnet.evaluate)
    assert callable(alexnet.preprocess)
    assert evaluate is not alexnet.evaluate
    assert EvalProtocol().crop == 224
