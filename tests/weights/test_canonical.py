import dataclasses
import hashlib
import json
import struct

import numpy as np
import pytest
import safetensors.numpy

from alexnet.errors import RunError, UserError
from alexnet.layers import (
    LRN,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    Flatten,
    LeCun,
    MaxPool,
    ReLU,
    Spec,
    trace,
    variables,
)
from alexnet.preprocess import EvalProtocol, Normalize, Preprocess
from alexnet.spec import VARIANTS, variant
from alexnet.weights import Weights, canonical, check, detect, load, save, table
from alexnet.weights.safetensors import header_size

from .helpers import load_data, narrow, random_weights, same, view, written


@pytest.mark.parametrize("name", VARIANTS)
def test_round_trip_keeps_everything(name, tmp_path):
    weights = dataclasses.replace(
        narrow(name),
        mean_image=True,
        preprocess=Preprocess(Normalize((1, 2, 3.5)), EvalProtocol("warp", 300, 227)),
    )
    save(tmp_path / "w.safetensors", weights)
    again = load(tmp_path / "w.safetensors")
    same(weights, again)
    for field in ("preprocess", "class_names", "source", "mean_image"):
        assert getattr(weights, field) == getattr(again, field)
    assert detect(tmp_path / "w.safetensors") == "safetensors"


def test_gray_input_and_odd_sizes(tmp_path):
    weights = narrow("torchvision", channels=1, image_size=64, width=0.3, num_classes=1)
    save(tmp_path / "w.safetensors", weights)
    same(weights, load(tmp_path / "w.safetensors"))


def test_other_programs_read_it(tmp_path):
    weights = narrow("paper")
    save(tmp_path / "w.safetensors", weights)
    arrays = safetensors.numpy.load_file(tmp_path / "w.safetensors")
    assert set(arrays) == set(weights.arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, weights.arrays[name])


def test_the_same_weights_give_the_same_bytes():
    assert written(narrow("paper"), "safetensors") == written(narrow("paper"), "safetensors")


def test_every_flipped_bit_is_noticed_or_harmless():
    weights = narrow("torchvision", num_classes=2)
    good = written(weights, "safetensors")
    header = header_size(good)
    random = np.random.default_rng(0)
    # every byte of the header, and a sample of the data
    places = [*range(header), *random.integers(header, len(good), 500)]
    unnoticed = 0
    for place in places:
        bad = memoryview(bytearray(good))
        bad[place] ^= 1 << int(random.integers(8))
        try:
            again = load_data(bad, "safetensors", "w")
        except UserError:
            continue
        unnoticed += 1
        same(weights, again)  # padding between header and data, for instance
        assert (again.preprocess, again.class_names) == (weights.preprocess, weights.class_names)
    assert unnoticed < 100


def test_all_problems_stand_in_one_error():
    weights = narrow("paper")
    arrays = dict(weights.arrays)
    del arrays["fc8.bias"], arrays["conv1.kernel"]
    arrays["conv9.kernel"] = arrays["conv2.bias"]
    arrays["conv3.kernel"] = arrays["conv3.kernel"][:2]
    arrays["fc7.bias"] = arrays["fc7.bias"].astype(np.float64)
    with pytest.raises(UserError) as error:
        check(arrays, weights.spec)
    message = str(error.value)
    assert "missing conv1.kernel, fc8.bias" in message
    assert "unexpected conv9.kernel" in message
    assert "conv3.kernel is 2x3x4x8, not 3x3x4x8" in message
    assert "fc7.bias is float64, not float32" in message
    assert "\n" not in message


def test_saving_checks_too(tmp_path):
    weights = narrow("paper")
    del weights.arrays["fc8.bias"]
    with pytest.raises(UserError, match=r"missing fc8\.bias"):
        save(tmp_path / "w.safetensors", weights)
    assert list(tmp_path.iterdir()) == []


