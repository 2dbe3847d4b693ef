"""The pure training and evaluation steps; nothing here knows about devices but an axis name."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import lax

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
    """A model's graph, what it learns, and the statistics that it tracks."""
    parts: Any = nnx.split(model, nnx.Param, nnx.BatchStat)
    return parts


def train_step(
    state: TrainState,
    batch: Batch,
    rates: jax.Array,
    dropout_keys: jax.Array,
    *,
    graphdef: nnx.GraphDef,
    optimizer: optax.GradientTransformationExtraArgs,
    normalization: Normalize,
    image_size: int,
    label_smoothing: float = 0.0,
    frozen: frozenset[str] = frozenset(),
    axis_name: str | None = None,
    work: Work = XLA,
) -> tuple[TrainState, Metrics]:
    """One update.

    Args:
        state: weights, statistics and momentum.
        batch: `image` (B, H, W, C) uint8, `label` (B,) int32, `mask` (B,) float32; with color
            noise `color_shift` (B, C) float32; where images are to be cut here, `crop` (B, 2)
            int32 and `flip` (B,) uint8; under `axis_name` this device's rows.
        rates: (learned variables,) float32, of this step.
        dropout_keys: (dropout layers, 2) uint32.
        graphdef: the model's, from `split`.
        optimizer: from `optim.gradient_transformation`.
        normalization: mean and standard deviation of the input.
        image_size: height and width of the input.
        label_smoothing: share of the target spread evenly over all classes.
        frozen: names of variables that are not learned: their gradients are not computed.
        axis_name: of `pmap` or `shard_map`; None under plain `jit`.
        work: what does the heavy layers' work.

    Returns:
        The new state, and `loss`, `top1`, `top5`: means over the global batch.
    """
    count = jnp.maximum(_sum(batch["mask"].sum(), axis_name), 1.0)
    images = normalize(batch, normalization, image_size)
    first_row = lax.axis_index(axis_name) * images.shape[0] if axis_name else 0

    def loss_of(params: nnx.State) -> tuple[jax.Array, tuple[jax.Array, nnx.State]]:
        params = jax.tree.map_with_path(
            lambda path, x: lax.stop_gradient(x) if variable_name(path) in frozen else x, params
        )
        # Made anew, so that the model may update its statistics within this function's trace.
        statistics = jax.tree.map(jnp.asarray, state.statistics)
        model = nnx.merge(graphdef, params, statistics)
        logits = model(
            images,
            train=True,
            key=dropout_keys,
            first_row=first_row,
            mask=batch["mask"],
            axis_name=axis_name,
            work=work,
        )
        losses = cross_entropy(logits, batch["label"], label_smoothing)
        return (losses * batch["mask"]).sum() / count, (logits, split(model)[2])

    (loss, (logits, statistics)), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    grads = _sum(grads, axis_name)
    updates, momentum = optimizer.update(grads, state.momentum, state.params, rates=rates)
    params = optax.apply_updates(state.params, updates)
    hits = {k: v / count for k, v in _hits(logits, batch).items()}
    return TrainState(params, statistics, momentum), _sum({"loss": loss, **hits}, axis_name)


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
    """(pixel + color shift - mean) / std of the views in fp32, NHWC."""
    images = views(batch, image_size).astype(jnp.float32)
    if "color_shift" in batch:
        images += batch["color_shift"][:, None, None, :]
    scale = (1 / np.array(normalization.std)).astype(np.float32)
    return (images - np.array(normalization.mean, np.float32)) * scale


def cross_entropy(logits: jax.Array, labels: jax.Array, smoothing: float) -> jax.Array:
    """Loss of each example; the target has `smoothing` spread evenly over all classes."""
    log_probs = jax.nn.log_softmax(logits)
    nll = -jnp.take_along_axis(log_probs, labels[:, None], axis=1)[:, 0]
    if smoothing == 0:
        return nll
    return (1 - smoothing) * nll - smoothing * log_probs.mean(axis=1)


def _hits(logits: jax.Array, batch: Batch) -> Metrics:
    """Counts of examples whose label is among the highest 1 and 5 logits.

    Of equal logits the one with the lower class number ranks higher, so that a network that
    says nothing does not score.
    """
    labels = batch["label"][:, None]
    own = jnp.take_along_axis(logits, labels, axis=1)
    before = jnp.arange(logits.shape[1])[None, :] < labels
    rank = ((logits > own) | ((logits == own) & before)).sum(axis=1)
    return {f"top{k}": ((rank < k) * batch["mask"]).sum() for k in (1, 5)}


def _sum(tree: Any, axis_name: str | None) -> Any:
    """The sum over devices; under plain `jit` arrays are global and there is nothing to add."""
    return lax.psum(tree, axis_name) if axis_name else tree
