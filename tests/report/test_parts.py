"""What each section of the page shows, apart from its looks."""

import json
import re

import numpy as np
import pytest

from alexnet.config import RunConfig, TrainConfig
from alexnet.data.inputs import normalized
from alexnet.engine import import_framework
from alexnet.errors import UserError
from alexnet.layers import Conv, Dense
from alexnet.report.page import (
    activations,
    classes,
    curves,
    diagram,
    filters,
    neighbours,
    occlusion,
    patches,
)
from alexnet.report.page import examples as samples
from alexnet.report.page.features import walk
from alexnet.report.page.html import Html, clean, embedded, joined, tag
from alexnet.report.page.network import after_relu, last_hidden, spread, start
from alexnet.report.page.pictures import tiled, to_uint8
from alexnet.report.page.predictions import collect
from alexnet.report.page.subject import Reading, Subject, open_subject
from alexnet.scores import (
    Predictions,
    confused,
    confusion,
    interval,
    per_class,
)
from alexnet.spec import VARIANTS
from alexnet.workdir import write_config
from tests.report.conftest import made_up

NAMES = tuple(f"class {n}" for n in range(6))


def predictions(label, best, num_classes) -> Predictions:
    """Predictions with the classes given as highest, and others after them."""
    label, best = np.array(label, np.int32), np.array(best, np.int32)
    others = (best[:, None] + np.arange(min(5, num_classes))) % num_classes
    probability = np.full(others.shape, 0.2, np.float32)
    example = np.arange(len(label), dtype=np.int32)
    return Predictions(example, label, others.astype(np.int32), probability, label * 0.0 + 1)


# --- HTML ---------------------------------------------------------------------------------------


def test_text_and_attributes_are_escaped_and_markup_is_not():
    hostile = "</p><script>alert('1')</script>\"\x1b[31m\u202egnp\0"
    made = tag("p", hostile, tag("b", "bold"), [None, "&"], title=hostile, hidden=False, open=True)
    assert made.count("<") == 4  # p, b, and their ends
    assert "alert(&#x27;1&#x27;)" in made
    assert not set("\x1b\u202e\0") & set(made)
    assert made.endswith("<b>bold</b>&amp;</p>")
    assert " open>" in made
    assert "hidden" not in made
    assert joined(Html("<i></i>"), "<i>") == "<i></i>&lt;i&gt;"


def test_names_are_cut():
    assert clean("x" * 1000, 10) == "x" * 10 + "…"
    assert clean("a\nb\u202e\x7f") == r"a\nb\u202e\x7f"


def test_embedded_json_cannot_end_its_element():
    value = ["</script><!--", "a & b", "\u2028"]
    block = embedded(value, "data")
    inside = re.fullmatch(r'<script type="application/json" id="data">(.*)</script>', block)[1]
    assert not set("<>&\u2028") & set(inside)
    assert json.loads(inside) == value


# --- curves -------------------------------------------------------------------------------------


def run_of(steps: int, **extra) -> Subject:
    loss = np.linspace(3, 1, steps)
    lines = [
        {"step": n + 1, "split": "train", "loss": float(loss[n]), "top1": 0.5, **extra}
        for n in range(steps)
    ]
    return Subject("x", None, metrics=lines)


def test_a_running_mean_leaves_a_slope_where_it_is_and_evens_out_noise():
    slope = np.linspace(5, 1, 400)
    np.testing.assert_allclose(curves.smoothed(slope)[4:-4], slope[4:-4])
    noise = np.random.default_rng(0).normal(size=2000)
    assert curves.smoothed(noise)[50:-50].std() < 0.3
    assert curves.smoothed(np.ones(1)).tolist() == [1]
    assert len(curves.smoothed(np.ones(0))) == 0


def test_thinning_keeps_the_ends_and_a_spike():
    values = np.ones(100_000)
    values[77_777] = 9
    kept = curves.thinned(values, curves.smoothed(values), 300)
    assert len(kept) == len(set(kept.tolist())) <= 300
    assert {0, 77_777, 99_999} <= set(kept.tolist())
    assert (np.diff(kept) > 0).all()
    assert curves.thinned(values[:300], values[:300], 300).tolist() == list(range(300))


