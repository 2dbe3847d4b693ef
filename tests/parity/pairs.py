"""One network in both frameworks, and the comparison that all parity tests use."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

import alexnet_jax
import alexnet_torch
from alexnet.init import initial_weights
from alexnet.layers import LeCun, MaxPool, ReLU, Spec, count_dropouts, trace, variables
from alexnet.spec import variant
from alexnet.threefry import dropout_keys
from alexnet.weights.layout import from_state_dict
from alexnet_jax.checkpoint import flat
from alexnet_jax.step import split
from alexnet_torch.inspection import canonical_order

# Relative to the reference's spread; facts: correct ports measure some 5e-6, wrong ones above 0.1
FORWARD_BOUND = 1e-4  # of its standard deviation
GRADIENT_BOUND = 1e-4  # of its largest entry


@dataclass
class Pair:
    """The same weights in JAX and in torch, and an input."""

    spec: Spec
    jax: alexnet_jax.AlexNet
    torch: alexnet_torch.AlexNet
    images: np.ndarray  # NHWC, normalised
    keys: np.ndarray

    @property
    def torch_images(self) -> torch.Tensor:
        return torch.tensor(self.images).permute(0, 3, 1, 2)


def make_pair(
    name: str,
    *,
    width: float = 0.125,
    image_size: int | None = None,
    batch: int = 3,
    jax_spec: Spec | None = None,
    weights: dict[str, np.ndarray] | None = None,
    bf16: bool = False,
    image_seed: int = 0,
) -> Pair:
    """A pair with weights at which signals keep their size; `jax_spec` breaks the JAX side."""
    spec = variant(name, num_classes=10, image_size=image_size, width=width, init=LeCun())
    reference = initial_weights(spec, 7)
    rng = np.random.default_rng(0)
    for key, variable in variables(spec).items():
        if variable.role in ("bias", "statistic"):
            drawn = rng.normal(0, 0.1, variable.shape).astype(np.float32)
            reference[key] = 1 + np.abs(drawn) if key.endswith("variance") else drawn
    rng = np.random.default_rng(image_seed)
    images = rng.standard_normal((batch, spec.image_size, spec.image_size, 3), dtype=np.float32)
    return Pair(
        spec,
        alexnet_jax.AlexNet(
            jax_spec or spec,
            weights=weights or reference,
            dtype=jnp.bfloat16 if bf16 else jnp.float32,
        ),
        alexnet_torch.AlexNet(
            spec, weights=reference, dtype=torch.bfloat16 if bf16 else torch.float32
        ),
        images,
        dropout_keys(1, 2, count_dropouts(spec)),
    )


def forward(pair: Pair, train: bool) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Every layer's output in NHWC from both: (JAX's, torch's)."""

    @jax.jit
    def activations(state: nnx.State) -> dict[str, jax.Array]:
        model = nnx.merge(graphdef, state)
        return model.activations(jnp.asarray(pair.images), train, key=jnp.asarray(pair.keys))

    graphdef, state = nnx.split(pair.jax)
    ours = {name: np.asarray(x, np.float32) for name, x in activations(state).items()}
    pair.torch.train(train)
    with torch.no_grad():
        outputs = pair.torch.activations(pair.torch_images, keys=pair.keys.tolist())
    return ours, {
        name: x.float().numpy() for name, x in canonical_order(outputs, pair.spec).items()
    }


def agreeing_pair(name: str, **options: object) -> Pair:
    """A pair, and images on which both frameworks open the same ReLUs, and pool the same maxima.

    A ReLU whose input is within rounding of zero may differ, and so may two numbers of a window
    that are within rounding of each other. Either moves a gradient by a percent at once: one unit
    in a million, but a full-width network has that many.
    """
    for image_seed in range(20):
        pair = make_pair(name, image_seed=image_seed, **options)
        ours, theirs = (choices(pair.spec, outputs) for outputs in forward(pair, True))
        if all((a == b).all() for a, b in zip(ours, theirs, strict=True)):
            return pair
    raise AssertionError("ReLUs or maxima differ on all of 20 batches of images")


def choices(spec: Spec, outputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    """A forward pass's choices, by its layers' outputs: ReLUs that are open, maxima's places."""
    found, before = [], np.empty(0)
    for row in trace(spec):
        if isinstance(row.layer, ReLU):
            found.append(outputs[row.name] > 0)
        elif isinstance(row.layer, MaxPool):
            found.append(_places(before, row.layer))
        before = outputs[row.name]
    return found


def _places(x: np.ndarray, layer: MaxPool) -> np.ndarray:
    """Where in its window each maximum of NHWC maps stands, the first of equal ones."""
    edges = ((0, 0), *((0, layer.overhang(n)) for n in x.shape[1:3]), (0, 0))
    padded = np.pad(x, edges, constant_values=-np.inf)
    size, step = (layer.window,) * 2, layer.stride
    windows = np.lib.stride_tricks.sliding_window_view(padded, size, axis=(1, 2))
    windows = windows[:, ::step, ::step]
    return windows.reshape(*windows.shape[:4], -1).argmax(-1)


def gradients(pair: Pair) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Gradients of a loss by every weight and by the input, canonical: (JAX's, torch's)."""
    labels = np.arange(len(pair.images)) % 10

    def loss(params: nnx.State, images: jax.Array) -> jax.Array:
        model = nnx.merge(graphdef, params, jax.tree.map(jnp.asarray, statistics))
        logits = model(images, train=True, key=jnp.asarray(pair.keys))
        return -jax.nn.log_softmax(logits)[jnp.arange(len(labels)), labels].mean()

    graphdef, params, statistics = split(pair.jax)
    by_params, by_images = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, jnp.asarray(pair.images))
    ours = {name: np.asarray(grad) for name, grad in flat(by_params).items()}
    images = pair.torch_images.clone().requires_grad_()
    model = pair.torch.train()
    logits = model(images, keys=pair.keys.tolist())
    torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels)).backward()
    by_key = {key: parameter.grad.numpy() for key, parameter in model.named_parameters()}
    theirs = from_state_dict(by_key, pair.spec)
    theirs["images"] = images.grad.permute(0, 2, 3, 1).numpy()
    return ours | {"images": np.asarray(by_images)}, theirs


def worst_by_std(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> dict[str, float]:
    """Largest difference of each array, in standard deviations of the reference's."""
    assert ours.keys() == theirs.keys()
    return {k: float(np.abs(ours[k] - theirs[k]).max() / theirs[k].std()) for k in theirs}


def worst_by_max(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> dict[str, float]:
    """Largest difference of each array, relative to the reference's largest entry."""
    assert ours.keys() == theirs.keys()
    return {k: float(np.abs(ours[k] - theirs[k]).max() / np.abs(theirs[k]).max()) for k in theirs}


def report(title: str, measured: dict[str, float], bound: float) -> float:
    """Print what was measured; return the worst."""
    name, worst = max(measured.items(), key=lambda item: item[1])
    print(f"{title}: worst {worst:.1e} at {name} (bound {bound:.0e})")
    return worst
