"""The model card of a Hugging Face folder: `README.md`, a YAML header above Markdown.

Names of classes, data and sources come from outside: in the header they are JSON strings, which
YAML reads too, and in the text every punctuation mark of theirs is escaped.
"""

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alexnet.layers import Spec
from alexnet.preprocess import Preprocess
from alexnet.spec import variant
from alexnet.weights import Weights
from alexnet.weights.table import without_init

if TYPE_CHECKING:
    from alexnet.config import TrainConfig

_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")
_LONGEST = 100  # characters of a name that are shown
_MOST_CLASSES = 100  # that are listed
_LICENSE = (
    "Not stated: whoever publishes these weights fills in `license` in this file's header. The "
    "license of what they were trained on may limit what they may be used for."
)
_INTENDED = (
    "Classifying images into its classes, studying the 2012 architecture, and as a start for "
    "fine-tuning. Many networks since are more accurate. Like any classifier it answers with one "
    "of its classes whatever it is shown, and it was not examined for decisions about people."
)


@dataclass(frozen=True)
class Training:
    """The run that weights come from."""

    config: "TrainConfig"
    step: int
    # The last record of `metrics.jsonl` with split `eval` up to the step, if there is one.
    evaluation: dict[str, Any] | None = None


def model_card(weights: Weights, run: Training | None, *, torchvision: bool) -> str:
    """The card's text; `torchvision` says that the weights are under torchvision's keys."""
    spec = weights.spec
    parts = {
        "": f"AlexNet, variant `{spec.name}`: {spec.num_classes} classes, {_input(spec)}, "
        f"{spec.num_params:,} parameters." + _source(weights.source),
        "Intended use": _INTENDED,
        "Use": _usage(spec, torchvision),
        "Preprocessing": _preprocessing(weights.preprocess, weights.mean_image),
        "Classes": _classes(weights.class_names),
        "Training": _training(run),
        "Evaluation": _evaluation(run),
        "License": _LICENSE,
    }
    body = "\n\n".join(
        f"## {title}\n\n{text}" if title else f"# AlexNet\n\n{text}"
        for title, text in parts.items()
        if text
    )
    return f"---\n{_header(spec, run)}---\n\n{body}\n"


def _header(spec: Spec, run: Training | None) -> str:
    values: dict[str, Any] = {
        "license": "other",  # the hub asks for a name with it
        "license_name": "not-stated",
        "library_name": "alexnet",
        "pipeline_tag": "image-classification",
        "tags": ["alexnet", "image-classification", "jax", "flax", "pytorch", "safetensors"],
    }
    if run:
        values["datasets"] = [_dataset(run)]
    if run and run.evaluation and run.evaluation["step"] == run.step:  # not of other weights
        values["metrics"] = ["accuracy"]
        values["model-index"] = [{"name": f"alexnet-{spec.name}", "results": [_result(run)]}]
    return "".join(
        f"{name}: {json.dumps(value, ensure_ascii=False)}\n" for name, value in values.items()
    )


def _result(run: Training) -> dict[str, Any]:
    data, record = _dataset(run), run.evaluation or {}
    named = {"top1": "top-1 accuracy", "top5": "top-5 accuracy", "loss": "loss"}
    metrics = [
        {"type": "loss" if key == "loss" else "accuracy", "name": name, "value": float(record[key])}
        for key, name in named.items()
        if key in record
    ]
    return {
        "task": {"type": "image-classification"},
        "dataset": {"type": data, "name": data},
        "metrics": metrics,
    }


def _dataset(run: Training) -> str:
    """A data set's bare name: a path would reveal more about a machine than its owner intends."""
    kind, _, name = run.config.data.dataset.partition(":")
    name = re.split("[/:]", name)[0] if kind == "tfds" else name.rstrip("/").rpartition("/")[2]
    return _plain(name or kind)


def _input(spec: Spec) -> str:
    return f"images of {spec.image_size}x{spec.image_size} pixels in {spec.channels} channel" + (
        "s" * (spec.channels != 1)
    )


def _source(source: str) -> str:
    return f" From {_text(source)}." if source else ""


