"""Small configs and pictures that the tests of the data package share."""

from pathlib import Path

import numpy as np
from PIL import Image

from alexnet.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from alexnet.data.pipeline import eval_batches, train_batches

SHARED = Path(__file__).parents[2].parent / "shared"


def make_config(dataset="digits", *, image_size=16, channels=3, seed=0, **data):
    data = {"batch_size": 8, **({"mean": (0,), "std": (1,)} if channels == 1 else {}), **data}
    return TrainConfig(
        model=ModelConfig(image_size=image_size, channels=channels),
        data=DataConfig(dataset=dataset, **data),
        run=RunConfig(seed=seed),
    )


def training(dataset, config, start_step=0, bad_images=None, rows=None):
    """The batches that a run of this configuration trains on."""
    return train_batches(
        dataset, config.augmentation, config.loading(rows),
        seed=config.run.seed, start_step=start_step, bad_images=bad_images,
    )  # fmt: skip


def evaluating(source, config, bad_images=None, rows=None):
    """The batches that a run of this configuration evaluates on."""
    return eval_batches(source, config.preprocess.protocol, config.loading(rows), bad_images)


def make_photo(height=60, width=80, seed=0):
    """A smooth color picture: what JPEG is made for."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    resized = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized)
