"""Arguments of the Python interface that nothing could be done with: a sentence for each."""

import numpy as np
import pytest
import torch

import alexnet
import alexnet.files
import alexnet_jax
import alexnet_torch
from alexnet.errors import UserError
from alexnet.init import initial_weights
from alexnet.weights import check, load, save
from tests.weights.helpers import narrow

IMAGE = np.zeros((70, 70, 3), np.uint8)


@pytest.fixture(scope="module")
def weights():
    return narrow("torchvision", image_size=67)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(({"top_k": value}, "top_k is") for value in (0, -1, 1.5, True, "5")),
        *(({"batch_size": value}, "batch_size is") for value in (0, -1, 1.5, 10**9)),
        ({"framework": "tf"}, "unknown framework 'tf': known are jax, torch, both"),
        ({"framework": 5}, "unknown framework '5'"),
    ],
)
def test_of_predict(options, message, weights):
    with pytest.raises(UserError, match=message):
        alexnet.predict(weights, [IMAGE], **{"framework": "torch"} | options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(({"batch_size": value}, "batch_size is") for value in (0, -1, 1.5)),
        *(({"loader_threads": value}, "loader_threads is") for value in (0, -1, 10**6)),
        ({"framework": "tf"}, "unknown framework 'tf'"),
        ({"protocol": "eleven-crop"}, "unknown protocol 'eleven-crop': did you mean 'ten-crop'"),
        ({"precision": "fp8"}, "unknown precision 'fp8'"),
        ({"on_bad_image": "ignore"}, "unknown on_bad_image 'ignore'"),
    ],
)
def test_of_evaluate(options, message, weights):
    with pytest.raises(UserError, match=message):
        alexnet.evaluate(weights, "digits", **{"framework": "torch"} | options)


@pytest.mark.parametrize("path", [None, 5, b"a.npz"])
def test_of_paths(path, weights):
    for work in (load, lambda path: save(path, weights), alexnet.files.as_path):
        with pytest.raises(UserError, match="a path is needed, a string or a"):
            work(path)
    with pytest.raises(UserError, match="a data set's name is needed"):
        alexnet.evaluate(weights, 5, framework="torch")


def test_of_models(weights):
    pixels = np.zeros((1, 67, 67, 3), np.uint8)
    model = alexnet_torch.AlexNet(weights.spec, weights=weights.arrays)
    with pytest.raises(UserError, match=r"type torch.uint8: floats are needed"):
        model(torch.tensor(pixels).movedim(-1, 1))
    with pytest.raises(UserError, match=r"type uint8: floats are needed"):
        alexnet_jax.AlexNet(weights.spec, weights=weights.arrays)(pixels)
    for seed in (-1, 1.5, 2**64, True):
        with pytest.raises(UserError, match="seed is"):
            initial_weights(weights.spec, seed)
    assert initial_weights(weights.spec, np.int64(3)).keys() == weights.arrays.keys()


def test_of_weights(weights, tmp_path):
    with pytest.raises(UserError, match="unknown dtype 'fp8': known are fp32, fp16, bf16"):
        save(tmp_path / "w.pth", weights, dtype="fp8")
    with pytest.raises(UserError, match="arrays by name are needed, not list"):
        check([1], weights.spec)
    with pytest.raises(UserError, match=r"fc8\.bias is a scalar, not 7; fc8\.bias is int, not"):
        check(weights.arrays | {"fc8.bias": 5}, weights.spec)
