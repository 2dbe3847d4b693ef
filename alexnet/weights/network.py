"""Recognition of a file's network: by its layers where it has them, else by shapes.

Two networks are the same if they compute the same function at evaluation, so inverted dropout and
poolings that change nothing do not count, a pool is identified by its output size, and a ReLU after
a max pool equals one before it.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence

from alexnet.errors import UserError
from alexnet.krizhevsky import ALL
from alexnet.layers import (
    LRN,
    AdaptiveAvgPool,
    AvgPool,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    Flatten,
    Layer,
    MaxPool,
    ReLU,
    SpatialLRN,
    Spec,
    Tanh,
    map_shapes,
    trace,
    variables,
)
from alexnet.spec import VARIANTS, like

_AUTHORS_OWN = frozenset(spec.name for spec in ALL)
_MAX_IMAGE = 1024  # largest input that is tried when looking for one that fits


def steps(spec: Spec) -> list[str]:
    """The network's operations at evaluation, one line per layer."""
    lines = []
    for row in trace(spec):
        match row.layer:
            case Conv(_, features, kernel, stride, padding, groups):
                height, width, _ = row.out_shape
                lines.append(
                    f"{kernel}x{kernel} convolution to {height}x{width}x{features}, "
                    f"stride {stride}, padding {padding}, groups {groups}"
                )
            case Dense():
                lines.append(f"dense to {row.out_shape[0]}")
            case ReLU():
                lines.append("ReLU")
            case Tanh():
                lines.append("tanh")
            case LRN(size, alpha, beta, k, groups):
                # 6 digits: other files hold alpha and beta in fp32
                lines.append(f"LRN of {size}, {alpha:.6g}, {beta:.6g}, k {k:.6g}, groups {groups}")
            case SpatialLRN(size, alpha, beta, k):
                lines.append(f"LRN within maps of {size}, {alpha:.6g}, {beta:.6g}, k {k:.6g}")
            case BatchNorm(_, epsilon, _, affine):
                lines.append(f"batch norm, epsilon {epsilon:.6g}, affine {affine}")
            case MaxPool(window, stride) | AvgPool(window, stride):
                kind = "max" if isinstance(row.layer, MaxPool) else "average"
                size = row.out_shape[0]
                lines.append(f"{window}x{window} {kind} pool, stride {stride}, to {size}")
            case AdaptiveAvgPool(size):
                lines += [f"average pool to {size}"] * (row.in_shape != row.out_shape)
            case Flatten():
                lines.append("flatten")
            case Dropout(rate, inverted):
                lines += [f"times {1 - rate:.6g}"] * (not inverted and rate > 0)
        if lines[-1:] == ["ReLU"] and " max pool" in "".join(lines[-2:-1]):
            lines[-2:] = [lines[-1], lines[-2]]
    return lines


def difference(found: Sequence[str], wanted: Sequence[str]) -> str:
    """The first line in which two lists of steps differ, as a clause; empty if none does."""
    pairs = itertools.zip_longest(found, wanted, fillvalue="nothing")
    for number, (one, other) in enumerate(pairs, 1):
        if one != other:
            return f"step {number} is '{one}' where that has '{other}'"
    return ""


def recognize(
    layers: Sequence[Layer], image_size: int, channels: int, allowed: Iterable[str] | None = None
) -> Spec:
    """The variant among `allowed` that a file's layers make up for an input of this size.

    The likeliest variants are tried first; by default, all are allowed.

    Raises:
        UserError: naming the nearest variant and the first difference from it.
    """
    dense = [(i, layer) for i, layer in enumerate(layers) if isinstance(layer, Dense)]
    if not dense:
        raise UserError("it has no dense layer")
    last, head = dense[-1]
    if channels < 1 or any(getattr(layer, "features", 1) < 1 for layer in layers):
        raise UserError("a layer of it has no features")
    layers = (*layers[:last], dataclasses.replace(head, features=None), *layers[last + 1 :])
    found = Spec("file", layers, image_size, num_classes=head.features or 0, channels=channels)
    room(layers, image_size)
    found_steps = steps(found)
    misses = []
    # At a variant's own image size, a file is that variant, not another that merely equals it.
    names = sorted(allowed or VARIANTS, key=lambda n: VARIANTS[n].image_size != image_size)
    for place, name in enumerate(names):
        spec = like(VARIANTS[name], found)
        try:
            wanted = steps(spec)
        except UserError:  # an image too small for this one
            continue
        where = difference(found_steps, wanted)
        if not where:
            return spec
        apart = sum(a != b for a, b in zip(found_steps, wanted, strict=False))
        misses.append((apart, place, name, where))
    if not misses:
        raise UserError(f"its image size, {image_size}, is too small for every variant")
    _, _, name, where = min(misses)
    raise UserError(f"its network is none that this program has: nearest is '{name}', but {where}")


def room(layers: Iterable[Layer], image_size: int) -> int:
    """Height and width after the layers.

    Raises:
        UserError: where nothing is left.
    """
    size = image_size
    for layer in layers:
        match layer:
            case Conv() | MaxPool() | AvgPool():
                size = layer.out(size)
            case AdaptiveAvgPool():
                size = layer.size
        if size < 1:
            raise UserError(f"its layers leave nothing of an image of {image_size} pixels")
    return size


