"""`alexnet compile`: the compiler's numbers as tables."""

from collections.abc import Mapping
from typing import Any


def print_compiled(report: Mapping[str, Any]) -> None:
    """Print the result of `alexnet_jax.topology.compile_step`."""
    from rich.console import Console

    console = Console(highlight=False)
    for line in _headline(report):
        console.print(line, soft_wrap=True)
    if not report["memory"]["fits"]:
        return
    console.print(_step_table(report))
    if report["collectives"]:
        console.print(_collectives_table(report))
    console.print(
        "compiled, not run: the compiler's own analysis; computed: from the peaks published at "
        f"{report['source']}",
        soft_wrap=True,
    )


def _headline(report: Mapping[str, Any]) -> list[str]:
    mesh = ", ".join(f"{axis} {size}" for axis, size in report["mesh"].items())
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    batch, devices, memory = report["batch_size"], report["devices"], report["memory"]
    unit = _unit(report)
    spread = report["spmd"] + (" with fsdp" if report["fsdp"] else "")
    verdict = "fits" if memory["fits"] else "DOES NOT FIT"
    return [
        f"AlexNet '{report['variant']}', {report['image_size']}x{report['image_size']}, "
        f"{report['num_classes']} classes, {report['precision']}, recipe {report['recipe']}",
        f"{report['topology']}: {devices} {unit}s ({report['device']}) on {report['hosts']} "
        f"host(s); batch {batch}, {batch // devices} a {unit}; {spread}, mesh {mesh}; "
        f"{versions}",
        f"{verdict}: {_size(memory['total'])} a {unit} of the {_size(memory['available'])} that "
        f"libtpu gives to programs ({_size(memory['published'])} published)",
    ]


def _unit(report: Mapping[str, Any]) -> str:
    """The name of the unit that runs its own program: a tpu7x has two of them."""
    return "chip" if report["chips"] == report["devices"] else "half chip"


def _step_table(report: Mapping[str, Any]) -> Any:
    from rich.table import Table

    memory, computed = report["memory"], report["computed"]
    table = Table(title=f"a {_unit(report)}, a step", title_justify="left", show_header=False)
    table.add_column("what")
    table.add_column("value", justify="right")
    for name in ("arguments", "outputs", "shared", "temporaries", "code", "total"):
        label = "outputs in arguments' place" if name == "shared" else name
        table.add_row(f"memory: {label}", _size(memory[name]))
    table.add_section()
    table.add_row("floating-point operations", f"{report['flops']:.3g}")
    table.add_row("bytes accessed", _size(report["bytes_accessed"]))
    table.add_section()
    peak, bandwidth = computed["bf16_flops"] / 1e12, computed["hbm_bandwidth"] / 1e9
    for label, name in (
        (f"at least, operations at {peak:g} TFLOP/s", "flops"),
        (f"at least, arguments and outputs at {bandwidth:g} GB/s", "arguments_and_outputs"),
        (f"no bound, bytes accessed at {bandwidth:g} GB/s", "bytes_accessed"),
    ):
        table.add_row(f"computed: {label}", f"{1000 * computed[f'seconds_by_{name}']:.2f} ms")
    table.add_section()
    table.add_row("time to compile", f"{report['compile_seconds']:.0f} s")
    return table


def _collectives_table(report: Mapping[str, Any]) -> Any:
    from rich.table import Table

    table = Table(title=f"exchanged with other {_unit(report)}s, a step", title_justify="left")
    table.add_column("kind")
    for name in ("group of", "count", "bytes"):
        table.add_column(name, justify="right")
    for row in report["collectives"]:
        numbers = (str(row["group_size"]), str(row["count"]))
        table.add_row(row["kind"], *numbers, _size(row["bytes"]))
    return table


def _size(count: float) -> str:
    """Bytes in the unit that gives one to three digits before the point."""
    units = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
    for unit in units:
        if count < 1000 or unit == units[-1]:
            return f"{count:.0f} B" if unit == "B" else f"{count:.2f} {unit}"
        count /= 1024
    raise AssertionError
