"""What torch's exporters write, above all for LRN, which they have no operator for."""

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from alexnet.errors import UserError
from alexnet.layers import LRN as SpecLRN
from alexnet.weights import Weights, load
from alexnet_torch import AlexNet

from .helpers import forward, images, narrow
from .test_onnx import run


class Towers(nn.Module):
    """LRN in each half of the channels, as people write the paper's."""

    def forward(self, x):
        return torch.cat(
            [F.local_response_norm(half, 5, 1e-4, 0.75, 2.0) for half in x.chunk(2, 1)], 1
        )


class Folded(nn.Module):
    """The same with the halves as images of their own."""

    def forward(self, x):
        n, c, h, w = x.shape
        halves = x.reshape(n * 2, c // 2, h, w)
        return F.local_response_norm(halves, 5, 1e-4, 0.75, 2.0).reshape(n, c, h, w)


class Net(nn.Module):
    """A net as people write them, narrow, with a module of theirs in LRN's place."""

    def __init__(self, name: str, lrn: nn.Module, flatten: str = "flatten"):
        super().__init__()
        spec = narrow(name).spec
        groups, after = (1 if name == "single" else 2), name == "caffenet"
        pool = nn.MaxPool2d(3, 2, ceil_mode=name.startswith("caffe"))
        both = [pool, lrn] if after else [lrn, pool]
        n = [layer.features for layer in spec if hasattr(layer, "features")]
        self.features = nn.Sequential(
            nn.Conv2d(3, n[0], 11, 4), nn.ReLU(), *both,
            nn.Conv2d(n[0], n[1], 5, padding=2, groups=groups), nn.ReLU(), *both,
            nn.Conv2d(n[1], n[2], 3, padding=1), nn.ReLU(),
            nn.Conv2d(n[2], n[3], 3, padding=1, groups=groups), nn.ReLU(),
            nn.Conv2d(n[3], n[4], 3, padding=1, groups=groups), nn.ReLU(), pool,
        )  # fmt: skip
        self.classifier = nn.Sequential(
            nn.Linear(n[4] * 36, n[5]), nn.ReLU(), nn.Dropout(),
            nn.Linear(n[5], n[6]), nn.ReLU(), nn.Dropout(), nn.Linear(n[6], spec.num_classes),
        )  # fmt: skip
        self.flatten = flatten
        torch.manual_seed(0)
        for parameter in self.parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 20
            nn.init.normal_(parameter, std=(2 / fan_in) ** 0.5)

    def forward(self, x):
        x, count = self.features(x), x.size(0)
        x = x.view(count, -1) if self.flatten == "view" else torch.flatten(x, 1)
        return self.classifier(x)


class Wrapped(nn.Module):
    """This project's own network: its keywords are not for the older exporter."""

    def __init__(self, name: str):
        super().__init__()
        weights = narrow(name)
        self.net = AlexNet(weights.spec, weights=weights.arrays)

    def forward(self, x):
        return self.net(x)


def exported(net: nn.Module, x: np.ndarray, path, opset: int = 17, batch: str = "fixed", **options):
    """The bytes of the older exporter's file; the newer one needs a package that is not here."""
    nchw = torch.from_numpy(x).permute(0, 3, 1, 2).contiguous()
    axes = {"dynamic_axes": {"x": {0: "batch"}}} if batch == "any" else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net.eval(), (nchw,), path, dynamo=False, input_names=["x"], opset_version=opset,
            **axes, **options,
        )  # fmt: skip
    return path.read_bytes()


def strong_images(name: str) -> np.ndarray:
    """Images after which LRN's sum of squares counts beside its k."""
    return 100 * images(narrow(name).spec)


NETS = {
    "single": lambda: ("single", Net("single", nn.LocalResponseNorm(5, 1e-4, 0.75, 2.0))),
    "single, view": lambda: ("single", Net("single", nn.LocalResponseNorm(5, k=2.0), "view")),
    "caffe": lambda: ("caffe", Net("caffe", nn.LocalResponseNorm(5))),
    "caffenet": lambda: ("caffenet", Net("caffenet", nn.LocalResponseNorm(5))),
    "paper, towers": lambda: ("paper", Net("paper", Towers())),
    "paper, folded": lambda: ("paper", Net("paper", Folded())),
    "paper, this project's": lambda: ("paper", Wrapped("paper")),
    "caffe, this project's": lambda: ("caffe", Wrapped("caffe")),
    "torchvision, this project's": lambda: ("torchvision", Wrapped("torchvision")),
}


@pytest.mark.parametrize(
    ("case", "opset", "batch"),
    [
        *((case, 13, "any") for case in NETS),
        *((case, 20, "fixed") for case in NETS),
        ("single", 11, "fixed"), ("caffenet", 11, "any"), ("paper, towers", 17, "fixed"),
    ],
)  # fmt: skip
def test_exports_with_lrn(case, opset, batch, tmp_path):
    name, net = NETS[case]()
    x = strong_images(name)
    data = exported(net, x, tmp_path / "a.onnx", opset, batch)
    read = load(tmp_path / "a.onnx")
    assert read.spec.name == name
    expected, ours = run(data, x), forward(read, x)
    apart = np.abs(ours - expected).max() / expected.std()
    print(f"{case}, opset {opset}: {apart:.1e} of the spread")
    assert apart < 1e-4
    if name != "torchvision":  # the control: without LRN the bound is missed
        assert np.abs(without_lrn(read, x) - expected).max() > 1e-2 * expected.std()


def without_lrn(weights: Weights, x: np.ndarray) -> np.ndarray:
    layers = tuple(layer for layer in weights.spec if not isinstance(layer, SpecLRN))
    spec = type(weights.spec)("plain", layers, weights.spec.image_size)
    return forward(Weights(weights.arrays, spec, weights.preprocess), x)


