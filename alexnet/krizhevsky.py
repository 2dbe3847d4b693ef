"""The networks of Krizhevsky's own programs, as tables: ImageNet in 2012 and 2014, CIFAR-10.

Each comment names the source file: `computerhistory/AlexNet-Source-Code` is the program of 2012
with its experiments, `akrizhevsky/cuda-convnet2` that of 2014, and `dnouri/cuda-convnet` a copy of
the one that both grew from. All three round the sizes of convolutions and pools up.
"""

import dataclasses

from alexnet.kinds import (
    LRN,
    AvgPool,
    Conv,
    Dense,
    Dropout,
    Flatten,
    Gaussian,
    Layer,
    MaxPool,
    ReLU,
    SpatialLRN,
    Tanh,
)
from alexnet.layers import Spec

_POOL = MaxPool(ceil=True)
_N01, _N01_BIAS1 = Gaussian(0.01), Gaussian(0.01, bias=1.0)
_N03, _N03_BIAS1 = Gaussian(0.03), Gaussian(0.03, bias=1.0)


def _dense_end(last: Gaussian = _N01) -> tuple[Layer, ...]:
    """Two layers of 4,096, the dropout of 2012 (`hs`, keep 0.5) after each, and the classes."""
    return (
        Flatten(),
        Dense("fc6", 4096, init=_N01_BIAS1), ReLU(), Dropout(0.5, inverted=False),
        Dense("fc7", 4096, init=_N01_BIAS1), ReLU(), Dropout(0.5, inverted=False),
        Dense("fc8", None, init=last),
    )  # fmt: skip


# layers-145.cfg and layer-params-145.cfg: the network whose log has the paper's 40.7 and 18.2 %.
# It differs from the paper's text: 224 pixels and three columns of zeros on the right and at the
# bottom, normalization before conv1's ReLU, which follows its pool, a second normalization within
# maps after conv2, and N(0, 0.03^2) in conv3 to conv5. 60,965,224 parameters.
_LRN = LRN(size=5, alpha=1e-4, beta=0.75, k=2.0, groups=2)
KRIZHEVSKY2012 = Spec(name="krizhevsky2012", image_size=224, layers=(
    Conv("conv1", 96, kernel=11, stride=4, init=_N01, ceil=True), _LRN, _POOL, ReLU(),
    Conv("conv2", 256, kernel=5, padding=2, groups=2, init=_N01_BIAS1), ReLU(), _LRN,
    SpatialLRN(size=5, alpha=1e-3, beta=0.75, k=1.0), _POOL,
    Conv("conv3", 384, kernel=3, padding=1, init=_N03), ReLU(),
    Conv("conv4", 384, kernel=3, padding=1, groups=2, init=_N03_BIAS1), ReLU(),
    Conv("conv5", 256, kernel=3, padding=1, groups=2, init=_N03_BIAS1), _POOL, ReLU(),
    *_dense_end(),
))  # fmt: skip


def _without(name: str, spec: Spec, *left_out: Layer) -> Spec:
    """A network without some of its layers."""
    layers = tuple(layer for layer in spec if layer not in left_out)
    return dataclasses.replace(spec, name=name, layers=layers)


_SPATIAL = next(layer for layer in KRIZHEVSKY2012 if isinstance(layer, SpatialLRN))

# layers-148.cfg, the paper's "without response normalization": all three such layers removed.
# 60,965,224 parameters.
NO_LRN = _without("krizhevsky2012_no_lrn", KRIZHEVSKY2012, _LRN, _SPATIAL)

# layers-167.cfg: no normalization after conv2, neither across channels nor within maps.
# 60,965,224 parameters.
NO_LRN2 = Spec("krizhevsky2012_no_lrn2", tuple(
    layer for place, layer in enumerate(KRIZHEVSKY2012)
    if not isinstance(layer, LRN | SpatialLRN) or place < 2
), image_size=224)  # fmt: skip


