"""Evaluation of weights on a data set, by any of the protocols."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Literal, get_args

import numpy as np

from alexnet.config import DevicesConfig
from alexnet.data.dataset import Dataset, Source
from alexnet.data.pipeline import BadImages, Batches, Loading, eval_batches
from alexnet.engine import Batch, Engine, load_engine
from alexnet.errors import RunError, check_count, choose
from alexnet.evaluate import evaluate
from alexnet.names import ClassNames, class_names
from alexnet.preparation import PreparationConfig
from alexnet.preprocess import Preprocess
from alexnet.processes import Processes
from alexnet.protocols import NAMES, ProtocolName, views
from alexnet.scores import (
    Predictions,
    interval,
    join,
    log_softmax,
    mean_softmax,
    means,
    predictions_of,
)
from alexnet.trained import changes_since, config_of, data_of, framework_for, open_weights
from alexnet.verify import BOUND
from alexnet.weights import Weights

FrameworkChoice = Literal["jax", "torch", "both"]
Precision = Literal["fp32", "bf16"]
_BATCH = 64


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The result of one protocol."""

    protocol: str
    geometry: str  # the protocol's, in words
    framework: str
    dataset: str
    loss: float
    top1: float  # fractions of the examples counted
    top5: float
    count: int
    left_out: int  # images that could not be read
    examples_per_second: float
    top1_interval: tuple[float, float]  # 95 %
    top5_interval: tuple[float, float]
    predictions: Predictions
    class_names: ClassNames
    source: Source  # of the examples
    preprocess: Preprocess
    preprocess_from: str  # origin of the preprocessing, in words
    apart: float | None = None  # difference between the frameworks: see `Pair`

    def name(self, place: int) -> str:
        """The name of the example at an index in `predictions`: its file, or its number."""
        return self.source.describe(int(self.predictions.example[place]))


class Observer:
    """A progress observer for an evaluation; this one shows nothing."""

    def begin(self, weights: Weights, data: Dataset, engine: str, notes: list[str]) -> None:
        """Show the weights, the data and the engine; `notes` are sentences for the user."""

    def progress(self, protocol: str, total: int, done: int) -> None:
        """Show the number of examples done."""

    def left_out(self, sentences: list[str]) -> None:
        """Show the images of this process that could not be read."""


class Pair:
    """Both frameworks on the same batches: results are JAX's, and torch's are compared with them.

    It replaces an `Engine` in evaluation and prediction.
    """

    framework = "both"

    def __init__(self, first: Engine, second: Engine):
        self._first, self._second = first, second
        self.rows, self.fetch = first.rows, first.fetch
        self.apart = 0.0  # largest difference of logits, in standard deviations over a batch

    def describe(self) -> str:
        """Both engines' versions and devices."""
        return f"{self._first.describe()}, {self._second.describe()}"

    def eval_outputs(self, batch: Batch) -> tuple[Any, np.ndarray]:
        """JAX's results, after comparing them with torch's."""
        sums, ours = self._first.eval_outputs(batch)
        seen = batch["mask"] > 0
        ours_, theirs = ours[seen], self._second.logits(batch)[seen]
        if len(ours_):
            spread = max(float(theirs.std()), 1e-30)
            self.apart = max(self.apart, float(np.abs(ours_ - theirs).max()) / spread)
        return sums, ours

    def logits(self, batch: Batch) -> np.ndarray:
        """JAX's logits, after comparing them with torch's."""
        return self.eval_outputs(batch)[1]

    @property
    def agree(self) -> bool:
        """Return True if the two are within the bound for parity."""
        return self.apart <= BOUND


def distance(apart: float) -> str:
    """A description of the distance between the two frameworks' logits."""
    return f"jax and torch: logits are at most {apart:.1e} of their spread apart (bound {BOUND})"


