"""The pure training and evaluation steps, which know devices only by an axis name."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import lax

from alexnet.engine import METRICS
from alexnet.preprocess import Normalize
from alexnet_jax.model import XLA, Work
from alexnet_jax.optim import variable_name

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


class TrainState(NamedTuple):
    """The state that a step reads and returns, by canonical layer name.

    `momentum` is the optax state of `optim.gradient_transformation`, which holds nothing else.
    """

    params: nnx.State
    statistics: nnx.State
    momentum: Any


def split(model: nnx.Module) -> tuple[nnx.GraphDef, nnx.State, nnx.State]:
    """A model's graph, its learned parameters and its running statistics."""
    parts: Any = nnx.split(model, nnx.Param, nnx.BatchStat)
    return parts


def train_step(
    state: TrainState,
    batch: Batch,
    rates: jax.Array,
    dropout_keys: jax.Array,
    *,
    optimizer: optax.GradientTransformationExtraArgs,
    parts: int = 1,
    spread: Callable[[jax.Array], jax.Array] = lambda rows: rows,
    axis_name: str | None = None,
    **options: Any,
) -> tuple[TrainState, Metrics]:
    """Make one update.

    Args:
        state: weights, statistics and momentum.
        batch: `image` (B, H, W, C) uint8, `label` (B,) int32, `mask` (B,) float32; with color
            noise, `color_shift` (B, C) and perhaps `color_scale` (B,) float32; where images are
            cropped here, `crop` (B, 2) int32 and `flip` (B,) uint8; under `axis_name`, this
            device's rows.
        rates: (learned variables,) float32, of this step.
        dropout_keys: (dropout layers, 2) uint32.
        optimizer: from `optim.gradient_transformation`.
        parts: number of parts to compute the batch in, one after another, adding up their
            gradients: the same but for rounding, and for batch normalization, which then sees one
            part as its batch.
        spread: puts the parts, (parts, rows, ...), on the devices.
        axis_name: of `pmap` or `shard_map`; None under plain `jit`.
        **options: of `gradients`.

    Returns:
        The new state, and `loss`, `top1`, `top5`: means over the global batch.
    """
    count = jnp.maximum(_sum(batch["mask"].sum(), axis_name), 1.0)
    rows = batch["mask"].shape[0]
    first_row = lax.axis_index(axis_name) * rows if axis_name else 0

    def of_part(statistics: nnx.State, part: Batch, first_row: jax.Array | int) -> tuple:
        return gradients(
            state.params,
            statistics,
            part,
            first_row=first_row,
            count=count,
            keys=dropout_keys,
            axis_name=axis_name,
            **options,
        )

    if parts == 1:
        grads, sums, statistics = of_part(state.statistics, batch, first_row)
    else:
        pieces = {n: spread(x.reshape(parts, -1, *x.shape[1:])) for n, x in batch.items()}
        grads, sums, statistics = _add_up(of_part, state, pieces, first_row, rows // parts)
    grads = _sum(grads, axis_name)
    updates, momentum = optimizer.update(grads, state.momentum, state.params, rates=rates)
    params = optax.apply_updates(state.params, updates)
    return TrainState(params, statistics, momentum), _sum(sums, axis_name)


def _add_up(
    of_part: Callable[..., tuple],
    state: TrainState,
    pieces: Batch,
    first_row: jax.Array | int,
    rows: int,
) -> tuple[nnx.State, Metrics, nnx.State]:
    """The parts' gradients and sums, added up, and the statistics after the last part.

    `pieces` hold the batch as (parts, rows, ...); its first row is `first_row` of the global batch.
    """

    def add(carry: tuple, part: tuple[jax.Array, Batch]) -> tuple[tuple, None]:
        number, own = part
        *new, statistics = of_part(carry[2], own, first_row + number * rows)
        return (*jax.tree.map(jnp.add, carry[:2], tuple(new)), statistics), None

    none = jax.tree.map(jnp.zeros_like, state.params), dict.fromkeys(METRICS, jnp.zeros(()))
    numbers = jnp.arange(len(pieces["mask"]))
    return lax.scan(add, (*none, state.statistics), (numbers, pieces))[0]


def gradients(
    params: nnx.State,
    statistics: nnx.State,
    batch: Batch,
    *,
    first_row: jax.Array | int,
    count: jax.Array,
    keys: jax.Array,
    axis_name: str | None,
    graphdef: nnx.GraphDef,
    normalization: Normalize,
    image_size: int,
    label_smoothing: float = 0.0,
    frozen: frozenset[str] = frozenset(),
    work: Work = XLA,
) -> tuple[nnx.State, Metrics, nnx.State]:
    """A batch's share of the gradients of the global batch's mean loss.

    Args:
        params, statistics: of a state.
        batch, keys, axis_name: as for `train_step`.
        first_row: the position of the batch's first row in the global batch.
        count: number of examples in the global batch that the mask doesn't exclude.
        graphdef: the model's, from `split`.
        normalization: mean and standard deviation of the input.
        image_size: height and width of the input.
        label_smoothing: share of the target spread evenly over all classes.
        frozen: names of variables that are not learned: their gradients are not computed.
        work: the functions that compute the heavy layers.

    Returns:
        The gradients, this batch's shares of the METRICS, and the new statistics.
    """
    images = normalize(batch, normalization, image_size)

    def loss_of(params: nnx.State) -> tuple[jax.Array, tuple[jax.Array, nnx.State]]:
        params = jax.tree.map_with_path(
            lambda path, x: lax.stop_gradient(x) if variable_name(path) in frozen else x, params
        )
        # Made anew, so that the model may update its statistics within this function's trace.
        model = nnx.merge(graphdef, params, jax.tree.map(jnp.asarray, statistics))
        logits = model(
            images,
            train=True,
            key=keys,
            first_row=first_row,
            mask=batch["mask"],
            axis_name=axis_name,
            work=work,
        )
        losses = cross_entropy(logits, batch["label"], label_smoothing)
        return (losses * batch["mask"]).sum() / count, (logits, split(model)[2])

    (loss, (logits, new)), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
    return grads, {"loss": loss, **{k: v / count for k, v in _hits(logits, batch).items()}}, new


def eval_step(
    weights: tuple[nnx.State, nnx.State],
    batch: Batch,
    *,
    graphdef: nnx.GraphDef,
    normalization: Normalize,
    image_size: int,
    axis_name: str | None = None,
    work: Work = XLA,
) -> tuple[Metrics, jax.Array]:
    """Evaluate a batch.

    Args:
        weights: a state's params and statistics.
        batch, graphdef, normalization, image_size, axis_name, work: as for `train_step`.

    Returns:
        Sums over the global batch, so that batches add up, of `loss`, `top1`, `top5` and `count`;
        and the logits (B, classes) of the rows given.
    """
    images = normalize(batch, normalization, image_size)
    logits = nnx.merge(graphdef, *weights)(images, work=work)
    losses = cross_entropy(logits, batch["label"], 0.0)
    sums = {"loss": (losses * batch["mask"]).sum(), "count": batch["mask"].sum()}
    return _sum(sums | _hits(logits, batch), axis_name), logits


def views(batch: Batch, size: int) -> jax.Array:
    """The images (B, size, size, C) uint8: as they are, or cut out by `crop` and `flip`."""
    images = batch["image"]
    if "crop" not in batch:
        return images

    def view(image: jax.Array, corner: jax.Array, flip: jax.Array) -> jax.Array:
        cut = lax.dynamic_slice(image, (corner[0], corner[1], 0), (size, size, image.shape[2]))
        return jnp.where(flip, cut[:, ::-1], cut)

    return jax.vmap(view)(images, batch["crop"], batch["flip"])


def normalize(batch: Batch, normalization: Normalize, image_size: int) -> jax.Array:
    """(pixel + color shift - mean) / std of the views in fp32, NHWC, times the color scale."""
    images = views(batch, image_size).astype(jnp.float32)
    if "color_shift" in batch:
        images += batch["color_shift"][:, None, None, :]
    scale = (1 / np.array(normalization.std)).astype(np.float32)
    images = (images - normalization.subtracted) * scale
    return images * batch["color_scale"][:, None, None, None] if "color_scale" in batch else images


def cross_entropy(logits: jax.Array, labels: jax.Array, smoothing: float) -> jax.Array:
    """Loss of each example; the target has `smoothing` spread evenly over all classes."""
    log_probs = jax.nn.log_softmax(logits)
    nll = -jnp.take_along_axis(log_probs, labels[:, None], axis=1)[:, 0]
    if smoothing == 0:
        return nll
    return (1 - smoothing) * nll - smoothing * log_probs.mean(axis=1)


def _hits(logits: jax.Array, batch: Batch) -> Metrics:
    """Counts of examples whose label is among the highest 1 and 5 logits.

    Among equal logits, the lower class number ranks higher, so that a network whose logits are
    all equal does not score.
    """
    labels = batch["label"][:, None]
    own = jnp.take_along_axis(logits, labels, axis=1)
    before = jnp.arange(logits.shape[1])[None, :] < labels
    rank = ((logits > own) | ((logits == own) & before)).sum(axis=1)
    return {f"top{k}": ((rank < k) * batch["mask"]).sum() for k in (1, 5)}


def _sum(tree: Any, axis_name: str | None) -> Any:
    """The sum over devices; under plain `jit` arrays are global and there is nothing to add."""
    return lax.psum(tree, axis_name) if axis_name else tree
