"""Hugging Face folders of this project: written, read back, and what stands in their way."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import alexnet_jax
import alexnet_torch
from alexnet import cli, hub, weights
from alexnet.errors import UserError
from alexnet.hub import config, folder
from alexnet.hub.folder import CARD, CONFIG, FILES, MODEL
from alexnet.layers import Conv, Dense, Dropout
from alexnet.preprocess import IMAGENET_MEAN, IMAGENET_STD, EvalProtocol, Normalize, Preprocess
from alexnet.spec import VARIANTS, Spec
from alexnet.trained import open_weights
from tests.weights.helpers import (
    CLASSES,
    close,
    images,
    narrow,
    random_weights,
    same,
)

from .helpers import HOSTILE, equal, hf_weights

# --- there and back ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", VARIANTS)
def test_a_folder_gives_back_exactly_what_was_written(name, tmp_path):
    before = hf_weights(name, class_names=HOSTILE, mean_image=True, source="some\nwhere")
    hub.write_folder(tmp_path / "new" / "f", before)
    assert sorted(os.listdir(tmp_path / "new" / "f")) == sorted(FILES)
    assert os.listdir(tmp_path / "new") == ["f"]  # nothing temporary is left
    equal(hub.read_folder(tmp_path / "new" / "f"), before)


@pytest.mark.parametrize(
    "preprocess",
    [
        Preprocess(Normalize((0.1, 1 / 3, 200.0), (1e-9, 2.0, 3.3)), EvalProtocol("warp", 80, 67)),
        Preprocess(Normalize(channel_order="BGR"), EvalProtocol("short", 67, 67)),
    ],
)  # fmt: skip
def test_preprocessing_and_missing_class_names_come_back(preprocess, tmp_path):
    before = hf_weights("caffe", preprocess=preprocess, class_names=None)
    hub.write_folder(tmp_path / "f", before)
    equal(hub.read_folder(tmp_path / "f"), before)


def test_a_table_that_is_no_variant_comes_back(tmp_path):
    base = narrow("single", image_size=67).spec
    layers = [layer for layer in base.layers if not isinstance(layer, Dropout)]
    layers.insert(1, Conv("conv9", 4, kernel=3, padding=1))
    before = random_weights(Spec("mine", tuple(layers), 67, CLASSES, 3))
    hub.write_folder(tmp_path / "f", before)
    equal(hub.read_folder(tmp_path / "f"), before)


def test_gray_images(tmp_path):
    before = narrow("torchvision", image_size=67, channels=1)
    hub.write_folder(tmp_path / "f", before)
    equal(hub.read_folder(tmp_path / "f"), before)
    assert json.loads((tmp_path / "f" / CONFIG).read_text())["pretrained_cfg"]["mean"] == [0.0]


@pytest.mark.parametrize("package", [alexnet_jax, alexnet_torch])
def test_both_frameworks_load_a_folder_bit_for_bit(package, tmp_path):
    before = hf_weights("paper")
    hub.write_folder(tmp_path / "f", before)
    model = package.AlexNet.from_pretrained(str(tmp_path / "f"))
    assert all((model.weights()[name] == a).all() for name, a in before.arrays.items())
    assert (model.preprocess, model.class_names) == (before.preprocess, before.class_names)


def test_keys_are_torchvisions_for_its_variant_and_else_the_torch_models(tmp_path):
    cases = [("torchvision", None, "features.0"), ("torchvision", "torch", "conv1")]
    for name, keys, first in [*cases, ("paper", None, "conv1")]:
        path = tmp_path / f"{name}-{keys}"
        hub.write_folder(path, hf_weights(name), keys=keys)
        cfg = json.loads((path / CONFIG).read_text())["pretrained_cfg"]
        assert cfg["first_conv"] == first
        assert f"{first}.weight".encode() in (path / MODEL).read_bytes()
        equal(hub.read_folder(path), hf_weights(name))
    with pytest.raises(UserError, match="torchvision's keys"):
        hub.write_folder(tmp_path / "x", hf_weights("paper"), keys="torchvision")


def torchvisions_own(spec):
    """torchvision.models.alexnet as it is written there, with a spec's widths."""
    c1, c2, c3, c4, c5, f6, f7, f8 = (
        layer.features or spec.num_classes for layer in spec if isinstance(layer, Conv | Dense)
    )
    model = nn.Module()
    model.features = nn.Sequential(
        nn.Conv2d(3, c1, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(c1, c2, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(c2, c3, 3, padding=1), nn.ReLU(), nn.Conv2d(c3, c4, 3, padding=1), nn.ReLU(),
        nn.Conv2d(c4, c5, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2),
    )  # fmt: skip
    model.classifier = nn.Sequential(
        nn.Dropout(), nn.Linear(36 * c5, f6), nn.ReLU(), nn.Dropout(), nn.Linear(f6, f7),
        nn.ReLU(), nn.Linear(f7, f8),
    )  # fmt: skip
    return model.eval()


def test_torchs_own_layers_load_the_file(tmp_path):
    before = narrow("torchvision")
    hub.write_folder(tmp_path / "f", before)
    model = torchvisions_own(before.spec)
    model.load_state_dict(load_file(tmp_path / "f" / MODEL))  # strict
    x = images(before.spec)
    maps = nn.AdaptiveAvgPool2d(6)(model.features(torch.tensor(x).permute(0, 3, 1, 2)))
    logits = model.classifier(maps.flatten(1)).detach().numpy()
    close(logits, alexnet_jax.AlexNet.from_pretrained(tmp_path / "f")(x))


def test_timm_gets_the_size_to_resize_to_back():
    """Without the last step down a share can round to one pixel less."""
    pairs = [(crop, crop + more) for crop in range(1, 400) for more in range(200)]
    assert all(int(c / config._crop_pct(c, r)) == r for c, r in pairs)
    assert not all(int(c / (c / r)) == r for c, r in pairs)


def test_numbers_in_timms_units_are_exact():
    assert config._times([0.485, 0.456, 0.406], 255.0) == list(IMAGENET_MEAN)
    assert config._times(list(IMAGENET_STD), 1 / 255) == [0.229, 0.224, 0.225]


# --- writing beside other files ---------------------------------------------------------------


def contents(path):
    return {p.name: p.read_bytes() for p in path.iterdir()}


def test_files_that_are_there_are_replaced_only_when_told(tmp_path):
    path = tmp_path / "f"
    hub.write_folder(path, hf_weights())
    (path / "notes.txt").write_text("mine")
    before = contents(path)
    other = hf_weights("paper")
    with pytest.raises(UserError, match="--overwrite"):
        hub.write_folder(path, other)
    assert contents(path) == before
    hub.write_folder(path, other, overwrite=True)
    equal(hub.read_folder(path), other)
    assert (path / "notes.txt").read_text() == "mine"
    assert os.listdir(tmp_path) == ["f"]


def test_a_directory_with_other_files_keeps_them(tmp_path):
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "notes.txt").write_text("mine")
    hub.write_folder(tmp_path / "f", hf_weights())
    equal(hub.read_folder(tmp_path / "f"), hf_weights())
    assert (tmp_path / "f" / "notes.txt").read_text() == "mine"


def test_a_runs_directory_is_never_taken(tmp_path):
    (tmp_path / CONFIG).write_text("{}")
    with pytest.raises(UserError, match="such as a run"):
        hub.write_folder(tmp_path, hf_weights(), overwrite=True)
    assert contents(tmp_path) == {CONFIG: b"{}"}


def test_a_place_where_nothing_can_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="can't write"):
        hub.write_folder(tmp_path / "file" / "f", hf_weights())


