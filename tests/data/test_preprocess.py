import json

import pytest

from alexnet.config import DataConfig, ModelConfig, TrainConfig
from alexnet.data.augment import Augmentation
from alexnet.errors import UserError
from alexnet.preprocess import EvalProtocol, Normalize, Preprocess, from_json, to_json

FLAT = {
    "resize_rule": "warp", "resize_to": 256, "crop": 227, "channel_order": "BGR",
    "mean": [1, 2.5, 3], "std": [4.0, 5.0, 6.0],
}  # fmt: skip


def test_json_is_flat_and_comes_back():
    preprocess = Preprocess(
        Normalize((1, 2.5, 3), (4.0, 5.0, 6.0), "BGR"), EvalProtocol("warp", 256, 227)
    )
    assert to_json(preprocess) == FLAT
    assert json.dumps(to_json(preprocess)) == json.dumps(FLAT)  # in this order, as files have it
    assert from_json(FLAT, 3) == preprocess
    assert from_json(to_json(Preprocess()), 3) == Preprocess()


@pytest.mark.parametrize("change", [
    {"resize_rule": "long"}, {"resize_rule": ["short"]}, {"resize_to": 0}, {"resize_to": 2**21},
    {"resize_to": 256.0}, {"crop": "227"}, {"crop": True}, {"crop": -1}, {"channel_order": "GBR"},
    {"channel_order": None}, {"mean": [1, 2]}, {"mean": 1}, {"mean": ["1", "2", "3"]},
    {"mean": [1, 2, float("nan")]}, {"mean": [1, 2, float("inf")]}, {"mean": [1, 2, 10**400]},
    {"mean": "123"}, {"std": [1, 2, 0]}, {"std": [1, 2, -1]}, {"std": [1, 2, 1e-60]},
    {"std": [1, 2, True]}, {"std": {}}, {"std": [[1], 2, 3]},
])  # fmt: skip
def test_values_that_none_can_have(change):
    (name,) = change
    with pytest.raises(UserError, match=f"description has an impossible {name}"):
        from_json(FLAT | change, 3)


@pytest.mark.parametrize("values", [
    None, 5, "RGB", [], {}, FLAT | {"more": 1}, {k: v for k, v in FLAT.items() if k != "std"},
])  # fmt: skip
def test_fields_that_are_missing_or_unknown(values):
    with pytest.raises(UserError, match="must have exactly channel_order, crop, mean, resize"):
        from_json(values, 3)


def test_one_number_a_channel():
    gray = FLAT | {"mean": [0], "std": [255], "channel_order": "L"}
    assert from_json(gray, 1).normalize == Normalize((0,), (255,), "L")
    with pytest.raises(UserError, match="impossible mean and std for an input of 1 channels"):
        from_json(FLAT, 1)


def test_a_configuration_says_how_images_are_prepared():
    config = TrainConfig(
        model=ModelConfig(image_size=28, channels=1),
        data=DataConfig(
            batch_size=5, resize_rule="warp", train_crop="area", flip=False, color_noise=0.0,
            mean=(7.0,), std=(8.0,), on_bad_image="skip", loader_threads=3,
        ),
    )  # fmt: skip
    assert config.augmentation == Augmentation(28, 32, "warp", "area", flip=False, color_noise=0.0)
    assert config.preprocess == Preprocess(
        Normalize((7.0,), (8.0,), "L"), EvalProtocol("warp", 32, 28)
    )
    loading = config.loading()
    assert (loading.batch_size, loading.channels, loading.threads) == (5, 1, 3)
    assert loading.on_bad_image == "skip"
    assert loading.own_rows.tolist() == [0, 1, 2, 3, 4]
    assert config.loading(loading.own_rows[1:3]).own_rows.tolist() == [1, 2]
