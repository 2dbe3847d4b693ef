"""The eight learned layers, under every name that files use for them.

All readers and writers go through this one table: a name that is not in it is an error.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from alexnet.layers import Spec, variables
from alexnet.spec import VARIANTS


@dataclass(frozen=True)
class Learned:
    """One learned layer; `after_flatten` is the dense layer whose inputs were a feature map."""

    name: str  # here, and in this project's torch and Flax models
    torchvision: str
    caffe: str  # also in MatConvNet and the Toronto .npy
    kind: Literal["conv", "after_flatten", "dense"]


LEARNED = (
    Learned("conv1", "features.0", "conv1", "conv"),
    Learned("conv2", "features.3", "conv2", "conv"),
    Learned("conv3", "features.6", "conv3", "conv"),
    Learned("conv4", "features.8", "conv4", "conv"),
    Learned("conv5", "features.10", "conv5", "conv"),
    Learned("fc6", "classifier.1", "fc6", "after_flatten"),
    Learned("fc7", "classifier.4", "fc7", "dense"),
    Learned("fc8", "classifier.6", "fc8", "dense"),
)

KINDS = {layer.name: layer.kind for layer in LEARNED}
_TORCH_PARTS = {
    "kernel": "weight", "bias": "bias", "scale": "weight", "shift": "bias",
    "mean": "running_mean", "variance": "running_var",
}  # fmt: skip


def torch_keys(spec: Spec) -> dict[str, str]:
    """Canonical name to key in the state dict of this project's torch model."""
    parts = (name.split(".") for name in variables(spec))
    return {f"{layer}.{part}": f"{layer}.{_TORCH_PARTS[part]}" for layer, part in parts}


# The same over all variants, for files that hold arrays and no table.
TORCH_KEYS = {name: key for spec in VARIANTS.values() for name, key in torch_keys(spec).items()}
ARRAYS = tuple(TORCH_KEYS)
TORCHVISION_KEYS = {
    f"{layer.name}.{part}": f"{layer.torchvision}.{torch_part}"
    for layer in LEARNED
    for part, torch_part in (("kernel", "weight"), ("bias", "bias"))
}
CAFFE_LAYERS = {layer.caffe: layer.name for layer in LEARNED}


def kind(array_name: str) -> str:
    """The kind of layer that a canonical array belongs to."""
    return KINDS[array_name.partition(".")[0]]


def torch_scheme(keys: Iterable[str], own: Mapping[str, str]) -> Mapping[str, str]:
    """The table, torchvision's or `own`, that more of a state dict's keys are in."""
    keys = set(keys)
    known = [len(keys & set(table.values())) for table in (TORCHVISION_KEYS, own)]
    return TORCHVISION_KEYS if known[0] >= known[1] else own