def test_of_several_folders_to_one_place_one_wins_whole(tmp_path, monkeypatch):
    wait = Barrier(3)
    free = folder._check_free
    monkeypatch.setattr(folder, "_check_free", lambda *a, **k: (free(*a, **k), wait.wait(60)))

    def share(seed):
        try:
            hub.write_folder(tmp_path / "f", narrow("torchvision", seed))
        except UserError as error:
            return str(error)

    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(share, range(3)))
    assert sum("--overwrite" in each for each in results if each) == 2
    same(hub.read_folder(tmp_path / "f"), narrow("torchvision", results.index(None)))
    assert os.listdir(tmp_path) == ["f"]


def test_a_link_is_replaced_and_not_followed(tmp_path):
    hub.write_folder(tmp_path / "f", hf_weights())
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "f" / CARD).unlink()
    (tmp_path / "f" / CARD).symlink_to(tmp_path / "precious")
    hub.write_folder(tmp_path / "f", hf_weights(), overwrite=True)
    assert (tmp_path / "precious").read_text() == "mine"
    assert not (tmp_path / "f" / CARD).is_symlink()


@pytest.mark.parametrize(
    "wrong",
    [
        {"class_names": ("one",)},
        {"class_names": ("x" * 2000,) * CLASSES},
        {"preprocess": Preprocess(Normalize((1.0,), (1.0,)))},
        {"arrays": {}},
    ],
    ids=lambda value: next(iter(value)),
)
def test_what_cant_be_described_leaves_nothing_behind(wrong, tmp_path):
    with pytest.raises(UserError):
        hub.write_folder(tmp_path / "f", hf_weights(**wrong))
    assert not list(tmp_path.iterdir())


# --- the command line -------------------------------------------------------------------------


def test_convert_to_a_folder_and_back(tmp_path, capsys):
    weights.save(tmp_path / "a.safetensors", hf_weights())
    words = ["convert", str(tmp_path / "a.safetensors"), str(tmp_path / "f"), "--to", "hf-folder"]
    assert cli.main([*words, "--verify"]) == 0
    assert "passed" in capsys.readouterr().out
    equal(hub.read_folder(tmp_path / "f"), weights.load(tmp_path / "a.safetensors"))
    assert cli.main([*words]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert cli.main([*words, "--overwrite"]) == 0
    back = tmp_path / "b.pth"
    assert cli.main(["convert", str(tmp_path / "f"), str(back), "--verify"]) == 0
    same(weights.load(back, image_size=67), hf_weights())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("convert {f} {t}/x --to jax", "--init-from"),
        ("convert {f} {t}/x.pth --step 3", "is no run"),
        ("convert {f} {t}/x.pth --variant paper", "not 'paper'"),
        ("convert {f} {t}/x.pth --image-size 99", "not 99"),
        ("convert {f} gs://b/x --to hf-folder", "local directory"),
        ("convert {t} {t}/x.pth", "no model.safetensors"),
        ("convert {f} {f}/config.json --to hf-folder", "is a file"),
    ],
)
def test_mistakes_with_folders_are_sentences(words, message, tmp_path, capsys):
    hub.write_folder(tmp_path / "f", hf_weights())
    assert cli.main(words.format(f=tmp_path / "f", t=tmp_path).split()) == 2
    assert message in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["f"]


def test_open_weights_takes_folders_and_files(tmp_path):
    hub.write_folder(tmp_path / "f", hf_weights())
    weights.save(tmp_path / "a.pth", hf_weights())
    equal(open_weights(tmp_path / "f"), hf_weights())
    same(open_weights(str(tmp_path / "a.pth"), image_size=67), hf_weights())
