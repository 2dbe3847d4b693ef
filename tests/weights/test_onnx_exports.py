"""What torch's exporters write, above all for LRN, which they have no operator for."""

import itertools
import warnings

import numpy as np
import onnx
import onnx.version_converter
import pytest
import torch
import torch.nn.functional as F
from onnx import helper, numpy_helper
from onnxruntime import quantization
from torch import nn

from alexnet.errors import UserError
from alexnet.spec import LRN as SpecLRN
from alexnet.weights import Weights, load
from alexnet.weights.formats import load_data
from alexnet_torch import AlexNet

from . import makers
from .helpers import forward, images, narrow, same
from .test_onnx import run, view


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
    return F.avg_pool3d(squares, kernel, stride=1)[:, 0]


@pytest.mark.parametrize(
    ("lrn", "message"),
    [
        (nn.LocalResponseNorm(5, 2e-4, 0.75, 2.0), "step 3 is 'LRN of 5, 0.0002, 0.75, k 2,"),
        (nn.LocalResponseNorm(5, 1e-4, 0.5, 2.0), "step 3 is 'LRN of 5, 0.0001, 0.5, k 2,"),
        (nn.LocalResponseNorm(3, 1e-4, 0.75, 2.0), "step 3 is 'LRN of 3, 0.0001, 0.75, k 2,"),
        (nn.LocalResponseNorm(5, 1e-4, 0.75, 1.5), "step 3 is 'LRN of 5, 0.0001, 0.75, k 1.5,"),
        (Towers(), "step 3 is 'LRN .* groups 2'"),
        # along rows instead of channels; off centre; another image below; a mean in its place
        (Odd(lambda x: x / (2 + 1e-4 * _window(x, axis=3)) ** 0.75), "after its conv1 .* nor LRN"),
        (Odd(lambda x: x / (2 + 1e-4 * _window(x, 2, 1, 3)) ** 0.75), "after its conv1 .* nor LRN"),
        (Odd(lambda x: (x + 1) / (2 + 1e-4 * _window(x)) ** 0.75), "after its conv1 .* nor LRN"),
        (Odd(lambda x: x * (2 + 1e-4 * _window(x)) ** 0.75 + x), "after its conv1 .* nor LRN"),
        (Odd(lambda x: x / (2 + (x * x).mean(1, keepdim=True))), "after its conv1 .* nor LRN"),
        (Odd(lambda x: x.flip(1)), "'Slice', which AlexNet lacks"),
        (Odd(lambda x: x + x), "'Add', which AlexNet lacks"),
        (Odd(lambda x: x.transpose(2, 3)), "'Transpose', which AlexNet lacks"),
    ],
)  # fmt: skip
def test_what_is_no_lrn_of_a_variant(lrn, message, tmp_path):
    exported(Net("single", lrn), strong_images("single"), tmp_path / "a.onnx")
    with pytest.raises(UserError, match=message):
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
    with pytest.raises(UserError, match=r"which AlexNet lacks|nor LRN"):
        load(tmp_path / "a.onnx")


# --- the newer exporter's files, made by hand ------------------------------------------------


@pytest.mark.parametrize("name", ["single", "caffe", "caffenet", "onnx_zoo"])
def test_the_newer_exporter(name, tmp_path):
    weights = narrow(name)
    data = makers.onnx_dynamo(weights).SerializeToString()
    makers.check_onnx(data)
    x = strong_images(name)
    read = load_data(view(data), "onnx", "w")
    same(weights, read)
    expected = run(data, x)
    assert np.abs(forward(read, x) - expected).max() < 1e-4 * expected.std()


def _constants_as_ints(model):
    """With `optimize=False` shapes are pieced together from Constants of plain integers."""
    for tensor in list(model.graph.initializer):
        if tensor.data_type == onnx.TensorProto.INT64 and len(tensor.dims):
            model.graph.initializer.remove(tensor)
            parts = [f"{tensor.name}_{i}" for i in range(tensor.dims[0])]
            numbers = numpy_helper.to_array(tensor).tolist()
            model.graph.node.insert(0, helper.make_node("Concat", parts, [tensor.name], axis=0))
            for part, number in zip(parts, numbers, strict=True):
                node = helper.make_node("Constant", [], [part], value_ints=[number])
                model.graph.node.insert(0, node)


def test_the_newer_exporter_without_optimising():
    weights = narrow("single")
    data = makers.onnx_dynamo(weights, _constants_as_ints).SerializeToString()
    makers.check_onnx(data)
    same(weights, load_data(view(data), "onnx", "w"))


