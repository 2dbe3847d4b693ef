"""Flax's parameters: `.msgpack`."""

import io
import struct

import flax.serialization
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet.errors import UserError
from alexnet.spec import VARIANTS, variant
from alexnet.weights import detect, flax_msgpack, load, save

from .helpers import (
    load_data,
    narrow,
    random_weights,
    same,
    view,
    within,
    written,
)


@pytest.mark.parametrize("name", VARIANTS)
def test_flax_round_trip(name, tmp_path):
    weights = narrow(name)
    save(tmp_path / "a.msgpack", weights)
    assert detect(tmp_path / "a.msgpack") == "flax"
    same(weights, load(tmp_path / "a.msgpack", variant=name))


def test_flax_reads_what_is_written_and_the_other_way():
    weights = narrow("torchvision")
    data = written(weights, "flax")
    tree = flax.serialization.msgpack_restore(bytes(data))
    assert set(tree) == {"params"}
    for name, array in weights.arrays.items():
        layer, part = name.split(".")
        np.testing.assert_array_equal(tree["params"][layer][part], array)
    for value in (tree, tree["params"]):
        moved = {k: {p: jnp.asarray(a) for p, a in v.items()} if "kernel" in v else v
                 for k, v in value.items()}  # fmt: skip
        again = flax.serialization.to_bytes(moved)
        same(weights, load_data(view(again), "flax", "w", variant="torchvision"))


def test_flax_problems_stand_in_one_error():
    weights = narrow("torchvision")
    tree = flax.serialization.msgpack_restore(bytes(written(weights, "flax")))
    del tree["params"]["conv1"]["bias"]
    tree["params"]["conv9"] = {"kernel": np.zeros(2, "f4")}
    tree["params"]["fc7"]["kernel"] = tree["params"]["fc7"]["kernel"].T.astype("i4")[1:]
    with pytest.raises(UserError) as error:
        load_data(view(flax.serialization.to_bytes(tree)), "flax", "w", variant="torchvision")
    for part in ("missing conv1.bias", "unexpected conv9.kernel", "fc7.kernel is", "int32"):
        assert part in str(error.value)


@pytest.mark.parametrize("name", VARIANTS)
def test_flax_writes_the_same_bytes(name):
    weights = narrow(name)
    tree: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    for key, array in weights.arrays.items():
        layer, part = key.split(".")
        statistics = {"mean": "mean", "variance": "var"}
        place = "batch_stats" if part in statistics else "params"
        tree.setdefault(place, {}).setdefault(layer, {})[statistics.get(part, part)] = array
    assert bytes(written(weights, "flax")) == flax.serialization.to_bytes(tree)


def test_flax_with_longer_heads_than_needed():
    """Files that this project wrote once: a length always takes 32 bits there."""
    array = np.arange(3, dtype="<f4")
    content = b"\x93\x91\xce\x00\x00\x00\x03\xa7float32\xc6\x00\x00\x00\x0c" + array.tobytes()
    extension = b"\xc9" + struct.pack(">IB", len(content), 1) + content
    data = b"\x81\xa6params\x81\xa3fc8\x81\xa4bias" + extension
    found = flax_msgpack.read(io.BytesIO(data))
    np.testing.assert_array_equal(found.arrays["fc8.bias"], array)


PARAMS = b"\x81\xa6params"
LISTS = b"\xdc\x03\xe8" + b"\x80" * 1000  # a list of a thousand empty tables


def _flax_array(content: bytes) -> bytes:
    return PARAMS + b"\x81\xa3fc8\x81\xa4bias\xc7" + bytes([len(content), 1]) + content


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (PARAMS + b"\x91" * 5000, "corrupt msgpack"),
        (PARAMS + b"\xdf\xff\xff\xff\xff", "corrupt msgpack"),
        (PARAMS + b"\xc6\xff\xff\xff\xff", "corrupt msgpack"),
        (PARAMS + b"\xdd\x00\x98\x96\x80" + b"\x80" * 1_000_000, r"exceeds max_array_len\(1000\)"),
        (PARAMS + b"\xdc\x03\xe8" + LISTS * 1000, "more than the 1000 values"),
        (PARAMS + b"\x82\xa1a\x00\xa1a\x00", "twice"),
        (PARAMS + b"\x81\x01\x00", "no name|not text|int is not allowed"),
        (PARAMS + b"\x80\x80", "corrupt msgpack"),
        (b"\xc1", "corrupt msgpack"),
        (_flax_array(b""), "corrupt msgpack"),
        (_flax_array(b"\x93\x91\x02\xa7float32\xc4\x04" + bytes(4)), "not its size"),
        (_flax_array(b"\x93\x91\x01\xa7float32\xc4\x03" + bytes(4)), "not its size"),
        (_flax_array(b"\x93\x91\x01\xa7float32\xc4\x04" + bytes(5)), "not its size"),
        (_flax_array(b"\x93\x91\xff\xa7float32\xc4\x04" + bytes(4)), "not its size"),
        (_flax_array(b"\x93\x91\x01\xa7float32"), "corrupt|damaged"),
        (_flax_array(b"\x93\x91\x01\xa7complex\xc4\x04" + bytes(4)), "type 'complex'"),
        (_flax_array(b"\x92\x91\x01\xa7float32"), "no shape"),
    ],
)
def test_flax_hostile(data, message):
    with pytest.raises(UserError, match=message):
        within(4, lambda: load_data(view(data), "flax", "w"), len(data))


def test_ambiguous_widths_keep_their_layers():
    """A file holds features; the width found must give back the same ones."""
    for width in (1.0, 0.5, 0.3, 0.37, 1 / 3, 0.01):
        spec = variant("single", num_classes=3, width=width)
        if width == 1.0:
            continue  # 62 million numbers: the full size is for test_budget
        if width > 0.31:
            spec = variant("torchvision", num_classes=3, width=width / 4)
        weights = random_weights(spec)
        read = load_data(written(weights, "flax"), "flax", "w", variant=spec.name)
        assert read.spec.layers == spec.layers
