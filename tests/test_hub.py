"""Hugging Face folders on a disk: written, read, refused, and their model cards."""

import dataclasses
import hashlib
import json
import os
import re

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard, metadata_load

import alexnet_jax
import alexnet_torch
from alexnet import cli, hub, weights
from alexnet.errors import UserError
from alexnet.hub import config
from alexnet.hub.folder import CARD, CONFIG, FILES, MAX_CONFIG, MODEL
from alexnet.layers import Conv, Dropout
from alexnet.preprocess import IMAGENET_MEAN, IMAGENET_STD, EvalProtocol, Normalize, Preprocess
from alexnet.recipes import RECIPES
from alexnet.spec import VARIANTS, Spec
from alexnet.trained import open_weights
from alexnet.weights.layout import to_state_dict
from alexnet.weights.names import TORCHVISION_KEYS
from tests.weights.helpers import CLASSES, narrow, random_weights, same, written

HOSTILE = (
    'a"b: c', "<script>alert(1)</script>", "two\nlines", "| *x* [y](z)", "\x1b[2J---", "\u2028é😀",
    "# {{ x }} `code`",
)  # fmt: skip
EVALUATION = {"step": 352, "split": "eval", "loss": 0.0683, "top1": 0.9861, "top5": 1.0,
              "count": 359}  # fmt: skip


def hf_weights(name="torchvision", **changes):
    return dataclasses.replace(narrow(name, image_size=67), **changes)


def equal(one, other):
    same(one, other)
    fields = ("preprocess", "class_names", "mean_image", "source")
    assert [getattr(one, f) for f in fields] == [getattr(other, f) for f in fields]


def published(path, edit=lambda values: None, source=None):
    """A folder as timm writes it, by hand: torchvision's keys, nothing of this project's."""
    source = source or hf_weights()
    state = to_state_dict(source.arrays, source.spec, TORCHVISION_KEYS)
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for key, array in state.items():
        raw = np.ascontiguousarray(array, "<f4").tobytes()
        offsets = [len(data), len(data) + len(raw)]
        header[key] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": offsets}
        data += raw
    text = json.dumps(header).encode()
    path.mkdir()
    (path / MODEL).write_bytes(len(text).to_bytes(8, "little") + text + data)
    values = {
        "architecture": "alexnet",
        "num_classes": source.spec.num_classes,
        "num_features": 64,
        "label_names": list(source.class_names),
        "pretrained_cfg": {
            "tag": "tv_in1k",
            "custom_load": False,
            "input_size": [3, 67, 67],
            "fixed_input_size": False,
            "interpolation": "bilinear",
            "crop_pct": 0.875,
            "crop_mode": "center",
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
            "num_classes": source.spec.num_classes,
            "pool_size": None,
            "first_conv": "features.0",
            "classifier": "classifier.6",
        },
    }
    edit(values)
    (path / CONFIG).write_text(json.dumps(values))
    return path


def edited(path, edit):
    """Change a folder's config.json."""
    values = json.loads((path / CONFIG).read_text())
    edit(values)
    (path / CONFIG).write_text(json.dumps(values))


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


@pytest.mark.parametrize("size", [1, 63, 67, 224, 227, 299])
@pytest.mark.parametrize("factor", [1.0, 8 / 7, 1.3])
def test_timm_gets_the_size_to_resize_to_back(size, factor):
    resize_to = round(size * factor)
    assert int(size / config._crop_pct(size, resize_to)) == resize_to


def test_numbers_in_timms_units_are_exact():
    assert config._times([0.485, 0.456, 0.406], 255.0) == list(IMAGENET_MEAN)
    assert config._times(list(IMAGENET_STD), 1 / 255) == [0.229, 0.224, 0.225]


# --- folders of others ------------------------------------------------------------------------


def test_a_published_folder_is_read(tmp_path):
    back = hub.read_folder(published(tmp_path / "f"))
    same(back, hf_weights())
    assert back.spec.name == "torchvision"
    assert back.class_names == hf_weights().class_names
    assert back.preprocess == Preprocess(protocol=EvalProtocol("short", 76, 67))  # 67 / 0.875


