"""The architectures, as data: one table of layers per variant, read top to bottom.

Both frameworks build networks from these tables; neither knows a variant by name. The comment
above each variant names its source; `kinds.py` defines the rows. The variants of Krizhevsky's own
programs are in `krizhevsky.py`.
"""

import dataclasses
from numbers import Integral, Real
from typing import Any

from alexnet import krizhevsky
from alexnet.errors import UserError, choose
from alexnet.layers import (
    LRN,
    MAX_PARAMS,
    AdaptiveAvgPool,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    Flatten,
    Gaussian,
    Init,
    Layer,
    MaxPool,
    ReLU,
    Spec,
)

# torchvision.models.alexnet, after "One weird trick" (Krizhevsky 2014, arXiv:1404.5997) with 256
# features in conv4: no LRN, adaptive pooling, dropout before fc6 and fc7, torch's default
# initial weights. 61,100,840 parameters.
TORCHVISION = Spec(name="torchvision", image_size=224, layers=(
    Conv("conv1", 64, kernel=11, stride=4, padding=2), ReLU(), MaxPool(),
    Conv("conv2", 192, kernel=5, padding=2), ReLU(), MaxPool(),
    Conv("conv3", 384, kernel=3, padding=1), ReLU(),
    Conv("conv4", 256, kernel=3, padding=1), ReLU(),
    Conv("conv5", 256, kernel=3, padding=1), ReLU(), MaxPool(),
    AdaptiveAvgPool(6), Flatten(),
    Dropout(0.5), Dense("fc6", 4096), ReLU(),
    Dropout(0.5), Dense("fc7", 4096), ReLU(),
    Dense("fc8", None),
))  # fmt: skip


def _dense_end(hidden: Init, last: Init) -> tuple[Layer, ...]:
    """The last layers of all other variants: dropout after fc6 and fc7 (paper, section 4.2)."""
    return (
        Flatten(),
        Dense("fc6", 4096, init=hidden), ReLU(), Dropout(0.5),
        Dense("fc7", 4096, init=hidden), ReLU(), Dropout(0.5),
        Dense("fc8", None, init=last),
    )  # fmt: skip


# Section 5 of the paper: N(0, 0.01^2) in every layer, bias 1 in conv2, conv4, conv5, fc6 and fc7.
_N01, _N01_BIAS1 = Gaussian(0.01), Gaussian(0.01, bias=1.0)

# Krizhevsky, Sutskever, Hinton 2012, sections 3 and 4: two towers (groups in conv2, conv4 and
# conv5) and LRN inside each tower. The text says 224 pixels; 227 without padding gives its 55x55
# map. 60,965,224 parameters.
PAPER = Spec(name="paper", image_size=227, layers=(
    Conv("conv1", 96, kernel=11, stride=4, init=_N01), ReLU(),
    LRN(size=5, alpha=1e-4, beta=0.75, k=2.0, groups=2), MaxPool(),
    Conv("conv2", 256, kernel=5, padding=2, groups=2, init=_N01_BIAS1), ReLU(),
    LRN(size=5, alpha=1e-4, beta=0.75, k=2.0, groups=2), MaxPool(),
    Conv("conv3", 384, kernel=3, padding=1, init=_N01), ReLU(),
    Conv("conv4", 384, kernel=3, padding=1, groups=2, init=_N01_BIAS1), ReLU(),
    Conv("conv5", 256, kernel=3, padding=1, groups=2, init=_N01_BIAS1), ReLU(), MaxPool(),
    *_dense_end(hidden=_N01_BIAS1, last=_N01),
))  # fmt: skip

# The notebook that this project started from: the paper's network in one tower, without groups,
# with LRN across all channels. 62,378,344 parameters.
SINGLE = Spec(name="single", image_size=227, layers=tuple(
    dataclasses.replace(layer, groups=1) if isinstance(layer, Conv | LRN) else layer
    for layer in PAPER
))  # fmt: skip

