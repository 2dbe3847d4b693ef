"""All options of a training run, as one tree of frozen dataclasses.

The command line is generated from this tree (`options.py`), the recipes are instances of it
(`recipes.py`), and a run's `config.json` is a saved instance (`config_json.py`). The comment above
a field is its help text. Each class rejects invalid values with a UserError. Paths, local or on
gs://, are strings; `files.as_path` turns them into paths where they are used.
"""

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from alexnet.errors import UserError
from alexnet.layers import LeCun, Spec
from alexnet.options import LEAST, between, check_option_path, check_values, flag, require
from alexnet.preprocess import IMAGENET_MEAN, IMAGENET_STD, EvalProtocol, Normalize, Preprocess
from alexnet.spec import VARIANTS, variant

if TYPE_CHECKING:  # the data package needs NumPy, too slow to import for --help
    import numpy as np

    from alexnet.data.augment import Augmentation
    from alexnet.data.dataset import Dataset
    from alexnet.data.pipeline import Loading

Framework = Literal["jax", "torch"]
if TYPE_CHECKING:
    VariantName = str
else:
    VariantName = Literal[tuple(VARIANTS)]

LARGEST_IMAGE = 4096  # pixels; beyond it no machine has the memory for a batch
MOST_CLASSES = 1_000_000


@dataclass(frozen=True)
class ModelConfig:
    """The network and its arithmetic."""

    # Which AlexNet; `alexnet summary` prints its layers.
    variant: VariantName = "torchvision"
    # Height and width of the network's input; by default the variant's own.
    image_size: int | None = None
    # Channels of the network's input: 3 for RGB, 1 for gray.
    channels: int = 3
    # Fraction of each hidden layer's features to keep; below 1 for quick tests.
    width: float = 1.0
    # Initial weights: those of the variant's source, or (lecun) N(0, 1/fan_in) in every layer.
    init: Literal["variant", "lecun"] = "variant"
    # Weights to start from instead of random ones: a file, a run, or a Hugging Face folder.
    init_from: str | None = None
    # Arithmetic of convolutions and dense layers; weights and updates stay fp32.
    precision: Literal["fp32", "bf16"] = "fp32"

    def __post_init__(self) -> None:
        """Check each option."""
        check_values(self)
        between(self, 1, LARGEST_IMAGE, "image_size")
        between(self, 1, MOST_CLASSES, "channels")
        require(0 < self.width <= 1, "width", self.width, "above 0 and at most 1")
        check_option_path("init_from", self.init_from, hub=True)


@dataclass(frozen=True)
class DataConfig:
    """Dataset and preprocessing."""

    # digits, tfds:NAME, folder:PATH, cache:PATH or synthetic.
    dataset: str = "digits"
    # Directory of prepared TFDS data sets.
    data_dir: str | None = None
    # Examples per step, over all devices.
    batch_size: int = 128
    # Resizing to --resize-to pixels: scale the short side, or warp both sides.
    resize_rule: Literal["short", "warp"] = "short"
    # Pixels to scale to before cropping; by default 8/7 of the image size (256 for 224).
    resize_to: int | None = None
    # Training crop: a random position, or torchvision's random area and aspect ratio.
    train_crop: Literal["random", "area"] = "random"
    # Mirror half of the training images.
    flip: bool = True
    # Strength of the paper's PCA color noise (0.1 there); 0 turns it off.
    color_noise: float = 0.0
    # Axes and sizes of color noise: the authors' own, or fb.resnet.torch's, 2 to 17 times weaker.
    color_axes: Literal["original", "fb"] = "original"
    # First epoch without color noise; by default it never stops.
    color_noise_until: float | None = None
    # Divide images with color noise by 1 + its strength after mean subtraction, as the authors did.
    color_noise_shrink: bool = False
    # Consecutive examples that share a crop position and mirroring: 32 in the authors' program.
    crop_chunk: int = 1
    # Mean of each channel, subtracted, in units of 0..255; one number stands for all channels.
    mean: tuple[float, ...] = IMAGENET_MEAN
    # Standard deviation of each channel, divided by, in units of 0..255.
    std: tuple[float, ...] = IMAGENET_STD
    # Mean image in place of --mean: a cache with statistics, .npz, .npy, .binaryproto, or weights.
    mean_image: str | None = None
    # Weights whose preprocessing to use unless options set it; by default --init-from's.
    preprocess_from: str | None = None
    # For an image that can't be read: leave it out and count it, or stop.
    on_bad_image: Literal["skip", "raise"] = "raise"
    # Threads that read and decode images; affects only speed, never the samples.
    loader_threads: int = 2
    # Processes that do it instead of threads: for many cores, where Python's lock is the limit.
    loader_workers: int = 0

    def __post_init__(self) -> None:
        """Check each option."""
        check_values(self)
        between(self, 1, None, "batch_size", "crop_chunk")
        between(self, 1, 1024, "loader_threads")
        between(self, 0, 1024, "loader_workers")
        between(self, 1, 2 * LARGEST_IMAGE, "resize_to")
        between(self, 0, None, "color_noise", "color_noise_until")
        until = self.color_noise_until or 0.0
        require(until % 1 == 0, "color_noise_until", until, "a whole number of epochs")
        require(all(s >= LEAST for s in self.std), "std", self.std, f"above 0, {LEAST:g} at least")
        check_option_path("data_dir", self.data_dir)
        check_option_path("mean_image", self.mean_image, hub=True)
        check_option_path("preprocess_from", self.preprocess_from, hub=True)


