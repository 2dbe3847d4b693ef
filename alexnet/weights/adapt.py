"""Exact conversion of weights to another variant or preprocessing, or the reason against it."""

import dataclasses

import numpy as np

from alexnet.errors import UserError, choose
from alexnet.layers import AdaptiveAvgPool, Conv, Spec, trace
from alexnet.preprocess import Preprocess, to_json
from alexnet.spec import VARIANTS, like
from alexnet.weights.core import Weights
from alexnet.weights.network import difference, steps


def adapt(
    weights: Weights, to_variant: str | None = None, image_size: int | None = None
) -> Weights:
    """The same function under another variant's name, or for another image size.

    Args:
        weights: the weights to convert.
        to_variant: the variant wanted; by default the one they have.
        image_size: height and width of the input; by default the one they have.

    Raises:
        UserError: where the two compute different things, naming the first difference and the
            variants that these weights can be instead.
    """
    spec = weights.spec
    name = choose("variant", to_variant or spec.name, VARIANTS)
    target = _named(spec, name, image_size or spec.image_size)
    if target is not None and not difference(steps(spec), steps(target)):
        return dataclasses.replace(weights, spec=target)
    if target is not None and name == spec.name and _any_size(spec):
        preprocess = _resized(weights, target)
        lost = bool(weights.preprocess.normalize.image and not preprocess.normalize.image)
        return dataclasses.replace(
            weights, spec=target, preprocess=preprocess, mean_image=weights.mean_image or lost
        )
    if target is None:
        reason = f"'{name}' can't take images of {image_size or spec.image_size} pixels"
    else:
        reason = difference(steps(spec), steps(target))
    raise UserError(
        f"'{spec.name}' for {spec.image_size} pixels can't become '{name}' for "
        f"{image_size or spec.image_size} exactly: {reason}; {_alternatives(spec)}"
    )


def _named(spec: Spec, name: str, image_size: int) -> Spec | None:
    """A variant at the sizes of a spec; None where the image is too small for it."""
    target = dataclasses.replace(like(VARIANTS[name], spec), image_size=image_size)
    try:
        trace(target)
    except UserError:
        return None
    return target


def _any_size(spec: Spec) -> bool:
    """Check whether a network takes images of any size, that is, has adaptive pooling."""
    return any(isinstance(layer, AdaptiveAvgPool) for layer in spec)


def _resized(weights: Weights, target: Spec) -> Preprocess:
    before = weights.preprocess
    resize_to = round(before.protocol.resize_to * target.image_size / weights.spec.image_size)
    protocol = dataclasses.replace(before.protocol, crop=target.image_size, resize_to=resize_to)
    normalize = before.normalize
    if target.image_size != weights.spec.image_size:
        normalize = dataclasses.replace(normalize, image=b"")
    return Preprocess(normalize, protocol)


def _alternatives(spec: Spec) -> str:
    """A clause with every variant that computes the same."""
    same = []
    for name in VARIANTS:
        other = _named(spec, name, spec.image_size)
        if name != spec.name and other and not difference(steps(spec), steps(other)):
            same.append(f"'{name}' for {spec.image_size} pixels")
    return f"they can be {' or '.join([*same, 'kept as they are'])}"


def fold_preprocess(weights: Weights, target: Preprocess) -> Weights:
    """Weights that give the same logits for images prepared as `target` says.

    Mean and standard deviation go into conv1: with x = (pixel - mean) / std before and t after,
    x = (t * std_t + mean_t - mean) / std, a scale of conv1's kernel and a constant for its bias.
    Exact up to the rounding of fp32.

    Args:
        weights: the weights to convert, with the preprocessing they were trained for.
        target: the preprocessing wanted; all but mean and std must be the same.

    Raises:
        UserError: where that fails: resizing or colors differ, a mean image is subtracted, or
            conv1 pads its input with zeros, which would stand for another color.
    """
    source, wanted = (to_json(each) for each in (weights.preprocess, target))
    for field in ("resize_rule", "resize_to", "crop", "channel_order"):
        have, want = source[field], wanted[field]
        if have != want:
            raise UserError(
                f"{field} can't be folded into weights: they need {have}, and {want} is wanted; "
                f"a target with {field} {have} works"
            )
    if weights.mean_image or weights.preprocess.normalize.image:
        raise UserError(
            "a mean image can't be folded into conv1, which has one bias for all places: keep the "
            "preprocessing beside the weights, with the image's channel means"
        )
    numbers = (source["mean"], source["std"], wanted["mean"], wanted["std"])
    if any(len(values) != weights.spec.channels for values in numbers):
        raise UserError(
            f"mean and std need one number for each of the {weights.spec.channels} channels"
        )
    mean, std, mean_t, std_t = (np.asarray(values, np.float64) for values in numbers)
    conv1 = next(layer for layer in weights.spec if isinstance(layer, Conv))
    if conv1.padding and not np.array_equal(mean, mean_t):
        raise UserError(
            f"a change of mean can't be folded into conv1, which pads by {conv1.padding} with "
            f"zeros (the old mean, but not the new): a target with mean {source['mean']} works"
        )
    kernel = weights.arrays["conv1.kernel"].astype(np.float64)
    bias = weights.arrays["conv1.bias"] + np.einsum("hwio,i->o", kernel, (mean_t - mean) / std)
    scaled = kernel * (std_t / std)[:, None]
    folded = {"conv1.kernel": scaled.astype("<f4"), "conv1.bias": bias.astype("<f4")}
    return dataclasses.replace(weights, arrays=weights.arrays | folded, preprocess=target)