# bvlc_alexnet, models/bvlc_alexnet/train_val.prototxt in BVLC/caffe: the paper's two groups, but
# LRN across all channels with k=1, pooling that rounds up, and smaller initial biases and initial
# fc6 and fc7 weights. 60,965,224 parameters.
_N01_BIAS01, _N005_BIAS01 = Gaussian(0.01, bias=0.1), Gaussian(0.005, bias=0.1)
CAFFE = Spec(name="caffe", image_size=227, layers=(
    Conv("conv1", 96, kernel=11, stride=4, init=_N01), ReLU(),
    LRN(size=5, alpha=1e-4, beta=0.75, k=1.0), MaxPool(ceil=True),
    Conv("conv2", 256, kernel=5, padding=2, groups=2, init=_N01_BIAS01), ReLU(),
    LRN(size=5, alpha=1e-4, beta=0.75, k=1.0), MaxPool(ceil=True),
    Conv("conv3", 384, kernel=3, padding=1, init=_N01), ReLU(),
    Conv("conv4", 384, kernel=3, padding=1, groups=2, init=_N01_BIAS01), ReLU(),
    Conv("conv5", 256, kernel=3, padding=1, groups=2, init=_N01_BIAS01), ReLU(), MaxPool(ceil=True),
    *_dense_end(hidden=_N005_BIAS01, last=_N01),
))  # fmt: skip

# bvlc_reference_caffenet, models/bvlc_reference_caffenet/train_val.prototxt in BVLC/caffe: LRN
# after pooling instead of before it, and biases that start from 1. 60,965,224 parameters.
CAFFENET = Spec(name="caffenet", image_size=227, layers=(
    Conv("conv1", 96, kernel=11, stride=4, init=_N01), ReLU(),
    MaxPool(ceil=True), LRN(size=5, alpha=1e-4, beta=0.75, k=1.0),
    Conv("conv2", 256, kernel=5, padding=2, groups=2, init=_N01_BIAS1), ReLU(),
    MaxPool(ceil=True), LRN(size=5, alpha=1e-4, beta=0.75, k=1.0),
    Conv("conv3", 384, kernel=3, padding=1, init=_N01), ReLU(),
    Conv("conv4", 384, kernel=3, padding=1, groups=2, init=_N01_BIAS1), ReLU(),
    Conv("conv5", 256, kernel=3, padding=1, groups=2, init=_N01_BIAS1), ReLU(), MaxPool(ceil=True),
    *_dense_end(hidden=Gaussian(0.005, bias=1.0), last=_N01),
))  # fmt: skip

# bvlcalexnet in the ONNX model zoo: bvlc_alexnet fed 224 pixels, so that conv1 gives 54x54, with
# Caffe's rounding up only in pool5. The first two pools are not padded; the last one is, by 1 on
# the right and at the bottom: 26, 12 and 6 (light_bvlc_alexnet.onnx in the onnx package,
# backend/test/data/light, is its graph). 60,965,224 parameters.
ONNX_ZOO = Spec(name="onnx_zoo", image_size=224, layers=(
    Conv("conv1", 96, kernel=11, stride=4, init=_N01), ReLU(),
    LRN(size=5, alpha=1e-4, beta=0.75, k=1.0), MaxPool(),
    Conv("conv2", 256, kernel=5, padding=2, groups=2, init=_N01_BIAS01), ReLU(),
    LRN(size=5, alpha=1e-4, beta=0.75, k=1.0), MaxPool(),
    Conv("conv3", 384, kernel=3, padding=1, init=_N01), ReLU(),
    Conv("conv4", 384, kernel=3, padding=1, groups=2, init=_N01_BIAS01), ReLU(),
    Conv("conv5", 256, kernel=3, padding=1, groups=2, init=_N01_BIAS01), ReLU(), MaxPool(ceil=True),
    *_dense_end(hidden=_N005_BIAS01, last=_N01),
))  # fmt: skip

# The tables' revision, stored in files that hold only a variant's name. In the first one, onnx_zoo
# was bvlc_alexnet at 224 pixels: all three pools rounded up.
REVISION = 2

