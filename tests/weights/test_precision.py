"""Half and double precision: read as fp32 and said, written where it is asked for."""

import dataclasses
import io

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

from alexnet import hub
from alexnet.errors import UserError
from alexnet.weights import load, save
from alexnet.weights.formats import load_file, write
from alexnet.weights.layout import to_state_dict
from alexnet.weights.names import TORCHVISION_KEYS
from alexnet.weights.precision import check_finite, stored, to_fp32

from .helpers import narrow, same, within

TORCH = {"fp16": torch.float16, "bf16": torch.bfloat16}
WORDS = {"fp16": "float16", "bf16": "bfloat16", "fp64": "float64"}
FORMATS = ("safetensors", "torchvision", "torch", "torch-safetensors", "flax")


def state(weights, dtype):
    arrays = to_state_dict(weights.arrays, weights.spec, TORCHVISION_KEYS)
    return {k: torch.tensor(np.ascontiguousarray(a)).to(dtype) for k, a in arrays.items()}


def nearest(weights, dtype):
    """The weights rounded by torch."""
    arrays = {
        n: torch.tensor(a).to(TORCH[dtype]).float().numpy() for n, a in weights.arrays.items()
    }
    return dataclasses.replace(weights, arrays=arrays)


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize("container", ["zip", "row", "safetensors"])
def test_torchs_half_precision_is_read_and_said(dtype, container):
    weights, file = narrow("torchvision"), io.BytesIO()
    if container == "safetensors":
        file.write(safetensors.torch.save(state(weights, TORCH[dtype])))
    else:
        new = container == "zip"
        torch.save(state(weights, TORCH[dtype]), file, _use_new_zipfile_serialization=new)
    file.seek(0)
    format = "torch-safetensors" if container == "safetensors" else "torch"
    found = load_file(file, format, "w")
    same(found, nearest(weights, dtype))
    assert found.notes == (f"its arrays are {WORDS[dtype]}, and widened, without loss, to float32",)


def test_float64_is_rounded_and_said():
    weights, file = narrow("torchvision"), io.BytesIO()
    torch.save(state(weights, torch.float64), file)
    file.seek(0)
    found = load_file(file, "torch", "w")
    same(found, weights)
    assert found.notes == ("its arrays are float64, and rounded to float32",)


def test_only_some_arrays_are_of_another_type():
    weights, file = narrow("torchvision"), io.BytesIO()
    values = state(weights, torch.float32)
    values["classifier.4.weight"] = values["classifier.4.weight"].half()
    torch.save(values, file)
    file.seek(0)
    assert load_file(file, "torch", "w").notes[0].startswith("1 of its 16 arrays are float16")


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_half_precision_written_comes_back_rounded_to_the_nearest(format, dtype, tmp_path):
    weights = narrow("torchvision")
    save(tmp_path / "w", weights, format, dtype)
    save(tmp_path / "whole", weights, format)
    found = load(tmp_path / "w", format, variant="torchvision")
    same(found, nearest(weights, dtype))
    assert WORDS[dtype] in found.notes[0]
    assert (tmp_path / "w").stat().st_size < 0.6 * (tmp_path / "whole").stat().st_size


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_other_programs_read_what_was_written(dtype, tmp_path):
    weights = narrow("torchvision")
    expected = state(weights, TORCH[dtype])
    save(tmp_path / "w.pth", weights, dtype=dtype)
    save(tmp_path / "w", weights, "torch-safetensors", dtype)
    for found in (
        torch.load(tmp_path / "w.pth", weights_only=True),
        safetensors.torch.load_file(tmp_path / "w"),
    ):
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], value) for key, value in expected.items())
        assert {value.dtype for value in found.values()} == {TORCH[dtype]}


def test_a_folder_in_half_precision(tmp_path):
    weights = narrow("torchvision")
    hub.write_folder(tmp_path / "folder", weights, dtype="bf16")
    found = hub.read_folder(tmp_path / "folder")
    same(found, nearest(weights, "bf16"))
    assert "bfloat16" in found.notes[0]


def test_bfloat16_is_rounded_as_others_round_it():
    bits = np.random.default_rng(0).integers(0, 1 << 32, 100_000, np.uint32)
    numbers = np.concatenate([bits.view("<f4"), np.float32([0, -0.0, np.inf, -np.inf, np.nan])])
    with np.errstate(invalid="ignore"):
        expected = numbers.astype(ml_dtypes.bfloat16).astype("<f4")
    found = to_fp32(stored(numbers, "bf16"))
    np.testing.assert_array_equal(found, expected)
    assert np.signbit(found[-4])


@pytest.mark.parametrize(("dtype", "number"), [("fp16", 65520.0), ("bf16", 3.4e38)])
@pytest.mark.parametrize("sign", [1, -1])
def test_overflow_names_the_array(dtype, number, sign, tmp_path):
    weights = narrow("torchvision")
    weights.arrays["fc7.bias"][3] = sign * number
    with pytest.raises(UserError, match=r"fc7.bias \(up to .*\) would overflow in " + dtype):
        save(tmp_path / "w.pth", weights, dtype=dtype)
    assert not list(tmp_path.iterdir())
    weights.arrays["fc7.bias"][3] = sign * (65519.0 if dtype == "fp16" else 3.38e38)
    save(tmp_path / "w.pth", weights, dtype=dtype)
    assert np.isfinite(load(tmp_path / "w.pth").arrays["fc7.bias"]).all()


def test_onnx_is_written_as_fp32_only(tmp_path):
    with pytest.raises(UserError, match="fp32 only"):
        save(tmp_path / "w.onnx", narrow("torchvision"), dtype="fp16")
    assert not list(tmp_path.iterdir())


def test_a_flipped_bit_of_a_half_is_noticed():
    file = io.BytesIO()
    write(file, narrow("torchvision"), "safetensors", "bf16")
    data = bytearray(file.getvalue())
    data[-5] ^= 1
    with pytest.raises(UserError, match="digest does not match for fc8"):
        load_file(io.BytesIO(data), "safetensors", "w")


def test_reading_halves_takes_little_memory():
    file = io.BytesIO()
    write(file, narrow("torchvision", width=0.25), "torchvision", "fp16")
    size = len(file.getvalue())
    file.seek(0)
    within(3, lambda: load_file(file, "torch", "w"), size)


def test_numbers_that_are_none_are_counted():
    arrays = {"a.bias": np.zeros(4, "f4"), "b.bias": np.float32([np.nan, 1, np.inf])}
    with pytest.raises(UserError, match=r"infinite in b.bias \(2\): get it anew"):
        check_finite(arrays, "get it anew")
    check_finite({"a.bias": arrays["a.bias"]}, "")
