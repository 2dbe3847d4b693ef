"""`alexnet evaluate` on runs, files and photographs."""

import csv
import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import alexnet
from alexnet import cli, imagenet, weights
from alexnet.data.augment import eval_view, ten_views
from alexnet.data.dataset import ArraySource, Dataset
from alexnet.errors import UserError
from alexnet.evaluation import evaluate_weights
from alexnet.names import named
from alexnet.preprocess import EvalProtocol, Normalize, Preprocess
from alexnet.protocols import NAMES, views
from alexnet.real import read_real
from alexnet.scores import means
from alexnet.trained import data_of
from tests.conftest import NARROW, ROOT, alexnet_command, run_train
from tests.photographs import narrow_1000
from tests.weights.helpers import narrow

SHARED = ROOT.parent / "shared" / "data" / "imagenet_sample"
FRAMEWORKS = ("jax", "torch")
RUN = (*NARROW, "--steps", "30", "--checkpoint-every", "10", "--eval-every", "10",
       "--learning-rate", "0.05", "--warmup-steps", "5")  # fmt: skip


@pytest.fixture(scope="module", params=FRAMEWORKS)
def run(request, tmp_path_factory):
    path = tmp_path_factory.mktemp(request.param) / "run"
    run_train("--framework", request.param, *RUN, "--workdir", path)
    return path


def last_evaluation(path):
    lines = map(json.loads, (path / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["split"] == "eval"][-1]


def test_a_run_on_its_own_data_gives_its_own_numbers_bit_for_bit(run, tmp_path):
    saved = tmp_path / "predictions.csv"
    result = alexnet_command("evaluate", run, "--json", "--save", saved)
    (found,) = json.loads(result.stdout)
    own = last_evaluation(run)
    assert {n: found[n] for n in ("loss", "top1", "top5", "count")} == {
        n: own[n] for n in ("loss", "top1", "top5", "count")
    }
    assert found["top1_interval"][0] < found["top1"] < found["top1_interval"][1]
    assert sum(one["examples"] for one in found["classes"]) == own["count"]
    right = sum(one["correct"] for one in found["classes"])
    assert right / own["count"] == own["top1"]
    rows = list(csv.DictReader(saved.open()))
    assert len(rows) == own["count"]
    assert sum(row["label"] == row["class_1"] for row in rows) == right
    assert np.mean([float(row["loss"]) for row in rows]) == pytest.approx(own["loss"], rel=1e-4)


def test_an_earlier_checkpoint_is_another_network(run):
    result = alexnet_command("evaluate", run, "--json", "--step", "20")
    assert json.loads(result.stdout)[0]["loss"] != last_evaluation(run)["loss"]


def test_protocols_stand_side_by_side_and_frameworks_agree(run):
    result = alexnet_command("evaluate", run, "--json", "--protocol", "all", "--framework", "both")
    found = json.loads(result.stdout)
    assert [one["protocol"] for one in found] == list(NAMES)
    for one in found:
        print(one["protocol"], "apart", one["apart"])
        assert one["count"] == 359
        assert 0 < one["apart"] <= 1e-4
    text = alexnet_command("evaluate", run, "--worst", "2").stdout
    assert "most often confused" in text
    assert text.count(" % sure of ") == 2


def test_two_processes_evaluate_as_one(run):
    if json.loads((run / "config.json").read_text())["framework"] != "torch":
        pytest.skip("JAX's processes are tested with training; this is torch's process group")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone",
               "-m", "alexnet", "evaluate", str(run), "--json", "--worst", "5"]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert result.returncode == 0, result.stderr
    (found,) = json.loads(result.stdout)
    (alone,) = json.loads(alexnet_command("evaluate", run, "--json", "--worst", "5").stdout)
    assert found["loss"] == pytest.approx(alone["loss"], rel=1e-5)
    for name in ("top1", "top5", "count", "classes", "confused"):
        assert found[name] == alone[name], name


def digits_like(names, count=40):
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (count, 70, 70, 3), dtype=np.uint8)
    source = ArraySource("fake", images, rng.integers(0, len(names), count))
    return Dataset("fake", source, source, tuple(names))


