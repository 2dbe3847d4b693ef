import dataclasses

import numpy as np
import pytest
from data_helpers import make_photo
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from alexnet import draws
from alexnet.data import augment
from alexnet.data.augment import Augmentation, eval_view, train_view
from alexnet.preprocess import EvalProtocol

sizes = st.integers(3, 70)
keys = st.tuples(st.integers(0, 2**63 - 1), st.integers(0, 1000), st.integers(0, 2**40 - 1))


def whole_resized(image, height, width):
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized)


# --- random numbers ----------------------------------------------------------------------------


@given(n=st.integers(1, 500), seed=st.integers(0, 2**63 - 1), epoch=st.integers(0, 1000))
def test_order_is_a_permutation(n, seed, epoch):
    order = draws.order(n, seed, epoch)
    np.testing.assert_array_equal(np.sort(order), np.arange(n))
    np.testing.assert_array_equal(order, draws.order(n, seed, epoch))


def test_order_differs_by_seed_and_epoch():
    orders = {tuple(draws.order(50, seed, epoch)) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16


def test_numbers_do_not_change_between_versions():
    # Written down when first run: a change here changes every run's samples.
    assert draws.order(8, seed=0, epoch=0).tolist() == [7, 4, 2, 6, 5, 0, 1, 3]
    drawn = draws.uniforms(3, draws.VIEW, 1, 2, 3).tolist()
    assert drawn == [0.1653140784574615, 0.2660733799739271, 0.5139489590123643]


def test_streams_and_keys_share_no_numbers():
    values = [draws.bits(4, s, seed, e, i) for s in range(3) for seed in (0, 1) for e in (0, 1)
              for i in (0, 1)]  # fmt: skip
    assert len(np.unique(np.concatenate(values))) == 4 * 24


def test_uniforms_are_uniform():
    values = draws.uniforms(100_000, draws.VIEW, 5)
    assert values.min() >= 0
    assert values.max() < 1
    counts, _ = np.histogram(values, bins=20, range=(0, 1))
    assert np.abs(counts / 5000 - 1).max() < 0.06  # four standard deviations


# --- training views ----------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(height=sizes, width=sizes, key=keys, crop=st.sampled_from(["random", "area"]),
       rule=st.sampled_from(["short", "warp"]), channels=st.sampled_from([1, 3]))  # fmt: skip
def test_views_have_their_shape_and_repeat(height, width, key, crop, rule, channels):
    noise = 0.1 if channels == 3 else 0.0
    augmentation = Augmentation(16, 18, rule, crop, color_noise=noise)
    image = make_photo(height, width)[:, :, :channels]
    first, shift = train_view(image, augmentation, *key)
    again, shift_again = train_view(image, augmentation, *key)
    assert first.shape == (16, 16, channels)
    assert first.dtype == np.uint8
    assert shift.shape == (3,)
    assert shift.dtype == np.float32
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(shift, shift_again)
    evaluated = eval_view(image, EvalProtocol(rule, resize_to=18, crop=16))
    assert evaluated.shape == (16, 16, channels)
    assert evaluated.dtype == np.uint8


def test_views_differ_by_seed_epoch_and_index(photo):
    augmentation = Augmentation(16, 18, color_noise=0.1)
    views = [train_view(photo, augmentation, *key) for key in
             [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]]  # fmt: skip
    assert len({shift.tobytes() for _, shift in views}) == 4


@pytest.mark.parametrize(("height", "width"), [(60, 80), (80, 60), (64, 64), (8, 8), (301, 517)])
@pytest.mark.parametrize("rule", ["short", "warp"])
def test_random_crop_is_a_crop_of_the_resized_square(height, width, rule):
    image = make_photo(height, width)
    augmentation = Augmentation(32, 40, rule, flip=False)
    if rule == "warp":
        tall, wide = 40, 40
    else:
        tall, wide = 40 * height // min(height, width), 40 * width // min(height, width)
    resized = whole_resized(image, tall, wide).astype(int)
    top, left = round((tall - 40) / 2), round((wide - 40) / 2)
    places = set()
    for index in range(100):
        crop, _ = train_view(image, augmentation, 0, 0, index)
        matches = [
            (y, x)
            for y in range(9)
            for x in range(9)
            if np.abs(resized[top + y :, left + x :][:32, :32] - crop).max() <= 1
        ]
        assert matches, f"crop {index} is nowhere in the central square"
        places.update(matches)
    ys, xs = zip(*places, strict=True)
    assert min(ys) == 0
    assert max(ys) == 8
    assert min(xs) == 0
    assert max(xs) == 8


