"""The measured numbers of docs/porting.md, as a Markdown table: `make parity-table`."""

import sys

from alexnet.layers import Dense
from alexnet.spec import VARIANTS
from tests.parity.pairs import (
    agreeing_pair,
    forward,
    gradients,
    make_pair,
    worst_by_max,
    worst_by_std,
)

WIDTH = 1.0


def row(name: str) -> str:
    """One variant: worst layer, worst gradient and bf16 logits, full width, two images."""
    cells = []
    for train in (False, True):
        measured = worst_by_std(*forward(make_pair(name, width=WIDTH, batch=2), train))
        layer = max(measured, key=measured.get)
        cells.append(f"{measured[layer]:.1e} ({layer})")
    measured = worst_by_max(*gradients(agreeing_pair(name, width=WIDTH, batch=2)))
    array = max(measured, key=measured.get)
    cells.append(f"{measured[array]:.1e} ({array})")
    ours, theirs = forward(make_pair(name, width=WIDTH, batch=2, bf16=True), False)
    logits = [layer.name for layer in VARIANTS[name] if isinstance(layer, Dense)][-1]
    cells.append(f"{worst_by_std(ours, theirs)[logits]:.1e}")
    return f"| `{name}` | " + " | ".join(cells) + " |"


def main() -> int:
    """Print the table."""
    print("| variant | outputs, evaluation | outputs, training | gradients | bf16 logits |")
    print("|---|---|---|---|---|")
    for name in VARIANTS:
        print(row(name), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