def _apart(layer: Layer) -> Layer:
    match layer:
        case MaxPool():
            return MaxPool(window=2, stride=2, ceil=True)
        case Conv(name="conv2"):
            return dataclasses.replace(layer, padding=1)
        case Conv(name="conv5"):
            return dataclasses.replace(layer, padding=0)
    return layer


# layers-147.cfg, the paper's "non-overlapping pooling": 2x2 pools, with conv2 and conv5 padded less
# so that fc6 still gets a 6x6 map. 60,965,224 parameters.
NO_OVERLAP = Spec("krizhevsky2012_no_overlap", tuple(map(_apart, KRIZHEVSKY2012)), image_size=224)

# layers-150.cfg: two columns that meet only at the classes, 160 channels each in conv2. A column's
# dense layers, 4,096 and 2,048 outputs, are written here as convolutions in two groups, the first
# over the whole map: 8,192 and 4,096 channels. 60,714,408 parameters.
NO_COMMUNICATION = Spec(name="krizhevsky2012_no_communication", image_size=224, layers=(
    *KRIZHEVSKY2012.layers[:4],
    Conv("conv2", 320, kernel=5, padding=2, groups=2, init=_N01_BIAS1), ReLU(), _LRN, _SPATIAL,
    _POOL,
    Conv("conv3", 384, kernel=3, padding=1, groups=2, init=_N03), ReLU(),
    Conv("conv4", 384, kernel=3, padding=1, groups=2, init=_N03_BIAS1), ReLU(),
    Conv("conv5", 256, kernel=3, padding=1, groups=2, init=_N03_BIAS1), _POOL, ReLU(),
    Conv("conv6", 8192, kernel=6, groups=2, init=_N01_BIAS1), ReLU(), Dropout(0.5, inverted=False),
    Conv("conv7", 4096, kernel=1, groups=2, init=_N01_BIAS1), ReLU(), Dropout(0.5, inverted=False),
    Flatten(), Dense("fc8", None, init=_N01),
))  # fmt: skip

# layers-145-half.cfg, the paper's net on one GPU: one tower of 48, 128, 192 and 192 channels, but
# 256 in conv5, since half of that would halve the parameters. 59,798,312 parameters.
_ONE = dataclasses.replace(_LRN, groups=1)
HALF = Spec(name="krizhevsky2012_half", image_size=224, layers=(
    Conv("conv1", 48, kernel=11, stride=4, init=_N01, ceil=True), _ONE, _POOL, ReLU(),
    Conv("conv2", 128, kernel=5, padding=2, init=_N01_BIAS1), ReLU(), _ONE, _SPATIAL, _POOL,
    Conv("conv3", 192, kernel=3, padding=1, init=_N03), ReLU(),
    Conv("conv4", 192, kernel=3, padding=1, init=_N03_BIAS1), ReLU(),
    Conv("conv5", 256, kernel=3, padding=1, init=_N03_BIAS1), _POOL, ReLU(),
    *_dense_end(),
))  # fmt: skip

# layers-imagenet-1gpu.cfg in cuda-convnet2: one tower of torchvision's widths, no normalization
# within maps, and fc8's biases from -7, near the logarithm of one class in 1,000. 61,100,840
# parameters.
CUDA_CONVNET2 = Spec(name="cuda_convnet2", image_size=224, layers=(
    Conv("conv1", 64, kernel=11, stride=4, init=_N01, ceil=True), _ONE, _POOL, ReLU(),
    Conv("conv2", 192, kernel=5, padding=2, init=_N01_BIAS1), ReLU(), _ONE, _POOL,
    Conv("conv3", 384, kernel=3, padding=1, init=_N03), ReLU(),
    Conv("conv4", 256, kernel=3, padding=1, init=_N03_BIAS1), ReLU(),
    Conv("conv5", 256, kernel=3, padding=1, init=_N03_BIAS1), _POOL, ReLU(),
    *_dense_end(last=Gaussian(0.01, bias=-7.0)),
))  # fmt: skip

