"""Half and double precision: read as fp32 and said, written where it is asked for."""

import dataclasses
import io

import ml_dtypes
import numpy as np
import onnx
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

from . import makers
from .helpers import close, forward, images, narrow, same, within
from .test_onnx import run

TORCH = {"fp16": torch.float16, "bf16": torch.bfloat16}
WORDS = {"fp16": "float16", "bf16": "bfloat16", "fp64": "float64"}
FORMATS = ("safetensors", "torchvision", "torch", "torch-safetensors", "flax", "onnx")


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


@pytest.mark.parametrize("name", ["torchvision", "bn"])
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_onnx_runtime_computes_with_the_rounded_weights(name, dtype, tmp_path):
    weights = narrow(name)
    save(tmp_path / "w.onnx", weights, dtype=dtype)
    data = (tmp_path / "w.onnx").read_bytes()
    makers.check_onnx(data)
    x = images(weights.spec)
    close(run(data, x), forward(nearest(weights, dtype), x))


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


def onnx_of(weights, kind, form):
    """The newer exporter's file with weights of another type, and perhaps casts around them."""
    model = makers.onnx_dynamo(weights)
    number = getattr(onnx.TensorProto, kind)
    for tensor in model.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or not tensor.dims:
            continue
        array, name = onnx.numpy_helper.to_array(tensor), tensor.name
        array = array.astype(onnx.helper.tensor_dtype_to_np_dtype(number))
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, name))
        if form == "listed":
            tensor.CopyFrom(onnx.helper.make_tensor(name, number, array.shape, array.reshape(-1)))
        if form == "cast":  # back to fp32, as converters that keep the inputs' type do
            tensor.name = f"{name}.half"
            node = onnx.helper.make_node("Cast", [tensor.name], [name], to=1)
            model.graph.node.insert(0, node)
    if form == "cast":
        down = onnx.helper.make_node("Cast", ["x"], ["x.half"], to=number)
        up = onnx.helper.make_node("Cast", ["x.half"], ["x.again"], to=1)
        for node in model.graph.node:
            node.input[:] = ["x.again" if name == "x" else name for name in node.input]
        for node in (up, down):
            model.graph.node.insert(0, node)
    return model.SerializeToString()


@pytest.mark.parametrize("form", ["raw", "listed", "cast"])
@pytest.mark.parametrize("kind", ["FLOAT16", "BFLOAT16", "DOUBLE"])
def test_onnx_of_another_precision_is_read_and_said(kind, form):
    weights = narrow("single")
    found = load_file(io.BytesIO(onnx_of(weights, kind, form)), "onnx", "w")
    dtype = {"FLOAT16": "fp16", "BFLOAT16": "bf16", "DOUBLE": "fp64"}[kind]
    same(found, weights if dtype == "fp64" else nearest(weights, dtype))
    assert found.notes[0].startswith(f"its arrays are {WORDS[dtype]}")


def test_caffes_doubles_are_read():
    def edit(_, layers):
        for layer in layers:
            for blob in layer.blobs:
                numbers = np.array(blob.data, "<f8").tobytes()
                shape, count = list(blob.shape.dim), len(blob.data)
                blob.Clear()
                blob.shape.dim.extend(shape)
                size = bytearray()
                length = 8 * count
                while length > 0x7F:
                    size.append(length & 0x7F | 0x80)
                    length >>= 7
                blob.MergeFromString(bytes([8 << 3 | 2, *size, length]) + numbers)

    weights = narrow("caffe")
    found = load_file(io.BytesIO(makers.caffemodel(weights, edit=edit)), "caffe", "w")
    same(found, weights)
    assert found.notes == ("its arrays are float64, and rounded to float32",)


@pytest.mark.parametrize("dtype", ["f2", "f8"])
def test_numpys_and_matlabs_other_floats_are_read(dtype):
    weights = narrow("caffe")
    cast = {name: array.astype(dtype) for name, array in weights.arrays.items()}
    other = dataclasses.replace(weights, arrays=cast)
    expected = {name: array.astype("f4") for name, array in cast.items()}
    found = load_file(io.BytesIO(makers.npy(other)), "npy", "w")
    same(found, dataclasses.replace(weights, arrays=expected))
    assert found.notes
    if dtype == "f8":  # MATLAB has no half precision
        found = load_file(io.BytesIO(makers.matconvnet(other)), "matconvnet", "w")
        same(found, dataclasses.replace(weights, arrays=expected))
        assert found.notes