def test_labels_are_matched_by_name_where_the_network_knows_more_classes():
    whole = narrow_1000()
    wnids = [wnid for wnid, _ in imagenet.classes()]
    few = [wnids[7], wnids[400]]
    data = digits_like(few)
    (found,) = evaluate_weights(whole, data)
    assert set(found.predictions.label.tolist()) == {7, 400}
    with pytest.raises(UserError, match="1000 classes, but fake has 2"):
        evaluate_weights(whole, digits_like(["cat", "dog"]))
    assert named(["n02012849_crane", "n03126707-x"], "").wnids == ("n02012849", "n03126707")
    assert named(["n02012849x", "n03126707"], "").wnids is None


def test_classes_that_the_network_does_not_know_are_named():
    whole = dataclasses.replace(narrow("torchvision", num_classes=3), class_names=tuple("abc"))
    with pytest.raises(UserError, match=r"not all among them by name: d, \.\.\."):
        data_of(whole, None, digits_like("abcd"))


def test_a_class_at_another_place_is_no_match_by_number():
    whole = dataclasses.replace(narrow("torchvision", num_classes=3), class_names=tuple("bcd"))
    _, (note,) = data_of(whole, None, digits_like("abc"))
    assert note.startswith("warning: ")
    assert "although b is class 0 of the network and 1 of the data" in note
    _, (note,) = data_of(whole, None, digits_like("bcx"))
    assert "warning" not in note


def test_the_negative_control_of_labels_by_name():
    names = [f"c{n}" for n in range(10)]
    whole = narrow("torchvision", image_size=67, num_classes=10)
    whole = dataclasses.replace(whole, class_names=tuple(names))
    data = digits_like(names)
    turned = Dataset("fake", data.train, data.eval, tuple(reversed(names)))
    straight, other = (evaluate_weights(whole, d)[0] for d in (data, turned))
    assert (straight.predictions.label == 9 - other.predictions.label).all()
    assert means(straight.predictions)["loss"] == pytest.approx(straight.loss, rel=1e-6)


def test_ten_views_are_those_of_the_paper():
    image = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    protocol = EvalProtocol("short", 256, 224)
    found = ten_views(image, protocol)
    square = eval_view(image, EvalProtocol("short", 256, 256))
    np.testing.assert_array_equal(found[0], square[16:240, 16:240])
    np.testing.assert_array_equal(found[0], eval_view(image, protocol))
    corners = [square[y : y + 224, x : x + 224] for y in (0, 32) for x in (0, 32)]
    np.testing.assert_array_equal(found[1:5], corners)
    np.testing.assert_array_equal(found[5:], found[:5, :, ::-1])
    bgr = ten_views(image, protocol, "BGR")
    np.testing.assert_array_equal(bgr, found[..., ::-1])


def test_protocols_are_as_published():
    own = Preprocess(Normalize(), EvalProtocol("warp", 256, 227))
    found = {name: views(name, own) for name in NAMES}
    assert found["center"].geometry == found["ten-crop"].geometry == own.protocol
    assert found["caffe"].geometry == EvalProtocol("warp", 256, 227)
    assert found["torchvision"].geometry == EvalProtocol("short", 256, 227)
    assert found["onnx-zoo"].geometry == EvalProtocol("warp", 227, 227)
    assert [name for name in NAMES if found[name].ten_crop] == ["ten-crop"]