def test_half_of_the_views_are_mirrored_and_nothing_else_changes(photo):
    flipping = Augmentation(16, 18)
    straight = Augmentation(16, 18, flip=False)
    mirrored = 0
    for index in range(400):
        crop, _ = train_view(photo, flipping, 0, 0, index)
        plain, _ = train_view(photo, straight, 0, 0, index)
        if not np.array_equal(crop, plain):
            np.testing.assert_array_equal(crop, plain[:, ::-1])
            mirrored += 1
    assert 160 <= mirrored <= 240  # four standard deviations


def test_options_do_not_disturb_each_other(photo):
    augmentation = Augmentation(16, 18, color_noise=0.1)
    quiet = dataclasses.replace(augmentation, color_noise=0.0)
    area = dataclasses.replace(augmentation, crop="area")
    crop, shift = train_view(photo, augmentation, 1, 2, 3)
    np.testing.assert_array_equal(crop, train_view(photo, quiet, 1, 2, 3)[0])
    np.testing.assert_array_equal(shift, train_view(photo, area, 1, 2, 3)[1])
    np.testing.assert_array_equal(train_view(photo, quiet, 1, 2, 3)[1], np.zeros(3))


def test_area_shapes_follow_torchvision():
    shapes = np.array([
        augment._area_shape(350, 350, draws.uniforms(20, draws.VIEW, 0, 0, i).reshape(10, 2))
        for i in range(4000)
    ])  # fmt: skip
    assert (shapes > 0).all()
    share = shapes.prod(axis=1) / 350**2
    ratio = shapes[:, 1] / shapes[:, 0]
    assert share.min() > 0.075
    assert share.max() <= 1
    assert ratio.min() > 0.73
    assert ratio.max() < 1.36
    assert abs(np.median(np.log(ratio))) < 0.03
    assert 0.4 < np.median(share) < 0.56  # tries that don't fit make large shares rarer


@pytest.mark.parametrize(("height", "width", "wanted"), [(100, 10, (13, 10)), (10, 100, (10, 13))])
def test_area_falls_back_to_the_center(height, width, wanted):
    image = make_photo(height, width)
    draws_that_never_fit = np.full(27, 0.999)
    top, left = (height - wanted[0]) // 2, (width - wanted[1]) // 2
    center = image[top : top + wanted[0], left : left + wanted[1]]
    crop = augment._area_crop(image, 16, draws_that_never_fit)
    np.testing.assert_array_equal(crop, whole_resized(center, 16, 16))


# --- color noise ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", augment.COLORS)
def test_color_noise_has_its_sources_covariance(kind, photo):
    augmentation = Augmentation(16, 18, color_noise=0.1, color_axes=kind)
    shifts = np.array([train_view(photo, augmentation, 0, 0, i)[1] for i in range(8000)])
    std, axes = augment.COLORS[kind]
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=2e-4)  # fb's have four digits
    expected = axes @ np.diag((std * 0.1) ** 2) @ axes.T
    np.testing.assert_allclose(np.cov(shifts.T), expected, rtol=0.08)
    assert np.abs(shifts.mean(axis=0)).max() < 0.4
    # The three numbers are normal and independent: along the axes, 68 % within one deviation.
    along = shifts @ axes / (std * 0.1)
    assert np.abs((np.abs(along) < 1).mean(axis=0) - 0.6827).max() < 0.02
    assert np.abs(np.corrcoef(along.T) - np.eye(3)).max() < 0.05


