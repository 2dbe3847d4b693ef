"""Single layers as contenders: the forward pass and the gradients of each."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from alexnet.bench.job import Job
from alexnet.engine import import_framework
from alexnet.init import initial_weights
from alexnet.layers import AdaptiveAvgPool, Flatten, Row, Spec, trace

Run = Callable[[int], Any]
FORWARD, OF_INPUT, OF_WEIGHTS = "forward", "input gradient", "weight gradient"


def layer_parts(job: Job) -> dict[str, Run]:
    """Functions that run a layer's pass a given number of times, keyed by `layer: pass`.

    Only the layer being timed is in memory. Layers that compute nothing are left out, and so is
    the gradient with respect to the images.
    """
    spec = job.spec
    rows = [row for row in trace(spec) if not _idle(row)]

    @functools.lru_cache(maxsize=1)
    def passes(place: int) -> Mapping[str, Run]:
        row = rows[place]
        alone = one_layer(row, spec)
        shape = (job.batch_size, alone.image_size, alone.image_size, alone.channels)
        return import_framework(str(job.framework), "bench").layer_passes(
            alone,
            initial_weights(alone, job.seed),
            np.random.default_rng(job.seed).standard_normal(shape, np.float32),
            precision=job.precision,
            plain=not job.is_ours,
        )

    def run(place: int, name: str, count: int) -> Any:
        return passes(place)[name](count)

    return {
        f"{row.name}: {name}": functools.partial(run, place, name)
        for place, row in enumerate(rows)
        for name in _passes(row, first=place == 0)
    }


def _idle(row: Row) -> bool:
    """True for a layer that changes nothing, or only a tensor's shape."""
    same = row.in_shape == row.out_shape
    return isinstance(row.layer, Flatten) or (isinstance(row.layer, AdaptiveAvgPool) and same)


def _passes(row: Row, first: bool) -> list[str]:
    names = [FORWARD] if first else [FORWARD, OF_INPUT]
    return names + [OF_WEIGHTS] * (row.params > 0)


def one_layer(row: Row, spec: Spec) -> Spec:
    """A network of one layer and `Flatten`, since networks take images and return features."""
    if len(row.in_shape) == 3:
        height, _, channels = row.in_shape
        return Spec(row.name, (row.layer, Flatten()), height, spec.num_classes, channels)
    height, _, channels = row.map_shape or (1, 1, row.in_shape[0])
    return Spec(row.name, (Flatten(), row.layer), height, spec.num_classes, channels)


def place(spec: Spec) -> int:
    """The index of the layer in a network from `one_layer`."""
    return int(isinstance(spec.layers[0], Flatten))
