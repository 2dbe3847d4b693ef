"""Mean images: from each kind of file, under the crop, in both frameworks, and kept by a run."""

import dataclasses
import io
import json
import os
import shutil
import tracemalloc
import zipfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import alexnet_jax.step
import alexnet_torch.step
from alexnet import cli, workdir
from alexnet.commands.train import parse_train
from alexnet.config import RunConfig, TrainConfig
from alexnet.config_json import to_json as to_json_of_config
from alexnet.data import mean_image
from alexnet.data.augment import eval_view
from alexnet.data.inputs import normalized
from alexnet.data.mean_image import with_image
from alexnet.errors import UserError
from alexnet.preprocess import (
    EvalProtocol,
    Normalize,
    Preprocess,
    describe,
    from_json,
    to_json,
    with_mean_image,
)
from alexnet.recipes import recipe
from alexnet.trained import open_weights
from alexnet.weights import load, save
from tests.weights import makers
from tests.weights.helpers import forward, narrow

SIDE, CROP = 12, 8
PROTOCOL = EvalProtocol("short", SIDE, CROP)
PLAIN = Normalize((0.0,) * 3, (2.0, 3.0, 4.0))


def an_image(side=SIDE, seed=0):
    return np.random.default_rng(seed).uniform(90, 140, (side, side, 3)).astype("f4")


@pytest.mark.parametrize("kind", makers.MEAN_IMAGES)
def test_each_kind_of_file_gives_the_center_of_the_same_image(kind, tmp_path):
    image = an_image()
    found = with_image(PLAIN, PROTOCOL, str(makers.mean_image(kind, tmp_path, image)))
    np.testing.assert_array_equal(found.subtracted, image[2:10, 2:10])
    np.testing.assert_allclose(found.mean, image[2:10, 2:10].mean((0, 1), dtype="f8"))
    assert found.std == PLAIN.std
    blue_first = dataclasses.replace(PLAIN, channel_order="BGR")
    found = with_image(blue_first, PROTOCOL, str(makers.mean_image(kind, tmp_path, image)))
    np.testing.assert_array_equal(found.subtracted, image[2:10, 2:10, ::-1])


@settings(max_examples=40, deadline=None)
@given(crop=st.integers(4, 12), more=st.integers(0, 9))
def test_it_lies_under_the_center_crop(crop, more, tmp_path_factory):
    """An image that is its own mean is zero everywhere, whatever the rounding of the center."""
    image = np.random.default_rng(crop).integers(2, 255, (crop + more,) * 2 + (3,), np.uint8)
    path, protocol = (
        tmp_path_factory.mktemp("m") / "a.npy",
        EvalProtocol("short", crop + more, crop),
    )
    np.save(path, image)
    found = with_image(PLAIN, protocol, str(path))
    assert not normalized(eval_view(image, protocol), found).any()


def test_both_frameworks_subtract_it_bit_for_bit_as_the_host():
    views = np.random.default_rng(1).integers(0, 256, (4, CROP, CROP, 3), np.uint8)
    own = with_mean_image(PLAIN, an_image(CROP))
    batch = {"image": views, "mask": np.ones(4, np.float32)}
    by_jax = np.asarray(
        alexnet_jax.step.normalize({k: jnp.asarray(v) for k, v in batch.items()}, own, CROP)
    )
    tensors = {k: torch.from_numpy(v) for k, v in batch.items()}
    by_torch = alexnet_torch.step.normalize(tensors, own, CROP).permute(0, 2, 3, 1).numpy()
    host = normalized(views, own)
    np.testing.assert_array_equal(by_jax, host)
    np.testing.assert_array_equal(by_torch, host)
    exact = (views.astype("f8") - an_image(CROP)) / np.array(own.std)
    np.testing.assert_allclose(host, exact, atol=1e-5)
    mirrored = with_mean_image(PLAIN, an_image(CROP)[:, ::-1])  # a wrong image must not pass
    assert np.abs(normalized(views, mirrored) - exact).max() > 1


