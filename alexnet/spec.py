"""The architectures, as data: one table of layers per variant, read top to bottom.

Both frameworks walk these tables; neither knows a variant by name. A layer's numbers and its
initial weights stand in its row, each variant's source in the comment above it. `layers.py` says
what a row means.
"""

import dataclasses

from alexnet.errors import UserError, choose
from alexnet.layers import (
    LRN,
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
    trace,
)

# torchvision.models.alexnet, after "One weird trick" (Krizhevsky 2014, arXiv:1404.5997) with 256
# features in conv4: no LRN, adaptive pooling, dropout before fc6 and fc7, torch's default
# initial weights. 61,100,840 parameters.
TORCHVISION = Spec(
    name="torchvision",
    image_size=224,
    layers=(
        Conv("conv1", 64, kernel=11, stride=4, padding=2),
        ReLU(),
        MaxPool(),
        Conv("conv2", 192, kernel=5, padding=2),
        ReLU(),
        MaxPool(),
        Conv("conv3", 384, kernel=3, padding=1),
        ReLU(),
        Conv("conv4", 256, kernel=3, padding=1),
        ReLU(),
        Conv("conv5", 256, kernel=3, padding=1),
        ReLU(),
        MaxPool(),
        AdaptiveAvgPool(6),
        Flatten(),
        Dropout(0.5),
        Dense("fc6", 4096),
        ReLU(),
        Dropout(0.5),
        Dense("fc7", 4096),
        ReLU(),
        Dense("fc8", None),
    ),
)

_N01 = Gaussian(0.01)  # the paper's initial weights, section 5: N(0, 0.01^2) in every layer, ...
_N01_BIAS1 = Gaussian(0.01, bias=1.0)  # ... bias 1 in conv2, conv4, conv5, fc6 and fc7

# Krizhevsky, Sutskever, Hinton 2012, sections 3 and 4: two towers (groups in conv2, conv4 and
# conv5), LRN inside each tower, dropout after fc6 and fc7. The text says 224 pixels; 227 without
# padding gives its 55x55 map. 60,965,224 parameters.
PAPER = Spec(
    name="paper",
    image_size=227,
    layers=(
        Conv("conv1", 96, kernel=11, stride=4, init=_N01),
        ReLU(),
        LRN(size=5, alpha=1e-4, beta=0.75, k=2.0, groups=2),
        MaxPool(),
        Conv("conv2", 256, kernel=5, padding=2, groups=2, init=_N01_BIAS1),
        ReLU(),
        LRN(size=5, alpha=1e-4, beta=0.75, k=2.0, groups=2),
        MaxPool(),
        Conv("conv3", 384, kernel=3, padding=1, init=_N01),
        ReLU(),
        Conv("conv4", 384, kernel=3, padding=1, groups=2, init=_N01_BIAS1),
        ReLU(),
        Conv("conv5", 256, kernel=3, padding=1, groups=2, init=_N01_BIAS1),
        ReLU(),
        MaxPool(),
        Flatten(),
        Dense("fc6", 4096, init=_N01_BIAS1),
        ReLU(),
        Dropout(0.5),
        Dense("fc7", 4096, init=_N01_BIAS1),
        ReLU(),
        Dropout(0.5),
        Dense("fc8", None, init=_N01),
    ),
)

# The notebook this project began from: the paper's widths in one tower, no groups, LRN across
# all channels, the paper's initial weights. 62,378,344 parameters.
SINGLE = Spec(
    name="single",
    image_size=227,
    layers=(
        Conv("conv1", 96, kernel=11, stride=4, init=_N01),
        ReLU(),
        LRN(size=5, alpha=1e-4, beta=0.75, k=2.0),
        MaxPool(),
        Conv("conv2", 256, kernel=5, padding=2, init=_N01_BIAS1),
        ReLU(),
        LRN(size=5, alpha=1e-4, beta=0.75, k=2.0),
        MaxPool(),
        Conv("conv3", 384, kernel=3, padding=1, init=_N01),
        ReLU(),
        Conv("conv4", 384, kernel=3, padding=1, init=_N01_BIAS1),
        ReLU(),
        Conv("conv5", 256, kernel=3, padding=1, init=_N01_BIAS1),
        ReLU(),
        MaxPool(),
        Flatten(),
        Dense("fc6", 4096, init=_N01_BIAS1),
        ReLU(),
        Dropout(0.5),
        Dense("fc7", 4096, init=_N01_BIAS1),
        ReLU(),
        Dropout(0.5),
        Dense("fc8", None, init=_N01),
    ),
)

