"""Narrow weights to share, folders of other programs, and class names that try to be more."""

import dataclasses
import json

import numpy as np

from alexnet.hub.folder import CONFIG, MODEL
from alexnet.weights.layout import to_state_dict
from alexnet.weights.names import TORCHVISION_KEYS
from tests.weights.helpers import narrow, same, side

HOSTILE = (
    'a"b: c', "<script>alert(1)</script>", "two\nlines", "| *x* [y](z)", "\x1b[2J---", "\u2028é😀",
    "# {{ x }} `code`",
)  # fmt: skip


def hf_weights(name="torchvision", **changes):
    return dataclasses.replace(narrow(name, image_size=side(name, 67)), **changes)


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
