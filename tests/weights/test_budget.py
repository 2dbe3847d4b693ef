"""Memory of converting the full network: 61 million numbers, 244 MB. (`cost.py` has a table.)"""

import itertools
import sys

import numpy as np
import pytest

from alexnet.weights import load, save

from . import cost

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="memory is read from /proc"
)
LIMIT = 3  # times the file


def check(source, target) -> None:
    """Convert, and hold the memory against the limit; the time is the machine's too."""
    measured = cost.convert(source, target)
    times = measured.memory / source.stat().st_size
    seconds = measured.read + measured.write
    print(f"{source.name} to {target.name}: {seconds:.2f} s, {times:.2f} times its size")
    assert times < LIMIT
    assert measured.frameworks == "[]", "converting imports no framework"


def test_formats_that_are_written(tmp_path):
    weights = cost.full("torchvision")
    paths = [tmp_path / name for name in ("a.pth", "b.safetensors", "c.onnx", "d.msgpack", "e.pth")]
    try:
        save(paths[0], weights)
        for source, target in itertools.pairwise(paths):
            check(source, target)
        again = load(paths[-1])
        assert all(np.array_equal(weights.arrays[n], array) for n, array in again.arrays.items())
    finally:
        for path in paths:
            path.unlink(missing_ok=True)


@pytest.mark.parametrize("label", ["`.npy`, protocol 2", "`.mat`, compressed"])
def test_formats_that_are_unpacked(label, tmp_path):
    """Of those whose numbers are not in the file as they are, the two that take the most."""
    source, target = tmp_path / "source", tmp_path / "target.safetensors"
    try:
        cost.make(label, source)
        check(source, target)
    finally:
        source.unlink(missing_ok=True)
        target.unlink(missing_ok=True)
