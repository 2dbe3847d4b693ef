"""The first losses of every recipe on a narrow net: `python -m tests.golden.losses` writes them.

They are committed, so that no change moves a curve unseen. Where one is meant to, run this again
and say in the commit what moved it.
"""

import dataclasses
import json
import sys
from pathlib import Path

from alexnet.config import TrainConfig
from alexnet.engine import load_engine
from alexnet.init import initial_weights
from alexnet.layers import min_image_size, variables
from alexnet.loop import Plan
from alexnet.recipes import RECIPES, recipe
from alexnet.run import training_engine
from alexnet.schedule import learning_rate, rates
from alexnet.spec import VARIANTS
from tests.conftest import first_batches

FILE = Path(__file__).with_name("losses.json")
STEPS = 20


def narrow(name: str) -> TrainConfig:
    """A recipe as it is, but for sizes, and for data that is there."""
    config = recipe(name)
    model = dataclasses.replace(
        config.model, width=0.0625, image_size=min_image_size(VARIANTS[config.model.variant])
    )
    data = dataclasses.replace(config.data, batch_size=16, resize_to=80)
    if data.dataset.startswith("tfds:"):
        data = dataclasses.replace(data, dataset="synthetic")
    return dataclasses.replace(config, model=model, data=data)


def losses(name: str, framework: str) -> list[float]:
    """The training loss of each step at seed 0."""
    config = narrow(name)
    dataset = config.open_dataset()
    spec, plan = config.spec(dataset.num_classes), Plan.of(config, dataset)
    arrays = initial_weights(spec, config.run.seed)
    engine = training_engine(load_engine(framework), config, spec, arrays)
    found = []
    for step, batch in enumerate(first_batches(config, STEPS)):
        rate = learning_rate(
            config.optim,
            step,
            total_steps=plan.total_steps,
            steps_per_epoch=plan.steps_per_epoch,
        )
        each = rates(config.optim, variables(spec), rate)
        found.append(engine.fetch(engine.train_step(batch, step=step, rates=each))["loss"])
    return found


def main() -> int:
    """Write the losses that torch computes."""
    found = {name: losses(name, "torch") for name in RECIPES}
    FILE.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
