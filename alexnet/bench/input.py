"""The input pipeline as a contender: batches read, decoded and augmented, up to the device."""

import itertools
from collections.abc import Callable

from alexnet.bench.job import Job
from alexnet.data.pipeline import steps_per_epoch, train_batches
from alexnet.engine import import_framework


def ahead(job: Job) -> int:
    """The most batches that are prepared ahead; a `DataLoader` prepares up to twice as many."""
    readers = max(job.loader_threads, job.loader_workers)
    return (1 if job.reads else 2) * readers + 2


def input_step(job: Job) -> Callable[[int], None]:
    """A function that takes a given number of training batches from the pipeline.

    Raises:
        UserError: if there is no such data set, or it is smaller than a batch.
    """
    config = job.config
    dataset, augmentation = config.open_dataset(), config.augmentation
    if job.kind == "plain":
        steps_per_epoch(dataset, job.batch_size)
        # As many processes as we have workers; with Python's threads nothing would be gained.
        readers = job.loader_workers or (job.loader_threads if job.loader_threads > 1 else 0)
        plain = import_framework("torch", "plain_input")
        return plain.input_step(dataset.train, augmentation, job.batch_size, readers)
    batches = train_batches(dataset, augmentation, config.loading(), seed=config.run.seed)
    next(batches)

    def run(count: int) -> None:
        for _ in itertools.islice(batches, count):
            pass

    return run
