"""The `config.json` of a Hugging Face folder: timm's fields, and a section of this project's.

Other programs read timm's fields: mean and standard deviation of pixels from 0 to 1, the crop as a
share of the resized image. The section `alexnet` has the same in this project's own terms, plus the
table of layers and a SHA-256 of the weights, so that reading restores exactly what was written.
(timm's fields: `PretrainedCfg` in timm/models/_pretrained.py; their meaning:
`transforms_imagenet_eval` in timm/data/transforms_factory.py.)
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from alexnet.errors import UserError
from alexnet.layers import AdaptiveAvgPool, Conv, Dense, Spec, trace
from alexnet.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from alexnet.preprocess import from_json as preprocess_from_json
from alexnet.preprocess import to_json as preprocess_to_json
from alexnet.spec import VARIANTS
from alexnet.text import is_text, storable
from alexnet.weights import Weights, table
from alexnet.weights.core import LONGEST_TEXT, names_from_json

SECTION, VERSION = "alexnet", 1
_FIELDS = {"format_version", "network", "preprocess", "mean_image", "source", "sha256"}
_CROP_PCT = 0.875  # 224 of 256, as in torchvision, and timm's default
_MOST_NAMES = 1_000_000
_SMALLEST_CROP = 0.01  # share of the resized image
_MODES = {"short": "center", "warp": "squash"}  # resize rules and timm's names for them


@dataclass(frozen=True)
class Described:
    """The content of a `config.json`; without the section `alexnet` there is no `spec`."""

    class_names: tuple[str, ...] | None
    num_classes: int | None
    variant: str | None
    image_size: int | None
    timm: Mapping[str, Any]  # the description of the preprocessing, not parsed yet
    spec: Spec | None = None
    preprocess: Preprocess | None = None
    mean_image: bool = False
    source: str = ""
    sha256: str = ""


def to_json(weights: Weights, keys: Mapping[str, str], sha256: str) -> dict[str, Any]:
    """The file's content.

    Args:
        weights: the weights to share.
        keys: canonical name to key in `model.safetensors`.
        sha256: of `model.safetensors`, in hexadecimal.

    Raises:
        UserError: for a network, preprocessing or class names that could not be read back.
    """
    spec = weights.spec
    fields = _timm_fields(spec, weights.preprocess)
    first = next(layer.name for layer in spec if isinstance(layer, Conv))
    last = [layer.name for layer in spec if isinstance(layer, Dense)][-1]
    modules = {"first_conv": first, "classifier": last}
    for field, layer in modules.items():
        modules[field] = keys[f"{layer}.kernel"].rpartition(".")[0]
    fields["pretrained_cfg"] |= modules
    if weights.class_names is not None:
        fields["label_names"] = list(
            names_from_json(list(map(storable, weights.class_names)), spec.num_classes)
        )
    described = preprocess_to_json(weights.preprocess)
    preprocess_from_json(described, spec.channels)
    fields[SECTION] = {
        "format_version": VERSION,
        "network": table.to_json(spec),
        "preprocess": described,
        "mean_image": weights.mean_image,
        "source": storable(weights.source[:LONGEST_TEXT]),
        "sha256": sha256,
    }
    return fields


def from_json(values: Any) -> Described:
    """A file's content, checked: `values` may come from anywhere.

    Raises:
        UserError: for fields that are missing, of the wrong type, out of range, or inconsistent.
    """
    if not isinstance(values, dict):
        raise UserError("it must be a JSON object")
    timm = values.get("pretrained_cfg", values)  # before 0.9, timm had its fields at the top
    if not isinstance(timm, dict):
        raise UserError("its pretrained_cfg must be an object")
    architecture = values.get("architecture", "")
    if not isinstance(architecture, str) or not re.match("alexnet|$", architecture):
        raise UserError(f"it describes {architecture!a:.60}, and that is no AlexNet")
    count = values.get("num_classes", timm.get("num_classes"))
    if count is not None and (type(count) is not int or not 1 <= count <= _MOST_NAMES):
        raise UserError(f"its num_classes is {count!a:.40}, and must be from 1 to {_MOST_NAMES:,}")
    names = values.get("label_names")
    name = "torchvision" if architecture == "alexnet" else architecture.removeprefix("alexnet_")
    described = Described(
        class_names=None if names is None else names_from_json(names, count),
        num_classes=count,
        variant=name if name in VARIANTS else None,
        image_size=_image_size(timm),
        timm=timm,
    )
    return _with_section(described, values) if SECTION in values else described


def timm_preprocess(described: Described, spec: Spec) -> Preprocess:
    """The preprocessing in timm's fields, for a network.

    Raises:
        UserError: for values that are out of range, or that this project does not support.
    """
    timm = described.timm
    if (interpolation := timm.get("interpolation", "bilinear")) != "bilinear":
        raise UserError(
            f"its images are to be resized by {interpolation!a:.40}, and only bilinear is done "
            "here: set interpolation to that to use it so"
        )
    channels = (timm.get("input_size") or [spec.channels])[0]
    if channels != spec.channels:
        raise UserError(f"its input_size has {channels} channels, and its conv1 {spec.channels}")
    rules = {mode: rule for rule, mode in _MODES.items()}
    mode = timm.get("crop_mode", "center")
    if not isinstance(mode, str) or mode not in rules:
        raise UserError(f"its crop_mode is {mode!a:.40}, and read are {' and '.join(rules)}")
    crop_pct = timm.get("crop_pct", _CROP_PCT)
    if type(crop_pct) not in (int, float) or not _SMALLEST_CROP <= crop_pct <= 1:
        raise UserError(f"its crop_pct is {crop_pct!a:.40}, and must be from {_SMALLEST_CROP} to 1")
    values = {
        "resize_rule": rules[mode],
        "resize_to": math.floor(spec.image_size / crop_pct),  # timm rounds down
        "crop": spec.image_size,
        "channel_order": "L" if spec.channels == 1 else "RGB",
    }
    for name, default in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
        given = timm.get(name)
        values[name] = list(default) if given is None else _times(given, 255.0)
    return preprocess_from_json(values, spec.channels)


def _timm_fields(spec: Spec, wanted: Preprocess) -> dict[str, Any]:
    """timm's fields for a network, except the names of modules and classes."""
    dense = [row for row in trace(spec) if isinstance(row.layer, Dense)]
    rule, normalize = wanted.protocol, wanted.normalize
    return {
        "architecture": "alexnet" if spec.name == "torchvision" else f"alexnet_{spec.name}",
        "num_classes": spec.num_classes,
        "num_features": dense[-1].in_shape[0],
        "pretrained_cfg": {
            "input_size": [spec.channels, spec.image_size, spec.image_size],
            "fixed_input_size": not any(isinstance(layer, AdaptiveAvgPool) for layer in spec),
            "pool_size": list(dense[0].map_shape[:2]) if dense[0].map_shape else None,
            "interpolation": "bilinear",
            "crop_pct": _crop_pct(rule.crop, rule.resize_to),
            "crop_mode": _MODES[rule.resize_rule],
            "mean": _times(list(normalize.mean), 1 / 255),
            "std": _times(list(normalize.std), 1 / 255),
            "num_classes": spec.num_classes,
        },
    }


