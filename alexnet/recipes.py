"""Named training recipes: complete configurations, each with its source and its known results."""

from dataclasses import dataclass, replace

from alexnet.config import DataConfig, ModelConfig, OptimConfig, RunConfig, TrainConfig
from alexnet.errors import choose


@dataclass(frozen=True)
class Recipe:
    """A configuration, with its source and its known results."""

    source: str
    published: str  # its result elsewhere
    measured: str  # what was run here, and under which conditions
    config: TrainConfig


_DIGITS = TrainConfig(
    recipe="digits",
    model=ModelConfig(variant="torchvision", image_size=64, init="lecun"),
    data=DataConfig(
        dataset="digits",
        batch_size=32,
        flip=False,
        mean=(77.9,),  # of the 1,797 images
        std=(95.9,),
    ),
    # The slow start keeps the first steps smooth, so that two correct runs stay together.
    optim=OptimConfig(learning_rate=0.01, schedule="cosine", warmup_steps=150, warmup_power=3.0),
    run=RunConfig(epochs=8, checkpoint_every=88),
)

_TORCHVISION = TrainConfig(
    recipe="torchvision",
    model=ModelConfig(variant="torchvision"),
    data=DataConfig(dataset="tfds:imagenet2012", batch_size=256, train_crop="area"),
    optim=OptimConfig(
        learning_rate=0.01, weight_decay=1e-4, schedule="step", drop_epochs=(30.0, 60.0)
    ),
    run=RunConfig(epochs=90, log_every=50),
)

# Pixels unchanged except for mean subtraction, as in the paper; the means are those of the authors'
# mean image (cuda-convnet2, make-data/input_meta).
_PAPER_DATA = DataConfig(
    dataset="tfds:imagenet2012",
    batch_size=128,
    resize_to=256,
    color_noise=0.1,
    mean=(127.305, 119.715, 104.913),
    std=(1.0,),
)

_PAPER = TrainConfig(
    recipe="paper",
    model=ModelConfig(variant="paper"),
    data=_PAPER_DATA,
    optim=OptimConfig(learning_rate=0.01, schedule="step", drop_epochs=(25.0, 51.0, 79.0)),
    run=RunConfig(epochs=91, log_every=50),
)

# From the log at the end of layer-params-145.cfg: the rates of all kernels fall at epochs 25, 51
# and 79, conv1's also at 67, and to zero at 72; noise ends at 67. Its epochs count from 1, so its
# 25 may come after 24 epochs; here it comes after 25. Biases keep twice the initial rate, as in the
# file, except conv1's, which is zero there (the log doesn't say from which epoch; here from 72).
# From convdata.py: one crop for 32 images, and images with noise are divided by 1.1. The mean of
# each channel replaces the mean image, which --mean-image takes from the user's own images.
_KRIZHEVSKY2012 = TrainConfig(
    recipe="krizhevsky2012",
    model=ModelConfig(variant="krizhevsky2012"),
    data=replace(_PAPER_DATA, color_noise_until=67.0, color_noise_shrink=True, crop_chunk=32),
    optim=OptimConfig(
        rule="caffe",
        learning_rate=0.01,
        decay_biases=False,
        rate_of=("bias=2",),
        rate_at=(
            "25:bias=10", "51:bias=10", "79:bias=10", "67:conv1.kernel=0.1", "72:conv1=0",
        ),
        schedule="step",
        drop_epochs=(25.0, 51.0, 79.0),
    ),
    run=RunConfig(epochs=91, log_every=50),
)  # fmt: skip

# Later practice in training plain networks: random-area crops, a cosine schedule, label smoothing,
# weight decay on kernels only, and a batch size of 512 with five epochs of warm-up.
_MODERN = TrainConfig(
    recipe="modern",
    model=ModelConfig(variant="torchvision"),
    data=DataConfig(dataset="tfds:imagenet2012", batch_size=512, train_crop="area"),
    optim=OptimConfig(
        learning_rate=0.04,
        nesterov=True,
        weight_decay=1e-4,
        decay_biases=False,
        label_smoothing=0.1,
        clip_norm=5.0,
        schedule="cosine",
        warmup_steps=5 * 2_502,
    ),
    run=RunConfig(epochs=120, log_every=50),
)

_SINGLE = TrainConfig(
    recipe="single",
    model=ModelConfig(variant="single"),
    data=_PAPER_DATA,
    optim=OptimConfig(learning_rate=0.01, schedule="plateau"),
    run=RunConfig(epochs=90, log_every=50),
)

_IMAGENET = 1_281_167  # training images
# Caffe's solvers count steps: 450,000 are 89.9 epochs of 5,004. Images are warped to 256 pixels,
# and the mean image is subtracted (here: the mean of each channel, from ilsvrc_2012_mean.npy).
_CAFFE_EPOCH = _IMAGENET // 256
_CAFFE_DATA = DataConfig(
    dataset="tfds:imagenet2012",
    batch_size=256,
    resize_rule="warp",
    resize_to=256,
    mean=(122.679, 116.669, 104.007),
    std=(1.0,),
)


