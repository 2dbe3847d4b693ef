"""One walk over training pictures: the last hidden layer of each, and a layer's highest spots."""

from dataclasses import dataclass

import numpy as np

from alexnet.data.dataset import Source
from alexnet.errors import RunError
from alexnet.report.page.network import Network, after_relu, last_hidden, spread

MOST = 1000  # pictures walked over


@dataclass(frozen=True, eq=False)
class Features:
    """Outputs for N training pictures; a spot is a place in a feature map, row by row."""

    example: np.ndarray  # int [N], ascending: numbers in the source
    hidden: np.ndarray  # float32 [N, D], the last hidden layer after its ReLU; D may be 0
    highest: np.ndarray  # float32 [N, C], each map's highest activation; C may be 0
    spot: np.ndarray  # int [N, C], where


def walk(network: Network, source: Source, layer: str | None) -> Features:
    """Features of at most MOST pictures, evenly spaced.

    Args:
        network: the network to run.
        source: of the pictures.
        layer: a convolution whose spots are wanted.

    Raises:
        RunError: where no picture can be read.
    """
    spec = network.weights.spec
    fc7 = last_hidden(spec)
    names = {"hidden": fc7 and after_relu(spec, fc7), "maps": layer and after_relu(spec, layer)}
    wanted = [name for name in names.values() if name]
    run = network.layers(wanted)
    found: dict[str, list[np.ndarray]] = {"example": [], "hidden": [], "highest": [], "spot": []}
    for batch in network.batches(source, spread(len(source), MOST)):
        rows = batch["mask"] > 0
        outputs = run(batch["image"])
        nothing = np.zeros((int(rows.sum()), 0), np.float32)
        found["example"].append(batch["example"][rows])
        found["hidden"].append(outputs[names["hidden"]][rows] if names["hidden"] else nothing)
        maps = nothing[:, None]
        if names["maps"]:
            output = outputs[names["maps"]][rows]
            maps = output.reshape(len(output), -1, output.shape[-1])
        found["highest"].append(maps.max(axis=1))
        found["spot"].append(maps.argmax(axis=1))
    whole = {name: np.concatenate(parts) for name, parts in found.items()}
    if not len(whole["example"]):
        raise RunError("none of the training pictures can be read")
    return Features(**whole)


def hidden_of(network: Network, views: np.ndarray) -> np.ndarray:
    """The last hidden layer after its ReLU, float32 [N, D], of uint8 views."""
    spec = network.weights.spec
    name = after_relu(spec, last_hidden(spec) or "")
    return network.layers([name])(views)[name]
