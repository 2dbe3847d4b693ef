"""Everything a training run can be told, as one tree of frozen dataclasses.

The command line is made from this tree (`options.py`), the recipes are instances of it
(`recipes.py`), and a run's `config.json` is one of them written down (`config_json.py`). The
comment above a field is its help text. Each class refuses values that no run can have (UserError).
Paths, local or on gs://, are text: `files.as_path` makes a path of it where it is used.
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

if TYPE_CHECKING:  # the data package needs NumPy, which --help does not wait for
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
    # Share of each hidden layer's features; below 1 for quick tests.
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
    # Examples a step, over all devices.
    batch_size: int = 128
    # Resizing to --resize-to pixels: scale the short side, or warp both sides.
    resize_rule: Literal["short", "warp"] = "short"
    # Pixels to scale to before cropping; by default 8/7 of the image size (256 for 224).
    resize_to: int | None = None
    # Training crop: a random position, or torchvision's random area and aspect ratio.
    train_crop: Literal["random", "area"] = "random"
    # Mirror half of the training images.
    flip: bool = True
    # Strength of the paper's PCA color noise (0.1 there); 0 is none.
    color_noise: float = 0.0
    # Its axes and sizes: the authors' own, or those of fb.resnet.torch, 2 to 17 times weaker.
    color_axes: Literal["original", "fb"] = "original"
    # Epoch from which there is no more of it; by default none.
    color_noise_until: float | None = None
    # Divide what has noise by 1 + its strength, once the mean is subtracted, as the authors did.
    color_noise_shrink: bool = False
    # Examples in a row that share a crop's place and mirroring: 32 in the authors' program.
    crop_chunk: int = 1
    # Mean of each channel, subtracted, in units of 0..255; one number stands for all channels.
    mean: tuple[float, ...] = IMAGENET_MEAN
    # Standard deviation of each channel, divided by, in units of 0..255.
    std: tuple[float, ...] = IMAGENET_STD
    # Mean image in place of --mean: a cache with statistics, .npz, .npy, .binaryproto, or weights.
    mean_image: str | None = None
    # Weights whose preprocessing to take where options don't say it; by default --init-from's.
    preprocess_from: str | None = None
    # An image that can't be read: leave it out and count it, or stop.
    on_bad_image: Literal["skip", "raise"] = "raise"
    # Threads that read and decode images; changes the speed, never the samples.
    loader_threads: int = 2
    # Processes that do it in place of threads: for many cores, where Python's lock is the limit.
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
    # Layers, variables or roles that stay as they are, as conv1 conv2.
    freeze: tuple[str, ...] = ()
    # Factors on the rate of layers, variables or roles, as fc8=10 bias=2.
    rate_of: tuple[str, ...] = ()
    # More such factors from an epoch on, as 67:conv1.kernel=0.1 72:conv1=0.
    rate_at: tuple[str, ...] = ()
    # Factors on the weight decay of layers, variables or roles, as bias=0.
    decay_of: tuple[str, ...] = ()
    # Trust ratio of LARS, with weights w, gradient g, decay d: paper is eta |w| / (|g| + d |w|)
    # (You et al. 2017), nvcaffe eta |w| / |g|, optax eta |w| / |g + d w|.
    lars_formula: Literal["paper", "nvcaffe", "optax"] = "paper"
    # eta in the trust ratio of LARS.
    lars_eta: float = 0.001
    # Give biases a trust ratio too, as NVCaffe does, and not kernels alone.
    lars_biases: bool = False
    # Share of the target spread evenly over all classes.
    label_smoothing: float = 0.0
    # Parts in which a batch is computed, one after another, where the devices can't hold it at
    # once; the update is the whole batch's. Batch normalization sees parts for batches.
    accumulate: int = 1
    # Gradients with a larger joint norm are scaled down to it; 0 is off.
    clip_norm: float = 0.0
    # Course of the learning rate.
    schedule: Literal["constant", "step", "poly", "cosine", "plateau"] = "step"
    # Steps over which the rate rises to its full height.
    warmup_steps: int = 0
    # Rate from which it rises.
    warmup_start: float = 0.0
    # Shape of the rise: 1 is linear, 2 quadratic.
    warmup_power: float = 1.0
    # Epochs at whose start the step schedule multiplies the rate by the drop factor.
    drop_epochs: tuple[float, ...] = (30.0, 60.0)
    # Factor on the rate at each drop of the step and plateau schedules.
    drop_factor: float = 0.1
    # Exponent of the poly schedule: the rate falls as this power of the share of steps left.
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

    # Decides initial weights, sample order, augmentation and dropout.
    seed: int = 0
    # Passes over the training set.
    epochs: float | None = None
    # Training steps, instead of epochs.
    steps: int | None = None
    # Directory for all that the run writes; by default a new one under runs/.
    workdir: str | None = None
    # Go on from the last checkpoint in the work directory.
    resume: bool = False
    # Delete the run that is in the work directory first.
    overwrite: bool = False
    # Steps between checkpoints; by default one at each evaluation.
    checkpoint_every: int | None = None
    # Checkpoints kept besides the best one.
    keep_checkpoints: int = 2
    # Steps between evaluations; by default an epoch.
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
    """Placement on devices and compilation; results differ by rounding at most."""

    # torch: through torch.compile, which needs a C++ compiler on a CPU. JAX always compiles.
    compile: bool = False
    # JAX's way to spread a step over devices.
    spmd: Literal["jit", "shard_map", "pmap"] = "jit"
    # data=D,model=M: D times M devices, of which M share fc6, fc7 and fc8; M is 1 without this.
    mesh: str | None = None
    # JAX by jit: each device keeps and updates its share of the dense kernels alone (FSDP, ZeRO).
    fsdp: bool = False
    # JAX on several hosts: this command runs on each of them, and they train one network.
    distributed: bool = False
    # HOST:PORT of process 0 for --distributed; found by itself on a TPU slice, as the next two.
    coordinator: str | None = None
    # Number of processes.
    processes: int | None = None
    # This one's number among them, from 0.
    process: int | None = None
    # Seconds to wait for the others at the start.
    join_seconds: int = 300

    def __post_init__(self) -> None:
        """Check that options which need each other are together."""
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
        """Refuse, with a UserError, options of the other framework; `both` takes neither's."""
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

    # Framework that trains.
    framework: Framework = "jax"
    # Named settings that the other options change; by default one that suits the data set.
    recipe: str = "digits"
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    run: RunConfig = field(default_factory=RunConfig)
    devices: DevicesConfig = field(default_factory=DevicesConfig)

    def __post_init__(self) -> None:
        """Check options of one class against those of another."""
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
        """Pixels to scale to before cropping: torchvision's 256 for 224 where not given."""
        return self.data.resize_to or round(self.image_size * 8 / 7)

    @cached_property
    def preprocess(self) -> Preprocess:
        """Preprocessing of images at evaluation; a mean image is read once.

        Raises:
            UserError: where there is none in the file named.
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
        """Batches to read; `rows` are this process's places in the global batch."""
        from alexnet.data.pipeline import Loading

        data = self.data
        return Loading(
            data.batch_size, self.model.channels, data.loader_threads, data.on_bad_image, rows,
            data.loader_workers, whole=True,
        )  # fmt: skip

    def open_dataset(self) -> "Dataset":
        """Open the data set named.

        Raises:
            UserError: for an unknown name, or data that isn't there or isn't as it must be.
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
