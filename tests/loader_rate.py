"""`python -m tests.loader_rate FOLDER`: what an image costs a host, for docs/cloud-tpu.md.

FOLDER is one for --dataset folder:FOLDER. The time left without decoding and resizing, which let
other threads run, is about that for which an image holds Python's interpreter lock.
"""

import sys
import time

import numpy as np
from PIL import Image

from alexnet.commands.train import parse_train
from alexnet.config import TrainConfig
from alexnet.data import pipeline
from alexnet.data.dataset import Dataset

BATCH, BATCHES, REPEATS = 32, 20, 3


def milliseconds(dataset: Dataset, config: TrainConfig) -> float:
    """CPU time of this process for a training image: the least of some repeats."""
    least = float("inf")
    for _ in range(REPEATS):
        batches = pipeline.train_batches(
            dataset, config.augmentation, config.loading(), seed=config.run.seed
        )
        next(batches)
        start, images = time.process_time(), 0
        for _ in range(BATCHES):
            images += len(next(batches)["label"])
        least = min(least, (time.process_time() - start) / images * 1e3)
        batches.close()
    return least


def main(folder: str) -> None:
    """Print both times and the rates that follow."""
    options = f"--dataset folder:{folder} --recipe torchvision --loader-threads 1"
    config = parse_train([*options.split(), "--batch-size", str(BATCH)])
    dataset = config.open_dataset()
    whole = milliseconds(dataset, config)
    size = config.image_size
    decoded = np.zeros((375, 500, 3), np.uint8)
    resized = Image.fromarray(np.zeros((size, size, 3), np.uint8))
    pipeline.decode = lambda image, channels: decoded
    Image.Image.resize = lambda *_: resized
    held = milliseconds(dataset, config)
    print(f"an image: {whole:.2f} ms of CPU, {1e3 / whole:.0f} a second and core")
    print(f"without decoding and resizing: {held:.2f} ms, {1e3 / held:.0f} a second and process")


if __name__ == "__main__":
    main(sys.argv[1])
