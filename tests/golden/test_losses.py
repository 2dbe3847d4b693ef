"""No curve moves unseen: both frameworks give the committed losses of every recipe."""

import json

import numpy as np
import pytest

from alexnet.recipes import RECIPES
from tests.golden.losses import FILE, STEPS, losses

BOUND = 1e-6  # relative
GOLDEN = json.loads(FILE.read_text())


def test_every_recipe_is_there():
    assert GOLDEN.keys() == RECIPES.keys()
    assert {len(values) for values in GOLDEN.values()} == {STEPS}


@pytest.mark.parametrize("framework", ["jax", "torch"])
@pytest.mark.parametrize("name", RECIPES)
def test_the_first_losses_are_the_committed_ones(name, framework):
    apart = np.abs(np.divide(losses(name, framework), GOLDEN[name]) - 1)
    print(f"{name}, {framework}: at most {apart.max():.1e} (bound {BOUND:.0e})")
    assert apart.max() < BOUND


def test_control_another_initial_weight_is_noticed(monkeypatch):
    from tests.golden import losses as module

    true = module.initial_weights

    def other(spec, seed):
        arrays = true(spec, seed)
        arrays["conv1.bias"] = arrays["conv1.bias"] + np.float32(1e-3)
        return arrays

    monkeypatch.setattr(module, "initial_weights", other)
    apart = np.abs(np.divide(losses("digits", "torch"), GOLDEN["digits"]) - 1)
    print(f"control: {apart.max():.1e}")
    assert apart.max() > 2 * BOUND
