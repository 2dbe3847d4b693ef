"""File format conversions as contenders: a variant's weights are read, checked and written."""

import functools
from collections.abc import Callable
from pathlib import Path

from alexnet.bench.job import Job
from alexnet.init import initial_weights
from alexnet.weights import Weights, load, save

# File suffix of each format.
_FORMATS = {"torch": ".pth", "safetensors": ".safetensors", "flax": ".msgpack"}
_PAIRS = (("torch", "safetensors"), ("safetensors", "flax"), ("flax", "torch"))


def conversions(job: Job) -> dict[str, Callable[[int], None]]:
    """Functions that convert a given number of times, keyed by the names of their formats.

    The files are in the job's directory; all source files exist before anything is timed.
    """
    folder, spec = Path(job.directory), job.spec
    weights = Weights(initial_weights(spec, job.seed), spec, job.config.preprocess)
    for format, suffix in _FORMATS.items():
        save(folder / f"source{suffix}", weights, format)
    return {
        f"{source} to {target}": functools.partial(_convert, folder, job, source, target)
        for source, target in _PAIRS
    }


def _convert(folder: Path, job: Job, source: str, target: str, count: int) -> None:
    path, size = folder / f"source{_FORMATS[source]}", job.spec.image_size
    for _ in range(count):
        weights = load(path, source, variant=job.variant, image_size=size)
        save(folder / f"target{_FORMATS[target]}", weights, target)