def test_it_comes_back_from_json_and_equals_itself():
    whole = Preprocess(with_mean_image(PLAIN, an_image(CROP)), PROTOCOL)
    values = json.loads(json.dumps(to_json(whole)))
    assert from_json(values, 3) == whole
    assert hash(from_json(values, 3)) == hash(whole)
    assert "mean image of" in describe(whole)
    assert len(repr(whole)) < 300
    other = Preprocess(with_mean_image(PLAIN, an_image(CROP, seed=1)), PROTOCOL)
    assert other != whole


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text[:-8], "has .* numbers, and an input of 8x8x3 has 192"),
        (lambda text: text + "AAAA", "has 192 numbers, and an input of 8x8x3"),
        (lambda text: "!" + text[1:], "mean image is damaged"),
        (lambda text: "é" + text[1:], "mean image is damaged"),
        (lambda text: "AADAfwAAwH8A" + text[12:], "numbers that no image has"),  # NaNs
        (lambda text: 5, "impossible image"),
        (lambda text: None, "impossible image"),
    ],
)
def test_json_that_none_can_have(change, words):
    values = to_json(Preprocess(with_mean_image(PLAIN, an_image(CROP)), PROTOCOL))
    with pytest.raises(UserError, match=words):
        from_json(values | {"image": change(values["image"])}, 3)


def _weights_with_one():
    """Weights whose preprocessing has a mean image, and that preprocessing."""
    weights = narrow("caffe")
    size = weights.spec.image_size
    own = Preprocess(with_mean_image(PLAIN, an_image(size)), EvalProtocol("warp", 256, size))
    return dataclasses.replace(weights, preprocess=own), own


def _folder_with_one(tmp_path):
    """A Hugging Face folder of such weights, and their preprocessing."""
    weights, own = _weights_with_one()
    save(tmp_path / "w.safetensors", weights)
    words = ["convert", str(tmp_path / "w.safetensors"), str(tmp_path / "hf"), "--to", "hf-folder"]
    assert cli.main(words) == 0
    return tmp_path / "hf", own


def _bytes_of(array, save_as=np.save):
    file = io.BytesIO()
    save_as(file, array)
    return file.getvalue()


def _lying(data, was, is_):
    assert was in data
    return data.replace(was, is_)


def _bomb():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mean_image.npy", bytes(600 << 20))
    return file.getvalue()


def _packed(how):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", how) as archive:
        archive.writestr("mean_image.npy", _bytes_of(an_image()))
    return file.getvalue()


def _flipped(data, place):
    return data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]


def _encrypted(data):
    """The flag of encryption set, where a file begins and in the directory."""
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = data.index(mark) + place
        data = data[:at] + b"\x01\x00" + data[at + 2 :]
    return data