@pytest.mark.parametrize(
    "options", [{"do_constant_folding": False}, {"keep_initializers_as_inputs": True}]
)
def test_exports_with_options(options, tmp_path):
    name, net = NETS["single, view"]()
    x = strong_images(name)
    data = exported(net, x, tmp_path / "a.onnx", 13, "any", **options)
    read = load(tmp_path / "a.onnx")
    expected = run(data, x)
    assert np.abs(forward(read, x) - expected).max() < 1e-4 * expected.std()


class Odd(nn.Module):
    """Something that squares and sums the image, and is no LRN."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def _window(x, axis=2, before=2, after=2):
    """The mean of squares along one axis of (batch, 1, channels, height, width)."""
    pads = [0] * 6
    pads[2 * (4 - axis)], pads[2 * (4 - axis) + 1] = before, after
    kernel = [1, 1, 1]
    kernel[axis - 2] = before + after + 1
    squares = F.pad((x * x)[:, None], pads)
    return F.avg_pool3d(squares, kernel, stride=1).squeeze(1)


# All three fit.
NO_LRN = "nearest is '(single|torchvision|one_weird_trick)', but what reaches its conv2 is off by"


def _slices(x, factors):
    """A weighted sum of squares of neighbouring channels, by adding slices."""
    squares = F.pad(x * x, (0, 0, 0, 0, 2, 2))
    return sum(factor * squares[:, i : i + x.shape[1]] for i, factor in enumerate(factors))


@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize(
    "function",
    [
        lambda x: x / (2 + 1e-4 * _window(x)) ** 0.75,
        lambda x: x * (_window(x) * 1e-4 + 2) ** -0.75,
        lambda x: x / (2 + 2e-5 * _slices(x, [1] * 5)) ** 0.75,
        lambda x: x * (2 + _slices(x, [2e-5] * 5)).pow(3).sqrt().sqrt().reciprocal(),
    ],
)
def test_lrn_as_people_write_it(function, opset, tmp_path):
    """What the refusals below differ from in one thing each."""
    exported(Net("single", Odd(function)), strong_images("single"), tmp_path / "a.onnx", opset)
    assert load(tmp_path / "a.onnx").spec.name == "single"


@pytest.mark.parametrize(
    ("lrn", "message"),
    [
        (nn.LocalResponseNorm(5, 2e-4, 0.75, 2.0), NO_LRN),
        (nn.LocalResponseNorm(5, 1e-4, 0.5, 2.0), NO_LRN),
        (nn.LocalResponseNorm(3, 1e-4, 0.75, 2.0), NO_LRN),
        (nn.LocalResponseNorm(5, 1e-4, 0.75, 1.5), NO_LRN),
        (Towers(), NO_LRN),
        (Odd(lambda x: x / (2 + 3e-5 * _slices(x, [1] * 5)) ** 0.75), NO_LRN),
        (Odd(lambda x: x / (2 + _slices(x, [1, 1, 2, 1, 1])) ** 0.75), NO_LRN),
        (Odd(lambda x: x / (2 + _slices(x, [1, 0, 1, 1, 1])) ** 0.75), NO_LRN),
        (Odd(lambda x: x / (2 + 1e-4 * _window(x, axis=4)) ** 0.75), NO_LRN),
        # along rows instead of channels; off centre; another image below; a mean in its place
        (Odd(lambda x: x / (2 + 1e-4 * _window(x, axis=3)) ** 0.75), NO_LRN),
        (Odd(lambda x: x / (2 + 1e-4 * _window(x, 2, 1, 3)) ** 0.75), NO_LRN),
        (Odd(lambda x: (x + 1) / (2 + 1e-4 * _window(x)) ** 0.75), NO_LRN),
        (Odd(lambda x: x * (2 + 1e-4 * _window(x)) ** 0.75 + x), NO_LRN),
        (Odd(lambda x: x / (2 + (x * x).mean(1, keepdim=True))), "'ReduceMean', which AlexNet"),
        (Odd(lambda x: x.flip(1)), NO_LRN),
        (Odd(lambda x: x + x), NO_LRN),
        (Odd(lambda x: x.transpose(2, 3)), NO_LRN),
    ],
)  # fmt: skip
def test_what_is_no_lrn_of_a_variant(lrn, message, tmp_path):
    exported(Net("single", lrn), strong_images("single"), tmp_path / "a.onnx")
    with pytest.raises(UserError, match=message):
        load(tmp_path / "a.onnx")


@pytest.mark.parametrize("opset", [9, 17])
def test_padding_that_is_not_zero(opset, tmp_path):
    def squares_in_ones(x):
        padded = F.pad((x * x)[:, None], (0, 0, 0, 0, 2, 2), value=1.0)
        return x / (2 + 1e-4 * F.avg_pool3d(padded, (5, 1, 1), stride=1).squeeze(1)) ** 0.75

    exported(
        Net("single", Odd(squares_in_ones)), strong_images("single"), tmp_path / "a.onnx", opset
    )
    with pytest.raises(UserError, match=NO_LRN):
        load(tmp_path / "a.onnx")


@pytest.mark.parametrize(
    "tail", [torch.square, lambda y: y[:, :5], lambda y: y * 2, lambda y: (y, y * y)]
)
def test_more_after_the_logits_is_refused(tail, tmp_path):
    class More(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = Net("single", nn.LocalResponseNorm(5, k=2.0))

        def forward(self, x):
            return tail(self.net(x))

    exported(More(), strong_images("single"), tmp_path / "a.onnx")
    with pytest.raises(UserError, match=r"what comes out is|2 outputs"):
        load(tmp_path / "a.onnx")