# NVCaffe's AlexNet-BN, models/alexnet_bn/train_val2.prototxt in borisgin/nvcaffe: batch
# normalization in place of LRN, after pool1 and pool2 and after the ReLUs of conv3 and conv4,
# without scale and shift; the network of the LARS paper (You et al. 2017, arXiv:1708.03888).
# 60,965,224 parameters.
_N01_BIAS001 = Gaussian(0.01, bias=0.01)
BN = Spec(name="bn", image_size=227, layers=(
    Conv("conv1", 96, kernel=11, stride=4, init=_N01_BIAS001), ReLU(), MaxPool(ceil=True),
    BatchNorm("bn2", epsilon=1e-4, momentum=0.9, affine=False),
    Conv("conv2", 256, kernel=5, padding=2, groups=2, init=_N01_BIAS001), ReLU(),
    MaxPool(ceil=True), BatchNorm("bn3", epsilon=1e-4, momentum=0.9, affine=False),
    Conv("conv3", 384, kernel=3, padding=1, init=_N01_BIAS001), ReLU(),
    BatchNorm("bn4", epsilon=1e-4, momentum=0.9, affine=False),
    Conv("conv4", 384, kernel=3, padding=1, groups=2, init=_N01_BIAS001), ReLU(),
    BatchNorm("bn5", epsilon=1e-4, momentum=0.9, affine=False),
    Conv("conv5", 256, kernel=3, padding=1, groups=2, init=_N01_BIAS001), ReLU(),
    MaxPool(ceil=True),
    *_dense_end(hidden=_N005_BIAS01, last=_N01_BIAS001),
))  # fmt: skip

VARIANTS: dict[str, Spec] = {
    spec.name: spec
    for spec in (TORCHVISION, PAPER, SINGLE, CAFFE, CAFFENET, ONNX_ZOO, BN, *krizhevsky.ALL)
}


def variant(
    name: str,
    *,
    num_classes: int = 1000,
    channels: int = 3,
    image_size: int | None = None,
    width: float = 1.0,
    init: Init | None = None,
) -> Spec:
    """A variant by name, at the sizes given.

    `image_size=None` keeps the variant's own; `width` scales the features of every hidden layer
    (to a multiple of 4); `init` replaces the initial weights of every layer.

    Raises:
        UserError: for an unknown name, or sizes that the network can't have.
    """
    base = VARIANTS[choose("variant", name, VARIANTS)]
    if isinstance(width, bool) or not isinstance(width, Real) or not 0 < width <= 1:
        raise UserError(f"width is {width!r:.40}, but it must be above 0 and at most 1")

    def resized(layer: Layer) -> Layer:
        if not isinstance(layer, Conv | Dense):
            return layer
        layer = dataclasses.replace(layer, init=init or layer.init)
        if layer.features is None or width == 1:
            return layer
        return dataclasses.replace(layer, features=max(4, 4 * round(layer.features * width / 4)))

    size = base.image_size if image_size is None else image_size
    sizes = map(_plain, (size, num_classes, channels))
    spec = Spec(name, tuple(map(resized, base)), *sizes)
    count = spec.num_params  # raises where the image is too small
    if count > MAX_PARAMS:
        raise UserError(
            f"variant '{name}' would have {count:,} parameters with image_size {spec.image_size} "
            f"and num_classes {spec.num_classes}: at most {MAX_PARAMS:,} are possible"
        )
    return spec


def _plain(size: Any) -> Any:
    """NumPy's integers as Python's."""
    return int(size) if isinstance(size, Integral) and not isinstance(size, bool) else size


def like(base: Spec, other: Spec) -> Spec:
    """A network's table with the sizes of another network and, layer by layer, its features."""
    features = iter([layer.features for layer in other if isinstance(layer, Conv | Dense)])

    def resized(layer: Layer) -> Layer:
        if not isinstance(layer, Conv | Dense):
            return layer
        found = next(features, None)
        if found is None or layer.features is None:
            return layer
        return dataclasses.replace(layer, features=found)

    layers = tuple(map(resized, base))
    return Spec(base.name, layers, other.image_size, other.num_classes, other.channels)


def refuse_outdated(name: str, revision: int, advice: str) -> None:
    """Refuse a variant's name in a file of an older revision if its table has changed since.

    Raises:
        UserError: saying what was wrong, and `advice`.
    """
    if name == "onnx_zoo" and revision < 2:
        raise UserError(
            "it was saved as variant 'onnx_zoo' by a version whose table was wrong (maps of 27 and "
            f"13 where the zoo's graph has 26 and 12): {advice}"
        )
