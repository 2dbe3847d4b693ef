"""Whether the data set is there, whole, and readable by the pipeline that training uses."""

import dataclasses
import resource
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexnet.config import TrainConfig
from alexnet.data.dataset import Dataset, Source
from alexnet.data.pipeline import (
    BadImages,
    Loading,
    eval_batches,
    steps_per_epoch,
    train_batches,
)
from alexnet.data.tfds import OTHER_FILES
from alexnet.doctor.finding import OK, WARNING, WRONG, Finding

SAMPLED = 32  # examples decoded of each of the two sources
_SHOWN = 3
_READERS = 16


def check(dataset: Dataset, config: TrainConfig) -> list[Finding]:
    """Sizes, shards where there are any, and some examples decoded.

    Raises:
        UserError: for a batch larger than the training set.
    """
    steps = steps_per_epoch(dataset, config.data.batch_size)
    found = (
        f"{dataset.name}: {len(dataset.train):,} training and {len(dataset.eval):,} test examples, "
        f"{dataset.num_classes:,} classes, {steps:,} steps an epoch"
    )
    findings = [Finding("data", OK, found)]
    if dataset.name.startswith("tfds:"):
        findings += shards(dataset)
    if any(finding.status == WRONG for finding in findings):
        return findings
    return [*findings, examples(dataset, config)]


@dataclass(frozen=True)
class _Shard:
    """A file of a prepared data set, and where its records are in its source."""

    path: Path
    source: Source
    first: int
    last: int


def shards(dataset: Dataset) -> list[Finding]:
    """Whether every shard is there and gives its first and its last record."""
    every = [shard for source in (dataset.train, dataset.eval) for shard in _shards_of(source)]
    if short := _too_few_open_files(len(every)):
        return [short]  # reading on would only show that
    with ThreadPoolExecutor(_READERS) as pool:
        problems = [problem for problem in pool.map(_shard_problem, every) if problem]
    if not problems:
        found = f"all {len(every):,} are whole: first and last record read"
        return [Finding("shards", OK, found)]
    found = f"{len(problems):,} of {len(every):,} can't be read: {_some(problems)}"
    fix = "copy these files again, or prepare the data set again: docs/data.md says how"
    return [Finding("shards", WRONG, found, fix)]


def _shards_of(source: Any) -> Iterator[_Shard]:
    """The shards of a split, by the lengths that its dataset_info.json gives."""
    records, first = source.records, 0
    for part in records.dataset_info.splits[records.split].file_instructions:
        yield _Shard(Path(part.filename), source, first, first + part.take - 1)
        first += part.take


def _shard_problem(shard: _Shard) -> str | None:
    if not shard.path.is_file():
        return f"{shard.path} is missing"
    try:
        for index in (shard.first, shard.last):
            shard.source[index]
    except Exception as error:  # the readers of each format raise errors of their own
        return f"{shard.path}: {error}"
    return None


def _too_few_open_files(count: int) -> Finding | None:
    """Training keeps every shard open; opening the data raised the limit as far as it can be."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = count + OTHER_FILES
    if allowed == resource.RLIM_INFINITY or need <= allowed:
        return None
    found = (
        f"training keeps {count:,} shards open, besides some {OTHER_FILES} other files, but this "
        f"shell allows {allowed:,} open files"
    )
    return Finding("shards", WRONG, found, f"as root: ulimit -H -n {need}; ulimit -n {need}")


@dataclass(frozen=True)
class _Sample:
    """Some examples of a source, from its first to its last."""

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
    """Some examples of both sources through the pipeline, as training and evaluation do it."""
    sample = dataclasses.replace(dataset, train=_Sample(dataset.train), eval=_Sample(dataset.eval))
    bad, bad_eval = BadImages(), BadImages()
    small, seed = _one_batch(config, len(sample.train)), config.run.seed
    next(train_batches(sample, config.augmentation, small, seed=seed, bad_images=bad))
    small = _one_batch(config, len(sample.eval))
    next(eval_batches(sample.eval, config.preprocess.protocol, small, bad_eval))
    count = len(sample.train) + len(sample.eval)
    sentences = [*bad.sentences, *bad_eval.sentences]
    if not sentences:
        return Finding("examples", OK, f"{count} decoded")
    found = f"{len(sentences)} of {count} can't be decoded: {_some(sentences)}"
    if config.data.on_bad_image == "skip":
        return Finding("examples", WARNING, f"{found}; training leaves them out")
    fix = "replace or delete such files, or leave them out: --on-bad-image skip"
    return Finding("examples", WRONG, found, fix)


def _one_batch(config: TrainConfig, batch_size: int) -> Loading:
    """Loading of batches of this size that does not stop at a bad image."""
    return dataclasses.replace(config.loading(), batch_size=batch_size, on_bad_image="skip")


def _some(sentences: list[str]) -> str:
    more = len(sentences) - _SHOWN
    return "; ".join(sentences[:_SHOWN]) + (f"; and {more:,} more" if more > 0 else "")
