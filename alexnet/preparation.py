"""Preprocessing options that override the weights' own, and a line that describes the result."""

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from alexnet.errors import UserError
from alexnet.options import LEAST, check_values, flag, require
from alexnet.preprocess import Preprocess, ResizeRule, describe
from alexnet.preprocess import from_json as preprocess_from_json
from alexnet.preprocess import to_json as preprocess_to_json

if TYPE_CHECKING:  # they need NumPy, too slow to import for --help
    from alexnet.layers import Spec
    from alexnet.weights import Weights


@dataclass(frozen=True)
class PreparationConfig:
    """Preprocessing, by default the weights' own."""

    # Mean of each channel, subtracted, in units of 0..255; one number stands for all channels.
    mean: tuple[float, ...] = ()
    # Standard deviation of each channel, divided by, in units of 0..255.
    std: tuple[float, ...] = ()
    # Mean image in place of --mean: a cache with statistics, .npz, .npy, .binaryproto, or weights.
    mean_image: str | None = None
    # Resizing before the crop: scale the short side, or warp both sides.
    resize_rule: ResizeRule | None = None
    # Weights, a run or a folder whose preprocessing to use; the options above override it.
    preprocess_from: str | None = None

    def __post_init__(self) -> None:
        """Check each option."""
        check_values(self)
        require(all(s >= LEAST for s in self.std), "std", self.std, f"above 0, {LEAST:g} at least")
        check_one_mean(bool(self.mean), self.mean_image)

    def __bool__(self) -> bool:
        """True if any option is given."""
        return bool(self.given)

    @property
    def given(self) -> list[str]:
        """The options that are given, as written on a command line."""
        return [flag(field.name) for field in fields(self) if getattr(self, field.name)]


def check_one_mean(has_mean: bool, mean_image: str | None) -> None:
    """Refuse `--mean` and `--mean-image` together."""
    if has_mean and mean_image:
        raise UserError("--mean and --mean-image say two things to subtract: give one")


def prepared(weights: "Weights", config: PreparationConfig) -> "Weights":
    """Weights with the preprocessing given, or their own if none is.

    Raises:
        UserError: if it doesn't fit the network's input.
    """
    from alexnet.weights.core import CHANNEL_MEANS

    base, origin, image = weights.preprocess, weights.preprocess_from, weights.mean_image
    if config.preprocess_from:
        base, origin, image = _of(config.preprocess_from, weights.spec)
    values: dict[str, Any] = preprocess_to_json(base)
    own = [name for name in ("mean", "std", "resize_rule") if getattr(config, name)]
    channels = weights.spec.channels
    if config.mean:
        values.pop("image", None)
    for name in own:
        value = getattr(config, name)
        single = isinstance(value, tuple) and len(value) == 1
        values[name] = value * channels if single else value
        if name != "resize_rule" and len(values[name]) != channels:
            raise UserError(
                f"{flag(name)} has {len(value)} numbers, but the network's input has {channels} "
                "channels: give one number, or one for each"
            )
    found = preprocess_from_json(values, channels)
    if config.mean_image:
        from alexnet.data.mean_image import with_image

        normalize = with_image(found.normalize, found.protocol, config.mean_image)
        found, own = replace(found, normalize=normalize), [*own, "mean_image"]
    words = [f"{' and '.join(map(flag, own))}, else"] if own else []
    if config.mean or config.mean_image:
        origin, image = origin.removesuffix(CHANNEL_MEANS), False
    return replace(
        weights,
        preprocess=found,
        preprocess_from=" ".join([*words, origin]),
        mean_image=image,
    )


def _of(source: str, spec: "Spec") -> tuple[Preprocess, str, bool]:
    """Other weights' preprocessing for a network, its origin, and if its mean was a mean image's.

    Its resizing is scaled to the network's image size.
    """
    from alexnet.trained import config_of, open_alike
    from alexnet.weights.core import CHANNEL_MEANS

    if config := config_of(source):
        found, image = config.preprocess, False
    else:
        other = open_alike(source, spec)
        found, image = other.preprocess, other.mean_image
    if len(found.normalize.mean) != spec.channels:
        raise UserError(
            f"--preprocess-from {source} is for {len(found.normalize.mean)} channels, and these "
            f"weights are for {spec.channels}"
        )
    size, before, normalize = spec.image_size, found.protocol, found.normalize
    scaled = replace(before, resize_to=round(before.resize_to * size / before.crop), crop=size)
    if normalize.image and size != before.crop:
        normalize, image = replace(normalize, image=b""), True
    return Preprocess(normalize, scaled), f"{source}{CHANNEL_MEANS if image else ''}", image


def said(weights: "Weights") -> str:
    """A line about the preprocessing of weights and its origin."""
    origin = f" ({weights.preprocess_from})" if weights.preprocess_from else ""
    return f"preprocessing: {describe(weights.preprocess)}{origin}"
