"""A run's `config.json`: the tree of `config.py` as plain JSON values, and back."""

import dataclasses
import json
import math
from typing import Any

from alexnet.config import TrainConfig
from alexnet.errors import UserError
from alexnet.options import from_plain
from alexnet.spec import REVISION, refuse_outdated


def to_json(config: TrainConfig) -> dict[str, Any]:
    """The tree as plain JSON values, with the revision of the layer tables."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=str)) | {"tables": REVISION}


def _in_whole_epochs(values: dict[str, Any]) -> dict[str, Any]:
    """Round up the end of color noise to whole epochs, as older versions took it."""
    data = values.get("data")
    if not isinstance(data, dict):
        return values
    until = data.get("color_noise_until")
    if not isinstance(until, float) or not math.isfinite(until):
        return values
    return values | {"data": data | {"color_noise_until": float(math.ceil(until))}}


def from_json(values: Any, where: str = "config.json") -> TrainConfig:
    """The tree from the output of `to_json`, possibly from before some fields were added.

    Raises:
        UserError: for unknown fields, invalid values, or a variant whose table has changed since
            the run began; `where` names the file.
    """
    try:
        values = {"tables": 1, **values}
        tables = int(values.pop("tables"))
        if values.get("framework") == "torch":
            values["devices"] = {}  # a run moved from JAX may still have JAX's options
        config = from_plain(TrainConfig, _in_whole_epochs(values))
    except (TypeError, ValueError, UserError) as error:
        raise UserError(f"{where} is not one that this version wrote: {error}") from error
    refuse_outdated(
        config.model.variant,
        tables,
        "its network is that of 'caffe' at 224 pixels, so set variant and image_size to those in "
        "config.json to go on",
    )
    return config
