"""The comparison that `alexnet convert --verify` makes, as a table."""

from collections.abc import Mapping
from typing import Any


def print_verification(result: Mapping[str, Any]) -> None:
    """Print the result of `alexnet.verify.verify`."""
    from rich.console import Console
    from rich.table import Table

    title = f"torch on the source, JAX on the result, {result['images']} photographs"
    table = Table(title=title, title_justify="left")
    table.add_column("layer")
    table.add_column("largest difference / std", justify="right")
    for layer in result["layers"]:
        table.add_row(layer["name"], f"{layer['difference']:.1e}")
    console = Console(highlight=False)
    console.print(table)
    verdict = "passed" if result["passed"] else "FAILED"
    agreement = f"top-5 agreement {100 * result['top5_agreement']:.0f} %"
    console.print(f"{verdict}: bound {result['bound']:.0e}; {agreement}")