def test_any_table_can_be_saved_and_loaded(tmp_path):
    layers = (
        Conv("conv1", 12, kernel=5, stride=2, padding=1),
        BatchNorm("bn1", epsilon=1e-3, momentum=0.5),
        ReLU(),
        ReLU(),
        LRN(size=3, alpha=0.1, beta=0.5, k=1.5, groups=3),
        MaxPool(2, 2, ceil=True),
        Flatten(),
        Dense("fc2", 16),
        BatchNorm("bn2", affine=False),
        Dropout(0.25),
        Dense("fc3", None),
    )
    weights = random_weights(Spec("mine", layers, image_size=21, num_classes=3, channels=2))
    save(tmp_path / "w.safetensors", weights)
    again = load(tmp_path / "w.safetensors")
    same(weights, again)
    assert again.spec.name == "mine"
    assert [row.name for row in trace(again.spec)][2:4] == ["relu1", "relu1_2"]


def test_a_name_that_no_file_can_have_is_named(tmp_path):
    layers = (Conv("stem", 4, kernel=5), Flatten(), Dense("fc2", None))
    weights = random_weights(Spec("mine", layers, image_size=21, num_classes=3))
    with pytest.raises(UserError, match="a Conv's name is 'stem', but it must be"):
        save(tmp_path / "w.safetensors", weights)


def test_bare_arrays_are_not_saved(tmp_path):
    with pytest.raises(UserError, match=r"Weights are needed, not dict: Weights\(model.weights"):
        save(tmp_path / "w.safetensors", narrow("paper").arrays)


def test_a_file_keeps_its_meaning_when_a_variant_is_edited(tmp_path, monkeypatch):
    weights = narrow("paper")
    save(tmp_path / "w.safetensors", weights)
    edited = dataclasses.replace(VARIANTS["paper"], layers=VARIANTS["single"].layers)
    monkeypatch.setitem(VARIANTS, "paper", edited)
    same(weights, load(tmp_path / "w.safetensors"))


BAD_TABLES = {
    "a kind that is none": lambda t: t["layers"][0].update(kind="Loop"),
    "a kind that is no text": lambda t: t["layers"][0].update(kind=["Conv"]),
    "a layer that is none": lambda t: t["layers"].insert(0, 3),
    "another field": lambda t: t["layers"][0].update(hook="os.system"),
    "a missing field": lambda t: t["layers"][0].pop("stride"),
    "too many features": lambda t: t["layers"][0].update(features=1 << 40),
    "no features": lambda t: t["layers"][0].update(features=0),
    "features that are true": lambda t: t["layers"][0].update(features=True),
    "a float for an int": lambda t: t["layers"][0].update(kernel=11.0),
    "not a number": lambda t: t["layers"][2].update(alpha=float("nan")),
    "groups that don't divide": lambda t: t["layers"][4].update(groups=3),
    "too deep": lambda t: t["layers"].extend([{"kind": "ReLU"}] * 300),
    "a name that hides a method": lambda t: t["layers"][0].update(name="forward"),
    "a dense layer on a map": lambda t: t["layers"].remove({"kind": "Flatten"}),
    "a pool after the map": lambda t: t["layers"].append(t["layers"][3]),
    "an end that is not the classes": lambda t: t["layers"][-1].update(features=5),
    "an image too large": lambda t: t.update(image_size=1 << 30),
    "an image too small": lambda t: t.update(image_size=9),
    "no list": lambda t: t.update(layers={"0": 1}),
    "more parameters than memory": lambda t: t["layers"][13].update(features=1 << 20) or
        t["layers"][16].update(features=1 << 20),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_TABLES)
def test_tables_from_files_are_checked(case):
    values = json.loads(json.dumps(table.to_json(variant("paper"))))
    assert table.from_json(values) == variant("paper")
    BAD_TABLES[case](values)
    with pytest.raises(UserError) as error:
        table.from_json(values)
    assert len(str(error.value)) < 300


def _as_format_1(good: bytes, **spec) -> bytes:
    """A file as format 1 had it: a variant's name and sizes in place of the table."""
    end = header_size(good)
    header = json.loads(good[8:end])
    metadata = header["__metadata__"]
    metadata |= {"format_version": "1", "spec": json.dumps(spec)}
    del metadata["digest"]
    metadata["digest"] = canonical._digest(metadata)
    return bytes(_file(header, good[end:]))


