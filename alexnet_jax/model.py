"""AlexNet in Flax NNX: walks a table of layers."""

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from alexnet.errors import UserError
from alexnet.init import initial_weights
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
    check_input,
    count_dropouts,
    show,
    trace,
    variables,
)
from alexnet_jax import ops
from alexnet_jax.conv import conv
from alexnet_jax.lrn import lrn

if TYPE_CHECKING:
    from alexnet.preprocess import Preprocess
    from alexnet.weights import Weights

# Computes a dense layer: name, (batch, in) rows, (in, out) kernel, bias; to (batch, out) rows.
DenseWork = Callable[[str, jax.Array, jax.Array, jax.Array], jax.Array]
# Computes a convolution: NHWC images, HWIO kernel, bias, the layer; to NHWC images.
ConvWork = Callable[[jax.Array, jax.Array, jax.Array, Conv], jax.Array]
# Computes max pooling: NHWC images, the layer, and True to pool max(x, 0).
PoolWork = Callable[[jax.Array, MaxPool, bool], jax.Array]


def whole_dense(_: str, x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """A dense layer whose weights are not split over devices."""
    return ops.dense(x, kernel, bias)


class Work(NamedTuple):
    """The functions that compute the heavy layers; by default XLA's, on one device."""

    conv: ConvWork = conv
    dense: DenseWork = whole_dense
    max_pool: PoolWork = ops.max_pool


XLA = Work()


class Arrays(nnx.Module):
    """One layer's arrays: learned ones as `nnx.Param`, statistics as `nnx.BatchStat`."""

    def __init__(self, row: Row, weights: Mapping[str, np.ndarray | jax.Array]):
        for part, variable in row.variables.items():
            kind = nnx.BatchStat if variable.role == "statistic" else nnx.Param
            setattr(self, part, kind(jnp.asarray(weights[f"{row.name}.{part}"])))


class _Signature:
    """A class's own signature, for `help`; NNX's metaclass hides it behind its `__call__`."""

    def __get__(self, instance: Any, owner: type) -> inspect.Signature:
        if instance is not None:  # calling a model takes images
            raise AttributeError("__signature__")
        whole = inspect.signature(owner.__init__)  # type: ignore[misc]
        return whole.replace(parameters=[*whole.parameters.values()][1:])


class AlexNet(nnx.Module):
    """Any variant of AlexNet; its weights have canonical names (`model.conv1.kernel`).

    Args:
        spec: the network.
        rngs: its `params` key is the seed of the initial weights, so `nnx.Rngs(0)` gives the
            weights that `alexnet_torch.AlexNet(spec, seed=0)` has; its `dropout` stream supplies
            the masks of calls without a key.
        weights: canonical arrays to use instead of initial ones.
        dtype: arithmetic of convolutions and dense layers; weights stay fp32.

    `train()` and `eval()` set the default mode of calls; a new model evaluates. Models loaded from
    files carry `preprocess` and `class_names`; in others both are None.
    """

    __signature__ = _Signature()
    preprocess: "Preprocess | None"
    class_names: tuple[str, ...] | None

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
            weights = _initial(spec, rngs)
        else:
            from alexnet.weights import check

            check(weights, spec)
        self.spec, self.dtype, self.rngs = spec, dtype, rngs
        self.preprocess = self.class_names = None
        self.deterministic = True  # NNX's name; its own layers start in training mode
        for row in trace(spec):
            if row.variables:
                setattr(self, row.name, Arrays(row, weights))

    @classmethod
    def from_weights(
        cls,
        path: Path | str,
        *,
        dtype: jnp.dtype = jnp.float32,
        rngs: nnx.Rngs | None = None,
        **options: Any,
    ) -> "AlexNet":
        """The network in a weights file; `options` go to `alexnet.weights.load`.

        `rngs` supplies the `dropout` stream for training calls without a key.
        """
        from alexnet.weights import load  # not for training, which reads no file

        return cls._loaded(load(path, **options), dtype, rngs)

    @classmethod
    def from_pretrained(
        cls,
        source: Path | str,
        *,
        dtype: jnp.dtype = jnp.float32,
        rngs: nnx.Rngs | None = None,
        **options: Any,
    ) -> "AlexNet":
        """The network in a Hugging Face folder, hf://ORG/NAME@REVISION, a run or a weights file.

        `options` go to `alexnet.trained.open_weights`; for `rngs` see `from_weights`.
        """
        from alexnet.trained import open_weights

        return cls._loaded(open_weights(source, **options), dtype, rngs)

    @classmethod
    def _loaded(cls, loaded: "Weights", dtype: jnp.dtype, rngs: nnx.Rngs | None) -> "AlexNet":
        model = cls(loaded.spec, rngs=rngs, weights=loaded.arrays, dtype=dtype)
        model.preprocess, model.class_names = loaded.preprocess, loaded.class_names
        return model

    def train(self, **attributes: Any) -> "AlexNet":
        """Make training the default, and return this model, as NNX's own `train` doesn't."""
        super().train(**attributes)
        return self

    def eval(self, **attributes: Any) -> "AlexNet":
        """Make evaluation the default, and return this model, as NNX's own `eval` doesn't."""
        super().eval(**attributes)
        return self

    def load_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        """Set this network's weights from canonical arrays.

        Raises:
            UserError: where they are not this network's.
        """
        from alexnet.weights import check

        check(weights, self.spec)
        for name, array in weights.items():
            layer, part = name.split(".")
            getattr(getattr(self, layer), part).set_value(jnp.asarray(array))

    def weights(self) -> dict[str, np.ndarray]:
        """This network's weights as canonical fp32 arrays, as far as its layers have them."""
        parts = {name: name.split(".") for name in variables(self.spec)}
        held = {n: getattr(getattr(self, layer), part, None) for n, (layer, part) in parts.items()}
        return {n: np.asarray(v[...], np.float32) for n, v in held.items() if v is not None}

    def __call__(
        self,
        images: jax.Array,
        train: bool | None = None,
        *,
        key: jax.Array | None = None,
        first_row: jax.Array | int = 0,
        mask: jax.Array | None = None,
        axis_name: str | None = None,
        work: Work = XLA,
    ) -> jax.Array:
        """Logits (batch, classes), in fp32, for normalized NHWC images.

        Args:
            images: (batch, height, width, channels) floats.
            train: drop units, and normalize by the batch's statistics, updating the running ones;
                by default, the mode last set by `train()` or `eval()`.
            key: (number of dropout layers, 2) uint32; by default from `rngs`.
            first_row: the first row's position in the global batch.
            mask: (batch,), 0 for rows that batch statistics leave out.
            axis_name: of the devices that share the batch under `pmap` or `shard_map`.
            work: the functions that compute the heavy layers.
        """
        x = images
        for _, x in self._walk(images, train, key, first_row, mask, axis_name, work):  # noqa: B007
            pass
        return x.astype(jnp.float32)

    def activations(
        self,
        images: jax.Array,
        train: bool | None = None,
        *,
        key: jax.Array | None = None,
        work: Work = XLA,
    ) -> dict[str, jax.Array]:
        """Every layer's output, by its name in `layers.trace`; the last one is the logits."""
        return dict(self._walk(images, train, key, 0, None, None, work))

    def _walk(
        self,
        x: jax.Array,
        train: bool | None,
        key: jax.Array | None,
        first_row: jax.Array | int,
        mask: jax.Array | None,
        axis_name: str | None,
        work: Work,
    ) -> Iterator[tuple[str, jax.Array]]:
        check_input(self.spec, x.shape, "NHWC", str(x.dtype))
        train = not self.deterministic if train is None else train
        keys = iter(self._dropout_keys(key) if train else ())
        x = x.astype(self.dtype)
        rows, rectify = trace(self.spec), False
        for row, after in zip(rows, [*rows[1:], None], strict=True):
            with jax.named_scope(row.name):
                own: Any = getattr(self, row.name, None)
                match row.layer:
                    case _ if self._is_replaced(row):
                        y = own(x)
                    case Conv():
                        inputs = ops.extended(x, row.layer)
                        y = work.conv(inputs, *self._kernel_and_bias(own), row.layer)
                    case Dense():
                        y = work.dense(row.name, x, *self._kernel_and_bias(own))
                    case BatchNorm():
                        y = _batch_norm(x, own, row.layer, train, mask, axis_name)
                    case ReLU():
                        y = ops.relu(x)
                    case Tanh():
                        y = jnp.tanh(x)
                    case LRN() | SpatialLRN():
                        y = lrn(x, row.layer, rectify)
                    case MaxPool():
                        y = work.max_pool(x, row.layer, rectify)
                    case AvgPool() | AdaptiveAvgPool():
                        y = ops.avg_pool(x, row.layer)
                    case Flatten():
                        y = x.reshape(x.shape[0], math.prod(x.shape[1:]))
                    case Dropout() if train:
                        y = ops.dropout(x, row.layer, next(keys), first_row)
                    case Dropout(rate, inverted=False):
                        y = x * np.array(1 - rate, x.dtype)
                    case Dropout():
                        y = x
            yield row.name, y
            # The next layer then applies ReLU itself, with less memory traffic.
            rectify = (
                after is not None
                and isinstance(row.layer, ReLU)
                and isinstance(after.layer, LRN | SpatialLRN | MaxPool)
                and not (self._is_replaced(row) or self._is_replaced(after))
            )
            x = x if rectify else y

    def _is_replaced(self, row: Row) -> bool:
        """Check whether a user has put a layer of their own in this one's place."""
        own = getattr(self, row.name, None)
        return own is not None and not isinstance(own, Arrays)

    def _kernel_and_bias(self, own: Any) -> tuple[jax.Array, jax.Array]:
        return own.kernel[...].astype(self.dtype), own.bias[...]

    def _dropout_keys(self, key: jax.Array | None) -> jax.Array:
        count = count_dropouts(self.spec)
        if key is not None:
            if np.shape(key) != (count, 2):
                raise UserError(
                    f"key is of shape {show(np.shape(key))}, but it must be {count}x2 uint32: two "
                    "words for each dropout layer, such as jax.random.key_data gives of a key"
                )
            return key
        if count == 0:
            return jnp.zeros((0, 2), jnp.uint32)
        if self.rngs is None:
            raise ValueError("a training call needs key=... or a model made with rngs=...")
        return jnp.stack([jax.random.key_data(self.rngs.dropout()) for _ in range(count)])


def _batch_norm(
    x: jax.Array,
    own: Any,  # its `Arrays`
    layer: BatchNorm,
    train: bool,
    mask: jax.Array | None,
    axis_name: str | None,
) -> jax.Array:
    """Batch normalization; training updates the running statistics in `own`."""
    affine = (own.scale[...], own.shift[...]) if layer.affine else None
    if not train:
        return ops.normalize(x, own.mean[...], own.variance[...], layer, affine)
    mean, variance, count = ops.batch_statistics(x, mask, axis_name)
    own.mean.set_value(ops.running(own.mean[...], mean, count, layer, unbiased=False))
    own.variance.set_value(ops.running(own.variance[...], variance, count, layer, unbiased=True))
    return ops.normalize(x, mean, variance, layer, affine)


def _initial(spec: Spec, rngs: nnx.Rngs) -> Mapping[str, Any]:
    """Initial weights for the seed in the `params` stream's key, which is 0 for `nnx.Rngs(0)`."""
    stream = rngs["params"] if "params" in rngs else rngs["default"]
    key = jax.random.key_data(stream.key[...])

    def drawn(key: jax.Array) -> dict[str, np.ndarray]:
        high, low = np.asarray(key)[:2]  # rbg's keys repeat these two
        return initial_weights(spec, int(high) << 32 | int(low))

    if not isinstance(key, jax.core.Tracer):
        return drawn(key)
    # Under jit, vmap or eval_shape: NumPy's part is left until the program runs, if it ever does.
    shapes = {n: jax.ShapeDtypeStruct(v.shape, jnp.float32) for n, v in variables(spec).items()}
    return jax.pure_callback(drawn, shapes, key, vmap_method="sequential")
