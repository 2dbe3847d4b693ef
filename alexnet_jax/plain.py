"""AlexNet as a JAX user would write it without this project: `alexnet bench --against plain`.

It uses Flax's own layers and optax's own optimizer, and shares no arithmetic with `ops.py`, which
is measured against it.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import lax

from alexnet.bench.plain import PlainOptions
from alexnet.errors import UserError
from alexnet.layers import (
    LRN,
    AdaptiveAvgPool,
    AvgPool,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    Flatten,
    MaxPool,
    ReLU,
    Row,
    SpatialLRN,
    Spec,
    Tanh,
    trace,
)

DTYPES = {"fp32": jnp.float32, "bf16": jnp.bfloat16}
# Flax's names where they differ from the canonical ones.
_PARTS = {"shift": "bias", "variance": "var"}


class Network(nnx.Module):
    """The network of a table in Flax's own layers, with canonical weights."""

    def __init__(self, spec: Spec, arrays: Mapping[str, np.ndarray], precision: str = "fp32"):
        self.spec, rngs = spec, nnx.Rngs(0)
        for row in trace(spec):
            if (layer := _layer(row, precision, rngs)) is None:
                continue
            for part in row.variables:
                variable = getattr(layer, _PARTS.get(part, part))
                variable.set_value(jnp.asarray(arrays[f"{row.name}.{part}"]))
            setattr(self, row.name, layer)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits of normalized NHWC images; `train()` and `eval()` set the mode."""
        for row in trace(self.spec):
            x = _apply(row, getattr(self, row.name, None), x)
        return x


def _layer(row: Row, precision: str, rngs: nnx.Rngs) -> Any:
    """Flax's layer for a row, its weights still to be set; None for rows that are functions."""
    options: dict[str, Any] = {"dtype": DTYPES[precision], "rngs": rngs}
    exact = lax.Precision.HIGHEST if precision == "fp32" else lax.Precision.DEFAULT
    match layer := row.layer:
        case Conv():
            return nnx.Conv(
                row.in_shape[2],
                layer.features,
                (layer.kernel, layer.kernel),
                strides=layer.stride,
                padding=[
                    (layer.padding, layer.padding + layer.overhang(side))
                    for side in row.in_shape[:2]
                ],
                feature_group_count=layer.groups,
                precision=exact,
                kernel_init=nnx.initializers.zeros_init(),
                **options,
            )
        case Dense():
            return nnx.Linear(
                row.in_shape[0],
                row.out_shape[0],
                precision=exact,
                kernel_init=nnx.initializers.zeros_init(),
                **options,
            )
        case BatchNorm():
            return nnx.BatchNorm(
                row.in_shape[-1],
                momentum=layer.momentum,
                epsilon=layer.epsilon,
                use_bias=layer.affine,
                use_scale=layer.affine,
                **options,
            )
        case Dropout():
            return nnx.Dropout(layer.rate, rngs=rngs)
    return None


def _apply(row: Row, own: Any, x: jax.Array) -> jax.Array:
    match layer := row.layer:
        case ReLU():
            return nnx.relu(x)
        case Tanh():
            return nnx.tanh(x)
        case LRN():
            return lrn(x, layer)
        case SpatialLRN():
            return map_lrn(x, layer)
        case MaxPool():
            reach = [(0, layer.overhang(side)) for side in x.shape[1:3]]
            return nnx.max_pool(x, (layer.window,) * 2, (layer.stride,) * 2, reach)
        case AvgPool():
            reach = [(0, layer.overhang(side)) for side in x.shape[1:3]]
            sizes = (layer.window,) * 2, (layer.stride,) * 2
            return nnx.avg_pool(x, *sizes, reach, count_include_pad=False)
        case Dropout(rate, inverted=False):
            return own(x) * (1 - rate)  # in training, undoes Flax's scaling up
        case AdaptiveAvgPool():
            return adaptive_avg_pool(x, layer.size)
        case Flatten():
            return x.reshape(x.shape[0], -1)
    return own(x)