def test_the_wrong_zoo_is_refused():
    """Files of format 1 say onnx_zoo and mean another network than the zoo's graph."""
    good = bytes(written(narrow("onnx_zoo"), "safetensors"))
    sizes = {"num_classes": 7, "channels": 3, "image_size": 224, "width": 1 / 64}
    with pytest.raises(UserError, match=r"27 and 13 where .* 26 and 12.*original ONNX file again"):
        load_data(memoryview(_as_format_1(good, variant="onnx_zoo", **sizes)), "safetensors", "w")
    assert load_data(memoryview(good), "safetensors", "w").spec.name == "onnx_zoo"


@pytest.mark.parametrize("name", ["torchvision", "paper", "caffenet"])
def test_format_1_stays_readable(name):
    weights = narrow(name)
    sizes = {"num_classes": 7, "channels": 3, "image_size": weights.spec.image_size}
    old = _as_format_1(bytes(written(weights, "safetensors")), variant=name, width=1 / 64, **sizes)
    again = load_data(memoryview(old), "safetensors", "w")
    same(weights, again)
    assert again.spec == weights.spec


def test_initial_weights_do_not_count():
    weights = narrow("paper")
    other = dataclasses.replace(
        weights, spec=variant("paper", num_classes=7, width=1 / 64, init=LeCun())
    )
    assert written(weights, "safetensors") == written(other, "safetensors")


def test_class_names_must_be_as_many_as_classes(tmp_path):
    weights = dataclasses.replace(narrow("paper"), class_names=("cat",))
    with pytest.raises(UserError, match="1 class names for 7 classes"):
        save(tmp_path / "w.safetensors", weights)


def test_a_failing_write_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    save(path, narrow("paper"))
    before = path.read_bytes()
    broken = narrow("paper", seed=1)
    calls = iter(range(100))

    def full(*_):
        if next(calls) > 5:
            raise OSError(28, "No space left on device")
        return iter([b"x"])

    monkeypatch.setattr("alexnet.weights.layout.blocks", full)
    with pytest.raises(RunError, match="No space left"):
        save(path, broken)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_asking_for_another_network_than_the_file_says(tmp_path):
    save(tmp_path / "w.safetensors", narrow("caffe"))
    with pytest.raises(UserError, match="is 'caffe' for 227 pixels, as it says itself"):
        load(tmp_path / "w.safetensors", variant="paper")


def _file(header: dict | bytes, data: bytes = b"") -> memoryview:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return memoryview(bytearray(struct.pack("<Q", len(text)) + text + data))


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
NINE = b'"a":{"dtype":"U8","shape":[9],"data_offsets":[0,9]}'


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"a": ENTRY, "b": ENTRY}, "invalid offset for tensor `(a|b)`"),
        ({"a": ENTRY, "b": ENTRY | {"data_offsets": [4, 12]}}, "invalid offset for tensor `b`"),
        ({"a": ENTRY | {"data_offsets": [8, 16]}}, "invalid offset for tensor `a`"),
        ({"a": ENTRY | {"shape": [1 << 40, 1 << 40]}}, "overflow"),
        ({"a": ENTRY | {"shape": [-2]}}, "integer `-2`, expected usize"),
        ({"a": ENTRY | {"shape": [2.0]}}, "expected usize"),
        ({"a": ENTRY | {"dtype": "F99"}}, "unknown variant `F99`"),
        ({"a": {"dtype": "F32"}}, "missing field `shape`"),
        ({"a": [1]}, "invalid JSON in header"),
        ({"a": ENTRY, "__metadata__": {"x": 1}}, "expected a string"),
        ({"a": ENTRY}, "file not fully covered"),
        (b"{" + NINE + b"," + NINE + b"}", "a name comes twice"),
        (b'{"__metadata__":{"x":"1","x":"2"},' + NINE + b"}", "a name comes twice"),
        (b"{" + b'"a":[' * 1000, "invalid JSON in header"),
        (b'{"a":' * 100_000, "invalid JSON in header"),
        (b"[1, 2]", "no safetensors header"),
    ],
)
def test_hostile_headers(header, message):
    with pytest.raises(UserError, match=message):
        load_data(_file(header, bytes(9)), "torch-safetensors", "w")