# bvlc_alexnet, models/bvlc_alexnet/train_val.prototxt in BVLC/caffe: the paper's two groups, but
# LRN across all channels with k=1, pooling that rounds up, and smaller biases and fc6 and fc7
# weights to start from. 60,965,224 parameters.
CAFFE = Spec(
    name="caffe",
    image_size=227,
    layers=(
        Conv("conv1", 96, kernel=11, stride=4, init=Gaussian(0.01)),
        ReLU(),
        LRN(size=5, alpha=1e-4, beta=0.75, k=1.0),
        MaxPool(ceil=True),
        Conv("conv2", 256, kernel=5, padding=2, groups=2, init=Gaussian(0.01, bias=0.1)),
        ReLU(),
        LRN(size=5, alpha=1e-4, beta=0.75, k=1.0),
        MaxPool(ceil=True),
        Conv("conv3", 384, kernel=3, padding=1, init=Gaussian(0.01)),
        ReLU(),
        Conv("conv4", 384, kernel=3, padding=1, groups=2, init=Gaussian(0.01, bias=0.1)),
        ReLU(),
        Conv("conv5", 256, kernel=3, padding=1, groups=2, init=Gaussian(0.01, bias=0.1)),
        ReLU(),
        MaxPool(ceil=True),
        Flatten(),
        Dense("fc6", 4096, init=Gaussian(0.005, bias=0.1)),
        ReLU(),
        Dropout(0.5),
        Dense("fc7", 4096, init=Gaussian(0.005, bias=0.1)),
        ReLU(),
        Dropout(0.5),
        Dense("fc8", None, init=Gaussian(0.01)),
    ),
)

# bvlc_reference_caffenet, models/bvlc_reference_caffenet/train_val.prototxt in BVLC/caffe: LRN
# after pooling instead of before it, and biases that start from 1. 60,965,224 parameters.
CAFFENET = Spec(
    name="caffenet",
    image_size=227,
    layers=(
        Conv("conv1", 96, kernel=11, stride=4, init=Gaussian(0.01)),
        ReLU(),
        MaxPool(ceil=True),
        LRN(size=5, alpha=1e-4, beta=0.75, k=1.0),
        Conv("conv2", 256, kernel=5, padding=2, groups=2, init=Gaussian(0.01, bias=1.0)),
        ReLU(),
        MaxPool(ceil=True),
        LRN(size=5, alpha=1e-4, beta=0.75, k=1.0),
        Conv("conv3", 384, kernel=3, padding=1, init=Gaussian(0.01)),
        ReLU(),
        Conv("conv4", 384, kernel=3, padding=1, groups=2, init=Gaussian(0.01, bias=1.0)),
        ReLU(),
        Conv("conv5", 256, kernel=3, padding=1, groups=2, init=Gaussian(0.01, bias=1.0)),
        ReLU(),
        MaxPool(ceil=True),
        Flatten(),
        Dense("fc6", 4096, init=Gaussian(0.005, bias=1.0)),
        ReLU(),
        Dropout(0.5),
        Dense("fc7", 4096, init=Gaussian(0.005, bias=1.0)),
        ReLU(),
        Dropout(0.5),
        Dense("fc8", None, init=Gaussian(0.01)),
    ),
)

# bvlcalexnet in the ONNX model zoo: bvlc_alexnet fed 224 pixels, so that conv1 gives 54x54, with
# Caffe's rounding up in pool5 alone. The first two pools are not padded, the last one is, by 1 on
# the right and at the bottom: 26, 12 and 6 (light_bvlc_alexnet.onnx in the onnx package,
# backend/test/data/light, is its graph). 60,965,224 parameters.
ONNX_ZOO = Spec(
    name="onnx_zoo",
    image_size=224,
    layers=(
        Conv("conv1", 96, kernel=11, stride=4, init=Gaussian(0.01)),
        ReLU(),
        LRN(size=5, alpha=1e-4, beta=0.75, k=1.0),
        MaxPool(),
        Conv("conv2", 256, kernel=5, padding=2, groups=2, init=Gaussian(0.01, bias=0.1)),
        ReLU(),
        LRN(size=5, alpha=1e-4, beta=0.75, k=1.0),
        MaxPool(),
        Conv("conv3", 384, kernel=3, padding=1, init=Gaussian(0.01)),
        ReLU(),
        Conv("conv4", 384, kernel=3, padding=1, groups=2, init=Gaussian(0.01, bias=0.1)),
        ReLU(),
        Conv("conv5", 256, kernel=3, padding=1, groups=2, init=Gaussian(0.01, bias=0.1)),
        ReLU(),
        MaxPool(ceil=True),
        Flatten(),
        Dense("fc6", 4096, init=Gaussian(0.005, bias=0.1)),
        ReLU(),
        Dropout(0.5),
        Dense("fc7", 4096, init=Gaussian(0.005, bias=0.1)),
        ReLU(),
        Dropout(0.5),
        Dense("fc8", None, init=Gaussian(0.01)),
    ),
)

