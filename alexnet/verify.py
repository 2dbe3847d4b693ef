"""Verification of a conversion: source and result run in both frameworks, on photographs."""

from pathlib import Path
from typing import Any

import numpy as np

from alexnet.data.images import BadImage, decode
from alexnet.data.inputs import network_input
from alexnet.engine import import_framework
from alexnet.errors import UserError
from alexnet.layers import Dropout, trace
from alexnet.weights import Weights

BOUND = 1e-4  # in a layer's standard deviations; a correct port measures some 5e-6
_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}
_MOST = 16


def verify(source: Weights, target: Weights, images: str | None) -> dict[str, Any]:
    """Run torch on the source's weights and JAX on the target's, and compare every layer.

    Args:
        source: as read from the source.
        target: as read back from what was written.
        images: a folder of photographs, or None for two that come with scikit-learn.

    Returns:
        `layers`, one dict per layer with `name` and `difference`, the largest one in standard
        deviations of torch's output; `top5_agreement`, a fraction; `bound`; `images`; `passed`.

    Raises:
        UserError: if the folder has no readable image.
    """
    pictures = _photographs(images, source.spec.channels)
    inputs = np.stack([network_input(p, source.preprocess, source.spec.channels) for p in pictures])
    theirs = _outputs("torch", source, inputs)
    ours = _outputs("jax", target, inputs)
    layers: list[dict[str, Any]] = [
        {"name": row.name, "difference": _difference(ours[row.name], theirs[row.name])}
        for row in trace(source.spec)
        if not isinstance(row.layer, Dropout)  # does nothing in evaluation
    ]
    last = layers[-1]["name"]
    agreement = _top5_agreement(ours[last], theirs[last])
    passed = all(layer["difference"] <= BOUND for layer in layers) and agreement == 1
    return {
        "layers": layers,
        "top5_agreement": agreement,
        "bound": BOUND,
        "images": len(pictures),
        "passed": passed,
    }


def _outputs(framework: str, weights: Weights, inputs: np.ndarray) -> dict[str, np.ndarray]:
    inspection = import_framework(framework, "inspection")
    return inspection.layer_outputs(weights.spec, weights.arrays, inputs)


def _difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(ours - theirs).max() / max(float(theirs.std()), 1e-30))


def _top5_agreement(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The fraction of images whose five highest classes are the same set in both."""
    best = [np.sort(np.argsort(-logits, axis=1)[:, :5], axis=1) for logits in (ours, theirs)]
    return float((best[0] == best[1]).all(axis=1).mean())


def check(images: str | None) -> None:
    """Refuse in advance what `verify` would, before a conversion writes anything.

    Raises:
        UserError: if a framework is missing, or the folder has no readable image.
    """
    for framework in ("torch", "jax"):
        import_framework(framework, "inspection")
    _photographs(images, channels=3)


def _photographs(images: str | None, channels: int) -> list[np.ndarray]:
    """Decoded images: up to 16 from a folder, or the two that come with scikit-learn."""
    if images is None:
        import sklearn.datasets

        folder = Path(sklearn.datasets.__file__).parent / "images"
    else:
        folder = Path(images)
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES)[:_MOST]
    if not paths:
        raise UserError(f"--images {folder} is no folder with an image in it")
    try:
        return [decode(path, channels) for path in paths]
    except BadImage as error:
        raise UserError(f"--images {folder}: {error}") from error