def test_its_preprocessing_is_what_it_says(tmp_path):
    path = published(tmp_path / "f")
    changes = {"crop_pct": 1.0, "crop_mode": "squash", "mean": [0.5] * 3, "std": [1] * 3}
    edited(path, lambda values: values["pretrained_cfg"].update(changes))
    expected = Preprocess(Normalize((127.5,) * 3, (255.0,) * 3), EvalProtocol("warp", 67, 67))
    assert hub.read_folder(path).preprocess == expected


def test_fields_at_the_top_and_fields_left_out(tmp_path):
    path = published(tmp_path / "f")
    (path / CONFIG).write_text(json.dumps({"input_size": [3, 67, 67], "mean": [0, 0, 0]}))
    back = hub.read_folder(path)
    assert back.class_names is None
    assert back.preprocess.normalize == Normalize((0.0,) * 3, IMAGENET_STD)
    assert back.preprocess.protocol == EvalProtocol("short", 76, 67)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda v: v.update(architecture="resnet50"), "no AlexNet"),
        (lambda v: v.update(architecture=["alexnet"]), "no AlexNet"),
        (lambda v: v.update(num_classes=8), "7 class names for 8"),
        (lambda v: v.update(num_classes=8, label_names=None), "says 8 classes"),
        (lambda v: v.update(num_classes=True), "num_classes"),
        (lambda v: v.update(num_classes=10**30), "num_classes"),
        (lambda v: v.update(label_names="cat"), "label_names"),
        (lambda v: v.update(label_names=[["cat"]] * 7), "label_names"),
        (lambda v: v.update(label_names=["x" * 2000] * 7), "label_names"),
        (lambda v: v.update(pretrained_cfg=[]), "pretrained_cfg"),
        (lambda v: v["pretrained_cfg"].update(input_size=[3, 67, 68]), "square"),
        (lambda v: v["pretrained_cfg"].update(input_size=[3, 10**9, 10**9]), "square"),
        (lambda v: v["pretrained_cfg"].update(input_size=224), "input_size"),
        (lambda v: v["pretrained_cfg"].update(input_size=[3, 10, 10]), "too small|nothing"),
        (lambda v: v["pretrained_cfg"].update(crop_pct=0.0), "crop_pct"),
        (lambda v: v["pretrained_cfg"].update(crop_pct=float("nan")), "crop_pct"),
        (lambda v: v["pretrained_cfg"].update(crop_mode="border"), "crop_mode"),
        (lambda v: v["pretrained_cfg"].update(crop_mode=[]), "crop_mode"),
        (lambda v: v["pretrained_cfg"].update(interpolation="bicubic"), "bilinear"),
        (lambda v: v["pretrained_cfg"].update(mean=[0.5]), "mean"),
        (lambda v: v["pretrained_cfg"].update(mean="0.5"), "mean"),
        (lambda v: v["pretrained_cfg"].update(std=[0, 1, 1]), "std"),
        (lambda v: v["pretrained_cfg"].update(std=[float("inf")] * 3), "std"),
        (lambda v: v["pretrained_cfg"].update(mean=[10**400] * 3), "1e37"),
        (lambda v: v.update(alexnet=None), "section"),
    ],
)  # fmt: skip
def test_a_config_that_lies_is_refused(edit, message, tmp_path):
    path = published(tmp_path / "f")
    hub.read_folder(path)
    edited(path, edit)
    with pytest.raises(UserError, match=message) as error:
        hub.read_folder(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda v: v["alexnet"].update(sha256="0" * 64), "SHA-256"),
        (lambda v: v["alexnet"].update(sha256=""), "SHA-256"),
        (lambda v: v["alexnet"].update(sha256=1), "must have"),
        (lambda v: v["alexnet"].update(format_version=2), "version"),
        (lambda v: v["alexnet"].pop("source"), "must have"),
        (lambda v: v["alexnet"].update(more=1), "must have"),
        (lambda v: v["alexnet"].update(mean_image="yes"), "must have"),
        (lambda v: v["alexnet"]["network"].update(name="../x"), "name"),
        (lambda v: v["alexnet"]["network"].update(image_size=10**9), "image_size"),
        (lambda v: v["alexnet"]["network"]["layers"].pop(), "must end|differ"),
        (lambda v: v["alexnet"]["preprocess"].update(crop=0), "impossible crop"),
        (lambda v: v["alexnet"]["preprocess"].update(resize_to=99), "crop_pct differ"),
        (lambda v: v["pretrained_cfg"].update(mean=[0, 0, 0]), "mean differ"),
        (lambda v: v.update(num_features=1), "num_features differ"),
        (lambda v: v.pop("pretrained_cfg"), "differ"),
    ],
)  # fmt: skip
def test_a_section_of_ours_that_lies_is_refused(edit, message, tmp_path):
    hub.write_folder(tmp_path / "f", hf_weights())
    edited(tmp_path / "f", edit)
    with pytest.raises(UserError, match=message):
        hub.read_folder(tmp_path / "f")