def test_real_labels_count_what_they_say(tmp_path):
    names = [f"ILSVRC2012_val_{n:08d}.JPEG" for n in (1, 2, 3, 50_000)]
    folder = tmp_path / "val"
    wnids = [wnid for wnid, _ in imagenet.classes()]
    for name, wnid in zip(names, wnids, strict=False):
        (folder / wnid).mkdir(parents=True)
        pixels = np.random.default_rng(len(wnid)).integers(0, 256, (70, 70, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / wnid / name)
    (tmp_path / "set" / "train").mkdir(parents=True)
    for part in ("train", "val"):
        (tmp_path / "set" / part).exists() or (tmp_path / "set" / part).mkdir()
        for wnid in wnids[:4]:
            os.symlink(folder / wnid, tmp_path / "set" / part / wnid)
    (found,) = evaluate_weights(narrow_1000(), f"folder:{tmp_path / 'set'}")
    best = found.predictions.classes[:, 0].tolist()
    labels: list = [[] for _ in range(50_000)]
    labels[0], labels[1], labels[49_999] = [5, best[0]], [(best[1] + 1) % 1000], [best[3]]
    file = tmp_path / "real.json"
    file.write_text(json.dumps(labels))
    from alexnet.real import real_top1

    called = [found.name(place) for place in range(4)]
    assert real_top1(found.predictions, called, read_real(file)) == (2, 3)
    with pytest.raises(UserError, match="go by the names"):
        real_top1(found.predictions, ["a"] * 4, labels)
    for bad in ("[]", "{", json.dumps([[1]] * 49_999), json.dumps([[1000]] * 50_000), "[" * 10**5):
        file.write_text(bad)
        with pytest.raises(UserError, match=r"real\.json"):
            read_real(file)


def test_mistakes_are_sentences(tmp_path, capsys):
    file = tmp_path / "w.safetensors"
    weights.save(file, narrow_1000())
    for words, sentence in (
        (["evaluate", str(file)], "give --dataset"),
        (["evaluate", str(file), "--dataset", "digits"], "1000 classes, but digits has 10"),
        (["evaluate", str(tmp_path), "--dataset", "digits"], "is a directory, but neither"),
        (["evaluate", str(file), "--protocol", "all", "--save", "x"], "name it with --protocol"),
        (["evaluate", str(file), "--framework", "torch", "--spmd", "pmap"], "are JAX's"),
        (["predict", str(file), "a.jpg", "--json", "--csv"], "exclude each other"),
        (["predict", str(file)], "IMAGES is missing"),
        (["predict", str(file), "a.jpg", "--features", "fc7"], "--features"),
        (["predict", str(file), "a.jpg", "--features", "fc7", "x"], ".npz"),
    ):
        assert cli.main(words) == 2, words
        assert sentence in capsys.readouterr().err
    assert cli.main(["predict", str(file), str(tmp_path / "none*")]) == 1
    assert "no image to look at" in capsys.readouterr().err


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs shared/data/imagenet_sample")
def test_photographs_go_through_every_path(tmp_path):
    """63 real photographs, by WNID: a folder to evaluate on, ten crops, both frameworks."""
    for file in sorted(SHARED.iterdir()):
        for part in ("train", "val"):
            folder = tmp_path / "photos" / part / file.name[:9]
            folder.mkdir(parents=True)
            os.symlink(file, folder / file.name)
    whole = narrow_1000()
    for protocol in ("center", "ten-crop", "onnx-zoo"):
        (found,) = evaluate_weights(
            whole, f"folder:{tmp_path / 'photos'}", framework="both", protocols=(protocol,)
        )
        assert found.count == 63
        assert found.apart <= 1e-4
    assert len(alexnet.predict(whole, sorted(SHARED.iterdir()))) == 63


def test_the_framework_is_a_runs_own_or_one_that_is_here(run, monkeypatch):
    from alexnet import trained

    own = json.loads((run / "config.json").read_text())["framework"]
    assert trained.framework_for(run) == own
    for here, expected in (({"jax", "torch"}, "jax"), ({"torch"}, "torch"), (set(), "jax")):
        monkeypatch.setattr(trained, "find_spec", lambda name, here=here: name in here or None)
        assert trained.framework_for(narrow_1000()) == expected


def test_a_run_whose_framework_is_not_here_gives_its_final_weights(run, monkeypatch):
    from alexnet import trained

    def missing(path, step=None, **_):
        raise UserError("--framework needs a package that is not installed")

    monkeypatch.setattr(trained, "read_run", missing)
    found = trained.open_weights(run)
    assert found.class_names == tuple("0123456789")
    with pytest.raises(UserError, match="not installed"):
        trained.open_weights(run, step=30)  # another step's are not there
    own = json.loads((run / "config.json").read_text())["framework"]
    monkeypatch.setattr(trained, "find_spec", lambda name: None if name == own else name)
    assert trained.framework_for(run) == next(name for name in FRAMEWORKS if name != own)


def test_photographs_without_a_real_label_are_no_accuracy():
    from alexnet.real import real_top1

    (found,) = evaluate_weights(narrow_1000(), digits_like([w for w, _ in imagenet.classes()], 2))
    names = ["ILSVRC2012_val_00000001.JPEG"] * 2
    with pytest.raises(UserError, match="nothing to count"):
        real_top1(found.predictions, names, [[]] * 50_000)