def _caffe(name: str) -> TrainConfig:
    return TrainConfig(
        recipe=name,
        model=ModelConfig(variant=name),
        data=_CAFFE_DATA,
        optim=OptimConfig(
            rule="caffe",
            learning_rate=0.01,
            decay_biases=False,
            rate_of=("bias=2",),
            schedule="step",
            drop_epochs=tuple(n * 100_000 / _CAFFE_EPOCH for n in (1, 2, 3, 4)),
        ),
        run=RunConfig(epochs=450_000 / _CAFFE_EPOCH, log_every=50),
    )


def _lars(name: str, batch_size: int, rate: float, steps: int, warmup_steps: int) -> TrainConfig:
    """NVCaffe's AlexNet-BN, as in its solvers and its code of August and September 2017.

    That code has the paper's trust ratio and a linear warm-up, with its first step at
    `warmup_start`: one step behind ours.
    """
    return TrainConfig(
        recipe=name,
        model=ModelConfig(variant="bn"),
        data=replace(_CAFFE_DATA, batch_size=batch_size, std=(256.0,)),
        optim=OptimConfig(
            rule="lars",
            lars_formula="paper",
            lars_eta=0.001,
            lars_biases=True,
            learning_rate=rate,
            schedule="poly",
            poly_power=2.0,
            warmup_steps=warmup_steps,
            warmup_start=1.0,
        ),
        run=RunConfig(epochs=steps / (_IMAGENET // batch_size), log_every=10),
    )


# cuda-convnet subtracts the mean image; here it is the mean of each channel of the training images.
_CIFAR_DATA = DataConfig(
    dataset="tfds:cifar10",
    batch_size=128,
    resize_to=32,
    flip=False,
    mean=(125.3, 123.0, 113.9),
    std=(1.0,),
)


def _cifar(
    name: str, decay_of: tuple[str, ...], drops: tuple[float, ...], epochs: int
) -> TrainConfig:
    return TrainConfig(
        recipe=name,
        model=ModelConfig(variant=name.replace("-", "_")),
        data=_CIFAR_DATA,
        optim=OptimConfig(
            rule="caffe",
            learning_rate=0.001,
            weight_decay=0.004,
            decay_biases=False,
            decay_of=decay_of,
            rate_of=("bias=2",),
            schedule="step",
            drop_epochs=drops,
        ),
        run=RunConfig(epochs=epochs, log_every=50),
    )


def _figure1(nonlinearity: str, rate: float, epochs: int) -> TrainConfig:
    """No regularization of any kind, and each nonlinearity's best rate, as in the paper.

    The rates were searched over four epochs in steps of a factor of about three: docs/results.md.
    """
    return TrainConfig(
        recipe=f"figure1-{nonlinearity}",
        model=ModelConfig(variant=f"figure1_{nonlinearity}"),
        data=_CIFAR_DATA,
        optim=OptimConfig(rule="caffe", learning_rate=rate, weight_decay=0.0, schedule="constant"),
        run=RunConfig(epochs=epochs, log_every=10),
    )


_NOT_RUN_YET = "not run yet"
_NOT_RUN = "not run: it needs ImageNet, and days of a GPU"

RECIPES: dict[str, Recipe] = {
    "digits": Recipe(
        source="this project: a full-width network that trains in minutes on two CPU cores",
        published="none",
        measured="top-1 98.61 % and 98.89 % (jax, seeds 0 and 1), 98.89 % and 99.44 % (torch): "
        "`alexnet train --framework F --seed S`, 352 steps, fp32, 2 CPU cores",
        config=_DIGITS,
    ),
    "torchvision": Recipe(
        source="torchvision references/classification, `--model alexnet --lr 1e-2`",
        published="56.522 % top-1, 79.066 % top-5, center crop",
        measured=_NOT_RUN,
        config=_TORCHVISION,
    ),
    "paper": Recipe(
        source="Krizhevsky et al. 2012 and the authors' layer-params-145.cfg; the rate drops at "
        "epochs 25, 51 and 79, those of its drops that all layers have that still learn",
        published="59.3 % top-1, 81.8 % top-5, ten crops",
        measured=_NOT_RUN,
        config=_PAPER,
    ),
    "krizhevsky2012": Recipe(
        source="layers-145.cfg and layer-params-145.cfg in computerhistory/AlexNet-Source-Code, "
        "and the log in the latter",
        published="59.33 % top-1, 81.79 % top-5, ten crops (the log at epoch 91 and the paper; it "
        "goes on, at higher rates again, to 59.75 and 82.01 % at epoch 135)",
        measured=_NOT_RUN,
        config=_KRIZHEVSKY2012,
    ),
    "modern": Recipe(
        source="this project; meant to beat the best published for this network, 60.70 % top-1 "
        "(osmr/imgclsmob, alexnetb), and to come near the 61.93 % of one tower with LRN (alexnet)",
        published="none",
        measured=_NOT_RUN,
        config=_MODERN,
    ),
    "caffe": Recipe(
        source="models/bvlc_alexnet in BVLC/caffe, solver.prototxt and train_val.prototxt: rate "
        "inside momentum, biases at twice the rate and without decay",
        published="57.1 % top-1, 80.2 % top-5, center crop (the snapshot of step 360,000)",
        measured=_NOT_RUN,
        config=_caffe("caffe"),
    ),
    "caffenet": Recipe(
        source="models/bvlc_reference_caffenet in BVLC/caffe, solver.prototxt and "
        "train_val.prototxt",
        published="57.4 % top-1, 80.4 % top-5, center crop (step 310,000)",
        measured=_NOT_RUN,
        config=_caffe("caffenet"),
    ),
    "lars-8k": Recipe(
        source="models/alexnet_bn/solver_8K.prototxt in borisgin/nvcaffe, the code of You, Gitman "
        "and Ginsburg 2017 (arXiv:1708.03888)",
        published="no number stands beside the file; the paper has AlexNet-BN at a batch of 8,192 "
        "without a loss of accuracy",
        measured=_NOT_RUN,
        config=_lars("lars-8k", 8192, rate=10.0, steps=15_600, warmup_steps=600),
    ),
    "lars-32k": Recipe(
        source="models/alexnet_bn/solver_32k.prototxt in borisgin/nvcaffe; its iter_size of 4 is "
        "one batch of 32,768 here",
        published="no number stands beside the file",
        measured=_NOT_RUN,
        config=_lars("lars-32k", 32_768, rate=32.0, steps=4_000, warmup_steps=400),
    ),
    "single": Recipe(
        source="the notebook this project began from: the paper's data in one tower, the rate "
        "divided by 10 when the validation error stops improving (paper, section 5)",
        published="none",
        measured=_NOT_RUN,
        config=_SINGLE,
    ),
    "cifar-80sec": Recipe(
        source="layers-80sec.cfg and layer-params-80sec.cfg in cuda-convnet: the rate divided by "
        "10 after 8 epochs; that two more follow is ours",
        published="26 % error in 80 seconds on a GTX 580 (cuda-convnet's front page)",
        measured="24.92 % error (torch) and 25.28 % (jax), seed 0; on images stored as JPEG 26.30, "
        "26.43 and 27.25 % (torch, seeds 0 to 2), 26.21, 26.71 and 26.71 % (jax); last weights: "
        "`make reproduce-cifar-80sec`, fp32, 2 CPU cores",
        config=_cifar("cifar-80sec", ("fc4=7.5", "fc5=7.5"), (8.0,), 10),
    ),
    "cifar-18pct": Recipe(
        source="layers-18pct.cfg and layer-params-18pct.cfg in cuda-convnet: the rate divided by "
        "10 after 120 epochs, and again after 10 more; that 10 more follow is ours",
        published="18 % error in 20 minutes on a GTX 580 (cuda-convnet's front page)",
        measured="17.75 % error (jax; torch from its epoch 120 on the same); on images stored as "
        "JPEG 19.49 % (jax) and 19.62 % (torch); seed 0, last weights: `make "
        "reproduce-cifar-18pct`, fp32, 2 CPU cores",
        config=_cifar("cifar-18pct", ("fc4=250",), (120.0, 130.0), 140),
    ),
    "cifar-19pct": Recipe(
        source="layers-19pct.cfg and layer-params-19pct.cfg in cuda-convnet, cifar-18pct without "
        "normalization and with three times the decay of fc10; the schedule is that one's",
        published="19 % error in 20 minutes (the file's first line)",
        measured=_NOT_RUN_YET,
        config=_cifar("cifar-19pct", ("fc4=750",), (120.0, 130.0), 140),
    ),
    "figure1-relu": Recipe(
        source="Figure 1 of Krizhevsky et al. 2012, whose network is described no closer than by "
        "its four layers",
        published="25 % training error six times as fast as with tanh",
        measured="25 % in 7 epochs in both frameworks (seed 0)",
        config=_figure1("relu", 0.003, 12),
    ),
    "figure1-tanh": Recipe(
        source="as figure1-relu",
        published="25 % training error in six times as many epochs as with ReLUs",
        measured="25 % in 43 epochs (torch) and 40 (jax), 6.1 and 5.7 times as many (seed 0)",
        config=_figure1("tanh", 0.01, 60),
    ),
}


def recipe(name: str) -> TrainConfig:
    """The configuration of a named recipe.

    Raises:
        UserError: for an unknown name, with the nearest one.
    """
    return RECIPES[choose("recipe", name, RECIPES)].config


def default_recipe(dataset: str | None) -> str:
    """The default recipe for a data set."""
    return "digits" if dataset in (None, "digits", "synthetic") else "torchvision"