@pytest.fixture
def two_files(tmp_path):
    """The newer exporter's way with large nets: weights in a second file."""
    weights = narrow("single")
    onnx.save_model(
        makers.onnx_dynamo(weights), tmp_path / "a.onnx", save_as_external_data=True,
        location="a.onnx.data", size_threshold=200,
    )  # fmt: skip
    assert (tmp_path / "a.onnx").stat().st_size < 20_000
    return weights, tmp_path / "a.onnx"


def test_weights_in_a_second_file(two_files):
    weights, path = two_files
    same(weights, load(path))


def _entries(model, key, change):
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == key:
                entry.value = change(entry.value)


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("location", lambda _: "/etc/passwd", "only a file in the same folder"),
        ("location", lambda name: f"../{name}", "only a file in the same folder"),
        ("location", lambda name: f"sub/{name}", "only a file in the same folder"),
        ("location", lambda name: f"sub\\{name}", "only a file in the same folder"),
        ("location", lambda _: "..", "only a file in the same folder"),
        ("location", lambda _: "", "only a file in the same folder"),
        ("location", lambda _: "missing", "can't read .*missing"),
        ("location", lambda _: "folder", "can't read .*folder"),
        ("offset", lambda _: "0", "cut short, or not the one"),  # each byte counts once
        ("offset", lambda _: str(1 << 70), "cut short, or not the one"),
        ("offset", lambda _: "-8", "cut short, or not the one"),
        ("offset", lambda _: "x", "damaged, or not onnx"),
    ],
)
def test_second_files_that_are_not_read(two_files, key, change, message):
    _, path = two_files
    (path.parent / "folder").mkdir()
    model = onnx.load(path, load_external_data=False)
    _entries(model, key, change)
    if key == "offset" and change("") == "0":  # one array's place for many arrays
        (path.parent / "a.onnx.data").write_bytes(bytes(40_000))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match=message):
        load(path)


def test_a_second_file_that_is_cut_short(two_files):
    _, path = two_files
    data = path.with_name("a.onnx.data")
    data.write_bytes(data.read_bytes()[:-4])
    with pytest.raises(UserError, match=r"a\.onnx\.data is cut short"):
        load(path)
    with pytest.raises(UserError, match="only a file in the same folder"):
        load_data(view(path.read_bytes()), "onnx", "w")


# --- quantised files -------------------------------------------------------------------------


class _Images(quantization.CalibrationDataReader):
    def __init__(self, x):
        self.left = iter([{"data_0": np.ascontiguousarray(x.transpose(0, 3, 1, 2))}])

    def get_next(self):
        return next(self.left, None)


@pytest.mark.parametrize("form", ["QOperator", "QDQ"])
def test_the_zoos_quantised_files(form, tmp_path):
    """bvlcalexnet-12-int8 and -12-qdq, by the tool that made them."""
    data = makers.onnx_zoo(narrow("onnx_zoo"))
    model = onnx.version_converter.convert_version(onnx.load_from_string(data), 12)
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    x = images(narrow("onnx_zoo").spec, count=1)
    quantization.quantize_static(
        tmp_path / "a.onnx", tmp_path / "b.onnx", _Images(x),
        quant_format=quantization.QuantFormat[form],
    )  # fmt: skip
    same(load(tmp_path / "a.onnx"), narrow("onnx_zoo"))
    with pytest.raises(UserError, match=r"quantised to 8 bits.*bvlcalexnet-12\.onnx"):
        load(tmp_path / "b.onnx")


def test_evaluating_shapes_is_bounded():
    """Chains that double, loops of nodes, and Ifs do not take time or memory."""

    def edit(model):
        names = [f"n{i}" for i in range(2000)]
        seed = numpy_helper.from_array(np.ones(2, "i8"), "n0")
        model.graph.initializer.append(seed)
        for one, other in itertools.pairwise(names):
            model.graph.node.append(helper.make_node("Concat", [one, one], [other], axis=0))
        model.graph.node.append(helper.make_node("Add", ["loop", "n0"], ["loop"]))
        size = numpy_helper.from_array(np.array([1 << 40], "i8"), "size")
        model.graph.initializer.append(size)
        model.graph.node.append(helper.make_node("ConstantOfShape", ["size"], ["huge"]))

    weights = narrow("single")
    same(
        weights, load_data(view(makers.onnx_dynamo(weights, edit).SerializeToString()), "onnx", "w")
    )
