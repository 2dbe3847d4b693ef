"""`alexnet predict`: the classes of photographs."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from alexnet.config import LARGEST_IMAGE, MOST_CLASSES, VariantName
from alexnet.errors import UserError
from alexnet.files import check_target
from alexnet.options import POSITIONAL, between, check_values
from alexnet.preparation import PreparationConfig

if TYPE_CHECKING:
    import numpy as np

    from alexnet.data.pipeline import BadImages
    from alexnet.weights import Weights

_MOST_NAMES = 1 << 20  # read from standard input


@dataclass(frozen=True)
class Options:
    """Weights, images, and what to print."""

    # A run's work directory, a weights file of any format, or a Hugging Face folder.
    weights: str = field(metadata=POSITIONAL)
    # Image files, folders, patterns like "*.jpg", or - for names on standard input.
    images: tuple[str, ...] = field(metadata=POSITIONAL)
    # Framework to use; by default a run's own, else jax if it is installed. both also prints how
    # much the two differ.
    framework: Literal["jax", "torch", "both"] | None = None
    # Classes listed for each image.
    top_k: int = 5
    # Batch size; by default the number of images, up to 32.
    batch_size: int | None = None
    # Average over the paper's ten views: center, corners, and their mirror images.
    ten_crop: bool = False
    # A layer of `alexnet summary` and an .npz file for its outputs: --features fc7 OUT.npz.
    features: tuple[str, str] | None = None
    # Checkpoint of a run; by default the last.
    step: int | None = None
    # The network, for files that don't say.
    variant: VariantName | None = None
    # Height and width of its input, for files that don't say.
    image_size: int | None = None
    # Print JSON.
    json: bool = False
    # Print CSV, a line for each class listed.
    csv: bool = False
    preparation: PreparationConfig = field(default_factory=PreparationConfig)

    def __post_init__(self) -> None:
        """Check each option, and those that exclude each other."""
        check_values(self)
        between(self, 1, MOST_CLASSES, "top_k", "batch_size")
        between(self, 1, LARGEST_IMAGE, "image_size")
        between(self, 0, None, "step")
        if self.json and self.csv:
            raise UserError("--json and --csv exclude each other: give one of them")
        if self.features and self.ten_crop:
            raise UserError("--features takes the center view alone: leave --ten-crop out")
        if self.features and not self.features[1].endswith(".npz"):
            raise UserError(f"--features writes an .npz file, and {self.features[1]} is none")


def main(options: Options) -> int:
    """Predict; return 1 if an image could not be read, or the frameworks disagree."""
    from alexnet.data.pipeline import BadImages
    from alexnet.evaluation import Pair, distance, open_engine
    from alexnet.prediction import batch_of, find_images
    from alexnet.replacing import check_replaceable
    from alexnet.trained import framework_for, open_weights

    if options.features:
        check_target(options.features[1])
        check_replaceable(options.features[1], options.weights)
    files, problems = find_images(_words(options.images))
    for sentence in problems:
        _say(f"left out: {sentence}")
    if not files:
        _say("failed: there is no image to look at")
        return 1
    weights = open_weights(
        options.weights,
        step=options.step,
        variant=options.variant,
        image_size=options.image_size,
        preparation=options.preparation,
    )
    size = options.batch_size or batch_of(len(files))
    framework = options.framework or framework_for(options.weights)
    engine = open_engine(weights, framework, size)
    bad = BadImages()
    with _features(options, weights, framework) as take:
        entropy = _predict(options, weights, engine, files, size, bad, take)
    for sentence in bad.sentences:
        _say(f"left out: {sentence}")
    if count := len(problems) + len(bad):
        _say(f"{count} of {len(files) + len(problems)} could not be read")
    _warn_if_flat(entropy, weights)
    agree = True
    if isinstance(engine, Pair):
        _say(distance(engine.apart))
        agree = engine.agree
    return 0 if agree and not count else 1


def _words(images: tuple[str, ...]) -> Iterator[str]:
    """Yield the image names given, with those from standard input in place of `-`."""
    for word in images:
        if word != "-":
            yield word
            continue
        sys.stdin.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]  # any name
        for number, line in enumerate(sys.stdin):
            if number == _MOST_NAMES:
                raise UserError(f"standard input has more than {_MOST_NAMES:,} names")
            if name := line.rstrip("\r\n"):
                yield name


def _predict(
    options: Options,
    weights: "Weights",
    engine: Any,
    files: list[str],
    size: int,
    bad: "BadImages",
    take: Callable[["np.ndarray", list[str]], None] | None,
) -> "np.ndarray":
    """Print each image's classes; return the entropies of the outputs, float64 [N]."""
    import numpy as np

    from alexnet.names import class_names
    from alexnet.prediction import ImageList, highest, image_outputs
    from alexnet.protocols import views
    from alexnet.report.predictions import printer
    from alexnet.scores import entropies

    names, source = class_names(weights), ImageList(files)
    view = views("ten-crop" if options.ten_crop else "center", weights.preprocess)
    kind: Literal["json", "csv", "text"]
    kind = "json" if options.json else "csv" if options.csv else "text"
    found = [np.zeros(0)]
    with printer(kind, weights, view, names) as show:
        for batch, outputs in image_outputs(engine, weights, source, size, view.ten_crop, bad):
            rows = np.flatnonzero(batch["mask"])
            called = [source.describe(int(batch["example"][row])) for row in rows]
            for name, row in zip(called, rows, strict=True):
                show(highest(name, outputs[row], names, options.top_k))
            found.append(entropies(outputs[rows]))
            if take:
                take(batch["image"][rows], called)
    return np.concatenate(found)


@contextlib.contextmanager
def _features(
    options: Options, weights: "Weights", framework: str
) -> "Iterator[Callable[[np.ndarray, list[str]], None] | None]":
    """A function that writes views' features, with names, to the file; None if not wanted."""
    from alexnet.data.inputs import normalized
    from alexnet.engine import import_framework
    from alexnet.errors import choose
    from alexnet.features import feature_file
    from alexnet.layers import trace

    if not options.features:
        yield None
        return
    layer, target = options.features
    choose("layer", layer, [row.name for row in trace(weights.spec)])
    native = import_framework("jax" if framework == "both" else framework, "inspection")
    outputs_of = native.layer_function(weights.spec, weights.arrays, [layer])
    count = 0

    def take(views: "np.ndarray", called: list[str]) -> None:
        nonlocal count
        if called:
            rows(outputs_of(normalized(views, weights.preprocess.normalize))[layer], called)
        count += len(called)

    with feature_file(target, layer) as rows:
        yield take
    if count:
        _say(f"outputs of {layer} for {count} images are in {target}")


def _warn_if_flat(entropy: "np.ndarray", weights: "Weights") -> None:
    from alexnet.scores import is_flat

    if len(entropy) and is_flat(entropy, weights.spec.num_classes):
        _say(
            "this network looks untrained: its outputs are nearly the same for all classes; or its "
            "input is prepared in another way than it was trained for"
        )


def _say(sentence: str) -> None:
    from alexnet.text import printable

    print(printable(sentence), file=sys.stderr)
