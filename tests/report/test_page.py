"""`alexnet report` as a user meets it: whole pages, what is missing, and hostile names."""

import dataclasses
import json
import shutil
import sys
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from alexnet import porting, sealed, weights
from alexnet.cli import main
from alexnet.report.page.build import Choices, build
from alexnet.report.page.subject import Reading, open_subject
from tests.report.conftest import made_up

SECTIONS = ("runs", "curves", "network", "filters", "classes", "examples", "neighbours",
            "occlusion", "patches", "activations")  # fmt: skip
VOID = {"meta", "img", "input", "br", "hr"}
HOSTILE = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(2)>",
    '" onload="alert(3)" x=\'',
    "\u202egnp.exe\x1b[2J\0\u2028",
    "&lt;b&gt; {{7*7}} ${7*7} <!--",
    "]]></svg></style>" + "long " * 200,
)
SMALL = Choices(framework="jax", examples=50)


class Page(HTMLParser):
    """A page's elements, checked for balance as they are read."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict]] = []
        self.text, self._open = "", []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        assert len({name for name, _ in attrs}) == len(attrs), f"{tag} repeats an attribute"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, *tags):
        return [attributes for tag, attributes in self.elements if tag in tags]

    @property
    def ids(self):
        return [attributes["id"] for _, attributes in self.elements if "id" in attributes]


def check(text: str) -> Page:
    """What holds for every page: nothing comes from outside, and readers find their way."""
    page = Page(text)
    assert len(text.encode()) < 3_000_000
    assert len(set(page.ids)) == len(page.ids)
    assert [i for i in page.ids if i in SECTIONS] == list(SECTIONS)
    for tag, attributes in page.elements:
        assert not any(name.startswith("on") or name == "style" for name in attributes), tag
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("#", "data:image/")), attributes
        for name in ("aria-labelledby", "aria-describedby"):
            assert attributes.get(name, page.ids[0]) in page.ids
    scripts = [a for a in page.all("script") if a.get("type") != "application/json"]
    assert len(scripts) == 1
    assert all("alt" in attributes for attributes in page.all("img"))
    assert all("scope" in attributes for attributes in page.all("th"))
    assert len(page.all("table")) == len(page.all("caption"))
    levels = [int(tag[1]) for tag, _ in page.elements if tag in ("h1", "h2", "h3", "h4")]
    assert levels[0] == levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))
    policy = next(a["content"] for a in page.all("meta") if "http-equiv" in a)
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy
    return page


def test_a_run_has_every_section(run_path, tmp_path, capsys):
    assert main(["report", str(run_path), "--output", str(tmp_path / "page.html")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    page = check(text)
    assert "Not shown" not in page.text
    for words in ("first run", "torchvision", "digits", "359 examples", "jax 0."):
        assert words in page.text, words
    evaluated = [json.loads(s) for s in (run_path / "metrics.jsonl").read_text().splitlines()][-1]
    assert page.text.count(f"{100 * evaluated['top1']:.2f} %") >= 2  # logged, and found again
    assert f"Loss {evaluated['loss']:.4f}" in page.text


def test_the_same_run_gives_the_same_page(subject):
    assert build([subject], SMALL) == build([subject], SMALL)


def test_several_runs_share_curves_and_filters(run_path, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(run_path, other)
    subjects = [open_subject(str(path), Reading()) for path in (run_path, other)]
    page = check(build(subjects, SMALL))
    assert page.text.count("kernels of") == 2
    curves = page.text[page.text.index('{"runs"') :]
    runs = json.JSONDecoder().raw_decode(curves)[0]["runs"]
    assert [run["name"] for run in runs] == ["first run", "other"]
    assert runs[0]["train"]["step"] == [1, 2, 3, 4]
    assert runs[0]["eval"]["step"] == [2, 4]


def test_default_places(run_path, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run_path, copy)
    assert main(["report", str(copy), "--examples", "8"]) == 0
    assert (copy / "report.html").is_file()
    file = copy / "weights.safetensors"
    (copy / "report.html").unlink()
    assert main(["report", str(file), "--dataset", "digits", "--examples", "8"]) == 0
    page = check((copy / "report.html").read_text())
    assert "Not shown" not in page.text
    assert "8 of the evaluation set's 359" in page.text
    assert "without a log" in page.text


def test_only_a_page_of_ours_is_replaced(run_path, tmp_path, capsys):
    target = tmp_path / "page.html"
    target.write_text("<!DOCTYPE html><title>my own</title>")
    command = ["report", str(run_path), "--examples", "8", "--output", str(target)]
    assert main(command) == 2
    assert "--overwrite replaces it" in capsys.readouterr().err
    assert "my own" in target.read_text()
    assert main([*command, "--overwrite"]) == 0
    first = target.read_text()
    assert main(command) == 0
    assert target.read_text() == first
    assert main([*command[:-1], str(tmp_path)]) == 2
    assert main([*command[:-1], str(tmp_path / "no" / "page.html")]) == 2


def test_wrong_use(run_path, tmp_path, capsys):
    for options, words in {
        (): "RUN is missing",
        (str(tmp_path),): "neither a run's work directory",
        (str(tmp_path / "none"),): "can't read",
        (str(run_path), "--layer", "conv9"): "did you mean 'conv",
        (str(run_path), "--examples", "0"): "--examples is 0",
        (str(run_path),) * 13: "1 to 12",
    }.items():
        assert main(["report", *options]) == 2
        assert words in capsys.readouterr().err


# --- what is missing ----------------------------------------------------------------------------


def test_a_run_without_a_checkpoint_or_metrics(run_path, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(run_path / "config.json", bare)
    page = check(build([open_subject(str(bare), Reading())], SMALL))
    assert "Not shown: the run in" in page.text
    assert "has no checkpoint yet" in page.text
    assert "no evaluation yet" in page.text
    assert "No metrics have been written yet" in page.text
    assert "fc7" in page.text  # the network is known from the configuration and the data
    shutil.copy(run_path / "weights.safetensors", bare)  # written when a run ends
    assert "Not shown" not in check(build([open_subject(str(bare), Reading())], SMALL)).text


def test_a_checkpoint_that_the_run_deletes_meanwhile(run_path, tmp_path, monkeypatch):
    copy = tmp_path / "run"
    shutil.copytree(run_path, copy)
    (copy / "weights.safetensors").unlink()
    newest = copy / "checkpoints" / "00000004"
    assert (copy / "checkpoints" / "00000002").is_dir()

    def read(path, step=None, **options):
        if newest.exists():
            shutil.rmtree(newest)
            raise AttributeError("what Orbax raises then")
        return porting.read_run(path, step, **options)

    monkeypatch.setattr("alexnet.trained.read_run", read)
    found = open_subject(str(copy), Reading())
    assert found.missing == {}
    assert found.weights.source == "run run, step 2"


def test_data_that_is_gone(run_path, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run_path, copy)
    config = json.loads((copy / "config.json").read_text())
    config["data"]["dataset"] = f"folder:{tmp_path / 'gone'}"
    del config["digest"]
    (copy / "config.json").write_text(json.dumps(config))
    page = check(build([open_subject(str(copy), Reading())], SMALL))
    assert page.text.count("Not shown: there is no folder") == 6
    assert "kernels of" in page.text
    other = check(build([open_subject(str(copy), Reading(dataset="synthetic"))], SMALL))
    assert other.text.count("Not shown: the network has 10 classes") == 6


def test_data_that_has_changed_is_said(run_path, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run_path, copy)
    assert "not what it was" not in build([open_subject(str(copy), Reading())], SMALL)
    meta = sealed.read(copy / "checkpoints/00000004/meta.json")
    meta["data"]["train"]["examples"] = 7
    sealed.write(copy / "checkpoints/00000004/meta.json", meta)
    page = check(build([open_subject(str(copy), Reading())], SMALL))
    assert "it had 7 training examples, and has 1438 now" in page.text


def test_runs_of_one_name_are_told_apart(run_path, tmp_path):
    for folder in ("a", "b"):
        shutil.copytree(run_path, tmp_path / folder / "run")
    runs = [str(tmp_path / folder / "run") for folder in ("a", "b")]
    output = tmp_path / "page.html"
    assert main(["report", *runs, "--examples", "8", "--output", str(output)]) == 0
    page = check(output.read_text())
    assert all(page.text.count(run) > 1 for run in runs)


def test_a_framework_that_is_not_installed(subject, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("alexnet_torch")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    page = check(build([subject], Choices(framework="torch", examples=8)))
    assert page.text.count("Not shown: --framework torch needs the package 'torch'") == 6


def test_damaged_metrics_and_odd_values(run_path, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run_path, copy)
    lines = (copy / "metrics.jsonl").read_text()
    (copy / "metrics.jsonl").write_text(lines + '{"s')  # a run is writing it
    assert "Not shown" not in check(build([open_subject(str(copy), Reading())], SMALL)).text
    (copy / "metrics.jsonl").write_text(lines.replace('"top1": 0.', '"top1": 1.', 1))
    page = check(build([open_subject(str(copy), Reading())], SMALL))
    assert "line 1 is not as it was written" in page.text
    odd = ("no JSON", '{"step": "<b>", "split": "train"}', '{"step": 3, "split": "x"}',
           '{"step": 5, "split": "eval", "top1": 1e999}',
           '{"step": 1' + 400 * "0" + ', "split": "eval"}', '{"step": 1, "split": ["x"]}',
           '{"step": 1, "split": "eval", "loss": NaN}')  # fmt: skip
    for line in odd:
        (copy / "metrics.jsonl").write_text(f"{line}\n{lines}")
        page = check(build([open_subject(str(copy), Reading(dataset="none"))], SMALL))
        assert "line 1 is not a record" in page.text


def test_pictures_that_cannot_be_read_are_left_out(tmp_path, subject):
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for place in range(10):
            folder = tmp_path / "data" / split / f"c{place}"
            folder.mkdir(parents=True)
            pixels = rng.integers(0, 256, (70, 80, 3), np.uint8)
            Image.fromarray(pixels).save(folder / "a.png")
        (folder / "broken.png").write_bytes(b"no picture")
    file = tmp_path / "w.safetensors"
    weights.save(file, subject.weights)
    found = open_subject(str(file), Reading(dataset=f"folder:{tmp_path / 'data'}"))
    page = check(build([found], SMALL))
    assert "Not shown" not in page.text
    assert "10 of the evaluation set's 11 examples" in page.text
    assert " 1 could not be read." in page.text
    assert "--examples takes more" not in page.text


def test_broken_weights(subject):
    kernel = subject.weights.arrays["fc8.kernel"]
    arrays = subject.weights.arrays | {"fc8.kernel": np.full_like(kernel, np.nan)}
    subject.weights = dataclasses.replace(subject.weights, arrays=arrays)
    page = check(build([subject], SMALL))
    assert page.text.count("Not shown: the network's outputs are not finite") == 5
    assert "patches" in page.text


# --- hostile names, and sizes -------------------------------------------------------------------


def test_hostile_names_are_only_text(tmp_path):
    subject = made_up(HOSTILE)
    subject.name = HOSTILE[0]
    subject.metrics = [{"step": 1.0, "split": "eval", "loss": 1.0, "top1": 0.5}]
    text = build([subject], SMALL)
    page = check(text)
    assert "<img src=x onerror=alert(2)>" in page.text
    assert not set("\x1b\0\u202e\u2028") & set(text)
    assert "long " * 20 not in text
    plain = made_up(tuple("abcdef"))
    plain.metrics = subject.metrics
    made = {tag for tag, _ in check(build([plain], SMALL)).elements}
    assert {tag for tag, _ in page.elements} == made


def test_hostile_file_names(run_path, tmp_path):
    copy = tmp_path / '<img src=x onerror="alert(1)">&\u202e\x1b'
    shutil.copytree(run_path, copy)
    page = check(build([open_subject(str(copy), Reading())], SMALL))
    assert '<img src=x onerror="alert(1)">&\\u202e\\x1b' in page.text


@pytest.mark.slow
def test_a_page_stays_small_whatever_the_data():
    names = tuple(
        f"a rather long name of class number {n}, as ImageNet has some" for n in range(1000)
    )
    subject = made_up(names, count=1200, name="paper", width=1.0 / 16)
    train = [
        {"step": float(n), "split": "train", "loss": 2 + n % 7 / 3, "top1": 0.4}
        for n in range(60_000)
    ]
    evals = [
        {"step": 10.0 * n, "split": "eval", "loss": 1.234567, "top1": 0.51234} for n in range(5000)
    ]
    subject.metrics = train + evals
    text = build([subject] * 12, Choices(framework="jax", examples=1200))
    assert len(check(text).text) > 100_000
    print(f"{len(text):,} bytes with 1,000 classes, 12 runs of 65,000 records")
