import dataclasses
from pathlib import Path

import numpy as np
import pytest

from alexnet.data.dataset import ArraySource, Dataset
from alexnet.init import initial_weights
from alexnet.layers import LeCun
from alexnet.preprocess import EvalProtocol, Preprocess
from alexnet.report.page.subject import Reading, Subject, open_subject
from alexnet.spec import variant
from alexnet.weights import Weights
from tests.conftest import NARROW, run_train

SHORT = (*NARROW, "--steps", "4", "--eval-every", "2", "--checkpoint-every", "2")


@pytest.fixture(scope="session")
def run_path(tmp_path_factory):
    """The work directory of a finished JAX run on the digits."""
    path = tmp_path_factory.mktemp("report") / "first run"
    run_train("--framework", "jax", *SHORT, "--workdir", path)
    return path


@pytest.fixture
def subject(run_path):
    return open_subject(str(run_path), Reading())


def noise(classes: int, count: int, channels: int = 3, size: int = 80) -> ArraySource:
    """Random pictures whose labels go round."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, size, size, channels), np.uint8)
    return ArraySource("noise", pixels, np.arange(count, dtype=np.int32) % classes)


def made_up(names: tuple[str, ...], count: int = 24, **sizes) -> Subject:
    """A subject with random weights, of classes called `names`, on noise."""
    sizes = {"name": "paper", "image_size": 67, "width": 1 / 16, "init": LeCun(), **sizes}
    spec = variant(**sizes, num_classes=len(names))
    normal = Preprocess().normalize
    if spec.channels == 1:
        normal = dataclasses.replace(normal, mean=(120.0,), std=(60.0,), channel_order="L")
    size = spec.image_size
    weights = Weights(
        dict(initial_weights(spec, seed=0)),
        spec,
        Preprocess(normal, EvalProtocol("short", size, size)),
        class_names=names,
        source="made up",
    )
    source = noise(len(names), count, spec.channels)
    data = Dataset("noise", source, source, names)
    return Subject("made up", Path("made-up"), weights=weights, dataset=data)
