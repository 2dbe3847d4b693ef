"""Values that no writer of JSON would think of."""

import copy
from typing import Any

import numpy as np

ODD = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**400, -1.5, 1e308, float("nan"), float("inf"), "",
    "x", "\ud800", "\x1b[2J\n", "9" * 400, "x" * 20_000, [], {}, [[]], [None], {"": None},
    {"kind": {}}, ["a"] * 5000,
)  # fmt: skip


def odd_value(random: np.random.Generator) -> Any:
    """One of them, or a deep list."""
    at = int(random.integers(len(ODD) + 1))
    if at < len(ODD):
        return copy.deepcopy(ODD[at])
    deep: list = []
    for _ in range(random.integers(10, 900)):
        deep = [deep]
    return deep


def replaced_inside(random: np.random.Generator, values: Any) -> Any:
    """A copy with an odd value at any place, or with a part taken out or added."""
    whole = [copy.deepcopy(values)]
    place: Any = whole
    key: Any = 0
    while isinstance(place[key], dict | list) and place[key] and random.random() < 0.8:
        place = place[key]
        keys = list(place) if isinstance(place, dict) else range(len(place))
        key = keys[random.integers(len(keys))]
    match random.integers(6):
        case 0 if place is not whole:
            del place[key]
        case 1 if isinstance(place, dict):
            place["more"] = odd_value(random)
        case _:
            place[key] = odd_value(random)
    return whole[0] if whole else None