def test_long_runs_stay_small_and_short_ones_whole():
    found = curves.curves_of(run_of(50_000))
    assert len(found["train"]["step"]) == len(found["train"]["mean_loss"]) <= curves.POINTS
    assert len(curves.section([run_of(50_000)])) < 60_000
    assert curves.curves_of(run_of(5))["train"]["step"] == [1, 2, 3, 4, 5]
    assert curves.curves_of(Subject("x", None)) is None


# --- filters and network ------------------------------------------------------------------------


def test_filters_on_one_scale_and_each_by_itself():
    kernel = np.zeros((3, 3, 3, 2), np.float32)
    kernel[0, 0, 0] = (1.0, 0.1)
    kernel[1, 1, 1] = (-1.0, -0.1)
    one, own = filters.scaled(kernel, each=False), filters.scaled(kernel, each=True)
    assert (one[:, 2, 2, 0] == 128).all()  # zero is gray
    assert one[0].max() == 255
    assert one[1].max() < 145
    assert own[1].max() == 255
    assert own[1].min() == 0
    assert (filters.scaled(kernel * 0, each=True) == 128).all()  # nothing to stretch


def test_filters_of_two_towers_are_two_blocks_of_rows_of_16():
    page = filters.section(made_up(NAMES, width=1.0).weights)
    assert "96 kernels of" in page
    assert page.count("<img") == 4
    assert page.count("48 kernels of conv1, tower 1") == 2
    tiles = tiled(np.zeros((48, 11, 11, 3), np.uint8), 16)
    assert tiles.shape == (3 * 12 - 1, 16 * 12 - 1, 4)
    assert filters.section(made_up(NAMES, name="single").weights).count("<img") == 2


def test_filters_of_a_gray_network_are_gray():
    weights = made_up(NAMES, channels=1).weights
    assert filters.scaled(weights.arrays["conv1.kernel"], each=True).shape[-1] == 1
    assert filters.section(weights).count("<img") == 4


def test_broken_weights_still_make_a_picture():
    kernel = np.array([np.inf, np.nan, -1.0, 2.0], np.float32).reshape(2, 2, 1, 1)
    for each in (True, False):
        assert filters.scaled(kernel, each).shape == (1, 2, 2, 1)


def test_a_picture_without_contrast_is_gray():
    assert (to_uint8(np.ones(3), 1, 1) == 128).all()


ONE_TOWER = {
    "torchvision", "single", "krizhevsky2012_half", "cuda_convnet2", "one_weird_trick",
    "cifar_80sec", "cifar_18pct", "cifar_19pct", "figure1_relu", "figure1_tanh",
}  # fmt: skip


@pytest.mark.parametrize("name", VARIANTS)
def test_the_figure_names_every_layer_with_weights(name):
    figure, spec = diagram.figure(VARIANTS[name]), VARIANTS[name]
    convs = [layer for layer in spec if isinstance(layer, Conv)]
    for layer in spec:
        if isinstance(layer, Conv | Dense):
            assert f">{layer.name}<" in figure
    towers = max(layer.groups for layer in convs)
    assert towers == (1 if name in ONE_TOWER else 2)
    assert figure.count("box map") == len(convs) * towers
    assert f"{VARIANTS[name].num_params:,} parameters" in diagram.section(VARIANTS[name])


# --- predictions --------------------------------------------------------------------------------


def test_collected_predictions_are_those_of_the_network():
    subject = made_up(NAMES, count=70)
    network, source = start(subject.weights, "jax"), subject.dataset.eval
    indices = spread(70, 66)
    found = collect(network, source, indices)
    assert found.example.tolist() == indices.tolist()
    assert found.label.tolist() == [source[int(i)][1] for i in indices]
    views, numbers = network.views(source, indices)
    assert numbers.tolist() == indices.tolist()
    inspection = import_framework("torch", "inspection")  # the other framework's answer
    spec, arrays = subject.weights.spec, subject.weights.arrays
    logits = inspection.layer_outputs(
        spec, arrays, normalized(views, subject.weights.preprocess.normalize)
    )["fc8"]
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    probability = exp / exp.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found.probability, -np.sort(-probability)[:, :5], atol=1e-4)
    own = probability[np.arange(66), found.label]
    np.testing.assert_allclose(found.loss, -np.log(own), atol=1e-3)


