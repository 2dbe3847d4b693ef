"""The library's layers against XLA's, and what happens where there is no oneDNN."""

import dataclasses
import os
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet.init import initial_weights
from alexnet.layers import Conv, FanIn, LeCun, MaxPool, count_dropouts, trace
from alexnet.spec import VARIANTS, variant
from alexnet.threefry import dropout_keys
from alexnet_jax import onednn
from alexnet_jax.checkpoint import flat
from alexnet_jax.model import XLA, AlexNet
from alexnet_jax.step import split
from tests.conftest import ROOT
from tests.parity.pairs import report

needs_onednn = pytest.mark.skipif(
    onednn.missing() is not None, reason=f"oneDNN can't be used: {onednn.missing()}"
)

# By what they compute: variants share many.
LAYERS = {
    (*row.in_shape, dataclasses.replace(row.layer, init=FanIn())): f"{name} {row.name}"
    for name in VARIANTS
    for row in trace(variant(name))
    if isinstance(row.layer, Conv)
}


def results(work, layer, operands, gradient):
    """The output and the gradients of images, kernel and bias."""

    def all_of(operands, gradient):
        y, back = jax.vjp(lambda *operands: work(*operands, layer), *operands)
        return y, *back(gradient)

    return [np.asarray(array, np.float64) for array in jax.jit(all_of)(operands, gradient)]


def operands_of(layer, rows, columns, channels, batch):
    rng = np.random.default_rng(0)
    kernel = (layer.kernel, layer.kernel, channels // layer.groups, layer.features)
    shapes = ((batch, rows, columns, channels), kernel, (layer.features,))
    operands = [jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes]
    y = jax.eval_shape(lambda *operands: XLA.conv(*operands, layer), *operands)
    return operands, jnp.asarray(rng.standard_normal(y.shape), jnp.float32)


def largest_difference(layer, operands, gradient):
    ours = results(onednn.conv, layer, operands, gradient)
    theirs = results(XLA.conv, layer, operands, gradient)
    return max(np.abs(a - b).max() / np.abs(b).max() for a, b in zip(ours, theirs, strict=True))


@needs_onednn
@pytest.mark.parametrize("geometry", LAYERS, ids=LAYERS.values())
def test_every_variants_convolutions(geometry):
    *shape, layer = geometry
    found = largest_difference(layer, *operands_of(layer, *shape, batch=2))
    print(f"{LAYERS[geometry]}: {found:.1e} of the largest entry")
    assert found < 2e-5


@needs_onednn
@pytest.mark.parametrize("name", ["paper", "torchvision"])
def test_a_whole_network(name):
    """Gradients of all weights, in a training step of a narrow network."""
    spec = variant(name, num_classes=10, width=0.125, init=LeCun())
    graphdef, params, rest = split(AlexNet(spec, weights=initial_weights(spec, 0)))
    shape = (3, spec.image_size, spec.image_size, 3)
    images = jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)
    keys = jnp.asarray(dropout_keys(0, 0, count_dropouts(spec)))

    def loss(params, work):
        logits = nnx.merge(graphdef, params, rest)(images, train=True, key=keys, work=work)
        return (logits**2).mean()

    gradients = jax.jit(jax.grad(loss), static_argnums=1)
    ours, theirs = (flat(gradients(params, work)) for work in (onednn.ONEDNN, XLA))
    apart = {key: np.abs(ours[key] - theirs[key]).max() / np.abs(theirs[key]).max() for key in ours}
    assert report(f"{name} by oneDNN", apart, 1e-4) < 1e-4


@needs_onednn
@settings(max_examples=25, deadline=None)
@given(
    side=st.integers(1, 5), stride=st.integers(1, 4), padding=st.integers(0, 2),
    groups=st.sampled_from([1, 2, 3]), each=st.integers(1, 5), features=st.integers(1, 6),
    rows=st.integers(5, 13), columns=st.integers(5, 13), batch=st.integers(1, 3),
)  # fmt: skip
def test_any_geometry(
    side, stride, padding, groups, each, features, rows, columns, batch
):  # fmt: skip
    layer = Conv("conv1", features * groups, side, stride, padding, groups)
    operands = operands_of(layer, rows, columns, each * groups, batch)
    assert largest_difference(layer, *operands) < 2e-5


@needs_onednn
@settings(max_examples=25, deadline=None)
@given(
    window=st.integers(1, 4), stride=st.integers(1, 4), ceil=st.booleans(), rectify=st.booleans(),
    rows=st.integers(4, 12), columns=st.integers(4, 12),
    channels=st.integers(1, 9) | st.just(300), batch=st.integers(1, 3), seed=st.integers(0, 99),
)  # fmt: skip
def test_max_poolings_gradient(
    window, stride, ceil, rectify, rows, columns, channels, batch, seed
):  # fmt: skip
    """Of maps full of equal maxima and with some NaN; to the bit, since the gradients are whole."""
    layer, rng = MaxPool(window, stride, ceil), np.random.default_rng(seed)
    x = rng.integers(-2, 3, (batch, rows, columns, channels)).astype(np.float32)
    x[rng.random(x.shape) < 0.02] = np.nan
    shape = (batch, layer.out(rows), layer.out(columns), channels)
    grad = rng.integers(-9, 10, shape).astype(np.float32)

    @jax.jit
    def results_of_both(x, grad):
        pairs = [jax.vjp(lambda x, w=w: w.max_pool(x, layer, rectify), x) for w in works]
        return [(y, back(grad)[0]) for y, back in pairs]

    works = (onednn.ONEDNN, XLA)
    for ours, theirs in zip(*results_of_both(x, grad), strict=True):
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))