@dataclass(frozen=True)
class OptimConfig:
    """Optimizer and schedule."""

    # Update rule: sgd has the rate outside momentum (torch, optax), caffe inside (the 2012 paper,
    # Caffe); lars is caffe with a trust ratio for each kernel.
    rule: Literal["sgd", "caffe", "lars"] = "sgd"
    # Learning rate after warm-up.
    learning_rate: float = 0.01
    # Momentum.
    momentum: float = 0.9
    # Nesterov's form of momentum.
    nesterov: bool = False
    # Added to each gradient times its weight, before momentum.
    weight_decay: float = 5e-4
    # Decay biases (and batch normalization's scale and shift) like kernels, as torchvision does
    # and Caffe does not.
    decay_biases: bool = True
    # Layers, variables or roles to freeze, such as conv1 conv2.
    freeze: tuple[str, ...] = ()
    # Factors on the learning rate of layers, variables or roles, such as fc8=10 bias=2.
    rate_of: tuple[str, ...] = ()
    # More such factors, each from an epoch on, such as 67:conv1.kernel=0.1 72:conv1=0.
    rate_at: tuple[str, ...] = ()
    # Factors on the weight decay of layers, variables or roles, such as bias=0.
    decay_of: tuple[str, ...] = ()
    # Trust ratio of LARS, with weights w, gradient g, decay d: paper is eta |w| / (|g| + d |w|)
    # (You et al. 2017), nvcaffe eta |w| / |g|, optax eta |w| / |g + d w|.
    lars_formula: Literal["paper", "nvcaffe", "optax"] = "paper"
    # eta in the trust ratio of LARS.
    lars_eta: float = 0.001
    # Give biases a trust ratio, too, as NVCaffe does, not only kernels.
    lars_biases: bool = False
    # Fraction of the target spread evenly over all classes.
    label_smoothing: float = 0.0
    # Number of parts that a batch is computed in, one after another, if it doesn't fit on the
    # devices; the update is that of the whole batch. Batch normalization treats parts as batches.
    accumulate: int = 1
    # Gradients with a larger joint norm are scaled down to this one; 0 turns it off.
    clip_norm: float = 0.0
    # Learning rate schedule.
    schedule: Literal["constant", "step", "poly", "cosine", "plateau"] = "step"
    # Steps of warm-up, over which the rate rises to its full value.
    warmup_steps: int = 0
    # Rate at which warm-up starts.
    warmup_start: float = 0.0
    # Shape of the warm-up: 1 is linear, 2 quadratic.
    warmup_power: float = 1.0
    # Epochs at whose start the step schedule multiplies the rate by the drop factor.
    drop_epochs: tuple[float, ...] = (30.0, 60.0)
    # Factor on the rate at each drop of the step and plateau schedules.
    drop_factor: float = 0.1
    # Exponent of the poly schedule: the rate falls as this power of the fraction of steps left.
    poly_power: float = 2.0
    # Evaluations without a lower loss before the plateau schedule drops the rate.
    patience: int = 5

    def __post_init__(self) -> None:
        """Check each option."""
        check_values(self)
        between(self, 0, None, "learning_rate", "weight_decay", "clip_norm", "warmup_steps")
        between(self, 0, None, "drop_factor", "lars_eta", "warmup_start", "poly_power")
        between(self, 1, None, "patience", "accumulate")
        require(0 <= self.momentum < 1, "momentum", self.momentum, "from 0 to below 1")
        if self.nesterov:
            require(self.momentum > 0, "momentum", self.momentum, "above 0 with --nesterov")
        smoothing = self.label_smoothing
        require(0 <= smoothing < 1, "label_smoothing", smoothing, "from 0 to below 1")
        require(self.warmup_power > 0, "warmup_power", self.warmup_power, "above 0")