def open_engine(
    weights: Weights,
    framework: FrameworkChoice,
    batch_size: int,
    *,
    precision: str = "fp32",
    devices: DevicesConfig | None = None,
) -> Any:
    """An engine for evaluation, or the `Pair` of both.

    Raises:
        UserError: if a framework is missing, or the batch can't be divided among the devices.
    """
    options: dict[str, Any] = {
        "preprocess": weights.preprocess, "batch_size": batch_size, "precision": precision,
    }  # fmt: skip
    if framework == "both":
        return Pair(
            *(open_engine(weights, f, batch_size, precision=precision) for f in ("jax", "torch"))
        )
    return load_engine(framework)(weights.spec, weights.arrays, devices=devices, **options)


def evaluate_weights(
    source: str | PurePath | Weights,
    dataset: str | Dataset | None = None,
    *,
    framework: FrameworkChoice | None = None,
    protocols: Sequence[ProtocolName] = ("center",),
    batch_size: int | None = None,
    precision: Precision | None = None,
    devices: DevicesConfig | None = None,
    data_dir: str | None = None,
    seed: int | None = None,
    step: int | None = None,
    variant: str | None = None,
    image_size: int | None = None,
    preparation: PreparationConfig | None = None,
    on_bad_image: Literal["skip", "raise"] = "skip",
    loader_threads: int = 2,
    loader_workers: int = 0,
    processes: Processes | None = None,
    observer: Observer | None = None,
) -> list[Evaluation]:
    """Evaluate weights on the evaluation part of a data set, once for each protocol.

    By default, options are a run's own; else jax (torch if only that is installed), a batch size
    of 64, fp32 and seed 0. Evaluating a run on its own data reproduces exactly the numbers of the
    run's own evaluation at that step.

    Args:
        source: a run, a weights file or a folder, as for `open_weights`, or weights.
        dataset: a value of `--dataset`, or an open data set; optional for a run.
        framework: jax, torch, or both side by side.
        protocols: names from `protocols.NAMES`.
        batch_size: batch size over all devices.
        precision: fp32 or bf16.
        devices: how JAX distributes the work.
        data_dir: directory of prepared TFDS data sets.
        seed: splits a folder that isn't split on disk.
        step, variant, image_size, preparation: as for `open_weights`.
        on_bad_image: leave unreadable images out and count them, or stop.
        loader_threads: threads that read and decode images.
        loader_workers: processes that do it instead of threads.
        processes: the processes that evaluate together.
        observer: notified of the weights, the data and the progress.

    Raises:
        UserError: if weights, data or devices can't be used, or don't fit each other.
        RunError: if the number of examples counted is wrong, or outputs are not finite.
    """
    config = config_of(source)
    observer, processes = observer or Observer(), processes or Processes()
    framework = framework or framework_for(source)
    own = (config.data.batch_size, config.model.precision) if config else (_BATCH, "fp32")
    batch_size, precision = own[0] if batch_size is None else batch_size, precision or own[1]
    _check(framework, protocols, batch_size, precision, on_bad_image, loader_threads)
    check_count("loader_workers", loader_workers, least=0, most=1024)
    whole = open_weights(
        source, step=step, variant=variant, image_size=image_size, preparation=preparation
    )
    data, notes = data_of(whole, config, dataset, data_dir, seed)
    notes += changes_since(source, config, dataset, data, step)
    engine = open_engine(whole, framework, batch_size, precision=precision, devices=devices)
    observer.begin(whole, data, engine.describe(), [*whole.notes, *notes])
    channels, rows = whole.spec.channels, engine.rows
    loading = Loading(
        batch_size, channels, loader_threads, on_bad_image, rows, loader_workers, whole=True
    )
    return [
        _evaluate(engine, whole, data, loading, protocol, processes, observer)
        for protocol in protocols
    ]