@needs_onednn
def test_max_pooling_that_takes_the_last_maximum_is_found_out():
    """Negative control: maps turned around have other firsts."""
    layer, x = MaxPool(3, 2), np.zeros((1, 5, 5, 4), np.float32)
    x[0, :2, :2] = 1

    def gradient(x, work):
        return jax.grad(lambda x: work.max_pool(x, layer, False).sum())(x)

    turned = gradient(x[:, ::-1], onednn.ONEDNN)[:, ::-1]
    assert not np.array_equal(turned, gradient(x, XLA))


@needs_onednn
@pytest.mark.parametrize("sizes", [(1, 1, 1), (3, 7, 5), (32, 9216, 40), (2, 4096, 4096)])
def test_dense_layers(sizes):
    batch, before, after = sizes
    rng = np.random.default_rng(0)
    shapes = ((batch, before), (before, after), (after,))
    operands = [jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes]
    gradient = jnp.asarray(rng.standard_normal((batch, after)), jnp.float32)

    def dense(work):
        return lambda x, kernel, bias, _: work.dense("fc6", x, kernel, bias)

    ours, theirs = (results(dense(work), None, operands, gradient) for work in (onednn.ONEDNN, XLA))
    found = max(np.abs(a - b).max() / np.abs(b).max() for a, b in zip(ours, theirs, strict=True))
    print(f"{sizes}: {found:.1e} of the largest entry")
    assert found < 1e-5


@needs_onednn
def test_another_layers_numbers_are_found_out():
    """Negative control: the groups' kernels are read as those of one group of towers swapped."""
    layer = Conv("conv1", 8, 3, 1, 1, groups=2)
    operands, gradient = operands_of(layer, 7, 9, 8, 2)
    swapped = [operands[0], jnp.roll(operands[1], 4, axis=3), operands[2]]
    ours = results(onednn.conv, layer, swapped, gradient)
    theirs = results(XLA.conv, layer, operands, gradient)
    assert np.abs(ours[0] - theirs[0]).max() / np.abs(theirs[0]).max() > 0.1


@needs_onednn
def test_other_precisions_are_xlas():
    layer = Conv("conv1", 4, 3)
    operands, _ = operands_of(layer, 6, 6, 3, 1)
    operands = [x.astype(jnp.bfloat16) for x in operands]
    text = jax.jit(lambda *x: onednn.conv(*x, layer)).lower(*operands).as_text()
    assert "AlexNetConvolution" not in text
    assert "stablehlo.convolution" in text


@needs_onednn
def test_only_one_cpu_device_has_them():
    """Here eight are simulated."""
    assert onednn.fastest(jax.devices()[:1]) is onednn.ONEDNN
    assert onednn.fastest(jax.devices()) is XLA


def said(script, **environment):
    """The output of a script in a process of its own, with one CPU device."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1", **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


MISSING = "from alexnet_jax import onednn; print(onednn.missing())"


def test_it_can_be_switched_off():
    assert said(MISSING, ALEXNET_ONEDNN="0") == "ALEXNET_ONEDNN is 0"


@needs_onednn
def test_without_a_compiler_xla_does_the_work(tmp_path):
    found = said(MISSING, CXX="/nowhere/c++", XDG_CACHE_HOME=str(tmp_path))
    assert "No such file or directory: '/nowhere/c++'" in found


@needs_onednn
def test_a_compiler_that_fails_is_told(tmp_path):
    found = said(MISSING, CXX="false", XDG_CACHE_HOME=str(tmp_path))
    assert "false can't compile onednn.cc" in found
    assert not list((tmp_path / "alexnet" / "onednn").iterdir())


@needs_onednn
def test_a_full_disk_costs_no_run(tmp_path):
    full = """
        from alexnet.errors import RunError
        from alexnet_jax import onednn
        def refuse(path): raise RunError("no space left")
        onednn.atomic_write = refuse
        print(onednn.missing())
    """
    assert said(full, XDG_CACHE_HOME=str(tmp_path)) == "no space left"


@needs_onednn
def test_a_folder_that_others_can_write_is_not_used(tmp_path):
    folder = tmp_path / "alexnet" / "onednn"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    assert "other users can write" in said(MISSING, XDG_CACHE_HOME=str(tmp_path))
    assert not list(folder.iterdir())


@needs_onednn
def test_two_processes_at_once_and_a_damaged_library(tmp_path):
    folder = tmp_path / "alexnet" / "onednn"
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: said(MISSING, XDG_CACHE_HOME=str(tmp_path)), range(2)))
    assert found == ["None", "None"]
    (library,) = folder.iterdir()
    whole = library.read_bytes()
    library.write_bytes(whole[: len(whole) // 2])
    assert said(MISSING, XDG_CACHE_HOME=str(tmp_path)) == "None"
    assert library.read_bytes() == whole or len(list(folder.iterdir())) == 2
