"""The work that `alexnet bench` hands to one child process, as plain data."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from alexnet.bench.plain import PlainOptions
from alexnet.config import Framework, OptimConfig, TrainConfig
from alexnet.layers import Spec
from alexnet.recipes import RECIPES
from alexnet.spec import variant

What = Literal["train", "infer", "input", "convert"]
Kind = Literal["ours", "ours, reading", "ours, compiled", "plain", "plain, compiled"]
SYNTHETIC = "synthetic"  # the data set of random images
# Small, since most jobs repeat the same batches: once those are memorized, gradients become so
# small that arithmetic slows down.
RATE = 1e-4


@dataclass(frozen=True)
class Job:
    """One contender: what it runs, on which network, in which batches."""

    what: What
    kind: Kind = "ours"
    framework: Framework | None = None  # None for work that needs no framework
    variant: str = "torchvision"
    image_size: int | None = None
    num_classes: int = 1000
    width: float = 1.0
    batch_size: int = 32
    precision: str = "fp32"
    seed: int = 0
    dataset: str = SYNTHETIC
    data_dir: str | None = None
    loader_threads: int = 2
    loader_workers: int = 0
    directory: str = ""  # for output files
    layers: bool = False  # time each layer by itself instead of whole steps

    @property
    def name(self) -> str:
        """The contender in words: `jax`, `plain torch, compiled`."""
        if self.framework is None:
            return self.what
        whose, comma, rest = self.kind.partition(",")
        return f"{self.framework if self.is_ours else f'{whose} {self.framework}'}{comma}{rest}"

    @property
    def is_ours(self) -> bool:
        """True for this project's own engines."""
        return self.kind.startswith("ours")

    @property
    def reads(self) -> bool:
        """True for training on new batches of a data set each step, as `train` does."""
        return self.kind == "ours, reading"

    @property
    def compiled(self) -> bool:
        """True for contenders that use torch.compile."""
        return self.kind.endswith("compiled")

    @property
    def spec(self) -> Spec:
        """The network."""
        return variant(
            self.variant,
            num_classes=self.num_classes,
            image_size=self.image_size,
            width=self.width,
        )

    @property
    def config(self) -> TrainConfig:
        """The variant's recipe, or the paper's if it has none, at this job's sizes."""
        base = RECIPES.get(self.variant.replace("_", "-"), RECIPES["paper"]).config
        model = dataclasses.replace(
            base.model,
            variant=self.variant,
            image_size=self.image_size,
            width=self.width,
            precision=self.precision,  # type: ignore[arg-type]
        )
        data = dataclasses.replace(
            base.data,
            batch_size=self.batch_size,
            dataset=self.dataset,
            data_dir=self.data_dir,
            loader_threads=self.loader_threads,
            loader_workers=self.loader_workers,
            # The recipe's own at its image size; at any other, the default ratio.
            resize_to=base.data.resize_to if self.spec.image_size == base.image_size else None,
        )
        run = dataclasses.replace(base.run, seed=self.seed)
        return dataclasses.replace(base, model=model, data=data, run=run)

    @property
    def optim(self) -> OptimConfig:
        """Gradient descent with the recipe's momentum and weight decay, at one constant rate."""
        of_recipe = self.config.optim
        return OptimConfig(
            learning_rate=RATE,
            momentum=of_recipe.momentum,
            weight_decay=of_recipe.weight_decay,
            schedule="constant",
        )

    @property
    def plain(self) -> PlainOptions:
        """The same settings for a plain network."""
        normalize, optim = self.config.preprocess.normalize, self.optim
        return PlainOptions(
            normalize.mean,
            normalize.std,
            precision=self.precision,
            train=self.what == "train",
            compiled=self.compiled,
            rate=optim.learning_rate,
            momentum=optim.momentum,
            weight_decay=optim.weight_decay,
        )
