"""The pure training and evaluation steps; nothing here knows about devices but an axis name."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from alexnet.config import TrainConfig
from alexnet.preprocess import Normalize
from alexnet_jax import optim
from alexnet_jax.model import DenseWork, whole_dense

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


class TrainState(NamedTuple):
    """What a step reads and returns: the weights by canonical layer name, and momentum."""

    params: nnx.State
    opt_state: Any


def train_step(
    state: TrainState,
    batch: Batch,
    learning_rate: jax.Array,
    dropout_keys: jax.Array,
    *,
    graphdef: nnx.GraphDef,
    config: TrainConfig,
    axis_name: str | None = None,
    dense: DenseWork = whole_dense,
) -> tuple[TrainState, Metrics]:
    """One update.

    Args:
        state: weights and momentum.
        batch: `image` (B, H, W, C) uint8, `label` (B,) int32, `mask` (B,) float32 and, with
            colour noise, `color_shift` (B, C) float32; under `axis_name` this device's rows.
        learning_rate: of this step.
        dropout_keys: (dropout layers, 2) uint32.
        graphdef: the model's, from `nnx.split`.
        config: its optimiser, preprocessing and precision.
        axis_name: of `pmap` or `shard_map`; None under plain `jit`.
        dense: what does the work of dense layers that are split over devices.

    Returns:
        The new state, and `loss`, `top1`, `top5`: means over the global batch.
    """
    count = jnp.maximum(_sum(batch["mask"].sum(), axis_name), 1.0)
    images = normalise(batch, config.preprocess.normalize)
    first_row = lax.axis_index(axis_name) * images.shape[0] if axis_name else 0

    def loss_and_logits(params: nnx.State) -> tuple[jax.Array, jax.Array]:
        model = nnx.merge(graphdef, params)
        logits = model(images, train=True, key=dropout_keys, first_row=first_row, dense=dense)
        losses = cross_entropy(logits, batch["label"], config.optim.label_smoothing)
        return (losses * batch["mask"]).sum() / count, logits

    (loss, logits), grads = jax.value_and_grad(loss_and_logits, has_aux=True)(state.params)
    grads = _sum(grads, axis_name)
    updates, opt_state = optim.gradient_transformation(config.optim).update(
        grads, state.opt_state, state.params
    )
    params = optim.apply(state.params, updates, learning_rate)
    hits = {k: v / count for k, v in _hits(logits, batch).items()}
    return TrainState(params, opt_state), _sum({"loss": loss, **hits}, axis_name)


def eval_step(
    params: nnx.State,
    batch: Batch,
    *,
    graphdef: nnx.GraphDef,
    config: TrainConfig,
    axis_name: str | None = None,
    dense: DenseWork = whole_dense,
) -> Metrics:
    """Sums over a batch, so that batches add up: `loss`, `top1`, `top5` and `count`."""
    logits = nnx.merge(graphdef, params)(normalise(batch, config.preprocess.normalize), dense=dense)
    losses = cross_entropy(logits, batch["label"], 0.0)
    sums = {"loss": (losses * batch["mask"]).sum(), "count": batch["mask"].sum()}
    return _sum(sums | _hits(logits, batch), axis_name)


def normalise(batch: Batch, normalize: Normalize) -> jax.Array:
    """(pixel + colour shift - mean) / std in fp32, NHWC."""
    images = batch["image"].astype(jnp.float32)
    if "color_shift" in batch:
        images += batch["color_shift"][:, None, None, :]
    scale = (1 / np.array(normalize.std)).astype(np.float32)
    return (images - np.array(normalize.mean, np.float32)) * scale


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


def init_state(params: nnx.State, config: TrainConfig) -> TrainState:
    """The state before the first step: momentum zero."""
    return TrainState(params, optim.gradient_transformation(config.optim).init(params))
