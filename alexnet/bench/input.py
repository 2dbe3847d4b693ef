"""The input pipeline as a contender: batches read, decoded and augmented, up to the device."""

import itertools
from collections.abc import Callable

from alexnet.bench.job import Job
from alexnet.data.pipeline import train_batches


def input_step(job: Job) -> Callable[[int], None]:
    """A function that takes so many training batches from the pipeline.

    Raises:
        UserError: where there is no such data set, or it is smaller than a batch.
    """
    config = job.config
    batches = train_batches(
        config.open_dataset(), config.augmentation, config.loading(), seed=config.run.seed
    )
    next(batches)

    def run(count: int) -> None:
        for _ in itertools.islice(batches, count):
            pass

    return run
