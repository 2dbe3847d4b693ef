"""Small configs and images that the tests of the data package share."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet.config import DataConfig, ModelConfig, RunConfig, TrainConfig

SHARED = Path(__file__).parents[2].parent / "shared"


def make_config(dataset="digits", *, image_size=16, channels=3, seed=0, **data):
    data.setdefault("batch_size", 8)
    return TrainConfig(
        model=ModelConfig(image_size=image_size, channels=channels),
        data=DataConfig(dataset=dataset, **data),
        run=RunConfig(seed=seed),
    )


def make_photo(height=60, width=80, seed=0):
    """A smooth colour picture: what JPEG is made for."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    resized = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized)


@pytest.fixture
def photo():
    return make_photo()


@pytest.fixture
def image_folder(tmp_path):
    """A function that writes images below tmp_path/photos, given as relative paths."""
    root = tmp_path / "photos"

    def build(*paths):
        for number, path in enumerate(paths):
            file = root / path
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(make_photo(24, 32, seed=number)).save(file)
        return root

    return build