@dataclass(frozen=True)
class RunConfig:
    """Length, seed and output."""

    # Seed for initial weights, sample order, augmentation and dropout.
    seed: int = 0
    # Passes over the training set.
    epochs: float | None = None
    # Training steps, instead of epochs.
    steps: int | None = None
    # Directory for everything that the run writes; by default a new one under runs/.
    workdir: str | None = None
    # Continue from the last checkpoint in the work directory.
    resume: bool = False
    # First delete the run that is in the work directory.
    overwrite: bool = False
    # Steps between checkpoints; by default one at each evaluation.
    checkpoint_every: int | None = None
    # Checkpoints kept besides the best one.
    keep_checkpoints: int = 2
    # Steps between evaluations; by default one epoch.
    eval_every: int | None = None
    # Steps between lines of training metrics.
    log_every: int = 10

    def __post_init__(self) -> None:
        """Check each option, and those that exclude each other."""
        check_values(self)
        between(self, 0, 2**63 - 1, "seed")
        between(self, 1, None, "steps", "checkpoint_every", "keep_checkpoints", "eval_every")
        between(self, 1, None, "log_every")
        if self.epochs is not None:
            require(0 < self.epochs <= 1e9, "epochs", self.epochs, "above 0 and at most 1e9")
        if self.resume and self.overwrite:
            raise UserError("--resume and --overwrite exclude each other: give one of them")
        if self.steps is not None and self.epochs is not None:
            raise UserError("--steps and --epochs exclude each other: give one of them")
        check_option_path("workdir", self.workdir)