def _check(
    framework: str,
    protocols: Sequence[str],
    batch_size: int,
    precision: str,
    on_bad_image: str,
    loader_threads: int,
) -> None:
    """Refuse invalid arguments."""
    choose("framework", framework, get_args(FrameworkChoice))
    choose("precision", precision, get_args(Precision))
    choose("on_bad_image", on_bad_image, ("skip", "raise"))
    for protocol in protocols:
        choose("protocol", protocol, NAMES)
    check_count("batch_size", batch_size)
    check_count("loader_threads", loader_threads, most=1024)


def _evaluate(
    engine: Any,
    weights: Weights,
    data: Dataset,
    loading: Loading,
    protocol: ProtocolName,
    processes: Processes,
    observer: Observer,
) -> Evaluation:
    """One protocol's evaluation."""
    view, source = views(protocol, weights.preprocess), data.eval
    bad, start = BadImages(), time.perf_counter()
    batches = eval_batches(
        source,
        view.geometry,
        loading,
        bad,
        num_classes=data.num_classes,
        channel_order=weights.preprocess.normalize.channel_order,
        ten_crop=view.ten_crop,
    )
    progress = functools.partial(observer.progress, protocol, len(source))
    with contextlib.closing(batches):
        if view.ten_crop:
            parts, found = _over_ten_views(engine, batches, loading, progress, len(source)), None
        else:
            parts, found = _of_the_center(engine, batches, bad, processes, progress, len(source))
    predictions = join(parts, processes, len(parts) * len(loading.own_rows))
    left_out = int(processes.gather([len(bad)]).sum())
    observer.left_out(bad.sentences)
    count = len(predictions)
    if count == 0 or count + left_out != len(source):
        raise RunError(f"{count} examples were evaluated and {left_out} left out of {len(source)}")
    rate = count / (time.perf_counter() - start)
    numbers: Mapping[str, Any] = found or means(predictions) | {"examples_per_second": rate}
    return Evaluation(
        protocol=protocol,
        geometry=view.describe(),
        framework=engine.framework,
        dataset=data.name,
        left_out=left_out,
        top1_interval=interval(int(predictions.hits[:, 0].sum()), count),
        top5_interval=interval(int(predictions.hits.any(axis=1).sum()), count),
        predictions=predictions,
        class_names=class_names(weights, data.class_names),
        source=source,
        preprocess=weights.preprocess,
        preprocess_from=weights.preprocess_from,
        apart=engine.apart if isinstance(engine, Pair) else None,
        **numbers,
    )


def _over_ten_views(
    engine: Any, batches: Batches, loading: Loading, progress: Callable[[int], None], examples: int
) -> list[Predictions]:
    parts = []
    for batch, outputs in probabilities(engine, batches, ten_crop=True):
        parts.append(predictions_of(batch, outputs))
        progress(min(examples, len(parts) * loading.batch_size))
    return parts


def _of_the_center(
    engine: Any,
    batches: Batches,
    bad: BadImages,
    processes: Processes,
    progress: Callable[[int], None],
    examples: int,
) -> tuple[list[Predictions], dict[str, float] | None]:
    """Predictions, and the means as a run's own evaluation computes them."""
    parts = list[Predictions]()

    def take(batch: Batch, logits: np.ndarray) -> None:
        parts.append(predictions_of(batch, log_softmax(logits)))

    means = evaluate(
        engine,
        batches,
        examples,
        bad_images=bad,
        processes=processes,
        on_progress=progress,
        on_logits=take,
    )
    return parts, means


def probabilities(
    engine: Any, batches: Iterable[Batch], ten_crop: bool
) -> Iterator[tuple[Batch, np.ndarray]]:
    """Yield each batch with its log probabilities, float64 (B, classes).

    With `ten_crop`, they are the logs of the probabilities' mean over the ten views.

    Raises:
        RunError: if outputs are not finite.
    """
    for batch in batches:
        if not ten_crop:
            yield batch, log_softmax(engine.logits(batch))
            continue
        views_ = [engine.logits({**batch, "image": image}) for image in batch["image"]]
        yield batch, mean_softmax(np.stack(views_))