def test_the_two_sources_have_the_same_axes_and_other_sizes():
    (deviations, axes), (sizes, others) = (augment.COLORS[kind] for kind in ("original", "fb"))
    matched = np.abs(axes.T @ others)[:, ::-1]  # fb begins with the largest
    np.testing.assert_allclose(matched, np.eye(3), atol=0.15)
    np.testing.assert_allclose(deviations[::-1] / sizes, [2.2, 7.7, 17.2], rtol=0.01)
    # fb's number is the variance, in units of 0..1, of what the authors' is the deviation of
    np.testing.assert_allclose((deviations[::-1] / 255) ** 2, sizes / 255, rtol=0.4)


def test_color_noise_is_proportional_to_its_strength(photo):
    weak, strong = (
        train_view(photo, Augmentation(16, 18, color_noise=strength), 0, 0, 7)[1]
        for strength in (0.1, 0.2)
    )
    np.testing.assert_allclose(strong, 2 * weak, rtol=1e-6)


# --- evaluation --------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(60, 81), (81, 60), (33, 33), (8, 8), (117, 390)])
def test_eval_view_is_the_center_of_the_resized_image(height, width):
    image = make_photo(height, width)
    short = min(height, width)
    tall, wide = int(37 * height / short), int(37 * width / short)
    top, left = round((tall - 32) / 2.0), round((wide - 32) / 2.0)
    expected = whole_resized(image, tall, wide)[top : top + 32, left : left + 32]
    short = EvalProtocol(resize_to=37, crop=32)
    np.testing.assert_array_equal(eval_view(image, short), expected)
    np.testing.assert_array_equal(eval_view(image, short, "BGR"), expected[:, :, ::-1])
    warp = EvalProtocol(resize_rule="warp", resize_to=37, crop=32)
    expected = whole_resized(image, 37, 37)[2:34, 2:34]
    np.testing.assert_array_equal(eval_view(image, warp), expected)


def test_eval_view_of_gray_is_that_of_rgb(photo):
    gray = photo[:, :, :1]
    protocol = EvalProtocol(resize_to=37, crop=32)
    view = eval_view(gray, protocol, "L")
    rgb = eval_view(np.repeat(gray, 3, axis=2), protocol)
    np.testing.assert_array_equal(view, rgb[:, :, :1])


# --- views as numbers, for the device ----------------------------------------------------------


@given(seed=st.integers(0, 2**63 - 1), epoch=st.integers(0, 2**24 - 1), kind=st.integers(0, 4),
       indices=st.lists(st.integers(0, 2**40 - 1), min_size=1, max_size=9),
       count=st.integers(1, 30))  # fmt: skip
def test_numbers_drawn_together_are_those_drawn_alone(seed, epoch, kind, indices, count):
    together = draws.uniforms_of_each(count, kind, seed, epoch, np.array(indices))
    alone = [draws.uniforms(count, kind, seed, epoch, index) for index in indices]
    np.testing.assert_array_equal(together, alone)


@settings(max_examples=60, deadline=None)
@given(key=keys, side=st.integers(2, 40), less=st.integers(0, 9), flip=st.booleans(),
       noise=st.sampled_from([0.0, 0.1]), rule=st.sampled_from(["short", "warp"]))  # fmt: skip
def test_numbers_of_a_view_give_the_view(key, side, less, flip, noise, rule):
    seed, epoch, index = key
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    size = max(1, side - less)
    augmentation = Augmentation(size, side, rule, flip=flip, color_noise=noise)
    numbers = augment.train_numbers(augmentation, seed, epoch, np.array([index, 5]))
    (top, left), mirrored = numbers["crop"][0], numbers["flip"][0]
    cut = image[top : top + size, left : left + size]
    view, shift = train_view(image, augmentation, *key)
    np.testing.assert_array_equal(view, cut[:, ::-1] if mirrored else cut)
    np.testing.assert_array_equal(numbers.get("color_shift", np.zeros((2, 3)))[0], shift)
    protocol = EvalProtocol(rule, side, size)
    top, left = augment.eval_numbers(protocol, 1)["crop"][0]
    cut = image[top : top + size, left : left + size]
    np.testing.assert_array_equal(eval_view(image, protocol), cut)
