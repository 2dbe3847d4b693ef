"""Everything a training run can be told, as one tree of frozen dataclasses.

The command line is made from this tree (`cli.py`), the recipes are instances of it
(`recipes.py`), and a run's `config.json` is one of them written down. The comment above a field
is its help text. Paths are local or on gs://: `files.as_path` makes them.
"""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import PurePath
from types import UnionType
from typing import Any, get_args, get_origin

from alexnet.errors import UserError, choose
from alexnet.files import as_path
from alexnet.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from alexnet.spec import REVISION, VARIANTS, LeCun, Spec, refuse_outdated, variant

# The values of every field that takes a word.
CHOICES: dict[str, tuple[str, ...]] = {
    "framework": ("jax", "torch"),
    "variant": tuple(VARIANTS),
    "init": ("variant", "lecun"),
    "precision": ("fp32", "bf16"),
    "resize_rule": ("short", "warp"),
    "train_crop": ("random", "area"),
    "on_bad_image": ("skip", "raise"),
    "schedule": ("constant", "step", "cosine", "plateau"),
    "spmd": ("jit", "shard_map", "pmap"),
}


@dataclass(frozen=True)
class ModelConfig:
    """The network and its arithmetic."""

    # Which AlexNet: torchvision, paper or single.
    variant: str = "torchvision"
    # Height and width of the network's input; by default the variant's own.
    image_size: int | None = None
    # Channels of the network's input: 3 for RGB, 1 for gray.
    channels: int = 3
    # Share of each hidden layer's features; below 1 for quick tests.
    width: float = 1.0
    # Initial weights: those of the variant's source, or N(0, 1/fan_in) in every layer.
    init: str = "variant"
    # Weights file to start from instead of random weights.
    init_from: PurePath | None = None
    # Arithmetic of convolutions and dense layers; weights and updates stay fp32.
    precision: str = "fp32"


@dataclass(frozen=True)
class DataConfig:
    """What it sees."""

    # digits, tfds:NAME, folder:PATH or synthetic.
    dataset: str = "digits"
    # Where prepared TFDS data sets are.
    data_dir: PurePath | None = None
    # Examples a step, over all devices.
    batch_size: int = 128
    # How an image becomes resize-to pixels: short side scaled, or both sides warped.
    resize_rule: str = "short"
    # Pixels to scale to before cropping; by default 8/7 of the image size (256 for 224).
    resize_to: int | None = None
    # Training crop: a random position, or torchvision's random area and aspect ratio.
    train_crop: str = "random"
    # Mirror half of the training images.
    flip: bool = True
    # Strength of the paper's PCA colour noise (0.1 there); 0 is none.
    color_noise: float = 0.0
    # Mean of each channel, subtracted, in units of 0..255; one number stands for all channels.
    mean: tuple[float, ...] = IMAGENET_MEAN
    # Standard deviation of each channel, divided by, in units of 0..255.
    std: tuple[float, ...] = IMAGENET_STD
    # An image that can't be read: leave it out and count it, or stop.
    on_bad_image: str = "raise"
    # Threads that read and decode images; changes the speed, never the samples.
    loader_threads: int = 2


@dataclass(frozen=True)
class OptimConfig:
    """How it learns."""

    # Learning rate after warm-up.
    learning_rate: float = 0.01
    # Momentum of SGD; the rate multiplies the momentum's output, as in torch and optax.
    momentum: float = 0.9
    # Nesterov's form of momentum.
    nesterov: bool = False
    # Added to each gradient times its weight, before momentum.
    weight_decay: float = 5e-4
    # Decay biases too, as torchvision does and Caffe does not.
    decay_biases: bool = True
    # Share of the target spread evenly over all classes.
    label_smoothing: float = 0.0
    # Gradients with a larger joint norm are scaled down to it; 0 is off.
    clip_norm: float = 0.0
    # How the rate changes: constant, step, cosine or plateau.
    schedule: str = "step"
    # Steps over which the rate rises from zero.
    warmup_steps: int = 0
    # Shape of the rise: 1 is linear, 2 quadratic.
    warmup_power: float = 1.0
    # Epochs at whose start the step schedule multiplies the rate by the drop factor.
    drop_epochs: tuple[float, ...] = (30.0, 60.0)
    # What the step and plateau schedules multiply the rate by.
    drop_factor: float = 0.1
    # Evaluations without a lower loss before the plateau schedule drops the rate.
    patience: int = 5


