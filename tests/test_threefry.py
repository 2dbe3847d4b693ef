"""Threefry and dropout masks: torch draws the bits that JAX draws."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet import spec
from alexnet.threefry import dropout_keys, fold_in, seed_key
from alexnet_jax.ops import dropout
from alexnet_torch.ops import Dropout, random_bits

WORD = st.integers(0, 2**32 - 1)


@given(seed=WORD, data=WORD)
@settings(max_examples=30, deadline=None)
def test_keys_are_those_of_jax(seed, data):
    key = jax.random.key(np.uint32(seed))
    assert seed_key(seed) == tuple(jax.random.key_data(key).tolist())
    folded = jax.random.fold_in(key, np.uint32(data))
    assert fold_in(seed_key(seed), data) == tuple(jax.random.key_data(folded).tolist())


@given(key=st.tuples(WORD, WORD), rows=st.integers(1, 5), features=st.integers(1, 50))
@settings(max_examples=30, deadline=None)
def test_bits_are_those_of_jax(key, rows, features):
    wrapped = jax.random.wrap_key_data(jnp.array(key, jnp.uint32))
    expected = np.asarray(jax.random.bits(wrapped, (rows, features)))
    ours = random_bits(key, torch.Size((rows, features)), 0, torch.device("cpu"))
    assert ((ours.numpy() ^ np.int32(-(2**31))).view(np.uint32) == expected).all()


@given(
    key=st.tuples(WORD, WORD),
    rate=st.sampled_from([0.1, 0.5, 0.9]),
    inverted=st.booleans(),
    first_row=st.integers(0, 2**17),
)
@settings(max_examples=20, deadline=None)
def test_masks_agree_element_for_element(key, rate, inverted, first_row):
    layer = spec.Dropout(rate, inverted)
    x = np.ones((3, 4096), np.float32)  # places on both sides of 2^31 come up
    ours = Dropout(layer).train()(torch.from_numpy(x), key, first_row).numpy()
    theirs = np.asarray(dropout(jnp.asarray(x), layer, jnp.array(key, jnp.uint32), first_row))
    assert (ours == theirs).all()
    assert abs((ours == 0).mean() - rate) < 0.03


def test_a_share_of_the_batch_gets_its_rows_of_the_mask():
    key, x = jnp.array([1, 2], jnp.uint32), jnp.ones((8, 100))
    layer = spec.Dropout(0.5)
    shares = [dropout(x[:3], layer, key, 0), dropout(x[3:], layer, key, 3)]
    assert (jnp.concatenate(shares) == dropout(x, layer, key, 0)).all()


def test_a_map_has_the_mask_of_its_flattened_form():
    key, layer, rng = (1, 2), spec.Dropout(0.5), np.random.default_rng(0)
    x = rng.normal(size=(3, 4, 5, 6)).astype(np.float32)  # N, H, W, C
    flat = dropout(jnp.asarray(x.reshape(3, -1)), layer, jnp.array(key, jnp.uint32), 7)
    whole = np.asarray(dropout(jnp.asarray(x), layer, jnp.array(key, jnp.uint32), 7))
    assert (whole.reshape(3, -1) == np.asarray(flat)).all()
    torchs = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))
    ours = Dropout(layer, (4, 5, 6)).train()(torchs, key, 7).numpy()
    assert (ours.transpose(0, 2, 3, 1) == whole).all()


def test_keys_differ_by_seed_step_and_layer():
    keys = np.concatenate([dropout_keys(seed, step, 2) for seed in range(5) for step in range(5)])
    assert len({tuple(key) for key in keys.tolist()}) == 50
    layers = sum(isinstance(layer, spec.Dropout) for layer in spec.VARIANTS["paper"])
    assert dropout_keys(0, 0, layers).shape == (2, 2)
