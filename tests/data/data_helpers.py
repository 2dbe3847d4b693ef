"""Small configs and pictures that the tests of the data package share."""

from pathlib import Path

import numpy as np
from PIL import Image

from alexnet.config import DataConfig, ModelConfig, RunConfig, TrainConfig

SHARED = Path(__file__).parents[2].parent / "shared"


def make_config(dataset="digits", *, image_size=16, channels=3, seed=0, **data):
    data = {"batch_size": 8, **({"mean": (0,), "std": (1,)} if channels == 1 else {}), **data}
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