@dataclass(frozen=True)
class RunConfig:
    """How long, from which seed, and what is written where."""

    # Decides initial weights, sample order, augmentation and dropout.
    seed: int = 0
    # Passes over the training set.
    epochs: float | None = None
    # Training steps, instead of epochs.
    steps: int | None = None
    # Directory for all that the run writes; by default a new one under runs/.
    workdir: PurePath | None = None
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


@dataclass(frozen=True)
class DevicesConfig:
    """Where it runs; changes no numbers."""

    # How JAX spreads a step over devices: jit, shard_map or pmap.
    spmd: str = "jit"
    # data=D,model=M: D times M devices, of which M share fc6, fc7 and fc8; by default M is 1.
    mesh: str | None = None
    # JAX on several hosts: this command runs on each of them, and they train one network.
    distributed: bool = False
    # HOST:PORT of process 0 for --distributed; found by itself on a TPU slice, as the next two.
    coordinator: str | None = None
    # How many processes there are.
    processes: int | None = None
    # Which of them this is, from 0.
    process: int | None = None


@dataclass(frozen=True)
class TrainConfig:
    """A whole training run."""

    # Which framework trains: jax or torch.
    framework: str = "jax"
    # Named settings that the other options change; by default one that suits the data set.
    recipe: str = "digits"
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    run: RunConfig = field(default_factory=RunConfig)
    devices: DevicesConfig = field(default_factory=DevicesConfig)

    @property
    def image_size(self) -> int:
        """Height and width of the network's input."""
        return self.model.image_size or VARIANTS[self.model.variant].image_size

    @property
    def resize_to(self) -> int:
        """Pixels to scale to before cropping: torchvision's 256 for 224 where not given."""
        return self.data.resize_to or round(self.image_size * 8 / 7)

    @property
    def preprocess(self) -> Preprocess:
        """How an image becomes the network's input at evaluation."""
        data, channels = self.data, self.model.channels
        return Preprocess(
            resize_rule=data.resize_rule,
            resize_to=self.resize_to,
            crop=self.image_size,
            channel_order="L" if channels == 1 else "RGB",
            mean=data.mean * channels if len(data.mean) == 1 else data.mean,
            std=data.std * channels if len(data.std) == 1 else data.std,
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


# Fields whose change leaves the numbers of a resumed run as they are.
FREE_ON_RESUME = {
    "workdir", "resume", "overwrite", "checkpoint_every", "keep_checkpoints", "log_every",
    "loader_threads", "data_dir", "epochs", "steps", "init_from",
}  # fmt: skip


def check(config: TrainConfig) -> None:
    """Refuse values that no run can have.

    Raises:
        UserError: naming the option, its value and what would do.
    """
    data, optim, run = config.data, config.optim, config.run
    for part in (config, config.model, data, optim, config.devices):
        for name in CHOICES.keys() & vars(part).keys():
            choose(f"--{name.replace('_', '-')}", getattr(part, name), CHOICES[name])
    rules = [
        (data.batch_size >= 1, "--batch-size", data.batch_size, "at least 1"),
        (data.loader_threads >= 1, "--loader-threads", data.loader_threads, "at least 1"),
        (config.resize_to >= config.image_size, "--resize-to", config.resize_to,
         f"no smaller than the image size, {config.image_size}"),
        (data.color_noise >= 0, "--color-noise", data.color_noise, "0 or more"),
        (all(s > 0 for s in data.std), "--std", data.std, "above 0"),
        (optim.learning_rate >= 0, "--learning-rate", optim.learning_rate, "0 or more"),
        (0 <= optim.momentum < 1, "--momentum", optim.momentum, "from 0 to below 1"),
        (optim.momentum > 0 or not optim.nesterov, "--momentum", optim.momentum,
         "above 0 with --nesterov"),
        (optim.weight_decay >= 0, "--weight-decay", optim.weight_decay, "0 or more"),
        (0 <= optim.label_smoothing < 1, "--label-smoothing", optim.label_smoothing,
         "from 0 to below 1"),
        (optim.clip_norm >= 0, "--clip-norm", optim.clip_norm, "0 or more"),
        (optim.warmup_steps >= 0, "--warmup-steps", optim.warmup_steps, "0 or more"),
        (optim.warmup_power > 0, "--warmup-power", optim.warmup_power, "above 0"),
        (optim.patience >= 1, "--patience", optim.patience, "at least 1"),
        (0 <= run.seed < 2**63, "--seed", run.seed, "from 0 to 2^63 - 1"),
        (run.epochs is None or run.epochs > 0, "--epochs", run.epochs, "above 0"),
        (run.steps is None or run.steps > 0, "--steps", run.steps, "above 0"),
        (run.log_every >= 1, "--log-every", run.log_every, "at least 1"),
        (run.eval_every is None or run.eval_every >= 1, "--eval-every", run.eval_every,
         "at least 1"),
        (run.checkpoint_every is None or run.checkpoint_every >= 1, "--checkpoint-every",
         run.checkpoint_every, "at least 1"),
        (run.keep_checkpoints >= 1, "--keep-checkpoints", run.keep_checkpoints, "at least 1"),
        (len(data.mean) in (1, config.model.channels), "--mean", data.mean,
         f"1 or {config.model.channels} numbers"),
        (len(data.std) in (1, config.model.channels), "--std", data.std,
         f"1 or {config.model.channels} numbers"),
        (data.color_noise == 0 or config.model.channels == 3, "--color-noise", data.color_noise,
         "0 unless the input has 3 channels"),
    ]  # fmt: skip
    for holds, option, value, need in rules:
        if not holds:
            raise UserError(f"{option} is {value}, but it must be {need}")
    if run.resume and run.overwrite:
        raise UserError("--resume and --overwrite exclude each other: give one of them")
    if run.steps is not None and run.epochs is not None:
        raise UserError("--steps and --epochs exclude each other: give one of them")
    if config.framework == "torch" and config.devices != DevicesConfig():
        raise UserError(
            "--spmd, --mesh and --distributed are JAX's: torch runs on several processes by "
            "`torchrun --nproc-per-node=N train.py --framework torch ...`"
        )
    _check_processes(config.devices)


def _check_processes(devices: DevicesConfig) -> None:
    named = (devices.coordinator, devices.processes, devices.process)
    if any(value is not None for value in named) and not devices.distributed:
        raise UserError("--coordinator, --processes and --process need --distributed")
    if any(value is None for value in named) and any(value is not None for value in named):
        raise UserError(
            "--coordinator HOST:PORT, --processes N and --process I go together: give all three, "
            "or none on a TPU slice"
        )
    if devices.processes is not None and not 0 <= devices.process < devices.processes:
        raise UserError(
            f"--process is {devices.process}, but it must be from 0 to below --processes, "
            f"{devices.processes}"
        )


def to_json(config: TrainConfig) -> dict[str, Any]:
    """The tree as plain JSON values, with the revision of the tables of layers."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=str)) | {"tables": REVISION}


def from_json(values: dict[str, Any]) -> TrainConfig:
    """The tree from what `to_json` gave.

    Raises:
        UserError: for fields that are missing, unknown or of the wrong type, or a variant whose
            table was another when the run began.
    """
    try:
        values = {"tables": 1, **values}
        tables = int(values.pop("tables"))
        config = _build(TrainConfig, values)
    except (TypeError, ValueError) as error:
        raise UserError(f"config.json is not one that this version wrote: {error}") from error
    refuse_outdated(
        config.model.variant, tables,
        "its network is that of 'caffe' at 224 pixels, so set variant and image_size to those in "
        "config.json to go on",
    )  # fmt: skip
    return config


def _build(kind: Any, values: Any) -> Any:
    """A dataclass from JSON values, each of the type that its field has."""
    fields = {f.name: f for f in dataclasses.fields(kind)}
    if not isinstance(values, dict) or values.keys() - fields.keys():
        raise ValueError(f"{values!r:.100} is not what {kind.__name__} holds")
    return kind(**{name: _field(fields[name], value) for name, value in values.items()})


def _field(field_: dataclasses.Field, value: Any) -> Any:
    if dataclasses.is_dataclass(field_.type):
        return _build(field_.type, value)
    if isinstance(value, list):
        value = tuple(value)
    types = get_args(field_.type) if get_origin(field_.type) is UnionType else (field_.type,)
    if PurePath in types and isinstance(value, str):
        return as_path(value)
    plain = tuple(get_origin(t) or t for t in types)
    if float in plain and type(value) is int:
        return value
    if type(value) not in plain:
        raise ValueError(f"{field_.name} is {value!r:.100}")
    return value


def changed_fields(old: TrainConfig, new: TrainConfig) -> list[str]:
    """Names of fields that differ and whose change would change a resumed run's numbers."""
    names = []
    for part in ("model", "data", "optim", "run"):
        before, after = getattr(old, part), getattr(new, part)
        names += [
            f.name
            for f in dataclasses.fields(before)
            if f.name not in FREE_ON_RESUME and getattr(before, f.name) != getattr(after, f.name)
        ]
    return names + (["framework"] if old.framework != new.framework else [])