# "One weird trick" (Krizhevsky 2014, arXiv:1404.5997) gives its network as 64, 192, 384, 384 and
# 256 channels; the program published with it, above, has 256 in conv4. Everything else is the same,
# but fc8's biases start from 0. 61,838,248 parameters.
ONE_WEIRD_TRICK = Spec(name="one_weird_trick", image_size=224, layers=(
    *CUDA_CONVNET2.layers[:10],
    Conv("conv4", 384, kernel=3, padding=1, init=_N03_BIAS1), ReLU(),
    Conv("conv5", 256, kernel=3, padding=1, init=_N03_BIAS1), _POOL, ReLU(),
    *_dense_end(),
))  # fmt: skip

# layers-80sec.cfg and layer-params-80sec.cfg, "26% error on CIFAR-10 in 80 seconds". The dense
# layers are called fc64 and fc10 there. 145,578 parameters.
_AVERAGE = AvgPool(ceil=True)
CIFAR_80SEC = Spec(name="cifar_80sec", image_size=32, num_classes=10, layers=(
    Conv("conv1", 32, kernel=5, padding=2, init=Gaussian(1e-4)), _POOL, ReLU(),
    Conv("conv2", 32, kernel=5, padding=2, init=_N01), ReLU(), _AVERAGE,
    Conv("conv3", 64, kernel=5, padding=2, init=_N01), ReLU(), _AVERAGE,
    Flatten(),
    Dense("fc4", 64, init=Gaussian(0.1)), ReLU(),
    Dense("fc5", None, init=Gaussian(0.1)),
))  # fmt: skip

# layers-18pct.cfg and layer-params-18pct.cfg, "18% error on CIFAR-10 in 20 minutes". 89,578
# parameters.
_MAPS3 = SpatialLRN(size=3, alpha=5e-5, beta=0.75, k=1.0)
CIFAR_18PCT = Spec(name="cifar_18pct", image_size=32, num_classes=10, layers=(
    Conv("conv1", 32, kernel=5, padding=2, init=Gaussian(1e-4)), _POOL, ReLU(), _MAPS3,
    Conv("conv2", 32, kernel=5, padding=2, init=_N01), ReLU(), _AVERAGE, _MAPS3,
    Conv("conv3", 64, kernel=5, padding=2, init=_N01), ReLU(), _AVERAGE,
    Flatten(),
    Dense("fc4", None, init=_N01),
))  # fmt: skip

# layers-19pct.cfg, the same without normalization. 89,578 parameters.
CIFAR_19PCT = _without("cifar_19pct", CIFAR_18PCT, _MAPS3)

# The pair in the paper's Figure 1, "a four-layer convolutional neural network" on CIFAR-10 with
# ReLUs or tanh. The paper says no more about it; here it is `cifar_18pct` without normalization,
# with every layer's nonlinearity right after it, and the same initial weights. 89,578 parameters.
FIGURE1_RELU = Spec(name="figure1_relu", image_size=32, num_classes=10, layers=(
    Conv("conv1", 32, kernel=5, padding=2, init=Gaussian(1e-4)), ReLU(), _POOL,
    Conv("conv2", 32, kernel=5, padding=2, init=_N01), ReLU(), _AVERAGE,
    Conv("conv3", 64, kernel=5, padding=2, init=_N01), ReLU(), _AVERAGE,
    Flatten(),
    Dense("fc4", None, init=_N01),
))  # fmt: skip
FIGURE1_TANH = Spec(name="figure1_tanh", image_size=32, num_classes=10, layers=tuple(
    Tanh() if isinstance(layer, ReLU) else layer for layer in FIGURE1_RELU
))  # fmt: skip

ALL = (
    KRIZHEVSKY2012, NO_LRN, NO_LRN2, NO_OVERLAP, NO_COMMUNICATION, HALF, CUDA_CONVNET2,
    ONE_WEIRD_TRICK,
    CIFAR_80SEC, CIFAR_18PCT, CIFAR_19PCT, FIGURE1_RELU, FIGURE1_TANH,
)  # fmt: skip
