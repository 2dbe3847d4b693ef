import dataclasses
import json
import struct

import numpy as np
import pytest
import safetensors.numpy

from alexnet.errors import RunError, UserError
from alexnet.preprocess import Preprocess
from alexnet.spec import VARIANTS, LeCun, variant, weight_shapes
from alexnet.weights import Weights, check, detect, load, save
from alexnet.weights.core import spec_from_json, spec_to_json
from alexnet.weights.formats import load_data
from alexnet.weights.safetensors import header_size

from .helpers import narrow, same, written


@pytest.mark.parametrize("name", VARIANTS)
def test_round_trip_keeps_everything(name, tmp_path):
    weights = dataclasses.replace(
        narrow(name), mean_image=True, preprocess=Preprocess("warp", 300, 227, "RGB", (1, 2, 3.5))
    )
    save(tmp_path / "w.safetensors", weights)
    again = load(tmp_path / "w.safetensors")
    same(weights, again)
    for field in ("preprocess", "class_names", "source", "mean_image"):
        assert getattr(weights, field) == getattr(again, field)
    assert detect(tmp_path / "w.safetensors") == "safetensors"


def test_the_wrong_zoo_is_refused():
    """Files from before the tables had a revision say onnx_zoo and mean another network."""
    values = spec_to_json(narrow("onnx_zoo").spec)
    assert spec_from_json(values).name == "onnx_zoo"
    with pytest.raises(UserError, match="tables are of revision 3"):
        spec_from_json(values | {"revision": 3})
    del values["revision"]
    with pytest.raises(UserError, match=r"27 and 13 where .* 26 and 12.*original ONNX file again"):
        spec_from_json(values)
    assert spec_from_json(values | {"variant": "caffe"}).name == "caffe"


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


def test_a_table_without_a_name_cannot_be_saved(tmp_path):
    weights = narrow("paper")
    other = dataclasses.replace(weights.spec, name="single")
    with pytest.raises(UserError, match="named variants"):
        save(tmp_path / "w.safetensors", dataclasses.replace(weights, spec=other))


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

    monkeypatch.setattr("alexnet.weights.safetensors.blocks", full)
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


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"a": ENTRY, "b": ENTRY}, "overlaps"),
        ({"a": ENTRY, "b": ENTRY | {"data_offsets": [4, 12]}}, "overlaps"),
        ({"a": ENTRY | {"data_offsets": [8, 16]}}, "hole"),
        ({"a": ENTRY | {"shape": [1 << 40, 1 << 40]}}, "not its size"),
        ({"a": ENTRY | {"shape": [-2]}}, "not its size"),
        ({"a": ENTRY | {"shape": [2.0]}}, "not its size"),
        ({"a": ENTRY | {"dtype": "F99"}}, "malformed"),
        ({"a": {"dtype": "F32"}}, "malformed"),
        ({"a": [1]}, "malformed"),
        ({"a": ENTRY, "__metadata__": {"x": 1}}, "table of strings"),
        ({"a": ENTRY}, "describes"),
        (b'{"a": 1, "a": 2}', "twice"),
        (b"{" + b'"a":[' * 100_000, "JSON"),
        (b"[1, 2]", "not JSON"),
    ],
)
def test_hostile_headers(header, message):
    with pytest.raises(UserError, match=message):
        load_data(_file(header, bytes(9)), "torch-safetensors", "w")


def test_huge_header_length():
    with pytest.raises(UserError):
        load_data(memoryview(bytearray(b"\xff" * 64)), "safetensors", "w")


def test_spec_in_metadata_is_bounded():
    weights = narrow("torchvision")
    good = bytes(written(weights, "safetensors"))
    # A description with a valid digest of its own, but sizes past all use.
    from alexnet.weights import canonical

    header = json.loads(good[8 : header_size(good)])
    metadata = header["__metadata__"]
    spec = json.loads(metadata["spec"]) | {"image_size": 1 << 40}
    metadata["spec"] = json.dumps(spec)
    del metadata["digest"]
    metadata["digest"] = canonical._digest(metadata)
    with pytest.raises(UserError, match="past all use"):
        load_data(_file(header, good[header_size(good) :]), "safetensors", "w")


def test_weights_are_compared_by_identity():
    one = narrow("paper")
    assert one == one
    assert one != Weights(one.arrays, one.spec, one.preprocess)
    assert set(weight_shapes(one.spec)) == set(one.arrays)