def test_counts_by_class():
    found = predictions([0, 0, 1, 2, 2], [0, 1, 1, 0, 0], 3)
    assert confusion(found, 3).tolist() == [[1, 1, 0], [0, 1, 0], [2, 0, 0]]
    assert [part.tolist() for part in per_class(found, 3)] == [[2, 1, 2], [1, 1, 0]]
    assert confused(found, 1) == [(2, 0, 2)]
    low, high = interval(8, 10)
    assert (round(low, 4), round(high, 4)) == (0.4902, 0.9433)  # Wilson's, by its formula


def test_the_matrix_is_shaded_by_the_rows_shares():
    pixels = classes.shaded(np.array([[9, 0], [3, 1]]))
    assert pixels[0, 0].tolist() == [*classes.RIGHT, 255]
    assert pixels[0, 1, 3] == 0
    assert pixels[1, 0].tolist() == [*classes.WRONG, round(255 * 0.75**0.5)]


def test_a_thousand_classes_are_bounded():
    rng = np.random.default_rng(0)
    names = tuple("long name " * 20 + str(n) for n in range(3000))
    subject = made_up(names, name="torchvision", count=1)
    found = predictions(rng.integers(0, 3000, 20_000), rng.integers(0, 3000, 20_000), 3000)
    page = classes.section(subject, found, 20_000, 50_000)
    assert len(page) < 1_200_000
    assert page.count("<tr>") < classes.ROWS + classes.PAIRS + 3
    assert "250 by 250 cells" in page
    assert "20,000 of the evaluation set's 50,000" in page


def test_samples_mark_the_true_class_and_mistakes_alone_are_mistakes():
    subject = made_up(NAMES)
    network = start(subject.weights, "jax")
    found = collect(network, subject.dataset.eval, np.arange(24))
    page = samples.section(subject, network, found, only_errors=False)
    assert page.count("<figure>") == page.count("<img") == samples.SAMPLES
    wrong = samples.chosen(found, 100, "errors")
    assert len(wrong) == (found.label != found.classes[:, 0]).sum()
    assert (found.label[wrong] != found.classes[wrong, 0]).all()
    right = predictions([1, 2], [1, 2], 6)
    assert "No example" in samples.section(subject, network, right, only_errors=True)


# --- features -----------------------------------------------------------------------------------


def test_nearest_by_euclidean_distance():
    others = np.array([[0, 0], [3, 4], [1, 0], [0, 2]], np.float32)
    order, distance = neighbours.nearest(np.array([[0, 0]], np.float32), others, 3)
    assert order.tolist() == [[0, 2, 3]]
    assert distance.tolist() == [[0, 1, 2]]


def test_a_picture_is_its_own_nearest_neighbour():
    subject = made_up(NAMES)
    network = start(subject.weights, "jax")
    found = collect(network, subject.dataset.eval, np.arange(24))
    page = neighbours.section(subject, network, found, walk(network, subject.dataset.train, None))
    assert page.count("<img") == neighbours.QUERIES * (neighbours.NEAREST + 1)
    assert len(re.findall(r"<small>0</small>|<small>\d(\.\d+)?e-\d+</small>", page)) >= 5


def test_names_of_layers():
    assert last_hidden(VARIANTS["paper"]) == "fc7"
    assert after_relu(VARIANTS["paper"], "fc7") == "relu7"
    assert after_relu(VARIANTS["bn"], "conv1") == "relu1"


@pytest.mark.parametrize(
    ("layer", "expected"),
    [("conv1", (11, 4, 0)), ("conv2", (51, 8, -16)), ("conv5", (163, 16, -64))],
)
def test_receptive_fields(layer, expected):
    field = patches.receptive_field(VARIANTS["paper"], layer)
    assert (field.size, field.stride, field.start) == expected


