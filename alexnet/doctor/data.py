"""Checks that the data set is present, complete, and readable by the training pipeline."""

import dataclasses
import resource
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexnet.config import TrainConfig
from alexnet.data.dataset import Dataset, Source
from alexnet.data.folder import check_outside
from alexnet.data.pipeline import (
    BadImages,
    Loading,
    eval_batches,
    steps_per_epoch,
    train_batches,
)
from alexnet.data.tfds import OTHER_FILES
from alexnet.doctor.finding import OK, WARNING, WRONG, Finding
from alexnet.files import as_path
from alexnet.text import counted

SAMPLED = 32  # examples decoded from each of the two sources
_SHOWN = 3  # broken files listed by name
_READERS = 16


def check(dataset: Dataset, config: TrainConfig) -> list[Finding]:
    """Check sizes, any shards, and some examples by decoding them.

    Raises:
        UserError: for a batch larger than the training set, or a run among its images.
    """
    if not config.run.resume:
        check_outside(as_path(config.run.workdir or "runs"), dataset)
    steps = steps_per_epoch(dataset, config.data.batch_size)
    found = (
        f"{dataset.name}: {len(dataset.train):,} training and {len(dataset.eval):,} test examples, "
        f"{counted(dataset.num_classes, 'class')}, {counted(steps, 'step')} an epoch"
    )
    findings = [Finding("data", OK, found)]
    if dataset.name.startswith("tfds:"):
        findings.append(shards(dataset))
    if findings[-1].status == WRONG:
        return findings
    return [*findings, examples(dataset, config)]


def shards(dataset: Dataset) -> Finding:
    """Read the first and the last record of every shard."""
    every = [shard for source in (dataset.train, dataset.eval) for shard in _shards_of(source)]
    need = len(every) + OTHER_FILES
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)  # already raised as far as possible
    if allowed not in (resource.RLIM_INFINITY, max(need, allowed)):
        found = (
            f"training keeps {len(every):,} shards open, besides some {OTHER_FILES} other files, "
            f"but this shell allows {allowed:,} open files"
        )
        return Finding("shards", WRONG, found, f"as root: ulimit -H -n {need}; ulimit -n {need}")
    with ThreadPoolExecutor(_READERS) as pool:
        problems = [problem for problem in pool.map(_shard_problem, every) if problem]
    if not problems:
        return Finding("shards", OK, f"all {len(every):,} are whole: first and last record read")
    found = f"{len(problems):,} of {len(every):,} can't be read: {'; '.join(problems[:_SHOWN])}"
    fix = "copy these files again, or prepare the data set again: docs/data.md says how"
    return Finding("shards", WRONG, found, fix)


def _shards_of(source: Any) -> Iterator[tuple[Path, Source, range]]:
    """The files of a split, and the records in each according to its dataset_info.json."""
    records, first = source.records, 0
    for part in records.dataset_info.splits[records.split].file_instructions:
        yield Path(part.filename), source, range(first, first + part.take)
        first += part.take


def _shard_problem(shard: tuple[Path, Source, range]) -> str | None:
    path, source, records = shard
    if not path.is_file():
        return f"{path} is missing"
    try:
        for index in (*records[:1], *records[-1:]):
            source[index]
    except Exception as error:  # the readers of each format raise errors of their own
        return f"{path}: {error}"
    return None


@dataclass(frozen=True)
class _Sample:
    """Some examples of a source, spread from its first to its last."""

    source: Source

    def __len__(self) -> int:
        return min(SAMPLED, len(self.source))

    def __getitem__(self, index: int) -> Any:
        return self.source[self._place(index)]

    def describe(self, index: int) -> str:
        return self.source.describe(self._place(index))

    def _place(self, index: int) -> int:
        return index * (len(self.source) - 1) // max(len(self) - 1, 1)


def examples(dataset: Dataset, config: TrainConfig) -> Finding:
    """Send some examples of both sources through the pipeline, as training and evaluation do."""
    sample = dataclasses.replace(dataset, train=_Sample(dataset.train), eval=_Sample(dataset.eval))
    bad, bad_eval = BadImages(), BadImages()
    small, seed = _one_batch(config, len(sample.train)), config.run.seed
    next(train_batches(sample, config.augmentation, small, seed=seed, bad_images=bad))
    small = _one_batch(config, len(sample.eval))
    protocol, classes = config.preprocess.protocol, dataset.num_classes
    next(eval_batches(sample.eval, protocol, small, bad_eval, num_classes=classes))
    count = len(sample.train) + len(sample.eval)
    sentences = [*bad.sentences, *bad_eval.sentences]
    if not sentences:
        return Finding("examples", OK, f"{count} decoded")
    found = f"{len(sentences)} of {count} can't be decoded: {'; '.join(sentences[:_SHOWN])}"
    if config.data.on_bad_image == "skip":
        return Finding("examples", WARNING, f"{found}; training leaves them out")
    fix = "replace or delete such files, or leave them out: --on-bad-image skip"
    return Finding("examples", WRONG, found, fix)


def _one_batch(config: TrainConfig, batch_size: int) -> Loading:
    """Loading options for batches of this size that don't stop at a bad image."""
    return dataclasses.replace(config.loading(), batch_size=batch_size, on_bad_image="skip")
