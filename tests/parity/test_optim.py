"""Every optimizer rule, in both frameworks, against its formula in float64 NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from alexnet.config import OptimConfig
from alexnet.errors import UserError
from alexnet.layers import Variable, variables
from alexnet.recipes import recipe
from alexnet.schedule import decays, frozen, learning_rate, rate_multipliers, rates
from alexnet.spec import VARIANTS
from alexnet_jax.optim import gradient_transformation
from alexnet_torch.optim import Momentum
from tests.parity.pairs import report, worst_by_max

BOUND = 1e-5  # of the largest change of each variable
DROPS = [0.2] * 7 + [0.02] * 7 + [0.002] * 6  # twenty steps, the rate drops twice

VARIABLES = {
    name: Variable(shape, role, ("constant", 0.0))
    for name, shape, role in [
        ("conv1.kernel", (3, 3, 2, 4), "kernel"),
        ("conv1.bias", (4,), "bias"),
        ("bn1.scale", (4,), "scale"),
        ("bn1.mean", (4,), "statistic"),
        ("fc2.kernel", (6, 5), "kernel"),
        ("fc2.bias", (5,), "bias"),
    ]
}
LEARNED = [name for name, variable in VARIABLES.items() if variable.role != "statistic"]

RULES = {
    "sgd": {},
    "sgd without momentum": {"momentum": 0.0},
    "sgd, nesterov": {"nesterov": True},
    "sgd, clipped": {"clip_norm": 0.5},
    "sgd, kernels decayed": {"decay_biases": False},
    "caffe": {"rule": "caffe"},
    "caffe, nesterov": {"rule": "caffe", "nesterov": True},
    "caffe, its multipliers": {"rule": "caffe", "rate_of": ("bias=2",), "decay_of": ("bias=0",)},
    "lars": {"rule": "lars"},
    "lars of nvcaffe": {"rule": "lars", "lars_formula": "nvcaffe"},
    "lars of optax": {"rule": "lars", "lars_formula": "optax"},
    "lars with biases": {"rule": "lars", "lars_formula": "nvcaffe", "lars_biases": True},
    "lars without momentum": {"rule": "lars", "momentum": 0.0},
    "groups": {"freeze": ("conv1",), "rate_of": ("fc2=10", "fc2.bias=2"), "decay_of": ("bn1=3",)},
}


def config(name: str) -> OptimConfig:
    return OptimConfig(**({"weight_decay": 0.1, "lars_eta": 0.1} | RULES[name]))


def problem(seed: int = 0, steps: int = len(DROPS)):
    """Weights, and gradients for every step; those of one kernel are all zero for a while."""
    rng = np.random.default_rng(seed)
    start = {n: rng.normal(0, 1, VARIABLES[n].shape).astype(np.float32) for n in LEARNED}
    grads = [
        {n: rng.normal(0, 0.5, VARIABLES[n].shape).astype(np.float32) for n in LEARNED}
        for _ in range(steps)
    ]
    return start, grads


def oracle(optim: OptimConfig, start, grads, schedule) -> dict[str, np.ndarray]:
    """The change of each variable by the formulas of the rules, in float64."""
    w = {n: a.astype(np.float64) for n, a in start.items()}
    v = {n: np.zeros_like(a) for n, a in w.items()}
    for step_grads, rate in zip(grads, schedule, strict=True):
        g = {n: a.astype(np.float64) for n, a in step_grads.items()}
        moving = [n for n in g if multiplier(optim, n)]
        norm = np.sqrt(sum((g[n] ** 2).sum() for n in moving))
        for n in moving:
            if optim.clip_norm and norm > optim.clip_norm:
                g[n] = g[n] * optim.clip_norm / norm
            r, wd = rate * multiplier(optim, n), decay(optim, n)
            u = g[n] + wd * w[n]
            ends = ("kernel", "bias") if optim.lars_biases else "kernel"
            if optim.rule == "lars" and n.endswith(ends):
                below = {
                    "paper": np.linalg.norm(g[n]) + wd * np.linalg.norm(w[n]),
                    "nvcaffe": np.linalg.norm(g[n]),
                    "optax": np.linalg.norm(u),
                }[optim.lars_formula]
                u = u * optim.lars_eta * np.linalg.norm(w[n]) / below
            inside = optim.rule != "sgd"
            u = r * u if inside else u
            v[n] = optim.momentum * v[n] + u
            u = u + optim.momentum * v[n] if optim.nesterov else v[n]
            w[n] = w[n] - (u if inside else r * u)
    return {n: w[n] - start[n] for n in w}


def multiplier(optim, name):
    """Written out for the groups of RULES, apart from the package's own way."""
    layer, part = name.split(".")
    if layer in optim.freeze:
        return 0.0
    factors = dict(text.split("=") for text in optim.rate_of)
    return float(np.prod([float(factors.get(key, 1)) for key in (layer, part, name)]))


