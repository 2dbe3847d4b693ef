import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet.config import OptimConfig
from alexnet.schedule import learning_rate, plateaus


def rates(optim, total=100, per_epoch=10, **kwargs):
    return [
        learning_rate(optim, step, total_steps=total, steps_per_epoch=per_epoch, **kwargs)
        for step in range(total)
    ]


def test_constant():
    assert set(rates(OptimConfig(schedule="constant", learning_rate=0.1))) == {0.1}


def test_step_drops_at_the_start_of_epochs():
    r = rates(OptimConfig(schedule="step", learning_rate=1.0, drop_epochs=(3, 6)))
    assert r[29:31] == pytest.approx([1.0, 0.1])
    assert r[59:61] == pytest.approx([0.1, 0.01])


def test_cosine_goes_from_full_to_nothing():
    r = rates(OptimConfig(schedule="cosine", learning_rate=2.0, warmup_steps=10))
    assert r[9] == r[10] == 2.0
    assert r[55] == pytest.approx(1.0)
    assert 0 < r[99] < 0.002
    assert r[10:] == sorted(r[10:], reverse=True)


def test_poly_is_caffes():
    """The literal numbers of NVCaffe's solver_8K: 15,600 steps from 10, after 600 from 1 on."""
    optim = OptimConfig(
        schedule="poly", learning_rate=10.0, warmup_steps=600, warmup_start=1.0, warmup_power=2.0
    )
    r = rates(optim, total=15_600)
    assert r[0] == pytest.approx(1.0, abs=1e-4)
    assert r[299] == pytest.approx(1 + 9 / 4)
    assert r[599] == 10.0
    assert r[600] == pytest.approx(10 * (15_000 / 15_600) ** 2)
    assert r[7_800] == pytest.approx(2.5)
    assert 0 < r[-1] < 1e-7


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_warmup_rises_to_the_full_rate(power):
    optim = OptimConfig(schedule="constant", learning_rate=1.0, warmup_steps=10, warmup_power=power)
    assert rates(optim)[:10] == pytest.approx([((i + 1) / 10) ** power for i in range(10)])
    assert rates(optim)[10] == 1.0


def test_plateau_counts_evaluations_without_progress():
    assert plateaus([3, 2, 1], 2) == 0
    assert plateaus([3, 4, 3], 2) == 1
    assert plateaus([3, 4, 2, 3, 3, 2, 2], 2) == 2
    optim = OptimConfig(schedule="plateau", learning_rate=1.0, patience=2, drop_factor=0.5)
    assert rates(optim, eval_losses=[3, 4, 3])[0] == 0.5


@given(st.lists(st.floats(0, 10), max_size=30), st.integers(1, 5))
def test_plateau_drops_only_ever_add_up(losses, patience):
    counts = [plateaus(losses[:n], patience) for n in range(len(losses) + 1)]
    assert counts == sorted(counts)
    assert counts[-1] <= len(losses) // patience


@given(
    st.sampled_from(["constant", "step", "poly", "cosine", "plateau"]),
    st.integers(0, 30),
    st.integers(1, 60),
)
def test_every_rate_is_within_bounds(schedule, warmup, total):
    optim = OptimConfig(schedule=schedule, learning_rate=0.5, warmup_steps=warmup)
    for rate in rates(optim, total=total):
        assert 0 <= rate <= 0.5
        assert math.isfinite(rate)