def test_a_flipped_bit_is_noticed(tmp_path):
    hub.write_folder(tmp_path / "f", hf_weights())
    data = bytearray((tmp_path / "f" / MODEL).read_bytes())
    data[-9] ^= 1
    (tmp_path / "f" / MODEL).write_bytes(data)
    with pytest.raises(UserError, match="damaged"):
        hub.read_folder(tmp_path / "f")


@pytest.mark.parametrize(
    "text", ["", "[1]", "{", "[" * 100_000, "1" * 5000, '{"a": \ud800', "\x00"], ids=len
)
def test_a_config_that_is_no_json_object_is_refused(text, tmp_path):
    path = published(tmp_path / "f")
    (path / CONFIG).write_text(text, errors="surrogatepass")
    with pytest.raises(UserError, match=re.escape(str(path / CONFIG))):
        hub.read_folder(path)


def test_a_huge_config_is_not_read(tmp_path):
    path = published(tmp_path / "f")
    os.truncate(path / CONFIG, MAX_CONFIG + 1)
    with pytest.raises(UserError, match="more than"):
        hub.read_folder(path)


@pytest.mark.parametrize("name", [CONFIG, MODEL])
def test_what_is_missing_or_no_file_is_named(name, tmp_path):
    path = published(tmp_path / "f")
    (path / name).unlink()
    with pytest.raises(UserError, match=name):
        hub.read_folder(path)
    os.mkfifo(path / name)  # opening it would wait for ever
    with pytest.raises(UserError, match="not a regular file"):
        hub.read_folder(path)


def test_arrays_of_the_wrong_shape_are_refused(tmp_path):
    path = published(tmp_path / "f")
    other = narrow("torchvision", image_size=67, num_classes=CLASSES, width=1 / 8)
    (path / MODEL).write_bytes(written(other, "torch-safetensors"))
    hub.read_folder(path)  # another width is another network, and fits
    arrays = other.arrays | {"fc7.kernel": np.zeros((3, 3), np.float32)}
    wrong = dataclasses.replace(other, arrays=arrays)
    (path / MODEL).write_bytes(written(wrong, "torch-safetensors"))
    with pytest.raises(UserError, match="fc7"):
        hub.read_folder(path)


def test_our_section_does_not_excuse_wrong_arrays(tmp_path):
    hub.write_folder(tmp_path / "f", hf_weights())
    data = bytes(written(narrow("torchvision", image_size=67, width=1 / 8), "torch-safetensors"))
    (tmp_path / "f" / MODEL).write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    edited(tmp_path / "f", lambda values: values["alexnet"].update(sha256=digest))
    with pytest.raises(UserError, match="conv2"):
        hub.read_folder(tmp_path / "f")


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


# --- the model card ---------------------------------------------------------------------------