def decay(optim, name):
    layer, part = name.split(".")
    if not optim.decay_biases and part != "kernel":
        return 0.0
    factors = dict(text.split("=") for text in optim.decay_of)
    return optim.weight_decay * float(np.prod([float(factors.get(k, 1)) for k in (layer, part)]))


def by_jax(optim: OptimConfig, start, grads, schedule) -> dict[str, np.ndarray]:
    rule = gradient_transformation(optim, VARIABLES)
    params = nested({n: jnp.asarray(a) for n, a in start.items()})
    state = rule.init(params)

    @jax.jit
    def step(params, state, grads, vector):
        updates, state = rule.update(grads, state, params, rates=vector)
        return optax.apply_updates(params, updates), state

    still = frozen(optim, VARIABLES)
    for g, rate in zip(grads, schedule, strict=True):
        each = rates(optim, VARIABLES, rate)
        g = {
            n: np.zeros_like(a) if n in still else a for n, a in g.items()
        }  # as the step makes them
        vector = np.array([each[n] for n in LEARNED], np.float32)
        params, state = step(params, state, nested(g), vector)
    return {n: np.asarray(params[n.split(".")[0]][n.split(".")[1]]) - start[n] for n in start}


def nested(arrays):
    tree = {}
    for name, array in arrays.items():
        layer, part = name.split(".")
        tree.setdefault(layer, {})[part] = array
    return tree


def by_torch(optim: OptimConfig, start, grads, schedule) -> dict[str, np.ndarray]:
    parameters = {n: torch.nn.Parameter(torch.tensor(a)) for n, a in start.items()}
    rule = Momentum(parameters, optim, VARIABLES)
    still = frozen(optim, VARIABLES)
    for g, rate in zip(grads, schedule, strict=True):
        for name, parameter in parameters.items():
            parameter.grad = None if name in still else torch.tensor(g[name])
        rule.set_rates(rates(optim, VARIABLES, rate))
        rule.step()
    return {n: p.detach().numpy() - start[n] for n, p in parameters.items()}


def moved(changes, optim):
    """Changes of what is not frozen; the rest must not have moved at all."""
    still = frozen(optim, VARIABLES)
    assert not any(np.any(changes[name]) for name in still)
    return {name: change for name, change in changes.items() if name not in still}


@pytest.mark.parametrize("framework", [by_jax, by_torch])
@pytest.mark.parametrize("name", RULES)
def test_twenty_steps_across_two_drops(name, framework):
    optim = config(name)
    start, grads = problem()
    expected = moved(oracle(optim, start, grads, DROPS), optim)
    measured = worst_by_max(moved(framework(optim, start, grads, DROPS), optim), expected)
    assert report(f"{name}, {framework.__name__}", measured, BOUND) < BOUND


CONTROLS = [
    ("sgd", {"rule": "caffe"}),  # the same until the rate drops
    ("caffe", {"rule": "sgd"}),
    ("sgd", {"weight_decay": 0.0}),
    ("sgd", {"momentum": 0.8}),
    ("sgd", {"nesterov": True}),
    ("sgd", {"clip_norm": 0.5}),
    ("sgd", {"decay_biases": False}),
    ("lars", {"lars_formula": "nvcaffe"}),
    ("lars", {"lars_formula": "optax"}),
    ("lars of optax", {"lars_formula": "nvcaffe"}),
    ("lars with biases", {"lars_biases": False}),
    ("caffe, its multipliers", {"rate_of": ()}),
    ("caffe, its multipliers", {"decay_of": ()}),
]


@pytest.mark.parametrize("framework", [by_jax, by_torch])
@pytest.mark.parametrize(("name", "other"), CONTROLS, ids=str)
def test_control_another_rule_is_noticed(name, other, framework):
    start, grads = problem()
    expected = oracle(config(name), start, grads, DROPS)
    wrong = framework(dataclasses.replace(config(name), **other), start, grads, DROPS)
    measured = worst_by_max(wrong, expected)
    assert report(f"control {name} as {other}", measured, BOUND) > 100 * BOUND