NPY = _bytes_of(np.full((12, 12, 3), 100, "u1"))


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.npy", NPY[:-1], "cut short or damaged"),
        ("a.npy", _lying(NPY, b"(12, 12, 3)", b"(999,999,3)"), "damaged"),
        ("a.npy", b"", "invalid header"),
        ("a.npy", b"\x93NUMPY\x01\x00\xff\xff", "invalid header"),
        ("a.npy", _bytes_of(np.array([{}], object)), "no image"),
        ("a.npy", _bytes_of(np.zeros((9000, 2))), "no image"),
        ("a.npy", _bytes_of(np.full((12, 12, 3), np.nan)), "must be means"),
        ("a.npy", _bytes_of(np.full((12, 12, 3), 0.4)), "go from 0.4 to 0.4"),
        ("a.npy", _bytes_of(np.full((12, 12, 3), -100.0)), "must be means"),
        ("a.npy", _bytes_of(np.full((12, 11, 3), 100.0)), "a square of 3 channels"),
        ("a.npy", _bytes_of(np.full((12, 12), 100.0)), "12x12x1, and a square of 3"),
        (
            "a.npy",
            _bytes_of(np.full((10, 10, 3), 100.0)),
            "10 pixels a side, and needed are the 12",
        ),
        ("a.npz", b"PK", "encrypted, or has no"),
        ("a.npz", _bytes_of(np.zeros(3), np.savez), "encrypted, or has no 'mean_image'"),
        ("a.npz", _bomb(), "unpacks to 629,145,600 bytes"),
        ("a.npz", _packed(zipfile.ZIP_BZIP2), "packed in another way"),
        ("a.npz", _packed(zipfile.ZIP_LZMA), "packed in another way"),
        ("a.npz", _flipped(_packed(zipfile.ZIP_DEFLATED), 60), "damaged"),
        ("a.npz", _encrypted(_packed(zipfile.ZIP_DEFLATED)), "encrypted"),
        ("a.npy", _bytes_of(np.zeros((0, 0, 3))), "no image"),
        ("a.npy", _lying(NPY, b"(12, 12, 3)", b"(-2, -2, 3)"), "no image"),
        ("a.binaryproto", b"\x08\x01\x10\x03\x18\x00\x20\x00", "a square of 3 channels"),
        (
            "a.binaryproto",
            b"\x3a\x16\x0a\x14\x00" + (b"\x80" * 8 + b"\x40") * 2 + b"\x01",
            "damage",
        ),
        ("a.binaryproto", b"\xff" * 50, "a number does not end"),
        ("a.binaryproto", b"\x28\x03", "field 5 should hold"),
        ("a.txt", b"100", "a.txt"),
        ("mean_image.json", b"{}", "description must have exactly"),
        ("mean_image.json", b"[]", "not a JSON object"),
    ],
)
def test_files_that_are_none_are_refused_in_a_sentence(name, data, words, tmp_path):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=f"--mean-image .*{words}"):
        with_image(PLAIN, PROTOCOL, str(tmp_path / name))


