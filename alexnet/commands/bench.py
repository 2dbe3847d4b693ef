"""`alexnet bench`: the speed of training, inference, the input pipeline and conversion."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from alexnet.config import LARGEST_IMAGE, MOST_CLASSES, VariantName
from alexnet.errors import UserError
from alexnet.options import between, check_values, require

if TYPE_CHECKING:
    from alexnet.bench.job import Job

_NETWORK = ("train", "infer")
_SHARED = (  # by all contenders
    "what", "variant", "image_size", "num_classes", "width", "batch_size", "precision", "seed",
    "dataset", "data_dir", "loader_threads", "loader_workers", "layers",
)  # fmt: skip


@dataclass(frozen=True)
class Options:
    """The work to time, the contenders to compare with, and the length of the blocks."""

    # Framework to time; both are timed in alternation.
    framework: Literal["jax", "torch", "both"] = "jax"
    # Which AlexNet.
    variant: VariantName = "torchvision"
    # Images per step.
    batch_size: int = 32
    # Arithmetic of convolutions and dense layers.
    precision: Literal["fp32", "bf16"] = "fp32"
    # Work to time: training steps, forward passes, reading batches, or converting weights between
    # file formats.
    what: Literal["train", "infer", "input", "convert"] = "train"
    # Also time, in alternation, what one would write without this project: the same network in
    # torch's and in Flax's own layers; for --what input, torch's DataLoader over Pillow.
    against: Literal["plain"] | None = None
    # For torch, also time its engine through torch.compile, as `alexnet train --compile` runs it.
    compile: bool = False
    # Time each layer by itself: its forward pass and its gradients.
    layers: bool = False
    # Number of timed blocks; the result is their median.
    blocks: int = 5
    # Length of a block in seconds; by default 3, or 0.2 with --layers.
    block_seconds: float | None = None
    # Height and width of the network's input; by default the variant's own.
    image_size: int | None = None
    # Outputs of the last layer.
    num_classes: int = 1000
    # Fraction of each hidden layer's features to keep.
    width: float = 1.0
    # Data set for --what input: digits, tfds:NAME, folder:PATH, cache:PATH or synthetic. For --what
    # train, images come from it, and this project's engine is also timed while it reads them.
    dataset: str = "synthetic"
    # Directory of prepared TFDS data sets.
    data_dir: str | None = None
    # Threads that read and decode images.
    loader_threads: int = 2
    # Processes that do it instead of threads.
    loader_workers: int = 0
    # Seed for weights, images and labels.
    seed: int = 0
    # Print JSON instead of tables.
    json: bool = False

    def __post_init__(self) -> None:
        """Check each option, and their combinations."""
        check_values(self)
        between(self, 1, 1_000_000, "batch_size")
        between(self, 1, 1000, "blocks")
        between(self, 1, LARGEST_IMAGE, "image_size")
        between(self, 1, MOST_CLASSES, "num_classes")
        between(self, 1, 1024, "loader_threads")
        between(self, 0, 1024, "loader_workers")
        between(self, 0, 2**63 - 1, "seed")
        need = "above 0 and at most 3600"
        require(0 < self.length <= 3600, "block_seconds", self.block_seconds, need)
        require(0 < self.width <= 1, "width", self.width, "above 0 and at most 1")
        if self.what not in _NETWORK and self.layers:
            raise UserError("--layers is for networks: give --what train or --what infer with it")
        if self.compile and (self.framework == "jax" or self.what not in _NETWORK or self.layers):
            raise UserError("--compile is for whole networks in torch: add --framework torch")
        if self.what == "convert" and self.against:
            raise UserError("--against is for networks and --what input: leave it out")
        reads = self.what == "input" or (self.what == "train" and not self.layers)
        if not reads and (self.dataset, self.data_dir) != ("synthetic", None):
            raise UserError(
                "--dataset and --data-dir are for --what input and whole steps of --what train: "
                "leave them out"
            )
        if self.data_dir and self.dataset == "synthetic":
            raise UserError("--data-dir is for --dataset tfds:NAME: add that, or leave it out")
        if self.what == "train" and self.dataset != "synthetic" and self.against:
            raise UserError("plain code trains on random images: leave --against or --dataset out")

    @property
    def length(self) -> float:
        """Seconds per block."""
        if self.block_seconds is None:
            return 0.2 if self.layers else 3.0
        return self.block_seconds


def main(options: Options) -> int:
    """Run the benchmark, and print the numbers."""
    from rich.console import Console
    from rich.text import Text

    jobs = _jobs(options)
    with Console(stderr=True).status("starting") as status:  # on a terminal only
        whole = _measured(options, jobs, lambda text: status.update(Text(text)))
    job = {name: getattr(options, name) for name in (*_SHARED, "blocks")}
    whole = {"job": job | {"block_seconds": options.length}, **whole}
    if options.json:
        print(json.dumps(whole, indent=2))
    else:
        from alexnet.report.bench import print_benchmark

        print_benchmark(whole)
    return 0


def _measured(
    options: Options, jobs: "list[Job]", progress: Callable[[str], None]
) -> dict[str, Any]:
    from alexnet.bench.run import compare, time_conversions, time_layers

    length = (options.blocks, options.length)
    if options.layers:
        return time_layers(jobs, *length, progress)
    if options.what == "convert":
        return time_conversions(jobs[0], *length, progress)
    return compare(jobs, *length, progress)


def _jobs(options: Options) -> "list[Job]":
    """The contenders, ours first.

    Raises:
        UserError: if there is no such network.
    """
    from alexnet.bench.job import SYNTHETIC, Job
    from alexnet.spec import variant

    common: dict[str, Any] = {name: getattr(options, name) for name in _SHARED}
    if options.what not in _NETWORK:
        plain = [Job(framework="torch", kind="plain", **common)] if options.against else []
        return [Job(**common), *plain]
    both = options.framework == "both"
    frameworks: list[Any] = ["jax", "torch"] if both else [options.framework]
    sizes = {name: getattr(options, name) for name in ("num_classes", "image_size", "width")}
    variant(options.variant, **sizes)  # before any process starts: refuses impossible sizes
    jobs = [Job(framework=name, **common) for name in frameworks]
    if options.dataset != SYNTHETIC:
        jobs += [Job(framework=name, kind="ours, reading", **common) for name in frameworks]
    if options.compile:
        jobs.append(Job(framework="torch", kind="ours, compiled", **common))
    if options.against:
        for name in frameworks:
            jobs.append(Job(framework=name, kind="plain", **common))
            if name == "torch" and not options.layers:
                jobs.append(Job(framework=name, kind="plain, compiled", **common))
    return jobs
