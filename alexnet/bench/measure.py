"""Timing of contenders, block by block in alternation, and summaries of their times."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from alexnet.bench.child import Child

_WARM, _MOST_WARM = 3, 12  # steps of warm-up, at least and at most
_STEADY = 1.1  # steady once a step is within this factor of the fastest so far


@dataclass
class Timing:
    """The timed blocks of one contender's part: seconds, CPU time and page faults of each."""

    steps: int  # in a block
    blocks: list[dict[str, float]] = field(default_factory=list)

    @property
    def seconds(self) -> list[float]:
        """Seconds per step, block by block."""
        return [block["seconds"] / self.steps for block in self.blocks]

    def median(self, name: str = "seconds") -> float:
        """The median over blocks of a measurement, per step."""
        return statistics.median(block[name] / self.steps for block in self.blocks)


def measure(
    children: Sequence[Child],
    part: str,
    *,
    blocks: int,
    block_seconds: float,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Timing]:
    """Time a part of every contender, with all others idle; return timings by contender name.

    After warm-up each runs a block in turn, in the opposite order in every other round, so that
    any drift in the machine affects all alike.
    """
    timings = {}
    for child in children:
        progress(f"{child.name}: warm-up")
        timings[child.name] = Timing(_steps(child, part, block_seconds))
    for number in range(blocks):
        for child in list(children)[:: -1 if number % 2 else 1]:
            progress(f"{child.name}: block {number + 1} of {blocks}")
            timing = timings[child.name]
            timing.blocks.append(child.run(part, timing.steps))
    return timings


def _steps(child: Child, part: str, block_seconds: float) -> int:
    """Warm up until steps reach full speed, and return the number of steps that fill a block."""
    fastest, done = math.inf, 0
    while done < _MOST_WARM:
        seconds = child.run(part, 1)["seconds"]
        done, steady = done + 1, seconds < _STEADY * fastest
        fastest = min(fastest, seconds)
        if done >= _WARM and steady:
            break
    count, seconds = 1, fastest
    while seconds < block_seconds / 8:
        count *= 2  # a few steps may be prepared ahead, or too short for the clock
        seconds = child.run(part, count)["seconds"]
    return max(1, round(count * block_seconds / seconds))


def ratios(ours: Timing, other: Timing) -> dict[str, float]:
    """Speed of one as a multiple of the other's: median, minimum and maximum over rounds."""
    found = [b / a for a, b in zip(ours.seconds, other.seconds, strict=True)]
    return {"median": statistics.median(found), "min": min(found), "max": max(found)}


def summary(timing: Timing, items: int, unit: str) -> dict[str, Any]:
    """Summarize a contender's times as JSON values.

    Args:
        timing: its blocks.
        items: number of images, or bytes, in a step.
        unit: the name of these items.
    """
    step = timing.median()
    return {
        f"{unit}_per_second": items / step,
        "milliseconds_per_step": 1e3 * step,
        "milliseconds_min": 1e3 * min(timing.seconds),
        "milliseconds_max": 1e3 * max(timing.seconds),
        "steps_per_block": timing.steps,
        "blocks": [1e3 * seconds for seconds in timing.seconds],
        "user_seconds_per_step": timing.median("user"),
        "system_seconds_per_step": timing.median("system"),
        "page_faults_per_step": timing.median("faults"),
    }


def with_memory(found: Mapping[str, Any], child: Child) -> dict[str, Any]:
    """Add the peak memory of the contender's process to a summary."""
    memory = child.ask({"memory": True})
    return {
        **found,
        "peak_memory_bytes": memory["host"],
        "peak_device_memory_bytes": memory["device"],
    }