def test_very_many_arrays():
    """Their header is a few megabytes; what they would be in memory is thirty times that."""
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    with pytest.raises(UserError, match="more than the 2000 arrays"):
        load_data(_file(dict.fromkeys(map(str, range(3000)), empty)), "torch-safetensors", "w")


def test_huge_header_length():
    with pytest.raises(UserError):
        load_data(memoryview(bytearray(b"\xff" * 64)), "safetensors", "w")


def test_spec_in_metadata_is_bounded():
    weights = narrow("torchvision")
    good = bytes(written(weights, "safetensors"))
    # A description with a valid digest of its own, but sizes past all use.
    header = json.loads(good[8 : header_size(good)])
    metadata = header["__metadata__"]
    spec = json.loads(metadata["spec"]) | {"image_size": 1 << 40}
    metadata["spec"] = json.dumps(spec)
    del metadata["digest"]
    metadata["digest"] = canonical._digest(metadata)
    with pytest.raises(UserError, match="image_size of the network"):
        load_data(_file(header, good[header_size(good) :]), "safetensors", "w")


def test_weights_are_compared_by_identity():
    one = narrow("paper")
    assert one == one
    assert one != Weights(one.arrays, one.spec, one.preprocess)
    assert set(variables(one.spec)) == set(one.arrays)


def sealed(**edit: str) -> bytes:
    """A canonical file whose metadata was edited, with right digests."""
    weights = narrow("torchvision")
    names = list(weights.arrays)
    plain = safetensors.numpy.load(bytes(written(weights, "safetensors")))
    digests = {name: hashlib.sha256(plain[name].tobytes()).hexdigest() for name in names}
    metadata = canonical._describe(weights) | edit
    return safetensors.numpy.save(plain, canonical._seal(metadata, digests))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("class_names", value) for value in ("1", "true", "NaN", '"abcdefg"', "{}", "[1]", "[]")),
        ("class_names", json.dumps(["a"] * 6 + ["\ud800"])),
        ("class_names", json.dumps(["a"] * 6 + [["b"]])),
        ("class_names", json.dumps(["a"] * 6 + ["b" * 1001])),
        *(("mean_image", value) for value in ("1", "null", '"false"', "[]")),
        *(("spec", value) for value in ("null", "1", "[]", "[" * 100_000)),
        *(("preprocess", value) for value in ("null", "1", "[]", '{"a":' * 50_000)),
        ("source", "a" * 100_001),
    ],
)
def test_metadata_of_a_wrong_type_with_right_digests_is_refused(field, value):
    same(load_data(view(sealed()), "safetensors", "w"), narrow("torchvision"))
    with pytest.raises(UserError) as error:
        load_data(view(sealed(**{field: value})), "safetensors", "w")
    assert len(str(error.value)) < 2000


def test_endless_names_are_cut_rather_than_refused():
    """A run writes its weights last, and must not lose them over a name."""
    long = ("x" * 5000, *narrow("torchvision").class_names[1:])
    weights = dataclasses.replace(narrow("torchvision"), class_names=long, source="y" * 5000)
    found = load_data(written(weights, "safetensors"), "safetensors", "w")
    assert (found.class_names[0], found.source) == ("x" * 1000, "y" * 1000)


def test_names_that_utf_8_cannot_hold_are_escaped_before_they_are_written():
    weights = narrow("torchvision")
    odd = ("caf\udce9", *weights.class_names[1:])  # as Python reads a folder's Latin-1 name
    for format in ("safetensors", "onnx"):
        found = load_data(
            written(dataclasses.replace(weights, class_names=odd, source=odd[0]), format),
            format,
            "w",
        )
        assert found.class_names[0] == r"caf\udce9"
