"""Types of numbers in files: other floats are read as fp32, and half precision can be written."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import numpy as np

from alexnet.errors import UserError
from alexnet.weights.core import BF16, Weights

Dtype = Literal["fp32", "fp16", "bf16"]
STORED: dict[Dtype, np.dtype] = {
    "fp32": np.dtype("<f4"),
    "fp16": np.dtype("<f2"),
    "bf16": BF16,
}
_OVERFLOW = {"fp16": 65520.0, "bf16": 2.0**128 - 2.0**119}  # from here on, they become infinite
_LISTED = 5  # arrays that an error names


def name_of(dtype: np.dtype) -> str:
    """A type as people write it: float16, bfloat16."""
    return "bfloat16" if dtype == BF16 else dtype.name


def to_fp32(array: np.ndarray) -> np.ndarray:
    """An array of floats as fp32; one that is fp32 already is returned as it is."""
    if array.dtype == BF16:  # the upper half of an fp32
        bits = array["bfloat16"].astype("<u4")
        bits <<= 16
        return bits.view("<f4")
    with np.errstate(over="ignore"):  # a float64 beyond fp32 becomes infinite, which is refused
        return array.astype("<f4", copy=False)


def all_fp32(arrays: dict[str, np.ndarray]) -> tuple[str, ...]:
    """Turn arrays of other floats into fp32, in place and one by one; notes on what was done."""
    kinds: dict[str, int] = {}
    for name, array in arrays.items():
        if array.dtype != np.float32:
            kind = name_of(array.dtype)
            kinds[kind] = kinds.get(kind, 0) + 1
            arrays[name] = to_fp32(array)
    return tuple(note(kind, count, len(arrays)) for kind, count in kinds.items())


def note(kind: str, count: int, of: int) -> str:
    """A sentence on arrays of another type that were read as fp32."""
    which = "its arrays are" if count == of else f"{count} of its {of} arrays are"
    done = "rounded" if kind == "float64" else "widened, without loss,"
    return f"{which} {kind}, and {done} to float32"


def check_range(arrays: Mapping[str, np.ndarray], dtype: Dtype) -> None:
    """Refuse arrays with finite numbers that a type can't hold.

    Raises:
        UserError: naming the arrays.
    """
    most = {name: max(a.max(), -a.min()) for name, a in arrays.items() if a.size}
    wrong = [
        f"{name} (up to {number:.3g})"
        for name, number in most.items()
        if np.isfinite(number) and number >= _OVERFLOW.get(dtype, np.inf)
    ]
    if wrong:
        other = "bf16 or fp32" if dtype == "fp16" else "fp32"
        raise UserError(f"{listed(wrong)} would overflow in {dtype}: write them as {other}")


def rounded(weights: Weights, dtype: Dtype) -> Weights:
    """Weights as a type holds them: rounded to its nearest numbers, ties to even."""
    if dtype == "fp32":
        return weights
    arrays = {name: to_fp32(stored(array, dtype)) for name, array in weights.arrays.items()}
    return replace(weights, arrays=arrays)


def stored(array: np.ndarray, dtype: Dtype) -> np.ndarray:
    """An fp32 array in the little-endian type that a file holds."""
    if dtype != "bf16":
        with np.errstate(over="ignore"):
            return array.astype(STORED[dtype], copy=False)
    bits = np.ascontiguousarray(array, "<f4").view("<u4")
    upper = ((bits + (0x7FFF + ((bits >> 16) & 1)).astype("<u4")) >> 16).astype("<u2")
    return np.where(np.isnan(array), np.uint16(0x7FC0), upper).astype("<u2").view(BF16)


def check_finite(arrays: Mapping[str, np.ndarray], way_out: str) -> None:
    """Refuse arrays with NaN or infinite numbers.

    Raises:
        UserError: naming the arrays, with how many such numbers they have, and the way out.
    """
    wrong = []
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            wrong.append(f"{name} ({array.size - int(np.isfinite(array).sum()):,})")
    if wrong:
        raise UserError(f"numbers are NaN or infinite in {listed(wrong)}: {way_out}")


def listed(names: list[str]) -> str:
    """The first few of a list, and how many more there are."""
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")