def test_a_file_that_unpacks_to_more_than_it_says(tmp_path):
    """The directory says 1,000 bytes; what is packed are 50 MB, of which no more are unpacked."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mean_image.npy", bytes(50 << 20))
    data, size = file.getvalue(), (50 << 20).to_bytes(4, "little")
    (tmp_path / "a.npz").write_bytes(data.replace(size, (1000).to_bytes(4, "little")))
    tracemalloc.start()
    with pytest.raises(UserError, match=r"damaged|invalid header"):
        with_image(PLAIN, PROTOCOL, str(tmp_path / "a.npz"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    print(f"peak {peak / 1e6:.1f} MB")
    assert peak < 10e6


def test_inputs_too_large_for_a_files_header_have_none(tmp_path):
    np.save(tmp_path / "a.npy", np.full((449, 449, 3), 100.0))
    with pytest.raises(UserError, match="more than 448 pixels have none"):
        with_image(PLAIN, EvalProtocol("short", 512, 449), str(tmp_path / "a.npy"))
    np.save(tmp_path / "a.npy", np.full((448, 448, 3), 100.0))
    own = with_image(PLAIN, EvalProtocol("short", 512, 448), str(tmp_path / "a.npy"))
    weights = narrow("torchvision", image_size=448)
    names = tuple("a name of thirty characters....." for _ in range(weights.spec.num_classes))
    whole = Preprocess(own, EvalProtocol("short", 512, 448))
    weights = dataclasses.replace(weights, preprocess=whole, class_names=names)
    save(tmp_path / "w.safetensors", weights)
    assert load(tmp_path / "w.safetensors").preprocess == whole


def test_of_a_hub(tmp_path, monkeypatch):
    folder, own = _folder_with_one(tmp_path)
    monkeypatch.setattr("alexnet.hub.client.fetch", lambda url: folder)
    assert with_image(PLAIN, own.protocol, "hf://o/n") == own.normalize


def test_for_another_size_it_is_said_that_the_image_is_lost(tmp_path, capsys):
    weights = narrow("torchvision", image_size=128)
    own = Preprocess(with_mean_image(PLAIN, an_image(128)), EvalProtocol("short", 146, 128))
    save(tmp_path / "a.safetensors", dataclasses.replace(weights, preprocess=own))
    save(tmp_path / "b.pth", narrow("torchvision", image_size=96))
    words = ["convert", str(tmp_path / "b.pth"), str(tmp_path / "c.safetensors")]
    words += ["--variant", "torchvision", "--image-size", "96"]
    given = ["--preprocess-from", str(tmp_path / "a.safetensors")]
    assert cli.main([*words, *given]) == 0
    assert "a.safetensors, with its mean image's channel means" in capsys.readouterr().out
    assert load(tmp_path / "c.safetensors").mean_image
    assert cli.main([*words, *given, "--mean", "1"]) == 0
    assert "channel means" not in capsys.readouterr().out
    train = ["train", "--variant", "torchvision", "--image-size", "96", *given, "--steps", "1"]
    assert cli.main([*train, "--workdir", str(tmp_path / "r")]) == 2
    assert "subtracts a mean image of 128 pixels, and this network takes 96" in (
        capsys.readouterr().err
    )


def test_an_empty_name_is_refused_and_none_is_none():
    with pytest.raises(UserError, match="--mean-image: the value is empty"):
        parse_train(["--recipe", "digits", "--mean-image", ""])
    assert parse_train(["--recipe", "digits", "--mean-image", "None"]).data.mean_image is None


def test_a_configuration_that_has_read_its_image_can_be_changed():
    _ = recipe("digits").preprocess
    assert parse_train(["--recipe", "digits", "--steps", "3"]).run.steps == 3


def test_a_missing_file_and_weights_without_one(tmp_path):
    with pytest.raises(UserError, match=r"--mean-image .*No such file"):
        with_image(PLAIN, PROTOCOL, str(tmp_path / "a.npy"))
    save(tmp_path / "w.safetensors", narrow("caffe"))
    with pytest.raises(UserError, match="no mean image, only the mean of each channel"):
        with_image(PLAIN, PROTOCOL, str(tmp_path / "w.safetensors"))


@pytest.mark.parametrize("format", ["safetensors", "onnx"])
def test_weights_files_carry_it(format, tmp_path):
    weights, own = _weights_with_one()
    save(tmp_path / f"w.{format}", weights)
    assert load(tmp_path / f"w.{format}").preprocess == own
    again = with_image(PLAIN, own.protocol, str(tmp_path / f"w.{format}"))
    assert again == own.normalize


def test_a_hugging_face_folder_carries_it(tmp_path):
    folder, own = _folder_with_one(tmp_path)
    assert open_weights(folder).preprocess == own
    assert "the mean image in `config.json`" in (folder / "README.md").read_text()


def test_caffes_weights_and_its_mean_file_together(tmp_path, capsys):
    """What Caffe's own classifier does: the center of the mean image, subtracted from the view."""
    weights = narrow("caffe")
    size = weights.spec.image_size
    (tmp_path / "a.caffemodel").write_bytes(
        makers.caffemodel(weights, mean_file="mean.binaryproto")
    )
    image = an_image(256)
    (tmp_path / "mean.binaryproto").write_bytes(makers.binaryproto(image))
    words = ["convert", str(tmp_path / "a.caffemodel"), str(tmp_path / "w.safetensors")]
    assert cli.main([*words, "--mean-image", str(tmp_path / "mean.binaryproto")]) == 0
    assert "mean image of" in capsys.readouterr().out
    found = load(tmp_path / "w.safetensors")
    first = (256 - size) // 2 if (256 - size) % 2 == 0 else round((256 - size) / 2)
    center = image[first : first + size, first : first + size]
    np.testing.assert_array_equal(found.preprocess.normalize.subtracted, center)
    view = np.random.default_rng(2).integers(0, 256, (1, size, size, 3), np.uint8)
    x = normalized(view, found.preprocess.normalize)
    np.testing.assert_allclose(x, view - center[None].astype("f8"), atol=1e-4)
    assert forward(found, x).shape == (1, found.spec.num_classes)


