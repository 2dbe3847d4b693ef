"""Model cards: their YAML, their numbers, and names from outside that stay text."""

import dataclasses
import re

import pytest
import yaml
from huggingface_hub import ModelCard, metadata_load

from alexnet import hub, weights
from alexnet.hub.card import model_card
from alexnet.hub.folder import CARD
from alexnet.preprocess import Preprocess
from alexnet.recipes import RECIPES
from alexnet.spec import VARIANTS

from .helpers import HOSTILE, hf_weights

EVALUATION = {"step": 352, "split": "eval", "loss": 0.0683, "top1": 0.9861, "top5": 1.0,
              "count": 359}  # fmt: skip


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


def test_a_card_has_no_results_of_another_step(tmp_path):
    hub.write_folder(tmp_path / "f", hf_weights(), run=dataclasses.replace(trained(), step=360))
    _, whole = header(tmp_path / "f")
    assert not {"model-index", "metrics"} & set(whole)
    assert "by the run itself at step 352" in (tmp_path / "f" / CARD).read_text()


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


def test_only_full_torchvision_networks_are_said_to_load_there():
    spec = VARIANTS["torchvision"]
    full = weights.Weights({}, spec, Preprocess())
    assert "torchvision.models.alexnet(num_classes=1000)" in model_card(
        full, None, torchvision=True
    )
    assert "torchvision.models" not in model_card(full, None, torchvision=False)
    assert "torchvision.models" not in model_card(hf_weights(), None, torchvision=True)