# The tables' revision, which files that hold a variant's name alone carry along. In the first one
# onnx_zoo was bvlc_alexnet at 224 pixels: all three pools rounded up.
REVISION = 2

# NVCaffe's AlexNet-BN, models/alexnet_bn/train_val2.prototxt in borisgin/nvcaffe: batch
# normalization in place of LRN, after pool1 and pool2 and after the ReLUs of conv3 and conv4,
# without scale and shift; the network of the LARS paper (You et al. 2017, arXiv:1708.03888).
# 60,965,224 parameters.
_BN = BatchNorm("", epsilon=1e-4, momentum=0.9, affine=False)
_N01_BIAS001 = Gaussian(0.01, bias=0.01)
BN = Spec(
    name="bn",
    image_size=227,
    layers=(
        Conv("conv1", 96, kernel=11, stride=4, init=_N01_BIAS001),
        ReLU(),
        MaxPool(ceil=True),
        dataclasses.replace(_BN, name="bn2"),
        Conv("conv2", 256, kernel=5, padding=2, groups=2, init=_N01_BIAS001),
        ReLU(),
        MaxPool(ceil=True),
        dataclasses.replace(_BN, name="bn3"),
        Conv("conv3", 384, kernel=3, padding=1, init=_N01_BIAS001),
        ReLU(),
        dataclasses.replace(_BN, name="bn4"),
        Conv("conv4", 384, kernel=3, padding=1, groups=2, init=_N01_BIAS001),
        ReLU(),
        dataclasses.replace(_BN, name="bn5"),
        Conv("conv5", 256, kernel=3, padding=1, groups=2, init=_N01_BIAS001),
        ReLU(),
        MaxPool(ceil=True),
        Flatten(),
        Dense("fc6", 4096, init=Gaussian(0.005, bias=0.1)),
        ReLU(),
        Dropout(0.5),
        Dense("fc7", 4096, init=Gaussian(0.005, bias=0.1)),
        ReLU(),
        Dropout(0.5),
        Dense("fc8", None, init=_N01_BIAS001),
    ),
)

VARIANTS: dict[str, Spec] = {
    spec.name: spec for spec in (TORCHVISION, PAPER, SINGLE, CAFFE, CAFFENET, ONNX_ZOO, BN)
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
    if num_classes < 1 or channels < 1 or not 0 < width <= 1:
        raise UserError(
            f"classes and channels must be at least 1 and width in (0, 1]; got {num_classes}, "
            f"{channels} and {width}"
        )

    def resized(layer: Layer) -> Layer:
        if not isinstance(layer, Conv | Dense):
            return layer
        layer = dataclasses.replace(layer, init=init or layer.init)
        if layer.features is None or width == 1:
            return layer
        return dataclasses.replace(layer, features=max(4, 4 * round(layer.features * width / 4)))

    spec = dataclasses.replace(
        base,
        layers=tuple(map(resized, base.layers)),
        image_size=base.image_size if image_size is None else image_size,
        num_classes=num_classes,
        channels=channels,
    )
    trace(spec)  # raises where the image is too small
    return spec


def like(base: Spec, other: Spec) -> Spec:
    """A network's table with the sizes of another one and, layer by layer, its features."""
    features = [layer.features for layer in other if isinstance(layer, Conv | Dense)]
    taken = iter(features)

    def resized(layer: Layer) -> Layer:
        if not isinstance(layer, Conv | Dense):
            return layer
        found = next(taken, None)
        if layer.features is None or found is None:
            return layer
        return dataclasses.replace(layer, features=found)

    return dataclasses.replace(
        base,
        layers=tuple(map(resized, base)),
        image_size=other.image_size,
        num_classes=other.num_classes,
        channels=other.channels,
    )


def refuse_outdated(name: str, revision: int, advice: str) -> None:
    """Refuse a variant's name in a file of an older revision, where its table was another.

    Raises:
        UserError: saying what was wrong, and `advice`.
    """
    if name == "onnx_zoo" and revision < 2:
        raise UserError(
            "it was saved as variant 'onnx_zoo' by a version whose table was wrong (maps of 27 and "
            f"13 where the zoo's graph has 26 and 12): {advice}"
        )