def _usage(spec: Spec, torchvision: bool) -> str:
    text = """In JAX:

```python
import alexnet_jax

model = alexnet_jax.AlexNet.from_pretrained("path/to/this/folder")  # or "hf://ORG/NAME"
logits = model(images)  # (batch, height, width, channels)
```

In PyTorch:

```python
import alexnet_torch

model = alexnet_torch.AlexNet.from_pretrained("path/to/this/folder").eval()
logits = model(images)  # (batch, channels, height, width)
```

Images are normalized floats: `model.preprocess` says how, `model.class_names` what comes out."""
    if torchvision and _is_torchvisions(spec):
        text += f"""

With torchvision alone:

```python
import torchvision
from safetensors.torch import load_file

model = torchvision.models.alexnet(num_classes={spec.num_classes}).eval()
model.load_state_dict(load_file("path/to/this/folder/model.safetensors"))
```"""
    return text


def _is_torchvisions(spec: Spec) -> bool:
    """True where torchvision's own class is this network: its widths, and three channels."""
    own = variant("torchvision", num_classes=spec.num_classes, image_size=spec.image_size)
    return without_init(spec) == without_init(own)


def _preprocessing(preprocess: Preprocess, mean_image: bool) -> str:
    rule, normalize = preprocess.protocol, preprocess.normalize
    resized = (
        f"scale the shorter side to {rule.resize_to} pixels"
        if rule.resize_rule == "short"
        else f"warp both sides to {rule.resize_to} pixels"
    )
    image = "the mean image in `config.json`, whose channels have " if normalize.image else ""
    text = (
        f"With bilinear interpolation, {resized}; cut out the center, {rule.crop}x{rule.crop}; of "
        f"pixels from 0 to 255 in {normalize.channel_order} order, subtract "
        f"{image}{_numbers(normalize.mean)} and divide by {_numbers(normalize.std)}."
    )
    if mean_image:
        text += " In training a mean image was subtracted; these are its channels' means."
    return text


def _numbers(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:.7g}" for value in values) + ")"


def _classes(names: tuple[str, ...] | None) -> str:
    if not names:
        return ""
    listed = [f"{number}. {_text(name)}" for number, name in enumerate(names[:_MOST_CLASSES])]
    if len(names) > _MOST_CLASSES:
        listed.append(f"\n{len(names) - _MOST_CLASSES} more are in `config.json`.")
    return "\n".join(listed)


def _training(run: Training | None) -> str:
    if run is None:
        return ""
    config, optim, data = run.config, run.config.optim, run.config.data
    rows = {
        "framework": config.framework,
        "recipe": _text(config.recipe),
        "data": _text(_dataset(run)),
        "steps": f"{run.step:,} of {data.batch_size} examples",
        "optimizer": f"{optim.rule}, momentum {optim.momentum:g}, decay {optim.weight_decay:g}",
        "learning rate": f"{optim.learning_rate:g}, schedule {optim.schedule}, "
        f"{optim.warmup_steps} steps of warm-up",
        "training views": f"{data.train_crop} crop"
        + ", half of them mirrored" * data.flip
        + f", color noise {data.color_noise:g}" * bool(data.color_noise),
        "precision": config.model.precision,
        "seed": config.run.seed,
    }
    if config.model.init_from:
        rows["started from"] = _text(config.model.init_from.rpartition("/")[2])
    lines = [f"| {name} | {value} |" for name, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *lines])


def _evaluation(run: Training | None) -> str:
    if run is None or not run.evaluation:
        return "Not measured."
    record = run.evaluation
    count = f" of {record['count']:,} examples" if "count" in record else ""
    return (
        f"Measured by the run itself at step {record['step']:,}, on {_text(_dataset(run))}{count}: "
        f"top-1 {record['top1']:.2%}, top-5 {record['top5']:.2%}, loss {record['loss']:.4f}."
    )


def _plain(text: str) -> str:
    """Printable text of bounded length, on one line."""
    return "".join(char if char.isprintable() else " " for char in text[:_LONGEST]).strip() or "?"


def _text(text: str) -> str:
    """The same, escaped so that Markdown shows it as plain text."""
    return _PUNCTUATION.sub(r"\\\1", _plain(text))