def _crop_pct(crop: int, resize_to: int) -> float:
    """The share from which timm, rounding down, recovers `resize_to`."""
    share = crop / resize_to
    return share if math.floor(crop / share) == resize_to else math.nextafter(share, 0.0)


def _times(numbers: Any, factor: float) -> list[float]:
    """Numbers times a factor, to 12 digits: 0.485 and 123.675 become each other."""
    if not isinstance(numbers, list) or not all(type(n) in (int, float) for n in numbers):
        raise UserError(f"mean and std must be lists of numbers, and one is {numbers!a:.60}")
    try:
        return [float(f"{number * factor:.12g}") for number in numbers]
    except OverflowError as error:
        raise UserError("mean and std must be below 1e37") from error


def _image_size(timm: Mapping[str, Any]) -> int | None:
    size = timm.get("input_size")
    if size is None:
        return None
    if not isinstance(size, list) or len(size) != 3 or not all(type(n) is int for n in size):
        raise UserError(f"its input_size is {size!a:.60}, and must be [channels, height, width]")
    if size[1] != size[2] or not 1 <= size[1] <= table.MAX_SIDE:
        raise UserError(
            f"its input_size is {size!a:.60}, and must be a square of at most {table.MAX_SIDE} "
            "pixels"
        )
    return size[1]


def _with_section(described: Described, values: Mapping[str, Any]) -> Described:
    """The description with the section `alexnet`.

    Raises:
        UserError: where it is malformed, or timm's fields contradict it.
    """
    section = values[SECTION]
    if not isinstance(section, dict) or section.get("format_version") != VERSION:
        raise UserError(f"its section '{SECTION}' is not of format version {VERSION}")
    texts = [section.get(name) for name in ("source", "sha256")]
    if (
        set(section) != _FIELDS
        or type(section["mean_image"]) is not bool
        or not all(is_text(text, LONGEST_TEXT) for text in texts)
    ):
        raise UserError(f"its section '{SECTION}' must have {', '.join(sorted(_FIELDS))}")
    spec = table.from_json(section["network"])
    whole = preprocess_from_json(section["preprocess"], spec.channels)
    expected = _timm_fields(spec, whole)
    cfg = expected.pop("pretrained_cfg")
    odd = [name for name, value in expected.items() if values.get(name) != value]
    odd += [name for name, value in cfg.items() if described.timm.get(name) != value]
    if odd:
        raise UserError(
            f"its {', '.join(odd)} differ from what its section '{SECTION}' says: change both, or "
            "remove the section, if the weights have torchvision's keys"
        )
    return replace(
        described,
        spec=spec,
        preprocess=whole,
        mean_image=section["mean_image"],
        source=section["source"],
        sha256=section["sha256"],
    )