def test_the_rules_part_only_when_the_rate_drops():
    start, grads = problem(steps=5)
    inside, outside = (by_torch(config(name), start, grads, [0.1] * 5) for name in ("caffe", "sgd"))
    assert report("constant rate", worst_by_max(inside, outside), BOUND) < BOUND


def test_sgd_is_torchs_own():
    start, grads = problem()
    parameters = {n: torch.nn.Parameter(torch.tensor(a)) for n, a in start.items()}
    numbers = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}
    sgd = torch.optim.SGD(parameters.values(), fused=True, **numbers)
    for g, rate in zip(grads, DROPS, strict=True):
        for name, parameter in parameters.items():
            parameter.grad = torch.tensor(g[name])
        sgd.param_groups[0]["lr"] = rate
        sgd.step()
    ours = by_torch(config("sgd"), start, grads, DROPS)
    assert all((ours[n] == p.detach().numpy() - start[n]).all() for n, p in parameters.items())


def test_lars_is_optaxs_own():
    """optax.lars has the third formula; it takes one rate, and masks for what is no kernel."""
    start, grads = problem()
    mask = {n: n.endswith("kernel") for n in start}
    rule = optax.inject_hyperparams(optax.lars, static_args=("trust_ratio_mask",))(
        learning_rate=0.1, weight_decay=0.1, trust_coefficient=0.1, momentum=0.9,
        trust_ratio_mask=mask,
    )  # fmt: skip
    params = {n: jnp.asarray(a) for n, a in start.items()}
    state = rule.init(params)
    for g, rate in zip(grads, DROPS, strict=True):
        state.hyperparams["learning_rate"] = jnp.float32(rate)
        updates, state = rule.update({n: jnp.asarray(a) for n, a in g.items()}, state, params)
        params = optax.apply_updates(params, updates)
    theirs = {n: np.asarray(a) - start[n] for n, a in params.items()}
    measured = worst_by_max(by_jax(config("lars of optax"), start, grads, DROPS), theirs)
    assert report("optax.lars", measured, BOUND) < BOUND


@pytest.mark.parametrize("framework", [by_jax, by_torch])
@pytest.mark.parametrize("formula", ["paper", "nvcaffe", "optax"])
def test_lars_of_nothing_is_finite(formula, framework):
    """Zero weights or a zero gradient have no trust ratio: the plain rate stands."""
    start, grads = problem(steps=2)
    start["fc2.kernel"][:] = 0
    for g in grads:
        g["conv1.kernel"][:] = 0
    optim = OptimConfig(rule="lars", lars_formula=formula, weight_decay=0.0)
    changes = framework(optim, start, grads, [0.1, 0.1])
    assert all(np.isfinite(change).all() for change in changes.values())
    assert not changes["conv1.kernel"].any()
    assert np.abs(changes["fc2.kernel"]).max() > 0.01


@pytest.mark.parametrize("framework", [by_jax, by_torch])
@pytest.mark.parametrize("formula", ["paper", "nvcaffe"])
def test_lars_without_a_gradient_is_plain_decay(formula, framework):
    """sgd_solver.cpp in NVCaffe of August 2017: `w_norm > 0.F && wgrad_norm > 0.F`."""
    start, grads = problem(steps=1)
    grads[0]["conv1.kernel"][:] = 0
    optim = OptimConfig(rule="lars", lars_formula=formula, weight_decay=0.5)
    change = framework(optim, start, grads, [0.1])["conv1.kernel"]
    np.testing.assert_allclose(change, -0.1 * 0.5 * start["conv1.kernel"], rtol=1e-4, atol=1e-7)


# --- groups ----------------------------------------------------------------------------------


def test_groups_match_by_layer_variable_and_role():
    found = variables(VARIANTS["paper"])
    optim = OptimConfig(
        freeze=("conv1", "conv2.bias"), rate_of=("fc8=10", "bias=2"), decay_of=("bias=0",)
    )
    factors = rate_multipliers(optim, found)
    assert factors["conv1.kernel"] == factors["conv1.bias"] == factors["conv2.bias"] == 0
    assert (factors["conv2.kernel"], factors["fc8.kernel"], factors["fc8.bias"]) == (1, 10, 20)
    assert frozen(optim, found) == {"conv1.kernel", "conv1.bias", "conv2.bias"}
    found_decays = decays(optim, found)
    assert (found_decays["fc8.kernel"], found_decays["fc8.bias"]) == (5e-4, 0)
    assert found_decays["conv1.kernel"] == 0  # frozen: momentum stays at rest, too