def pool(
    above: Iterable[Layer], image_size: int, window: int, stride: int, pads: tuple[int, int]
) -> MaxPool:
    """A max pool that a file describes with padding, as one that rounds down or up.

    `pads` are before the first pixel and after the last one, in each direction; the layers `above`
    it and the network's image size determine its input size.

    Raises:
        UserError: for padding that is neither.
    """
    size = room(above, image_size)
    given = (size + sum(pads) - window) // stride + 1
    for ceil in (False, True):
        layer = MaxPool(window, stride, ceil)
        if pads[0] == 0 and layer.out(size) == given:
            return layer
    raise UserError(f"it has a pool with padding {pads}, which no variant has")


def fit(
    shapes: Mapping[str, tuple[int, ...]], allowed: Sequence[str], image_size: int | None
) -> Spec:
    """The variant that arrays of these shapes fit, or come nearest to; `check` decides which.

    Shapes are HWIO and (in, out), by canonical name; the image size is by default the variant's.
    The authors' own variants (`krizhevsky.py`) are ruled out where another fits too: nobody else
    has files of those.

    Raises:
        UserError: where several variants have these shapes, or only other image sizes fit.
    """
    fitting = fits(shapes, allowed, image_size)
    usual = [spec for spec in fitting if spec.name not in _AUTHORS_OWN]
    fitting = usual if len(usual) == 1 else fitting
    if len(fitting) > 1:
        raise UserError(
            f"its arrays fit the variants {', '.join(spec.name for spec in fitting)}, which "
            "compute different things with them: say which it is with --variant"
        )
    if fitting:
        return fitting[0]
    specs = [sized(VARIANTS[name], shapes, image_size) for name in allowed]
    best = min(specs, key=lambda spec: len(_misfits(spec, shapes)))
    if _misfits(best, shapes) == [_first_dense(best)] and image_size is None:
        _name_sizes(best, shapes)
    return best


def fits(
    shapes: Mapping[str, tuple[int, ...]], allowed: Iterable[str], image_size: int | None
) -> list[Spec]:
    """The variants with arrays of these shapes; only those of a single width, if there are any."""
    shaped = []
    for name in allowed:
        try:
            spec = sized(VARIANTS[name], shapes, image_size)
        except UserError:  # an image too small for this one
            continue
        shaped += [] if _misfits(spec, shapes) else [spec]
    return [spec for spec in shaped if _is_scaled(spec, VARIANTS[spec.name])] or shaped


def _is_scaled(spec: Spec, base: Spec) -> bool:
    """Check whether a single width gives a variant these features, as in `variant(width=...)`."""
    counts = [
        (layer.features, own.features)
        for layer, own in zip(spec, base, strict=True)
        if isinstance(own, Conv | Dense) and own.features
        if isinstance(layer, Conv | Dense) and layer.features is not None
    ]
    # Features are rounded to a multiple of 4, and at least 4.
    low = max((found - 2) / own if found > 4 else 0 for found, own in counts)
    return low <= min(1.0, *((found + 2) / own for found, own in counts))


def _misfits(spec: Spec, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """The names of arrays that are missing, superfluous or of another shape."""
    wanted = {name: variable.shape for name, variable in variables(spec).items()}
    names = dict.fromkeys((*wanted, *shapes))
    return [name for name in names if wanted.get(name) != shapes.get(name)]


def _first_dense(spec: Spec) -> str:
    """The kernel whose size follows from the image's, in AlexNet fc6's."""
    return f"{next(iter(map_shapes(spec)))}.kernel"


def _name_sizes(spec: Spec, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise where other image sizes give the first dense layer as many inputs as it has."""
    sizes, first = [], _first_dense(spec)
    for size in range(1, _MAX_IMAGE):
        try:
            other = variables(dataclasses.replace(spec, image_size=size))
        except UserError:  # too small for the network
            continue
        sizes += [size] * (other[first].shape == shapes.get(first))
    if sizes:
        raise UserError(
            f"its {first.split('.')[0]} has {shapes[first][0]} inputs, which image sizes from "
            f"{sizes[0]} to {sizes[-1]} give: say which it is with --image-size"
        )


def sized(base: Spec, shapes: Mapping[str, tuple[int, ...]], image_size: int | None) -> Spec:
    """A variant with the sizes that the arrays have."""

    def last(name: str) -> int | None:
        shape = shapes.get(f"{name}.bias") or shapes.get(f"{name}.kernel")
        return shape[-1] if shape else None

    def features(layer: Layer) -> Layer:
        if not isinstance(layer, Conv | Dense) or layer.features is None:
            return layer
        return dataclasses.replace(layer, features=last(layer.name) or layer.features)

    head = [layer.name for layer in base if isinstance(layer, Dense)][-1]
    conv1 = shapes.get("conv1.kernel", ())
    spec = dataclasses.replace(
        base,
        layers=tuple(map(features, base.layers)),
        num_classes=last(head) or base.num_classes,
        channels=(conv1[2] or base.channels) if len(conv1) == 4 else base.channels,
        image_size=image_size or base.image_size,
    )
    trace(spec)  # raises where the image is too small
    return spec
