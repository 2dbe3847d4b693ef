"""`python -m tests.tpu_table TABLE [FOLDER]`: the tables of docs/tpu-compile.md, row by row.

Takes one to seventeen minutes a row. With a folder, reports are kept there as JSON and not made
twice.
"""

import json
import subprocess
import sys
from pathlib import Path

from alexnet.spec import VARIANTS

ONE = "--topology v5e:4x4 --batch-size 2048 --precision bf16"
FOUR = "--topology v5e:2x2 --batch-size 512 --precision bf16"
MESHES = ("data=16,model=1", "data=4,model=4", "data=1,model=16")
TABLES = {
    "generations": [
        f"--topology {topology} --batch-size {128 * devices} --precision bf16"
        for topology, devices in (
            ("v4:2x2x1", 4), ("v4:2x2x2", 8),
            ("v5e:1x1", 1), ("v5e:2x2", 4), ("v5e:4x4", 16), ("v5e:16x16", 256),
            ("v5p:2x2x1", 4), ("v5p:2x2x2", 8),
            ("v6e:2x2", 4), ("v6e:4x4", 16), ("v6e:8x8", 64), ("tpu7x:2x2x1", 8),
        )
    ],
    "variants": [f"{FOUR} --variant {variant}" for variant in VARIANTS],
    "spread": [
        *(f"{FOUR} --variant {variant} --fsdp" for variant in ("torchvision", "paper", "caffe")),
        f"{ONE} --fsdp",
        f"{ONE} --spmd shard_map",
        ONE.replace("bf16", "fp32"),
    ],
    "meshes": [
        f"--topology v5e:4x4 --batch-size {batch} --precision bf16 --mesh {mesh}"
        for batch in (256, 2048, 8192)
        for mesh in MESHES
    ],
}  # fmt: skip


def report(options: str, folder: Path | None) -> dict:
    """The output of `alexnet compile --json` for these options."""
    kept = folder and folder / f"{options.replace('--', '').replace(' ', '_')}.json"
    if kept and kept.exists():
        return json.loads(kept.read_text())
    command = [sys.executable, "-m", "alexnet", "compile", *options.split(), "--json"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if kept:
        kept.write_text(text)
    return json.loads(text)


def sent(kind: str, count: int, group_size: int) -> float:
    """The fewest bytes that each device has to send for an exchange, whatever the algorithm.

    All-reduce 2 (n - 1)/n of its bytes, the others (n - 1)/n (Thakur, Rabenseifner and Gropp 2005,
    section 4); a permute or broadcast hands on all of them.
    """
    if kind in ("collective-permute", "collective-broadcast"):
        return count
    passes = 2 if kind == "all-reduce" else 1
    return passes * count * (group_size - 1) / group_size


COLUMNS = """options | arguments | temporaries | total, MiB | GFLOP | GB accessed |
 all-reduced | gathered | scattered | sent, MB | at least, ms: operations | memory | compiled, s"""


def row(options: str, found: dict) -> str:
    """A line of a table, with the COLUMNS."""
    memory, computed = found["memory"], found["computed"]
    exchanged = [
        sum(one["bytes"] for one in found["collectives"] if one["kind"] == kind)
        for kind in ("all-reduce", "all-gather", "reduce-scatter")
    ]
    total = sum(sent(one["kind"], one["bytes"], one["group_size"]) for one in found["collectives"])
    seconds = [computed[f"seconds_by_{name}"] for name in ("flops", "arguments_and_outputs")]
    values = [
        f"`{options}`",
        *(f"{memory[name] / 2**20:,.0f}" for name in ("arguments", "temporaries", "total")),
        f"{found['flops'] / 1e9:,.0f}",
        f"{found['bytes_accessed'] / 1e9:.2f}",
        *(f"{count / 1e6:.1f}" for count in (*exchanged, total)),
        *(f"{1000 * value:.2f}" for value in seconds),
        f"{found['compile_seconds']:.0f}",
    ]
    return f"| {' | '.join(values)} |"


def main(table: str, folder: str | None = None) -> None:
    """Print a table."""
    columns = COLUMNS.replace("\n", "")
    print(f"| {columns} |\n|{'---|' * (columns.count('|') + 1)}")
    for options in TABLES[table]:
        print(row(options, report(options, folder and Path(folder))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
