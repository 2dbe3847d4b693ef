"""Whole training steps and forward passes as contenders, for our engines and plain networks."""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from alexnet.bench.job import SYNTHETIC, Job
from alexnet.config import DevicesConfig
from alexnet.data.pipeline import Batch, train_batches
from alexnet.engine import import_framework, load_engine
from alexnet.errors import UserError
from alexnet.init import initial_weights
from alexnet.layers import Spec, trace, variables
from alexnet.schedule import rates

Step = Callable[[], Any]
Wait = Callable[[Any], Any]
_BATCHES = 2  # distinct batches, used in turn


def floating_point_operations(spec: Spec, what: str) -> int:
    """Operations that a step needs for one image, a multiply-add counted as two.

    Training is three times the forward pass, less the unneeded gradient of the images.
    """
    rows = trace(spec)
    forward = sum(row.multiply_adds for row in rows)
    first = next(row.multiply_adds for row in rows if row.multiply_adds)
    return 2 * (3 * forward - first if what == "train" else forward)


def batches(job: Job) -> Iterator[Batch]:
    """The batches of a job's steps, without end, in the form that the pipeline delivers.

    There are two, used in turn: random bytes, or the first two from the job's data set. A job that
    reads goes through the whole data set instead.

    Raises:
        UserError: if there is no such data set, or it doesn't suit the network.
    """
    if job.dataset == SYNTHETIC:
        return itertools.cycle(_random_batches(job))
    config, dataset = job.config, job.config.open_dataset()
    if dataset.num_classes > job.num_classes:
        raise UserError(
            f"'{dataset.name}' has {dataset.num_classes} classes, the network {job.num_classes}: "
            f"give --num-classes {dataset.num_classes}"
        )
    made = train_batches(dataset, config.augmentation, config.loading(), seed=job.seed)
    if job.reads:
        return made
    with contextlib.closing(made):
        return itertools.cycle(list(itertools.islice(made, _BATCHES)))


def _random_batches(job: Job) -> list[Batch]:
    """Random images with random labels."""
    random, spec = np.random.default_rng(job.seed), job.spec
    shape = (job.batch_size, spec.image_size, spec.image_size, spec.channels)
    return [
        {
            "image": random.integers(0, 256, shape, np.uint8),
            "label": random.integers(0, spec.num_classes, job.batch_size, np.int32),
            "mask": np.ones(job.batch_size, np.float32),
        }
        for _ in range(_BATCHES)
    ]


def network_step(job: Job) -> tuple[Step, Wait, str]:
    """A step with its first call done, a function that waits for its result, and a note on it.

    Raises:
        UserError: if the framework is missing, or its devices can't run the step.
    """
    step: Step
    wait: Wait
    spec, made = job.spec, batches(job)
    arrays = initial_weights(spec, job.seed)
    if not job.is_ours:
        plain = import_framework(str(job.framework), "plain").Plain(spec, arrays, job.plain)
        if job.what == "infer":
            step, wait = _on_next(plain.logits, made), _nothing
        else:
            step, wait = _on_next(plain.train_step, made), plain.fetch
        plain.settle(step, wait)
        return step, wait, plain.note
    step, wait = _ours(job, spec, arrays, made)
    wait(step())
    return step, wait, ""


def _ours(job: Job, spec: Spec, arrays: dict[str, np.ndarray], made: Any) -> tuple[Step, Wait]:
    """A step of the engine, and the function that waits for it."""
    engine = load_engine(str(job.framework))(
        spec,
        arrays,
        preprocess=job.config.preprocess,
        batch_size=job.batch_size,
        precision=job.precision,
        devices=DevicesConfig(compile=job.compiled),
        seed=job.seed,
        optim=job.optim if job.what == "train" else None,
    )
    if job.what == "infer":
        return _on_next(engine.logits, made), _nothing
    numbers, optim = itertools.count(), job.optim
    given = rates(optim, variables(spec), optim.learning_rate)

    def train_step(batch: Any) -> Any:
        return engine.train_step(batch, step=next(numbers), rates=given)

    return _on_next(train_step, made), engine.fetch


def _on_next(work: Callable[[Any], Any], made: Any) -> Step:
    return lambda: work(next(made))


def _nothing(_: Any) -> Any:
    """Wait for nothing: logits are on the host already."""
