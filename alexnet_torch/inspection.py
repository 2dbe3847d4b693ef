"""Answers for `alexnet summary`, `doctor` and `convert --verify` from the torch side."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torchinfo

from alexnet.config import TrainConfig
from alexnet.layers import Flatten, Spec, trace, variables
from alexnet_torch.model import AlexNet


def output_shapes(spec: Spec) -> dict[str, tuple[int, ...]]:
    """Each layer's output for one image, NCHW, from running the model."""
    with torch.no_grad():
        outputs = _model(spec).activations(torch.zeros(_size(spec)))
    return {name: tuple(output.shape) for name, output in outputs.items()}


def layer_outputs(
    spec: Spec, weights: Mapping[str, np.ndarray], images: np.ndarray
) -> dict[str, np.ndarray]:
    """Every layer's output for normalized NHWC images, in evaluation, by name."""
    return layer_function(spec, weights)(images)


def layer_function(
    spec: Spec, weights: Mapping[str, np.ndarray], names: Sequence[str] | None = None
) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """A function from normalized NHWC images to layer outputs in evaluation, by name.

    Maps come as NHWC, flattened ones in H, W, C order. `names` selects layers; all by default.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AlexNet(spec, weights=weights).to(device).eval()

    @torch.no_grad()
    def outputs(images: np.ndarray) -> dict[str, np.ndarray]:
        inputs = torch.from_numpy(images).permute(0, 3, 1, 2).to(device)
        found = canonical_order(model.activations(inputs), spec)
        return {name: found[name].cpu().numpy() for name in names or found}

    return outputs


def canonical_order(outputs: dict[str, torch.Tensor], spec: Spec) -> dict[str, torch.Tensor]:
    """Outputs as the JAX model has them: maps as NHWC, flattened maps in H, W, C order."""
    ordered = {}
    for row in trace(spec):
        x = outputs[row.name]
        map_shape = row.in_shape if isinstance(row.layer, Flatten) else row.map_shape
        if x.ndim == 4:
            x = x.permute(0, 2, 3, 1)
        elif map_shape and x[0].numel() == np.prod(map_shape) and not row.variables:
            height, width, channels = map_shape
            x = x.reshape(-1, channels, height, width).permute(0, 2, 3, 1).flatten(1)
        ordered[row.name] = x
    return ordered


def print_native(spec: Spec) -> bool:
    """Print torchinfo's own table."""
    columns, rows = ("output_size", "num_params", "mult_adds"), ("var_names",)
    model = _model(spec)
    found = torchinfo.summary(model, _size(spec), col_names=columns, row_settings=rows, verbose=0)
    found.formatting.macs_units = torchinfo.Units.NONE  # any other prints as Units.MEGABYTES
    print(found)
    without = sum(row.multiply_adds for row in trace(spec))
    print(f"torchinfo counts adding a bias as one more: without, multiply-adds are {without:,}")
    return True


def _size(spec: Spec) -> tuple[int, ...]:
    return (1, spec.channels, spec.image_size, spec.image_size)


def _model(spec: Spec) -> AlexNet:
    zeros = {name: np.zeros(v.shape, np.float32) for name, v in variables(spec).items()}
    return AlexNet(spec, weights=zeros).eval()


def devices(config: TrainConfig) -> dict[str, Any]:
    """The devices of all processes: platform, kind and count."""
    on_gpu = torch.cuda.is_available()
    grouped = torch.distributed.is_available() and torch.distributed.is_initialized()
    processes = torch.distributed.get_world_size() if grouped else 1
    return {
        "version": torch.__version__,
        "platform": "gpu" if on_gpu else "cpu",
        "kind": torch.cuda.get_device_name() if on_gpu else "cpu",
        "count": processes,  # each uses one
        "processes": processes,
    }