@dataclass(frozen=True)
class DevicesConfig:
    """Placement on devices and compilation; results differ at most by rounding."""

    # torch: use torch.compile, which needs a C++ compiler on a CPU. JAX always compiles.
    compile: bool = False
    # JAX: the way to distribute a step over devices.
    spmd: Literal["jit", "shard_map", "pmap"] = "jit"
    # data=D,model=M: D times M devices, in groups of M that share fc6, fc7 and fc8; by default M=1.
    mesh: str | None = None
    # JAX with jit: each device keeps and updates only its share of the dense kernels (FSDP, ZeRO).
    fsdp: bool = False
    # JAX on several hosts: run this command on each of them, and they train one network.
    distributed: bool = False
    # HOST:PORT of process 0 for --distributed; detected on a TPU slice, like the next two.
    coordinator: str | None = None
    # Number of processes.
    processes: int | None = None
    # Index of this process, from 0.
    process: int | None = None
    # Seconds to wait for the other processes at the start.
    join_seconds: int = 300

    def __post_init__(self) -> None:
        """Check that options that need each other are given together."""
        check_values(self)
        between(self, 1, 2**31 // 1000, "join_seconds")  # milliseconds in 32 bits
        named = (self.coordinator, self.processes, self.process)
        if any(value is not None for value in named) and not self.distributed:
            raise UserError("--coordinator, --processes and --process need --distributed")
        if any(value is None for value in named) and any(value is not None for value in named):
            raise UserError(
                "--coordinator HOST:PORT, --processes N and --process I go together: give all "
                "three, or none on a TPU slice"
            )
        if self.processes is not None and self.process is not None:
            need = f"from 0 to below --processes, {self.processes}"
            require(0 <= self.process < self.processes, "process", self.process, need)

    def check_framework(self, framework: str) -> None:
        """Raise a UserError for options of the other framework; `both` allows neither's."""
        if framework != "jax" and self != DevicesConfig(compile=self.compile):
            raise UserError(
                "--spmd, --mesh, --fsdp and --distributed are JAX's: add --framework jax, or start "
                "torch by `torchrun --nproc-per-node=N train.py --framework torch ...`"
            )
        if framework != "torch" and self.compile:
            raise UserError("--compile is torch's, and JAX always compiles: add --framework torch")


@dataclass(frozen=True)
class TrainConfig:
    """Framework and recipe."""

    # Framework to train with.
    framework: Framework = "jax"
    # Named settings that other options override; by default a recipe that suits the data set.
    recipe: str = "digits"
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    run: RunConfig = field(default_factory=RunConfig)
    devices: DevicesConfig = field(default_factory=DevicesConfig)

    def __post_init__(self) -> None:
        """Check options of different groups against each other."""
        data, channels = self.data, self.model.channels
        check_values(self)
        need = f"no smaller than the image size, {self.image_size}"
        require(self.resize_to >= self.image_size, "resize_to", self.resize_to, need)
        for name, values in (("mean", data.mean), ("std", data.std)):
            if len(values) not in (1, channels):
                gray = "one number, as --mean 117 --std 58 for photographs"
                raise UserError(
                    f"{flag(name)} has {len(values)} numbers, but --channels is {channels}: give "
                    + (gray if channels == 1 else f"one number, or {channels}")
                )
        if channels != 3:
            need = "0 unless the input has 3 channels"
            require(data.color_noise == 0, "color_noise", data.color_noise, need)
        self.devices.check_framework(self.framework)

    @property
    def image_size(self) -> int:
        """Height and width of the network's input."""
        return self.model.image_size or VARIANTS[self.model.variant].image_size

    @property
    def resize_to(self) -> int:
        """Pixels to scale to before cropping; by default in torchvision's ratio, 256 for 224."""
        return self.data.resize_to or round(self.image_size * 8 / 7)

    @cached_property
    def preprocess(self) -> Preprocess:
        """Preprocessing of images in evaluation; a mean image is read only once.

        Raises:
            UserError: if the file named has no mean image.
        """
        data, channels = self.data, self.model.channels
        protocol = EvalProtocol(data.resize_rule, self.resize_to, self.image_size)
        normalize = Normalize(
            mean=data.mean * channels if len(data.mean) == 1 else data.mean,
            std=data.std * channels if len(data.std) == 1 else data.std,
            channel_order="L" if channels == 1 else "RGB",
        )
        if data.mean_image:
            from alexnet.data.mean_image import with_image

            normalize = with_image(normalize, protocol, data.mean_image)
        return Preprocess(normalize, protocol)

    @property
    def augmentation(self) -> "Augmentation":
        """Training views of images."""
        from alexnet.data.augment import Augmentation

        data, until = self.data, self.data.color_noise_until
        return Augmentation(
            size=self.image_size,
            resize_to=self.resize_to,
            resize_rule=data.resize_rule,
            crop=data.train_crop,
            flip=data.flip,
            color_noise=data.color_noise,
            color_axes=data.color_axes,
            color_noise_until=math.inf if until is None else until,
            color_noise_shrink=data.color_noise_shrink,
            crop_chunk=data.crop_chunk,
        )

    def loading(self, rows: "np.ndarray | None" = None) -> "Loading":
        """Loading options; `rows` are this process's rows of the global batch."""
        from alexnet.data.pipeline import Loading

        data = self.data
        return Loading(
            data.batch_size, self.model.channels, data.loader_threads, data.on_bad_image, rows,
            data.loader_workers, whole=True,
        )  # fmt: skip

    def open_dataset(self) -> "Dataset":
        """Open the data set named.

        Raises:
            UserError: for an unknown name, or data that is missing or malformed.
        """
        from alexnet.data.sources import open_dataset

        data, channels, size = self.data, self.model.channels, self.resize_to
        return open_dataset(
            data.dataset, data_dir=data.data_dir, seed=self.run.seed, channels=channels, size=size
        )

    def spec(self, num_classes: int) -> Spec:
        """The network this run trains."""
        model = self.model
        return variant(
            model.variant,
            num_classes=num_classes,
            channels=model.channels,
            image_size=model.image_size,
            width=model.width,
            init=LeCun() if model.init == "lecun" else None,
        )
