"""What `alexnet summary` asks of the torch side."""

import numpy as np
import torch
import torchinfo

from alexnet.spec import Spec, trace, weight_shapes
from alexnet_torch.model import AlexNet


def output_shapes(spec: Spec) -> dict[str, tuple[int, ...]]:
    """Each layer's output for one image, NCHW, from running the model."""
    with torch.no_grad():
        outputs = _model(spec).activations(torch.zeros(_size(spec)))
    return {name: tuple(output.shape) for name, output in outputs.items()}


def print_native(spec: Spec) -> bool:
    """Print torchinfo's own table."""
    columns, rows = ("output_size", "num_params", "mult_adds"), ("var_names",)
    model = _model(spec)
    print(torchinfo.summary(model, _size(spec), col_names=columns, row_settings=rows, verbose=0))
    without = sum(row.multiply_adds for row in trace(spec))
    print(f"torchinfo counts adding a bias as one more: without, multiply-adds are {without:,}")
    return True


def _size(spec: Spec) -> tuple[int, ...]:
    return (1, spec.channels, spec.image_size, spec.image_size)


def _model(spec: Spec) -> AlexNet:
    zeros = {name: np.zeros(shape, np.float32) for name, shape in weight_shapes(spec).items()}
    return AlexNet(spec, weights=zeros).eval()
