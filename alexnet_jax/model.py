"""AlexNet in Flax NNX: walks the tables of `alexnet.spec`."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from alexnet.init import initial_weights
from alexnet.spec import (
    LRN,
    AdaptiveAvgPool,
    Conv,
    Dense,
    Dropout,
    Flatten,
    MaxPool,
    ReLU,
    Spec,
    learned,
    trace,
)
from alexnet.weights import load
from alexnet_jax import ops

# A dense layer's work: its name, (batch, in) rows, (in, out) kernel, bias; gives (batch, out) rows.
DenseWork = Callable[[str, jax.Array, jax.Array, jax.Array], jax.Array]


def whole_dense(_: str, x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """A dense layer whose weights are not split over devices."""
    return ops.dense(x, kernel, bias)


class Learned(nnx.Module):
    """A layer's kernel and bias."""

    def __init__(self, kernel: np.ndarray | jax.Array, bias: np.ndarray | jax.Array):
        self.kernel = nnx.Param(jnp.asarray(kernel))
        self.bias = nnx.Param(jnp.asarray(bias))


class AlexNet(nnx.Module):
    """Any variant of AlexNet; its weights stand under canonical names (`model.conv1.kernel`).

    Args:
        spec: the network.
        rngs: its `params` key is the seed of the initial weights, so `nnx.Rngs(0)` gives the
            weights that `alexnet_torch.AlexNet(spec, seed=0)` has; its `dropout` stream gives
            the masks of calls that bring no key.
        weights: canonical arrays to take instead of initial ones.
        dtype: arithmetic of convolutions and dense layers; weights stay fp32.
    """

    def __init__(
        self,
        spec: Spec,
        *,
        rngs: nnx.Rngs | None = None,
        weights: Mapping[str, np.ndarray] | None = None,
        dtype: jnp.dtype = jnp.float32,
    ):
        if weights is None:
            if rngs is None:
                raise ValueError("AlexNet needs rngs=nnx.Rngs(seed) or weights=...")
            weights = initial_weights(spec, _seed(rngs))
        self.spec, self.dtype, self.rngs = spec, dtype, rngs
        for name in dict.fromkeys(key.split(".")[0] for key in weights):
            setattr(self, name, Learned(weights[f"{name}.kernel"], weights[f"{name}.bias"]))

    @classmethod
    def from_weights(
        cls, path: Path | str, *, dtype: jnp.dtype = jnp.float32, **options: Any
    ) -> "AlexNet":
        """The network in a file that `alexnet.weights.load` reads; it takes the options."""
        loaded = load(path, **options)
        return cls(loaded.spec, weights=loaded.arrays, dtype=dtype)

    def weights(self) -> dict[str, np.ndarray]:
        """This network's weights as canonical arrays."""
        return {
            f"{row.name}.{part}": np.asarray(getattr(getattr(self, row.name), part)[...])
            for row in learned(self.spec)
            for part in ("kernel", "bias")
        }

    def __call__(
        self,
        images: jax.Array,
        train: bool = False,
        *,
        key: jax.Array | None = None,
        first_row: jax.Array | int = 0,
        dense: DenseWork = whole_dense,
    ) -> jax.Array:
        """Logits (batch, classes) in fp32 of normalised NHWC images.

        Args:
            images: (batch, height, width, channels) floats.
            train: whether units are dropped.
            key: (number of dropout layers, 2) uint32; by default from `rngs`.
            first_row: where these rows stand in the global batch.
            dense: what does the dense layers' work.
        """
        x = images
        for _, x in self._walk(images, train, key, first_row, dense):  # noqa: B007
            pass
        return x.astype(jnp.float32)

    def activations(
        self, images: jax.Array, train: bool = False, *, key: jax.Array | None = None
    ) -> dict[str, jax.Array]:
        """Every layer's output by the names of `spec.trace`, the last one the logits."""
        return dict(self._walk(images, train, key, 0, whole_dense))

    def _walk(
        self,
        x: jax.Array,
        train: bool,
        key: jax.Array | None,
        first_row: jax.Array | int,
        dense: DenseWork,
    ) -> Iterator[tuple[str, jax.Array]]:
        keys = iter(self._dropout_keys(key) if train else ())
        x = x.astype(self.dtype)
        for row in trace(self.spec):
            match row.layer:
                case Conv() | Dense():
                    held = getattr(self, row.name)
                    kernel, bias = (p[...].astype(self.dtype) for p in (held.kernel, held.bias))
                    if isinstance(row.layer, Conv):
                        x = ops.conv(x, kernel, bias, row.layer)
                    else:
                        x = dense(row.name, x, kernel, bias)
                case ReLU():
                    x = nnx.relu(x)
                case LRN():
                    x = ops.lrn(x, row.layer)
                case MaxPool():
                    x = ops.max_pool(x, row.layer)
                case AdaptiveAvgPool():
                    x = ops.adaptive_avg_pool(x, row.layer)
                case Flatten():
                    x = x.reshape(x.shape[0], -1)
                case Dropout(rate) if train:
                    x = ops.dropout(x, rate, next(keys), first_row)
            yield row.name, x

    def _dropout_keys(self, key: jax.Array | None) -> jax.Array:
        if key is not None:
            return key
        if self.rngs is None:
            raise ValueError("a training call needs key=... or a model made with rngs=...")
        count = sum(isinstance(layer, Dropout) for layer in self.spec)
        return jnp.stack([jax.random.key_data(self.rngs.dropout()) for _ in range(count)])


def _seed(rngs: nnx.Rngs) -> int:
    """The seed in the `params` stream's key: 0 for `nnx.Rngs(0)`."""
    stream = rngs["params"] if "params" in rngs else rngs["default"]
    high, low = np.asarray(jax.random.key_data(stream.key[...]))
    return int(high) << 32 | int(low)
