"""Statistics of images against NumPy's over all of them at once."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from alexnet.cli import main
from alexnet.data.dataset import ArraySource
from alexnet.data.images import BadImage
from alexnet.data.statistics import statistics
from alexnet.errors import UserError


class Alike(ArraySource):
    side, channels = 4, 3

    def __getitem__(self, index):
        if self.labels[index] < 0:
            raise BadImage("it is broken")
        return super().__getitem__(index)


@settings(max_examples=30, deadline=None)
@given(images=arrays(np.uint8, st.tuples(st.integers(2, 6), *map(st.just, (4, 4, 3)))))
def test_are_those_of_numpy(images):
    labels = np.zeros(len(images), int)
    labels[0] = -1  # unreadable
    found, pixels = statistics(Alike("a", images, labels)), images[1:].reshape(-1, 3).astype(float)
    np.testing.assert_allclose(found.mean_image, images[1:].mean(0))
    np.testing.assert_allclose(found.mean, pixels.mean(0))
    np.testing.assert_allclose(found.std, pixels.std(0), atol=1e-5)
    centered = pixels - pixels.mean(0)
    covariance = centered.T @ centered / len(pixels)
    again = found.color_axes @ np.diag(found.color_std**2) @ found.color_axes.T
    np.testing.assert_allclose(again, covariance, atol=1e-6)
    assert (np.diff(found.color_std) >= 0).all()


def test_of_nothing():
    with pytest.raises(UserError, match="not one training image is readable"):
        statistics(Alike("a", np.zeros((1, 4, 4, 3), np.uint8), np.array([-1])))


def test_on_the_command_line(tmp_path, capsys):
    words = ["prepare", "digits", str(tmp_path / "c"), "--size", "8", "--workers", "1"]
    assert main([*words, "--statistics", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    with np.load(said["statistics"]) as kept:
        assert kept["mean_image"].shape == (8, 8, 3)
        np.testing.assert_array_equal(kept["mean"], said["mean"])
    assert main([*words, "--statistics"]) == 0
    assert "--mean 77." in capsys.readouterr().out
