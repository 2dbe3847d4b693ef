"""Canonical weights from a reader's findings in a file: recognize, check, reorder."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from alexnet.errors import UserError, choose
from alexnet.layers import Spec, map_shapes, variables
from alexnet.preprocess import ChannelOrder, EvalProtocol, Normalize, Preprocess
from alexnet.spec import VARIANTS, like
from alexnet.weights import layout
from alexnet.weights.core import READABLE, Weights, check, from_file
from alexnet.weights.network import difference, fit, fits, steps
from alexnet.weights.precision import all_fp32

# Caffe's ilsvrc_2012_mean.npy, averaged over its pixels, in R, G, B order (its own is B, G, R).
CAFFE_MEAN = (122.679, 116.669, 104.007)
CAFFE_VARIANTS = ("caffe", "caffenet", "onnx_zoo", "bn")


@dataclass(frozen=True)
class Found:
    """The content of a file, as its reader found it."""

    # By canonical name, with axes HWIO and (in, out); fc6 rows and conv1 inputs as in the file.
    arrays: Mapping[str, np.ndarray]
    names: Mapping[str, str] = dataclasses.field(default_factory=dict)  # canonical to the file's
    extra: tuple[str, ...] = ()  # the file's names that have no canonical one
    flatten: Literal["HWC", "CHW"] = "CHW"
    colors: Literal["RGB", "BGR"] = "RGB"
    spec: Spec | None = None  # where the file describes its network
    variants: tuple[str, ...] = ()  # where it does not: the candidates; all by default
    preprocess: Preprocess | None = None
    class_names: tuple[str, ...] | None = None
    mean_image: bool = False


def complete(
    found: Found,
    source: str,
    variant: str | None = None,
    image_size: int | None = None,
    preprocess: Preprocess | None = None,
) -> Weights:
    """Make canonical weights from a reader's findings.

    Args:
        found: the reader's result.
        source: where the weights are from, in words.
        variant: the network, where the file leaves it open.
        image_size: likewise.
        preprocess: likewise.

    Raises:
        UserError: where arrays are missing, unexpected or misshapen, or the file describes another
            network than the one asked for.
    """
    spec = found.spec or _fit(found, variant, image_size)
    check(found.arrays, spec, names=found.names, extra=found.extra, dtypes=READABLE)
    if found.spec:
        spec = _agreed(spec, variant, image_size)
    arrays = {name: found.arrays[name] for name in variables(spec)}
    if found.flatten == "CHW":
        for layer, shape in map_shapes(spec).items():
            arrays[f"{layer}.kernel"] = layout.rows_to_hwc(arrays[f"{layer}.kernel"], shape)
    if found.colors == "BGR" and spec.channels == 3:
        arrays["conv1.kernel"] = layout.swap_colors(arrays["conv1.kernel"])
    # After fc6's rows, which are copied in the file's type: two bytes per number in half precision.
    notes = all_fp32(arrays)
    # Readers return views of the file, at any byte offset; frameworks want aligned arrays.
    # Last, so that fc6 is not copied a second time.
    for name, array in arrays.items():
        arrays[name] = np.require(array, requirements="A")
    names, left_out = usable_names(found.class_names, spec)
    if not found.spec and variant is None:
        left_out += _also_fitting(found, spec)
    return Weights(
        arrays=arrays,
        spec=spec,
        preprocess=preprocess or found.preprocess or default_preprocess(spec),
        class_names=names,
        source=source,
        preprocess_from=_preprocess_from(found, preprocess, spec),
        mean_image=found.mean_image and preprocess is None,
        notes=notes + left_out,
    )


def _fit(found: Found, variant: str | None, image_size: int | None) -> Spec:
    allowed = found.variants or tuple(VARIANTS)
    if variant is not None:
        choose("variant", variant, VARIANTS)
        if variant not in allowed:
            raise UserError(
                f"its arrays are named as in variant {' or '.join(allowed)}, not '{variant}'"
            )
        allowed = (variant,)
    shapes = {name: array.shape for name, array in found.arrays.items()}
    return fit(shapes, allowed, image_size)


def _also_fitting(found: Found, spec: Spec) -> tuple[str, ...]:
    """A note where the arrays fit other variants too, which compute something else with them."""
    shapes = {name: array.shape for name, array in found.arrays.items()}
    allowed = found.variants or tuple(VARIANTS)
    others = [one.name for one in fits(shapes, allowed, spec.image_size) if one.name != spec.name]
    if not others:
        return ()
    text = f"taken as variant '{spec.name}', though {', '.join(others)} would fit as well"
    return (f"it is {text}: --variant says which",)


def _agreed(spec: Spec, name: str | None, image_size: int | None) -> Spec:
    """The network that the file describes, under the name asked for if that is the same one."""
    if image_size not in (None, spec.image_size):
        raise UserError(f"it is for images of {spec.image_size} pixels, not {image_size}")
    if name in (None, spec.name):
        return spec
    wanted = like(VARIANTS[choose("variant", name, VARIANTS)], spec)
    where = difference(steps(spec), steps(wanted))
    if where:
        raise UserError(f"its network is '{spec.name}', not '{name}': {where}")
    return wanted


def default_preprocess(spec: Spec) -> Preprocess:
    """The preprocessing that a variant's published weights were trained with.

    None are published for inputs that are not RGB: these are scaled to 0..1, as a start.
    """
    if spec.channels != 3:
        mean, std = (0.0,) * spec.channels, (255.0,) * spec.channels
        order: ChannelOrder = "L" if spec.channels == 1 else "RGB"
        size = spec.image_size
        protocol = EvalProtocol("short", round(size * 8 / 7), size)
        return Preprocess(Normalize(mean, std, order), protocol)
    if spec.name in CAFFE_VARIANTS:
        return caffe_preprocess(spec.image_size)
    protocol = EvalProtocol(resize_to=round(spec.image_size * 8 / 7), crop=spec.image_size)
    return Preprocess(protocol=protocol)


def caffe_preprocess(
    crop: int, mean: tuple[float, ...] = CAFFE_MEAN, scale: float = 1.0
) -> Preprocess:
    """Caffe's preprocessing: both sides warped to 256, center crop, `scale * (pixel - mean)`."""
    normalize = Normalize(mean, (1 / scale,) * len(mean))
    return Preprocess(normalize, EvalProtocol("warp", max(256, crop), crop))


def _preprocess_from(found: Found, given: Preprocess | None, spec: Spec) -> str:
    if given is not None:
        return "as asked for"
    if found.preprocess is not None:
        return from_file(found.mean_image)
    usual = "Caffe's published weights" if spec.name in CAFFE_VARIANTS else "torchvision's weights"
    usual = usual if spec.channels == 3 else "pixels from 0 to 1"
    return f"assumed, as for {usual}: the file does not say"


def usable_names(
    names: Sequence[str] | None, spec: Spec
) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    """Class names, where there is one for each class; else a note that they are left out."""
    if not names or len(names) == spec.num_classes:
        return tuple(names) if names else None, ()
    return None, (f"its {len(names)} class names are left out: it has {spec.num_classes} classes",)
