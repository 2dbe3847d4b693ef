"""`alexnet bench`: its numbers as tables."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from alexnet.text import counted

_LOG_WIDTH = 200
_MIB = 1 << 20


def print_benchmark(whole: Mapping[str, Any]) -> None:
    """Print the timings as a table, and below it the ratios and the conditions."""
    console = _console()
    if "layers" in whole:
        console.print(_layers_table(whole))
    elif "conversions" in whole:
        console.print(_conversions_table(whole))
    else:
        console.print(_contenders_table(whole))
    for line in [*sentences(whole["contenders"]), *conditions_lines(whole)]:
        console.print(line, markup=False, soft_wrap=True)


def _table(whole: Mapping[str, Any], words: Sequence[str], numbers: Sequence[str]) -> Any:
    """An empty table with columns of words, then of numbers."""
    from rich.table import Table

    table = Table(*words, title=title(whole), title_justify="left")
    for name in numbers:
        table.add_column(name, justify="right")
    return table


def _contenders_table(whole: Mapping[str, Any]) -> Any:
    table = _table(whole, ["contender"], (
        "images/s", "ms a step", "least", "most", "of peak", "user s", "system s", "page faults",
        "peak MiB",
    ))  # fmt: skip
    for row in whole["contenders"]:
        table.add_row(*_cells(row))
    return table


def _layers_table(whole: Mapping[str, Any]) -> Any:
    names = [row["name"] for row in whole["contenders"]]
    table = _table(whole, ["layer", "pass"], [f"{name}, ms" for name in names])
    for row in whole["layers"]:
        times = [row["contenders"][name]["milliseconds_per_step"] for name in names]
        table.add_row(row["layer"], row["pass"], *(f"{time:,.3f}" for time in times))
    sums = [
        sum(row["contenders"][name]["milliseconds_per_step"] for row in whole["layers"])
        for name in names
    ]
    table.add_section()
    table.add_row("sum", "", *(f"{time:,.3f}" for time in sums))
    return table


def _conversions_table(whole: Mapping[str, Any]) -> Any:
    table = _table(whole, ["conversion"], ("s", "least", "most", "MB/s", "peak MiB"))
    for row in whole["conversions"]:
        times = (row[f"milliseconds_{name}"] for name in ("per_step", "min", "max"))
        table.add_row(
            row["conversion"],
            *(f"{time / 1e3:.2f}" for time in times),
            f"{row['bytes_per_second'] / 1e6:,.0f}",
            f"{row['peak_memory_bytes'] / _MIB:,.0f}",
        )
    return table


def title(whole: Mapping[str, Any]) -> str:
    """The work in words."""
    job = whole["job"]
    pixels = f", {job['image_size']} pixels" if job["image_size"] else ""
    width = f", width {job['width']:g}" if job["width"] != 1 else ""
    length = f"median of {counted(job['blocks'], 'block')} of {job['block_seconds']:g} s"
    if job["what"] == "convert":
        return f"convert, '{job['variant']}'{width}, fp32: {length}"
    reads = job["what"] == "input" or job["dataset"] != "synthetic"
    parts = [
        job["what"],
        *([job["dataset"]] if reads else []),
        f"'{job['variant']}'{pixels}{width}",
        f"batch {job['batch_size']}",
        *([_loaders(job)] if reads else []),
        *([] if job["what"] == "input" else [job["precision"]]),
    ]
    return f"{', '.join(parts)}: {length}"


def _loaders(job: Mapping[str, Any]) -> str:
    """The readers of batches, in words: processes where there are some, threads otherwise."""
    if job["loader_workers"]:
        return counted(job["loader_workers"], "process")
    return counted(job["loader_threads"], "thread")


def _cells(row: Mapping[str, Any]) -> list[str]:
    name = row["name"] + (f" ({row['note']})" if row["note"] else "")
    if row.get("unavailable"):
        return [name, "none"]
    memory = row["peak_memory_bytes"] / _MIB
    device = row["peak_device_memory_bytes"]
    return [
        name,
        f"{row['images_per_second']:,.1f}",
        f"{row['milliseconds_per_step']:,.2f}",
        f"{row['milliseconds_min']:,.2f}",
        f"{row['milliseconds_max']:,.2f}",
        f"{row['share_of_peak']:.0%}" if "share_of_peak" in row else "",
        f"{row['user_seconds_per_step']:.3f}",
        f"{row['system_seconds_per_step']:.3f}",
        f"{row['page_faults_per_step']:,.0f}",
        f"{memory:,.0f}" + (f" + {device / _MIB:,.0f}" if device else ""),
    ]


def sentences(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each unavailable contender, and for each of ours compared with each other."""
    absent = [f"{row['name']}: {row['unavailable']}" for row in rows if row.get("unavailable")]
    return absent + [
        f"{row['name']} is {ratio['median']:.2f} times as fast as {name} "
        f"({ratio['min']:.2f} to {ratio['max']:.2f} over the blocks)"
        for row in rows
        for name, ratio in row.get("times_as_fast_as", {}).items()
    ]


def conditions_lines(whole: Mapping[str, Any]) -> list[str]:
    """The machine, its state and the versions, in words."""
    found, lines = whole["conditions"], []
    memory = f", {found['memory_bytes'] / 2**30:.0f} GiB" if found["memory_bytes"] else ""
    lines.append(
        f"{found['processor']}, {found['cores']} cores{memory}, load {found['load_before']:.1f} "
        f"before, Python {found['python']}, "
        + ", ".join(f"{name} {number}" for name, number in found["packages"].items())
    )
    seen = set()
    for row in whole["contenders"]:
        framework, device = row["framework"], row["device"]
        if framework and device and framework not in seen:
            seen.add(framework)
            peak = row.get("peak_matmul_gflops")
            rate = f", matrix products at {peak:,.0f} GFLOP/s" if peak else ""
            lines.append(f"{framework} on {device['device']}, {device['threads']} threads{rate}")
    return lines


def _console() -> Any:
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else _LOG_WIDTH)
