"""`alexnet evaluate`: accuracy on a data set, by any of the published protocols."""

import csv
import io
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from alexnet.config import LARGEST_IMAGE, MOST_CLASSES, DevicesConfig, VariantName
from alexnet.errors import UserError
from alexnet.files import check_target
from alexnet.options import POSITIONAL, between, check_values
from alexnet.preparation import PreparationConfig
from alexnet.protocols import NAMES, ProtocolName

if TYPE_CHECKING:
    from alexnet.evaluation import Evaluation
    from alexnet.processes import Processes


@dataclass(frozen=True)
class Options:
    """Weights, data, and what to measure."""

    # A run's work directory, a weights file of any format, or a Hugging Face folder.
    weights: str = field(metadata=POSITIONAL)
    # digits, tfds:NAME, folder:PATH, cache:PATH or synthetic; by default the data set that a run
    # was trained on.
    dataset: str | None = None
    # Directory of prepared TFDS data sets.
    data_dir: str | None = None
    # Seed that splits a folder that isn't split on disk; by default the run's own, else 0.
    seed: int | None = None
    # Framework to use; by default a run's own, else jax if it is installed. both also prints how
    # much the two differ.
    framework: Literal["jax", "torch", "both"] | None = None
    # Geometry and views: the weights' own center crop, the paper's ten crops, or those of Caffe,
    # torchvision or the ONNX zoo; all prints them side by side.
    protocol: Literal[ProtocolName, "all"] = "center"
    # Batch size over all devices; by default a run's own, else 64.
    batch_size: int | None = None
    # Arithmetic of convolutions and dense layers; by default a run's own, else fp32.
    precision: Literal["fp32", "bf16"] | None = None
    # List this many of the most confident mistakes.
    worst: int = 0
    # ReaL labels of ImageNet's validation set (Beyer et al. 2020): their real.json.
    real: str | None = None
    # CSV file for each example's prediction.
    save: str | None = None
    # Checkpoint of a run; by default the last.
    step: int | None = None
    # The network, for files that don't say.
    variant: VariantName | None = None
    # Height and width of its input, for files that don't say.
    image_size: int | None = None
    # For an image that can't be read: leave it out and count it, or stop.
    on_bad_image: Literal["skip", "raise"] = "skip"
    # Threads that read and decode images.
    loader_threads: int = 2
    # Processes that do it instead of threads.
    loader_workers: int = 0
    # Print JSON.
    json: bool = False
    preparation: PreparationConfig = field(default_factory=PreparationConfig)
    devices: DevicesConfig = field(default_factory=DevicesConfig)

    def __post_init__(self) -> None:
        """Check each option, and those that exclude each other."""
        check_values(self)
        between(self, 1, MOST_CLASSES, "batch_size")
        between(self, 1, LARGEST_IMAGE, "image_size")
        between(self, 0, None, "worst", "step", "seed")
        between(self, 1, 1024, "loader_threads")
        between(self, 0, 1024, "loader_workers")
        if self.save and self.protocol == "all":
            raise UserError("--save writes one protocol's predictions: name it with --protocol")


def main(options: Options) -> int:
    """Evaluate, and print the results; return 1 if the two frameworks disagree."""
    from alexnet.processes import Processes, connect, part_with
    from alexnet.replacing import check_replaceable
    from alexnet.trained import framework_for

    framework = options.framework or framework_for(options.weights)
    options.devices.check_framework(framework)
    if options.save:
        check_target(options.save)
        check_replaceable(options.save, options.weights)
    real = _read_real(options)
    both = framework == "both"
    processes = Processes() if both else connect(framework, options.devices)
    return part_with(processes, lambda: _evaluate(options, framework, processes, real))


def _read_real(options: Options) -> list[list[int]] | None:
    from alexnet.real import read_real

    return read_real(options.real) if options.real else None


def _evaluate(
    options: Options, framework: Any, processes: "Processes", real: list[list[int]] | None
) -> int:
    from alexnet.evaluation import evaluate_weights
    from alexnet.report.evaluation import Progress, print_evaluations, to_json
    from alexnet.verify import BOUND

    with Progress(shown=processes.index == 0) as progress:
        found = evaluate_weights(
            options.weights,
            options.dataset,
            framework=framework,
            protocols=NAMES if options.protocol == "all" else (options.protocol,),
            batch_size=options.batch_size,
            precision=options.precision,
            devices=options.devices,
            data_dir=options.data_dir,
            seed=options.seed,
            step=options.step,
            variant=options.variant,
            image_size=options.image_size,
            preparation=options.preparation,
            on_bad_image=options.on_bad_image,
            loader_threads=options.loader_threads,
            loader_workers=options.loader_workers,
            processes=processes,
            observer=progress,
        )
    if processes.index == 0:
        if options.save:
            _save(options.save, found[0])
        if options.json:
            print(json.dumps([to_json(one, options.worst, real) for one in found], indent=2))
        else:
            print_evaluations(found, options.worst, real)
    return 0 if all(one.apart is None or one.apart <= BOUND for one in found) else 1


def _save(path: str, found: "Evaluation") -> None:
    """Write a CSV line for each example; commas and quotes in names are quoted."""
    from alexnet.files import atomic_write
    from alexnet.text import storable

    names, predictions = found.class_names.names, found.predictions
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    ranks = range(1, predictions.classes.shape[1] + 1)
    highest = [f"{what}_{k}" for k in ranks for what in ("class", "name", "probability")]
    table.writerow(["example", "image", "label", "label_name", "loss", *highest])
    for place, label in enumerate(predictions.label.tolist()):
        loss = f"{predictions.loss[place]:.6g}"
        row = [predictions.example[place], found.name(place), label, names[label], loss]
        shares = predictions.probability[place]
        for own, share in zip(predictions.classes[place].tolist(), shares, strict=True):
            row += [own, names[own], f"{share:.6g}"]
        table.writerow(row)
    with atomic_write(path) as file:
        file.write(storable(text.getvalue()).encode())