def header(path):
    """A card's YAML by two readers, which must agree."""
    text = (path / CARD).read_text()
    whole = yaml.safe_load(text.split("---\n")[1])
    assert metadata_load(path / CARD) == whole
    return ModelCard(text).data, whole


def trained(dataset="digits", **model):
    settings = RECIPES["digits"].config
    data = dataclasses.replace(settings.data, dataset=dataset)
    changed = dataclasses.replace(settings, data=data, recipe="a|b<i>")
    model = dataclasses.replace(changed.model, **model)
    return hub.Training(dataclasses.replace(changed, model=model), 352, EVALUATION)


def test_a_card_without_a_run_claims_nothing(tmp_path):
    hub.write_folder(tmp_path / "f", hf_weights())
    card, whole = header(tmp_path / "f")
    assert (card.license, card.library_name) == ("other", "alexnet")
    assert not {"model-index", "datasets", "metrics"} & set(whole)
    text = (tmp_path / "f" / CARD).read_text()
    assert "Not measured" in text
    assert "## Training" not in text


def test_a_card_with_a_run_has_its_numbers(tmp_path):
    hub.write_folder(tmp_path / "f", hf_weights(), run=trained())
    card, whole = header(tmp_path / "f")
    found = {(r.metric_name, r.metric_value, r.dataset_name) for r in card.eval_results}
    expected = {("top-1 accuracy", 0.9861), ("top-5 accuracy", 1.0), ("loss", 0.0683)}
    assert found == {(name, value, "digits") for name, value in expected}
    assert whole["datasets"] == ["digits"]
    text = (tmp_path / "f" / CARD).read_text()
    assert "at step 352, on digits of 359 examples: top-1 98.61%" in text
    assert "| recipe | a\\|b\\<i\\> |" in text


@pytest.mark.parametrize(
    ("dataset", "shown"),
    [
        ("folder:/home/me/secret project/photos/", "photos"),
        ("tfds:cifar10/3.0.2", "cifar10"),
        ('folder:x"\n- y: [', 'x"\n- y: ['.replace("\n", " ")),
        ("synthetic", "synthetic"),
    ],
)
def test_a_data_sets_path_stays_at_home(dataset, shown, tmp_path):
    hub.write_folder(tmp_path / "f", hf_weights(), run=trained(dataset, init_from="/home/me/a.pth"))
    _, whole = header(tmp_path / "f")
    assert whole["datasets"] == [shown]
    text = (tmp_path / "f" / CARD).read_text()
    assert "home" not in text
    assert "a\\.pth" in text


def test_class_names_are_only_text_in_a_card(tmp_path):
    hub.write_folder(tmp_path / "f", hf_weights(class_names=HOSTILE, source="\x1b<b>\n---\nx"))
    header(tmp_path / "f")
    text = (tmp_path / "f" / CARD).read_text()
    body = text.split("---\n", 2)[2]
    assert all(char.isprintable() for char in text.replace("\n", ""))
    assert not re.search(r"(?<!\\)<", body)
    assert r"\<script\>alert\(1\)\<\/script\>" in body
    assert "2. two lines" in body
    assert r"3. \| \*x\* \[y\]\(z\)" in body
    assert len(re.findall(r"^---$", text, re.M)) == 2


def test_control_unescaped_names_would_be_noticed():
    with pytest.raises(yaml.YAMLError):
        yaml.safe_load('datasets: [a"b: c\x1b]')
    assert re.search(r"(?<!\\)<", "0. <script>")


def test_only_full_torchvision_networks_are_said_to_load_there(tmp_path):
    from alexnet.hub.card import model_card

    spec = VARIANTS["torchvision"]
    full = weights.Weights({}, spec, Preprocess())
    assert "torchvision.models.alexnet(num_classes=1000)" in model_card(
        full, None, torchvision=True
    )
    assert "torchvision.models" not in model_card(full, None, torchvision=False)
    assert "torchvision.models" not in model_card(hf_weights(), None, torchvision=True)


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
