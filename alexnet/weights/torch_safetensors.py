"""safetensors with the names and layouts of a torch state dict, as Hugging Face has them."""

from collections.abc import Mapping
from typing import BinaryIO

from alexnet.layers import Spec
from alexnet.weights import safetensors
from alexnet.weights.assemble import Found
from alexnet.weights.core import Weights
from alexnet.weights.layout import blocks, to_torch
from alexnet.weights.names import TORCH_KEYS, TORCHVISION_KEYS, torch_keys
from alexnet.weights.precision import Dtype
from alexnet.weights.torch_read import from_state_dict


def read(file: BinaryIO, spec: Spec | None = None) -> Found:
    """The weights in a file that is open at its start, of the network `spec` where it is known.

    Raises:
        UserError: for a file that is damaged.
    """
    return from_state_dict(safetensors.read(file)[1], torch_keys(spec) if spec else TORCH_KEYS)


def write(
    file: BinaryIO,
    weights: Weights,
    keys: Mapping[str, str] | None = None,
    dtype: Dtype = "fp32",
) -> None:
    """Write weights under torchvision's keys if they are its variant's, else this project's.

    `keys`, by canonical name, override both.
    """
    if keys is None:
        torchvisions = weights.spec.name == "torchvision"
        keys = TORCHVISION_KEYS if torchvisions else torch_keys(weights.spec)
    stored = list(to_torch(weights))
    shapes = {keys[array.name]: array.shape for array in stored}
    # Hugging Face's programs look for this format.
    file.write(safetensors.encode_header(shapes, {"format": "pt"}, dtype))
    for array in stored:
        for block in blocks(array.values, dtype):
            file.write(block)
