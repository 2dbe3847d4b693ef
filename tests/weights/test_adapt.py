import dataclasses

import numpy as np
import pytest

from alexnet.errors import UserError
from alexnet.preprocess import IMAGENET_MEAN, IMAGENET_STD, EvalProtocol
from alexnet.weights.adapt import adapt, fold_preprocess
from alexnet.weights.assemble import CAFFE_MEAN

from .helpers import close, forward, narrow, same


def test_nothing_to_do():
    weights = narrow("paper")
    same(weights, adapt(weights))
    same(weights, adapt(weights, "paper", 227))


def test_caffe_at_227_is_the_zoo_at_227():
    """55 pixels after conv1 are pooled alike, rounded up or down: to 27 and 13."""
    weights = narrow("caffe")
    moved = adapt(weights, "onnx_zoo")
    assert (moved.spec.name, moved.spec.image_size) == ("onnx_zoo", 227)
    x = np.random.default_rng(0).standard_normal((1, 227, 227, 3), np.float32)
    close(forward(weights, x), forward(moved, x))
    same(weights, adapt(moved, "caffe"))


@pytest.mark.parametrize(
    ("have", "want", "size", "message"),
    [
        ("onnx_zoo", "caffe", None, "max pool, stride 2, to 26' where that has .* to 27'"),
        ("onnx_zoo", "caffe", 227, "to 27' where|to 13|convolution|max pool"),
        ("onnx_zoo", "paper", None, "LRN of 5.* k 1, groups 1' where that has .* k 2, groups 2"),
        ("onnx_zoo", "torchvision", None, "padding 0.*padding 2"),
        ("caffe", "caffenet", None, "step 3 is 'LRN.*where that has '3x3 max pool"),
        ("caffe", "paper", None, "LRN"),
        ("paper", "single", None, "LRN"),
        ("caffe", "single", None, "k 1, groups 1' where that has .* k 2"),
        ("paper", "paper", 30, "can't take images of 30 pixels"),
    ],
)
def test_what_is_not_exact_is_refused_with_the_reason(have, want, size, message):
    with pytest.raises(UserError, match=message) as error:
        adapt(narrow(have), want, size)
    assert "can't become" in str(error.value)
    assert "they can be" in str(error.value)


def test_the_refusal_names_what_would_work():
    with pytest.raises(UserError, match="'onnx_zoo' for 227 pixels or kept as they are"):
        adapt(narrow("caffe"), "caffe", 224)


def test_adaptive_pooling_takes_any_size():
    moved = adapt(narrow("torchvision"), image_size=256)
    assert moved.spec.image_size == 256
    assert moved.preprocess.protocol == EvalProtocol("short", resize_to=293, crop=256)


def changed(preprocess, **changes):
    """Preprocessing with other values of these fields, in whichever part they are."""
    parts = {
        part: dataclasses.replace(old, **{k: v for k, v in changes.items() if hasattr(old, k)})
        for part, old in vars(preprocess).items()
    }
    return dataclasses.replace(preprocess, **parts)


def _through(weights, pixels: np.ndarray) -> np.ndarray:
    normalize = weights.preprocess.normalize
    mean, std = np.float32(normalize.mean), np.float32(normalize.std)
    return forward(weights, ((pixels - mean) / std).astype(np.float32))


def test_folding_keeps_the_logits():
    weights = narrow("caffe")
    assert weights.preprocess.normalize.mean == CAFFE_MEAN
    target = changed(weights.preprocess, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    folded = fold_preprocess(weights, target)
    assert folded.preprocess == target
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 227, 227, 3)).astype(np.float32)
    before, after = _through(weights, pixels), _through(folded, pixels)
    assert np.abs(before - after).max() < 1e-4 * before.std()
    assert not np.array_equal(weights.arrays["conv1.bias"], folded.arrays["conv1.bias"])
    # and the negative: forgetting the constant would show
    broken = dict(folded.arrays) | {"conv1.bias": weights.arrays["conv1.bias"]}
    wrong = _through(dataclasses.replace(folded, arrays=broken), pixels)
    assert np.abs(before - wrong).max() > 1e-3 * before.std()


def test_scale_alone_folds_through_padding():
    weights = narrow("torchvision")
    target = changed(weights.preprocess, std=(1.0, 2.0, 3.0))
    pixels = np.random.default_rng(0).uniform(0, 255, (1, 224, 224, 3)).astype(np.float32)
    before, after = _through(weights, pixels), _through(fold_preprocess(weights, target), pixels)
    assert np.abs(before - after).max() < 1e-4 * before.std()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("torchvision", {"mean": (0.0, 0.0, 0.0)}, "conv1, which pads by 2"),
        ("caffe", {"crop": 224}, "crop can't be folded.*crop 227 works"),
        ("caffe", {"resize_rule": "short"}, "resize_rule can't be folded"),
        ("caffe", {"channel_order": "BGR"}, "channel_order can't be folded"),
        ("caffe", {"mean": (1.0,)}, "one number for each"),
    ],
)
def test_folding_that_is_not_exact(name, change, message):
    weights = narrow(name)
    with pytest.raises(UserError, match=message):
        fold_preprocess(weights, changed(weights.preprocess, **change))


def test_a_mean_image_does_not_fold():
    weights = dataclasses.replace(narrow("caffe"), mean_image=True)
    with pytest.raises(UserError, match="mean image can't be folded"):
        fold_preprocess(weights, changed(weights.preprocess, std=(2.0, 2.0, 2.0)))