def test_mean_and_mean_image_exclude_each_other(tmp_path, capsys):
    save(tmp_path / "w.safetensors", narrow("caffe"))
    words = ["convert", str(tmp_path / "w.safetensors"), str(tmp_path / "v.safetensors")]
    assert cli.main([*words, "--mean", "1", "--mean-image", "a.npy"]) == 2
    assert "say two things to subtract" in capsys.readouterr().err
    assert cli.main(["train", "--mean", "1", "--mean-image", "a.npy"]) == 2
    assert "say two things to subtract" in capsys.readouterr().err


def _digits_mean(tmp_path):
    words = ["prepare", "digits", str(tmp_path / "c"), "--size", "36", "--workers", "1"]
    assert cli.main([*words, "--statistics"]) == 0
    return tmp_path / "c"


NARROW = [
    "--recipe", "digits", "--variant", "cifar_80sec", "--steps", "4", "--batch-size", "16",
    "--image-size", "32", "--resize-to", "36", "--log-every", "1", "--eval-every", "100",
    "--checkpoint-every", "2",
]  # fmt: skip


def run_train(*words, check=0):
    """`alexnet train` in this process."""
    with redirect_stdout(io.StringIO()) as said, redirect_stderr(io.StringIO()) as errors:
        code = cli.main(["train", *map(str, words)])
    assert code == check, errors.getvalue()
    return SimpleNamespace(stdout=said.getvalue(), stderr=errors.getvalue())


@pytest.mark.parametrize("framework", ["jax", "torch"])
def test_a_run_keeps_its_own_and_goes_on_with_it(framework, tmp_path):
    cache, run = _digits_mean(tmp_path), tmp_path / "run"
    words = ["--framework", framework, *NARROW, "--workdir", run]
    run_train(*words, "--mean-image", cache)
    image = np.load(cache / "statistics.npz")["mean_image"][2:34, 2:34].astype("f4")
    kept = load(run / "weights.safetensors").preprocess
    np.testing.assert_array_equal(kept.normalize.subtracted, image)
    assert open_weights(run).preprocess == kept

    plain = tmp_path / "plain"
    run_train(*words[:-1], plain, "--mean", *map(str, kept.normalize.mean))
    assert _losses(plain) != _losses(run)  # the image is more than its channels' means

    shutil.rmtree(cache)  # the run has a copy
    assert open_weights(run).preprocess == kept
    half = tmp_path / "half"
    shutil.copytree(run, half)
    shutil.rmtree(half / "checkpoints" / "00000004")
    again = ["--resume", "--workdir", half]
    run_train(*again)
    assert _losses(half) == _losses(run)

    _digits_mean(tmp_path)
    run_train(*again, "--mean-image", cache)  # the same again
    np.save(tmp_path / "other.npy", an_image(32))
    said = run_train(*again, "--mean-image", tmp_path / "other.npy", check=2).stderr
    assert "its mean image was another" in said

    (half / mean_image.FILE).unlink()
    assert "--mean-image" in run_train(*again, check=2).stderr


def _losses(run):
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines]


def test_a_bit_that_flips_in_a_runs_copy_is_found(tmp_path):
    image = tmp_path / "a.npy"
    np.save(image, an_image(32))
    run = tmp_path / "run"
    run.mkdir()
    config = _config(image, run)
    workdir.write_config(run, config)
    assert workdir.read_config(run).preprocess == config.preprocess
    path = run / mean_image.FILE
    text = path.read_text()
    path.write_text(text.replace('"image": "', '"image": "A', 1).replace('A"', '"', 1))
    flipped = list(text)
    place = text.index('"image"') + 50
    flipped[place] = "A" if flipped[place] != "A" else "B"
    path.write_text("".join(flipped))
    with pytest.raises(UserError, match="its digest does not match"):
        _ = workdir.read_config(run).preprocess


