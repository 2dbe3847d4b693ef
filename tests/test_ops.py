"""Each operation against its formula in NumPy, or against torch's own."""

import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from torch.nn import functional

from alexnet.layers import (
    LRN,
    AdaptiveAvgPool,
    AvgPool,
    Conv,
    MaxPool,
    SpatialLRN,
)
from alexnet_jax import conv as forms
from alexnet_jax import ops
from alexnet_jax.conv import conv
from alexnet_jax.lrn import lrn
from alexnet_torch.lrn import LRN as TorchLRN
from alexnet_torch.lrn import SpatialLRN as TorchSpatialLRN


def maps(seed, *shape, levels=None):
    """Random NHWC maps; with `levels`, of so few values that many are equal."""
    rng = np.random.default_rng(seed)
    if levels:
        return rng.integers(0, levels, shape).astype(np.float32)
    return rng.standard_normal(shape, dtype=np.float32)


def nchw(x):
    return torch.tensor(x).permute(0, 3, 1, 2)


def nhwc(x):
    return x.detach().permute(0, 2, 3, 1).numpy()


def lrn_by_formula(x, layer):
    """Krizhevsky et al. 2012, section 3.3, alpha divided by size, in each group by itself."""
    y = np.empty_like(x, np.float64)
    per_group = x.shape[-1] // layer.groups
    for c in range(x.shape[-1]):
        group = c // per_group
        first = max(group * per_group, c - layer.size // 2)
        last = min((group + 1) * per_group - 1, c + (layer.size - 1) // 2)
        total = (x[..., first : last + 1].astype(np.float64) ** 2).sum(-1)
        y[..., c] = x[..., c] / (layer.k + layer.alpha / layer.size * total) ** layer.beta
    return y


@given(
    seed=st.integers(0, 99),
    size=st.integers(1, 6),
    groups=st.sampled_from([1, 2]),
    beta=st.sampled_from([0.5, 0.75]),
    k=st.sampled_from([1.0, 2.0]),
)
@settings(max_examples=25, deadline=None)
def test_lrn_is_the_formula(seed, size, groups, beta, k):
    layer = LRN(size=size, alpha=0.3, beta=beta, k=k, groups=groups)
    x = 3 * maps(seed, 2, 3, 3, 8)
    expected = lrn_by_formula(x, layer)
    np.testing.assert_allclose(lrn(jnp.asarray(x), layer), expected, rtol=2e-6)
    np.testing.assert_allclose(nhwc(TorchLRN(layer)(nchw(x))), expected, rtol=2e-6)


@given(
    seed=st.integers(0, 99),
    size=st.integers(1, 6),
    groups=st.sampled_from([1, 2]),
    beta=st.sampled_from([0.5, 0.75]),
)
@settings(max_examples=15, deadline=None)
def test_the_gradient_of_lrn_is_that_of_the_formula(seed, size, groups, beta):
    layer = LRN(size=size, alpha=0.3, beta=beta, k=1.0, groups=groups)
    x, grad, step = 3 * maps(seed, 1, 2, 2, 6), maps(seed + 1, 1, 2, 2, 6), 1e-6
    differences = np.zeros(x.shape)
    for place in np.ndindex(x.shape):
        moved = np.zeros(x.shape)
        moved[place] = step
        ahead, behind = (lrn_by_formula(x + sign * moved, layer) for sign in (1, -1))
        differences[place] = ((ahead - behind) * grad).sum() / (2 * step)
    _, vjp = jax.vjp(lambda x: lrn(x, layer), jnp.asarray(x))
    np.testing.assert_allclose(vjp(jnp.asarray(grad))[0], differences, rtol=1e-5, atol=2e-6)
    images = nchw(x).requires_grad_()
    TorchLRN(layer)(images).backward(nchw(grad))
    np.testing.assert_allclose(nhwc(images.grad), differences, rtol=1e-5, atol=2e-6)


def of(backend):
    """A context in which operations take the form of a backend: "cpu", or "default"."""
    return mock.patch.object(
        lax, "platform_dependent", lambda *operands, **forms: forms[backend](*operands)
    )


@pytest.mark.parametrize("backend", ["cpu", "default"])
@given(
    seed=st.integers(0, 99),
    size=st.integers(1, 6),
    levels=st.sampled_from([None, 4]),
    within=st.booleans(),
)
@settings(max_examples=15, deadline=None)
def test_lrn_of_a_relu_is_both_in_turn(backend, seed, size, levels, within):
    layer = SpatialLRN(size, alpha=0.3) if within else LRN(size=size, alpha=0.3, groups=2)
    x = jnp.asarray(maps(seed, 2, 3, 3, 8))
    x = 3 * x if levels is None else jnp.round(levels * x)  # with zeros, where ReLU's gradient is 0
    with of("cpu"):
        expected, expected_vjp = jax.vjp(lambda x: lrn(ops.relu(x), layer), x)
    grad = jnp.asarray(maps(seed + 1, *x.shape))
    with of(backend):
        y, vjp = jax.vjp(lambda x: lrn(x, layer, rectify=True), x)
        np.testing.assert_allclose(vjp(grad)[0], expected_vjp(grad)[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("backend", ["cpu", "default"])
def test_the_gradient_of_lrn_in_bf16_is_fp32s_rounded(backend):
    layer, x, grad = LRN(groups=2), 40 * maps(0, 2, 5, 5, 96), maps(1, 2, 5, 5, 96)
    x, grad = (jnp.asarray(array, jnp.bfloat16) for array in (x, grad))
    with of(backend):
        wide, narrow = (
            jax.vjp(lambda x: lrn(x, layer, rectify=True), x.astype(kind))[1](grad.astype(kind))[0]
            for kind in (jnp.float32, jnp.bfloat16)
        )
    assert jnp.abs(wide - narrow).max() < 2**-7 * jnp.abs(wide).max()


@pytest.mark.parametrize("module", [TorchLRN(LRN(size=3)), TorchSpatialLRN(SpatialLRN(3, 0.3))])
def test_torch_refuses_a_gradients_gradient(module):
    """Autograd would take what the forward pass keeps for constants."""
    images = nchw(maps(0, 1, 4, 4, 6)).requires_grad_()
    (grad,) = torch.autograd.grad(module(images).square().sum(), images, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_lrn_trains_after_inference():
    """The matrix that is kept for both must not be one of `inference_mode`'s."""
    layer, images = LRN(size=3), nchw(maps(0, 1, 2, 2, 7))
    with torch.inference_mode():
        TorchLRN(layer)(images)
    TorchLRN(layer)(images.requires_grad_()).sum().backward()
    assert images.grad is not None


def test_lrn_in_exported_files_is_the_same():
    layer, x = LRN(groups=2), nchw(20 * maps(0, 2, 5, 5, 96))
    module = TorchLRN(layer)
    traced = torch.jit.trace(module, x)
    assert "_Normalize" not in str(traced.graph)
    np.testing.assert_allclose(traced(x), module(x), rtol=2e-6)


def test_lrn_is_torchs_own():
    layer, x = LRN(), 20 * maps(0, 2, 5, 5, 96)
    expected = nhwc(functional.local_response_norm(nchw(x), 5, 1e-4, 0.75, 2.0))
    np.testing.assert_allclose(lrn(jnp.asarray(x), layer), expected, rtol=2e-6)
    undivided = lrn(jnp.asarray(x), LRN(alpha=5e-4))  # the paper's formula to the letter
    assert np.abs(undivided - expected).max() > 0.1


@pytest.mark.parametrize("path", [ops._pool_slices, ops._pool_windows, ops.max_pool])
@given(seed=st.integers(0, 99), size=st.integers(5, 12), ceil=st.booleans())
@settings(max_examples=15, deadline=None)
def test_max_pool_is_torchs(path, seed, size, ceil):
    layer, x = MaxPool(3, 2, ceil=ceil), maps(seed, 2, size, size + 1, 3)
    expected = nhwc(functional.max_pool2d(nchw(x), 3, 2, ceil_mode=ceil))
    np.testing.assert_array_equal(path(jnp.asarray(x), layer=layer), expected)
    assert (layer.out(size), layer.out(size + 1)) == expected.shape[1:3]


@pytest.mark.parametrize("geometry", [(1, 0), (1, 1), (1, 3), (2, 1), (3, 1), (4, 0), (4, 2)])
@given(seed=st.integers(0, 99), size=st.integers(11, 20), side=st.sampled_from([1, 3, 5, 11]))
@settings(max_examples=5, deadline=None)
def test_every_form_of_a_convolution_is_xlas(geometry, seed, size, side):
    geometry = forms.Geometry(*geometry)
    x, kernel = jnp.asarray(maps(seed, 2, size, size + 1, 3)), maps(seed + 1, side, side, 3, 5)
    expected, vjp = jax.vjp(functools.partial(forms.plain, geometry), x, jnp.asarray(kernel))
    grad = jnp.asarray(maps(seed + 2, *expected.shape))
    to_input, to_kernel = vjp(grad)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-4)
    close(forms.flipped(geometry, x, kernel, grad), to_input)
    close(forms.by_row(geometry, x, kernel, grad), to_kernel)
    if geometry.stride == 1:
        close(forms.by_position(geometry, x, kernel, grad), to_kernel)
    close(jax.vjp(lambda *own: forms.convolve(*own, geometry), x, kernel)[1](grad)[1], to_kernel)


@given(seed=st.integers(0, 99), size=st.integers(5, 12), ceil=st.booleans())
@settings(max_examples=25, deadline=None)
def test_of_equal_maxima_the_same_one_gets_the_gradient(seed, size, ceil):
    layer, x = MaxPool(3, 2, ceil=ceil), maps(seed, 2, size, size, 3, levels=3)
    images = nchw(x).contiguous().requires_grad_()
    pooled = functional.max_pool2d(images, 3, 2, ceil_mode=ceil)
    grad = maps(seed + 1, *nhwc(pooled).shape)
    pooled.backward(nchw(grad).contiguous())
    _, vjp = jax.vjp(lambda x: ops.max_pool(x, layer), jnp.asarray(x))
    np.testing.assert_allclose(vjp(jnp.asarray(grad))[0], nhwc(images.grad), atol=1e-6)


@pytest.mark.parametrize("backend", ["cpu", "default"])
@given(seed=st.integers(0, 99), size=st.integers(5, 12), ceil=st.booleans())
@settings(max_examples=15, deadline=None)
def test_max_pooling_of_a_relu_is_both_in_turn(backend, seed, size, ceil):
    layer, x = MaxPool(3, 2, ceil=ceil), jnp.asarray(maps(seed, 2, size, size, 3, levels=5) - 3)
    with of(backend):
        y, vjp = jax.vjp(lambda x: ops.max_pool(x, layer, rectify=True), x)
        expected, expected_vjp = jax.vjp(lambda x: ops.max_pool(ops.relu(x), layer), x)
        grad = jnp.asarray(maps(seed + 1, *y.shape))
        np.testing.assert_array_equal(y, expected)
        np.testing.assert_array_equal(vjp(grad)[0], expected_vjp(grad)[0])


def test_relu_and_its_gradient_are_torchs():
    x = np.array([-np.inf, -1, -0.0, 0, 1e-30, 1, np.inf, np.nan], np.float32)
    inputs, grad = torch.tensor(x, requires_grad=True), np.arange(1, 9, dtype=np.float32)
    functional.relu(inputs).backward(torch.tensor(grad))
    y, vjp = jax.vjp(ops.relu, jnp.asarray(x))
    np.testing.assert_array_equal(y, functional.relu(torch.tensor(x)))
    np.testing.assert_array_equal(vjp(jnp.asarray(grad))[0][:-1], inputs.grad[:-1])


@given(seed=st.integers(0, 99), height=st.integers(1, 14), width=st.integers(1, 14))
@settings(max_examples=25, deadline=None)
def test_adaptive_pool_is_torchs(seed, height, width):
    x = maps(seed, 2, height, width, 3)
    expected = nhwc(functional.adaptive_avg_pool2d(nchw(x), 6))
    ours = ops.avg_pool(jnp.asarray(x), AdaptiveAvgPool(6))
    np.testing.assert_allclose(ours, expected, atol=1e-6)


@pytest.mark.parametrize("layer", [AvgPool(), AdaptiveAvgPool(6)], ids=["third", "adaptive"])
def test_averages_in_bf16_are_not_too_large(layer):
    """A third in bf16 is 0.2 % more; rounding what comes out has no preferred direction."""
    x = jnp.asarray(np.abs(maps(0, 4, 32, 32, 16)), jnp.bfloat16)
    exact = np.asarray(ops.avg_pool(x.astype(jnp.float32), layer), np.float64)
    ours = np.asarray(ops.avg_pool(x, layer), np.float64)
    apart = float((ours / exact - 1).mean())
    print(f"{layer}: {apart:.1e} on average (bound 3e-4)")
    assert abs(apart) < 3e-4


@pytest.mark.parametrize("groups", [1, 2])
def test_grouped_convolution_is_torchs(groups):
    layer = Conv("conv", 8, kernel=3, stride=2, padding=1, groups=groups)
    x, kernel, bias = maps(0, 2, 9, 9, 4), maps(1, 3, 3, 4 // groups, 8), maps(2, 8)
    ours = conv(jnp.asarray(x), jnp.asarray(kernel), jnp.asarray(bias), layer)
    weight = torch.tensor(kernel).permute(3, 2, 0, 1)
    theirs = functional.conv2d(nchw(x), weight, torch.tensor(bias), 2, 1, groups=groups)
    np.testing.assert_allclose(ours, nhwc(theirs), atol=1e-5)
