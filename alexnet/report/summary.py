"""The layer table of a network: output shape, parameters and multiply-adds."""

from collections.abc import Mapping
from typing import Any

from alexnet.layers import Spec, trace


def summary_rows(spec: Spec, shapes: Mapping[str, tuple[int, ...]]) -> list[dict[str, Any]]:
    """One dict per layer.

    Args:
        spec: the network.
        shapes: each layer's output in the framework's own layout, batch first, as measured on
            the framework's model.
    """
    return [
        {
            "layer": row.name,
            "output_shape": list(shapes[row.name]),
            "params": row.params,
            "multiply_adds": row.multiply_adds,
        }
        for row in trace(spec)
    ]


def summary_json(spec: Spec, rows: list[dict[str, Any]], framework: str) -> dict[str, Any]:
    """The table with its totals, as JSON values."""
    return {
        "variant": spec.name,
        "framework": framework,
        "image_size": spec.image_size,
        "channels": spec.channels,
        "num_classes": spec.num_classes,
        "layers": rows,
        "params": sum(row["params"] for row in rows),
        "multiply_adds": sum(row["multiply_adds"] for row in rows),
    }


def print_table(whole: Mapping[str, Any]) -> None:
    """Print the result of `summary_json` as a table."""
    from rich.console import Console
    from rich.table import Table

    title = f"AlexNet '{whole['variant']}' in {whole['framework']}, one image"
    table = Table(title=title, title_justify="left", show_footer=True)
    table.add_column("layer", footer="total")
    table.add_column("output shape", justify="right")
    table.add_column("parameters", justify="right", footer=f"{whole['params']:,}")
    table.add_column("multiply-adds", justify="right", footer=f"{whole['multiply_adds']:,}")
    for row in whole["layers"]:
        shape = " x ".join(map(str, row["output_shape"]))
        numbers = [f"{row[key]:,}" if row[key] else "" for key in ("params", "multiply_adds")]
        table.add_row(row["layer"], shape, *numbers)
    Console(highlight=False).print(table)