def test_rates_of_configuration_145():
    """The log at the end of layer-params-145.cfg, by epoch: kernels, conv1's kernel, biases.

    The file has no rate for conv1's biases; from which epoch on, the log doesn't say.
    """
    config, found = recipe("krizhevsky2012"), variables(VARIANTS["krizhevsky2012"])
    log = {
        0: (0.01, 0.01, 0.02), 24.9: (0.01, 0.01, 0.02), 25: (1e-3, 1e-3, 0.02),
        51: (1e-4, 1e-4, 0.02), 67: (1e-4, 1e-5, 0.02), 72: (1e-4, 0, 0.02), 79: (1e-5, 0, 0.02),
        90: (1e-5, 0, 0.02),
    }  # fmt: skip
    for epoch, (kernels, first, biases) in log.items():
        step = round(epoch * 10)
        rate = learning_rate(config.optim, step, total_steps=910, steps_per_epoch=10)
        each = rates(config.optim, found, rate, epoch)
        for name, value in each.items():
            wanted = biases if name.endswith("bias") else first if "conv1" in name else kernels
            wanted = 0 if "conv1" in name and first == 0 else wanted
            assert value == pytest.approx(wanted), (epoch, name)
    assert decays(config.optim, found)["fc8.bias"] == 0


def test_something_must_be_left_to_learn():
    with pytest.raises(UserError, match="--freeze and --rate-of leave nothing to learn"):
        frozen(OptimConfig(freeze=("kernel", "bias")), variables(VARIANTS["bn"]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"freeze": ("conv9",)}, "no learned variable is in the group 'conv9'.*conv1"),
        ({"freeze": ("statistic",)}, "no learned variable"),
        ({"rate_of": ("fc8",)}, "--rate-of fc8 must read GROUP=FACTOR"),
        ({"rate_of": ("fc8=fast",)}, "must read GROUP=FACTOR"),
        ({"rate_of": ("fc8=-1",)}, "must read GROUP=FACTOR"),
        ({"decay_of": ("bias=inf",)}, "--decay-of bias=inf must read"),
        ({"rate_at": ("conv1=0.1",)}, "--rate-at conv1=0.1 must read EPOCH:GROUP=FACTOR"),
        ({"rate_at": ("-1:conv1=0.1",)}, "must read EPOCH:GROUP=FACTOR"),
        ({"rate_at": ("7:conv1",)}, "--rate-at 7: conv1 must read GROUP=FACTOR"),
        ({"rate_at": ("7:conv9=1",)}, "no learned variable is in the group 'conv9'"),
    ],
)
def test_groups_that_mean_nothing_are_refused(options, message):
    optim, found = OptimConfig(**options), variables(VARIANTS["bn"])
    with pytest.raises(UserError, match=message):
        assert frozen(optim, found) or decays(optim, found)


@pytest.mark.parametrize("odd", ["gradient", "momentum"])
def test_memory_in_another_order_changes_nothing(odd):
    """torch's fused step would go wrong without a word."""
    start, (gradient,) = problem(steps=1)
    order = {
        "gradient": (torch.channels_last, torch.contiguous_format),
        "momentum": (torch.channels_last, torch.channels_last),
    }[odd]
    kernel, gradient = (torch.tensor(a["conv1.kernel"]).clone() for a in (start, gradient))
    expected = kernel - 0.1 * (0.9 * 1 + gradient + 0.1 * kernel)
    parameter = torch.nn.Parameter(kernel.to(memory_format=order[0]))
    optimizer = Momentum({"conv1.kernel": parameter}, config("sgd"), VARIABLES)
    optimizer.set_rates({"conv1.kernel": 0.1})
    parameter.grad = gradient.clone(memory_format=order[1])
    ones = torch.ones_like(gradient, memory_format=torch.contiguous_format)
    optimizer.state[parameter]["momentum_buffer"] = ones
    optimizer.step()
    torch.testing.assert_close(parameter.detach(), expected)