def _config(image: Path, workdir: Path, **run) -> TrainConfig:
    config = TrainConfig()
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, image_size=32, channels=3),
        data=dataclasses.replace(config.data, mean_image=str(image), mean=(1.0,), std=(1.0,)),
        run=dataclasses.replace(config.run, workdir=str(workdir), **run),
    )


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_run_killed_before_its_configuration_is_there_has_not_begun(
    tmp_path, monkeypatch, overwrite
):
    """Nor does what it left stand beside an older run's configuration."""
    run = tmp_path / "run"
    for number in range(2):
        np.save(tmp_path / f"{number}.npy", an_image(32, seed=number))
    if overwrite:
        workdir.prepare(_config(tmp_path / "0.npy", run))

    def killed(config):
        if config.data.mean_image:
            raise KeyboardInterrupt
        return to_json_of_config(config)

    again = _config(tmp_path / "1.npy", run, overwrite=overwrite)
    with monkeypatch.context() as patch:
        patch.setattr(workdir, "to_json", killed)
        with pytest.raises(KeyboardInterrupt):
            workdir.prepare(again)
    assert set(os.listdir(run)) == {mean_image.FILE} | ({"config.json"} if overwrite else set())
    if overwrite:
        assert workdir.read_config(run).data.mean_image is None
    workdir.prepare(_config(tmp_path / "0.npy", run, overwrite=overwrite))
    found = workdir.read_config(run).preprocess
    assert found == _config(tmp_path / "0.npy", run).preprocess
    assert found != again.preprocess


def test_one_that_a_killed_run_left_is_not_the_next_ones(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    np.save(tmp_path / "0.npy", an_image(32))
    config = _config(tmp_path / "0.npy", run)
    mean_image.write(run, config.preprocess)
    without = dataclasses.replace(config, data=dataclasses.replace(config.data, mean_image=None))
    workdir.prepare(without)
    assert os.listdir(run) == ["config.json"]


def test_somebody_elses_file_of_that_name_is_left_alone(tmp_path):
    (tmp_path / mean_image.FILE).write_text("{}")
    with pytest.raises(UserError, match="has files in it but no run"):
        workdir.prepare(dataclasses.replace(recipe("digits"), run=RunConfig(workdir=str(tmp_path))))
    assert (tmp_path / mean_image.FILE).read_text() == "{}"


def test_a_run_from_weights_with_one_takes_it_over(tmp_path):
    cache, first = _digits_mean(tmp_path), tmp_path / "first"
    run_train("--framework", "torch", *NARROW, "--workdir", first, "--mean-image", cache)
    second = tmp_path / "second"
    words = ["--framework", "torch", *NARROW, "--workdir", second, "--init-from", first]
    assert "as the weights'" in run_train(*words).stdout
    assert open_weights(second).preprocess == open_weights(first).preprocess
    said = run_train(*words, "--overwrite", "--mean", "1").stdout
    assert "warning: these weights take" in said
    assert open_weights(second).preprocess.normalize.mean == (1, 1, 1)


def test_a_run_that_moves_to_the_other_framework_has_it(tmp_path):
    cache, first = _digits_mean(tmp_path), tmp_path / "first"
    run_train("--framework", "torch", *NARROW, "--workdir", first, "--mean-image", cache)
    shutil.rmtree(cache)
    assert cli.main(["convert", str(first), str(tmp_path / "second"), "--to", "jax"]) == 0
    assert open_weights(tmp_path / "second").preprocess == open_weights(first).preprocess
    run_train("--resume", "--workdir", tmp_path / "second")