def lrn(x: jax.Array, layer: LRN) -> jax.Array:
    """Local response normalization by a windowed sum and a power, fp32 inside."""
    shape = (*x.shape[:-1], layer.groups, x.shape[-1] // layer.groups)
    wide = x.astype(jnp.float32).reshape(shape)
    window, reach = (1, 1, 1, 1, layer.size), (layer.size // 2, (layer.size - 1) // 2)
    padding = [(0, 0)] * 4 + [reach]
    sums = lax.reduce_window(jnp.square(wide), 0.0, lax.add, window, (1,) * 5, padding)
    y = wide / (layer.k + layer.alpha / layer.size * sums) ** layer.beta
    return y.reshape(x.shape).astype(x.dtype)


def map_lrn(x: jax.Array, layer: SpatialLRN) -> jax.Array:
    """Local response normalization within maps, by an average pool of squares."""
    reach = [(layer.size // 2, (layer.size - 1) // 2)] * 2
    means = nnx.avg_pool(jnp.square(x), (layer.size,) * 2, (1, 1), reach)
    return x / (layer.k + layer.alpha * means) ** layer.beta


def adaptive_avg_pool(x: jax.Array, size: int) -> jax.Array:
    """Average NHWC maps into size x size bins, axis by axis."""
    for axis in (1, 2):
        n = x.shape[axis]
        if n == size:
            continue
        bins = [(i * n // size, math.ceil((i + 1) * n / size)) for i in range(size)]
        means = [lax.slice_in_dim(x, *ends, axis=axis).mean(axis) for ends in bins]
        x = jnp.stack(means, axis)
    return x


class Plain:
    """The plain network with a plain training loop, driven as an `Engine` is.

    Raises:
        UserError: where there are several devices; nothing here spreads work over them.
    """

    note = ""

    def __init__(self, spec: Spec, arrays: Mapping[str, np.ndarray], options: PlainOptions):
        if jax.device_count() > 1:
            raise UserError(
                f"--against plain compares on one device, and JAX has {jax.device_count()} here: "
                "let JAX see one of them, or leave --against out"
            )
        model = Network(spec, arrays, options.precision)
        model.train() if options.train else model.eval()
        optimizer = optax.chain(
            optax.add_decayed_weights(options.weight_decay),
            optax.sgd(options.rate, options.momentum),
        )
        parts: Any = nnx.split(model, nnx.Param, ...)
        graphdef, self._params, self._rest = parts
        self._momentum = optimizer.init(self._params) if options.train else None
        static: dict[str, Any] = {"graphdef": graphdef, "mean": options.mean, "std": options.std}
        self._train = jax.jit(
            functools.partial(_train_step, optimizer=optimizer, **static), donate_argnums=(0, 1, 2)
        )
        self._evaluate = jax.jit(functools.partial(_logits, **static))

    def train_step(self, batch: Mapping[str, np.ndarray]) -> jax.Array:
        """Make one update; return the loss, still on the device."""
        state = (self._params, self._rest, self._momentum)
        images, labels = jax.device_put((batch["image"], batch["label"]))
        self._params, self._rest, self._momentum, loss = self._train(*state, images, labels)
        return loss

    def logits(self, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        """Logits (B, classes) float32, on the host."""
        images = jax.device_put(batch["image"])
        return np.asarray(self._evaluate(self._params, self._rest, images)[0])

    def fetch(self, loss: jax.Array) -> float:
        """Wait for a step's loss."""
        return float(loss)

    def settle(self, step: Callable[[], Any], wait: Callable[[Any], Any]) -> None:
        """Compile, and do the first step."""
        wait(step())


def _logits(
    params: Any, rest: Any, pixels: jax.Array, *, graphdef: Any, mean: tuple, std: tuple
) -> tuple[jax.Array, Any]:
    """Logits in fp32, and the model's other state: statistics, random streams."""
    model = nnx.merge(graphdef, params, rest)
    images = (pixels.astype(jnp.float32) - jnp.array(mean)) / jnp.array(std)
    logits = model(images).astype(jnp.float32)
    parts: Any = nnx.split(model, nnx.Param, ...)
    return logits, parts[2]


def _train_step(
    params: Any,
    rest: Any,
    momentum: Any,
    pixels: jax.Array,
    labels: jax.Array,
    *,
    optimizer: optax.GradientTransformation,
    **static: Any,
) -> tuple[Any, Any, Any, jax.Array]:
    def loss_of(params: Any) -> tuple[jax.Array, Any]:
        own = jax.tree.map(jnp.asarray, rest)  # made anew within this trace, where it may change
        logits, new = _logits(params, own, pixels, **static)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), new

    (loss, rest), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
    updates, momentum = optimizer.update(grads, momentum, params)
    return optax.apply_updates(params, updates), rest, momentum, loss