def test_a_unit_sees_its_receptive_field_and_no_more():
    subject = made_up(NAMES, name="torchvision")
    spec, arrays = subject.weights.spec, subject.weights.arrays
    outputs = import_framework("torch", "inspection").layer_outputs
    field, (row, column) = patches.receptive_field(spec, "conv2"), (4, 3)
    top, left = field.start + row * field.stride, field.start + column * field.stride
    assert top >= 0
    assert left >= 0
    views = np.zeros((4, 67, 67, 3), np.float32)
    views[1, top : top + field.size, left : left + field.size] = 1
    views[2] = 1
    views[3] = views[1]
    views[3, top] = 0  # one line less
    found = outputs(spec, arrays, views)["conv2"][:, row, column]
    np.testing.assert_allclose(found[1], found[2], atol=1e-5)
    assert np.abs(found[1] - found[0]).max() > 1e-3
    assert np.abs(found[3] - found[1]).max() > 1e-4


def test_patches_are_cut_where_the_channel_answers():
    subject = made_up(NAMES)
    network = start(subject.weights, "jax")
    found = walk(network, subject.dataset.train, "conv2")
    assert found.highest.shape == found.spot.shape == (24, 16)
    page = patches.section(subject, network, found, "conv2")
    assert 1 <= page.count("<img") <= patches.CHANNELS
    view = np.arange(67 * 67 * 3).reshape(67, 67, 3).astype(np.uint8)
    piece = patches.cut(view, patches.Field(11, 4, 0), 2, 3, network)
    np.testing.assert_array_equal(piece, view[8:19, 12:23])
    with pytest.raises(UserError, match="did you mean 'conv5'"):
        patches.check(VARIANTS["paper"], "conv55")


def test_occlusion_finds_the_one_place_that_counts():
    """A network that looks at one pixel only."""

    class Looks:
        weights = made_up(NAMES).weights

        def logits(self, views):
            return np.stack([views[:, 50, 20, 0] / 50.0, np.zeros(len(views))], axis=1)

    view = np.zeros((67, 67, 3), np.uint8)
    view[50, 20] = 255
    whole, grid = occlusion.probabilities(Looks(), view, 0)
    assert whole > 0.99
    side, middles = occlusion.covering(67)
    covers = lambda at: np.abs(middles - at) < side / 2 - 1  # noqa: E731
    inside = np.outer(covers(50), covers(20))
    assert inside.any()
    assert (grid[inside] < 0.95).all()
    assert grid[~np.outer(np.abs(middles - 50) < side, np.abs(middles - 20) < side)].min() > 0.99
    colors = occlusion.overlay(view, grid).astype(int).sum(axis=2)
    assert colors[170, 70] < colors[20, 200] / 2  # dark where it counts


def test_maps_of_every_convolution():
    subject = made_up(NAMES)
    network = start(subject.weights, "jax")
    view, _ = network.views(subject.dataset.eval, np.array([3]))
    page = activations.section(network, view[0], "<b>")
    assert page.count("<img") == 6
    assert "<b>" not in page
    maps = np.zeros((80, 80, 2), np.float32)
    maps[:40, :, 1] = 7
    tiles = activations.stretched(maps)
    assert tiles.shape == (2, 56, 56, 1)
    assert (tiles[0].max(), tiles[1].max(), tiles[1, -1].max()) == (0, 255, 0)


def test_metrics_that_no_chart_can_show_are_left_out(tmp_path):
    config = TrainConfig(run=RunConfig(workdir=str(tmp_path)))
    write_config(tmp_path, config)
    good = {"step": 1, "split": "train", "loss": 2.5, "top1": 0.5}
    lines = [json.dumps(good | change) for change in ({}, {"loss": 1e31}, {"loss": 10**300})]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    found = open_subject(str(tmp_path), Reading()).metrics
    without_loss = ["split", "step", "top1"]
    assert [sorted(record) for record in found] == [sorted(good), without_loss, without_loss]
    assert found[0] == good
