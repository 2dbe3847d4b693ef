"""Whole benchmarks: contenders are prepared, timed, and summarized in one JSON object."""

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from alexnet.bench.child import Child
from alexnet.bench.conditions import conditions
from alexnet.bench.job import Job
from alexnet.bench.measure import Timing, measure, ratios, summary, with_memory
from alexnet.bench.network import floating_point_operations
from alexnet.errors import UserError
from alexnet.files import forget_temporary, temporary_beside

_TOP = (
    "images_per_second", "milliseconds_per_step", "blocks", "peak_matmul_gflops", "share_of_peak",
    "peak_memory_bytes",
)  # fmt: skip
Progress = Callable[[str], None]


def compare(
    jobs: Sequence[Job], blocks: int, block_seconds: float, progress: Progress
) -> dict[str, Any]:
    """Time whole steps of contenders side by side; the first one's numbers are at the top level.

    Raises:
        UserError: if a contender can't be built with these options.
        RunError: if a contender's process fails.
    """
    found = {"conditions": conditions()}
    with contextlib.ExitStack() as stack:
        children = open_children(jobs, stack, progress)
        able = [child for child in children if not child.unavailable]
        peaks = _peaks(able, block_seconds, progress)
        timings = measure(
            able, "step", blocks=blocks, block_seconds=block_seconds, progress=progress
        )
        rows = [_row(child, timings, peaks) for child in children]
    return {**{name: rows[0].get(name) for name in _TOP}, **found, "contenders": rows}


def time_layers(
    jobs: Sequence[Job], blocks: int, block_seconds: float, progress: Progress
) -> dict[str, Any]:
    """Time each pass of each layer, contenders side by side: milliseconds by contender name.

    Raises:
        UserError, RunError: as `compare`.
    """
    found, rows = {"conditions": conditions()}, []
    with contextlib.ExitStack() as stack:
        children = open_children(jobs, stack, progress)
        abouts = list(map(_about, children))
        for part in children[0].parts:
            layer, name = part.split(": ")
            progress(part)
            timings = measure(children, part, blocks=blocks, block_seconds=block_seconds)
            times = {key: summary(timing, 1, "passes") for key, timing in timings.items()}
            rows.append({"layer": layer, "pass": name, "contenders": times})
    return {**found, "contenders": abouts, "layers": rows}


def time_conversions(
    job: Job, blocks: int, block_seconds: float, progress: Progress
) -> dict[str, Any]:
    """Time the conversion of a variant's weights between formats, in a temporary folder.

    Raises:
        UserError, RunError: as `compare`.
    """
    found, rows = {"conditions": conditions()}, []
    size = 4 * job.spec.num_params
    folder = temporary_beside(Path(tempfile.gettempdir()) / "alexnet-bench")
    try:
        folder.mkdir()
        job = dataclasses.replace(job, directory=str(folder))
        with contextlib.ExitStack() as stack:
            (child,) = open_children([job], stack, progress)
            for part in child.parts:
                child.ask({"memory": True})  # resets the peak
                timing = measure(
                    [child], part, blocks=blocks, block_seconds=block_seconds, progress=progress
                )[child.name]
                numbers = with_memory(summary(timing, size, "bytes"), child)
                rows.append({"conversion": part, "bytes": size, **numbers})
    finally:
        forget_temporary(folder)
    return {**found, "contenders": [], "conversions": rows}


def open_children(
    jobs: Sequence[Job], stack: contextlib.ExitStack, progress: Progress
) -> list[Child]:
    """Start a process for each job, one after another; the stack ends them."""
    children = []
    for job in jobs:
        progress(f"{job.name}: preparing")
        children.append(stack.enter_context(Child(job)))
    if all(child.unavailable for child in children):
        raise UserError(f"nothing can be timed: {children[0].unavailable}")
    return children


def _peaks(children: Sequence[Child], seconds: float, progress: Progress) -> dict[str, float]:
    """Each framework's matrix product rate, measured in its first contender's process."""
    found: dict[str, float] = {}
    for child in children:
        framework = child.job.framework
        if child.job.what in ("train", "infer") and framework and framework not in found:
            progress(f"{framework}: matrix products")
            found[framework] = child.ask({"peak": seconds})["flops"]
    return found


def _row(child: Child, timings: dict[str, Timing], peaks: dict[str, float]) -> dict[str, Any]:
    """One contender's numbers."""
    job, about = child.job, _about(child)
    if child.unavailable:
        return about
    timing = timings[child.name]
    row = {**about, **with_memory(summary(timing, job.batch_size, "images"), child)}
    if job.framework and job.framework in peaks:
        flops = job.batch_size * floating_point_operations(job.spec, job.what)
        peak = peaks[job.framework]
        row |= {
            "gflops_per_step": flops / 1e9,
            "peak_matmul_gflops": peak / 1e9,
            "share_of_peak": flops / timing.median() / peak,
        }
    if job.is_ours:
        rivals = _rivals(job, list(timings))
        row["times_as_fast_as"] = {name: ratios(timing, timings[name]) for name in rivals}
    return row


def _rivals(job: Job, names: Sequence[str]) -> list[str]:
    """The contenders that one of ours is compared with; for one that reads, the same without."""
    if job.reads:
        return [str(job.framework)]
    return [name for name in names if name != job.name and not name.endswith(", reading")]


def _about(child: Child) -> dict[str, Any]:
    """A contender's description, as JSON values."""
    return {
        "name": child.name,
        "framework": child.job.framework,
        "kind": child.job.kind,
        "note": child.note,
        "device": child.device,
        "unavailable": child.unavailable,
    }
