"""`alexnet compile`: the training step compiled for a TPU slice, with no TPU present."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from alexnet.commands import train
from alexnet.commands.train import WORDS
from alexnet.config import MOST_CLASSES, TrainConfig
from alexnet.errors import UserError
from alexnet.options import between

__all__ = ["WORDS", "Options", "defaults", "main"]


@dataclass(frozen=True)
class Options:
    """The slice, and the step's options as for `alexnet train`; --batch-size is over all chips."""

    # TPU slice to compile for: v5e:4x4, v4:2x2x2, ...
    topology: str
    train: TrainConfig
    # Outputs of the last layer.
    num_classes: int = 1000
    # Print JSON instead of tables.
    json: bool = False

    def __post_init__(self) -> None:
        """Check each option."""
        between(self, 1, MOST_CLASSES, "num_classes")
        if self.train.framework != "jax":
            raise UserError("--framework torch can't be compiled for a TPU here: leave it out")


defaults = partial(train.defaults, recipe_name="torchvision")


def main(options: Options) -> int:
    """Print the compiler's numbers; return 1 if the step doesn't fit in a chip's memory."""
    # Before JAX starts: this host has no TPU, and a program compiled for one can't be cached here.
    os.environ.update(JAX_PLATFORMS="cpu", JAX_ENABLE_COMPILATION_CACHE="false")
    from alexnet.engine import import_framework
    from alexnet.report.compiled import print_compiled

    topology = import_framework("jax", "topology")
    report: Mapping[str, Any] = topology.compile_step(
        options.train, options.num_classes, options.topology
    )
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        print_compiled(report)
    return 0 if report["memory"]["fits"] else 1
