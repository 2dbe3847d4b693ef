"""`make growth`: how the cost of a training step grows, as tables and a picture.

    python -m tests.growth [FOLDER [DATASET]]

Measures one thing at a time, fits the models below, and writes growth.json, growth.md and
growth.png into FOLDER (docs by default). What growth.json has is not measured again: delete it to
begin anew. Takes some 20 minutes, and a machine that does nothing else.

- Steps, by `alexnet bench`: their seconds are F / rate + P * update, with F the operations of its
  arithmetic and P the network's parameters, each of which is read and written several times
  whatever the batch is.
- Readers of DATASET (left out without one), by `alexnet bench --what input`: so many threads or
  processes make as many times the images of one, up to the machine's cores.
- Devices that JAX simulates on these cores, by `train.py`: they add no arithmetic, so that by the
  model a batch takes as long on all of them as on one.
"""

import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from alexnet.bench.network import floating_point_operations
from alexnet.data.cache import read_meta
from alexnet.files import atomic_write
from alexnet.metrics import read
from alexnet.report.bench import conditions_lines
from alexnet.spec import variant

# Not from conftest.py, which makes several devices of a CPU and one thread for each process.
ROOT = Path(__file__).parents[1]
BASE: dict[str, Any] = {"batch_size": 32, "width": 1.0, "image_size": 224, "cores": 2}
AXES: dict[str, list] = {
    "batch_size": [8, 16, 32, 64, 128, 256],
    "width": [0.25, 0.5, 0.75],
    "image_size": [96, 160, 288],
    "cores": [1],
}
FRAMEWORKS = ("jax", "torch")
READERS = [("threads", 1), ("threads", 2), ("workers", 1), ("workers", 2), ("workers", 4)]
DEVICES = (1, 2, 4, 8)
SPREAD = "--framework jax --dataset synthetic --batch-size 64 --width 0.5 --steps 12 --log-every 1"
LENGTH = ("--blocks", "3", "--block-seconds", "2")
COLORS = {"jax": "#0b6e99", "torch": "#c8553d"}


def cases() -> list[dict[str, Any]]:
    """The base, and each value of each axis with the rest as in the base."""
    found = [BASE | {axis: value} for axis, values in AXES.items() for value in values]
    return [case for i, case in enumerate(found) if case not in found[:i]]


def measured(framework: str, case: dict[str, Any]) -> dict[str, Any]:
    """One case's numbers by `alexnet bench`."""
    cores = sorted(os.sched_getaffinity(0))[: case["cores"]]
    options = [
        f"--{name.replace('_', '-')}={value}" for name, value in case.items() if name != "cores"
    ]
    done = subprocess.run(
        [sys.executable, "-m", "alexnet", "bench", "--framework", framework, *options, *LENGTH,
         "--json"],
        capture_output=True, text=True, check=True, cwd=ROOT,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )  # fmt: skip
    found = json.loads(done.stdout)
    return {"framework": framework, **case, "conditions": found["conditions"]} | {
        name: found[name]
        for name in ("milliseconds_per_step", "images_per_second", "peak_memory_bytes")
    }


def read_by(kind: str, count: int, dataset: str) -> dict[str, Any]:
    """Images a second of so many threads or worker processes, and a DataLoader's beside them."""
    options = ["--loader-threads", str(count if kind == "threads" else 1)]
    options += ["--loader-workers", str(count if kind == "workers" else 0)]
    done = subprocess.run(
        [sys.executable, "-m", "alexnet", "bench", "--what", "input", "--variant", "paper",
         "--batch-size", "128", "--dataset", dataset, *options, *LENGTH, "--json"],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    return {
        "kind": kind,
        "count": count,
        "dataset": dataset,
        "format": _format(dataset),
        "images_per_second": json.loads(done.stdout)["images_per_second"],
    }


def _format(dataset: str) -> str | None:
    """The form of a cache's images, raw or jpeg; None for other data sets."""
    kind, _, folder = dataset.partition(":")
    return read_meta(Path(folder))["layout"]["format"] if kind == "cache" else None


def spread_over(devices: int) -> dict[str, Any]:
    """Images a second of training on simulated devices, the median of the last eight steps.

    Without oneDNN, which works on one device alone.
    """
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, "train.py", *SPREAD.split(), "--workdir", folder],
            capture_output=True, check=True, cwd=ROOT,
            env={**os.environ, "JAX_NUM_CPU_DEVICES": str(devices), "ALEXNET_ONEDNN": "0"},
        )  # fmt: skip
        steps = [row for row in read(Path(folder)) if row["split"] == "train"][-8:]
    return {
        "kind": "devices",
        "count": devices,
        "images_per_second": median(row["examples_per_second"] for row in steps),
    }


def parts(case: dict[str, Any]) -> tuple[float, float]:
    """A step's operations, and the network's parameters, in billions."""
    spec = variant("torchvision", image_size=case["image_size"], width=case["width"])
    return case["batch_size"] * floating_point_operations(
        spec, "train"
    ) / 1e9, spec.num_params / 1e9


def fitted(rows: list[dict[str, Any]]) -> np.ndarray:
    """Seconds for a billion operations and for the update of a billion parameters.

    By least squares of relative errors; negative ones are taken as 0.
    """
    seconds = np.array([row["milliseconds_per_step"] / 1e3 for row in rows])
    matrix = np.array([parts(row) for row in rows]) / seconds[:, None]
    found = np.linalg.lstsq(matrix, np.ones(len(rows)), rcond=None)[0]
    if found[1] < 0:
        found = np.array([1 / matrix[:, 0].mean(), 0.0])
    return found


def table(rows: list[dict[str, Any]]) -> tuple[list[str], list[str]]:
    """Lines of Markdown, each case measured beside what the model says, and the models in words."""
    lines = [
        "| | batch | width | image | cores | images/s | ms a step | model | off by | peak MiB |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    words = []
    for framework in FRAMEWORKS:
        own = [row for row in rows if row["framework"] == framework]
        model = fitted([row for row in own if row["cores"] == BASE["cores"]])
        words.append(
            f"* {framework}: {1 / model[0]:,.0f} GFLOP/s, {model[1]:.2f} ns a parameter and step"
        )
        for row in own:
            ms, both = row["milliseconds_per_step"], row["cores"] == BASE["cores"]
            said = 1e3 * float(model @ parts(row))
            lines.append(
                f"| {framework} | {row['batch_size']} | {row['width']:g} | {row['image_size']} | "
                f"{row['cores']} | {row['images_per_second']:.1f} | {ms:.0f} | "
                + (f"{said:.0f} | {100 * (said / ms - 1):+.0f} % |" if both else "| |")
                + f" {row['peak_memory_bytes'] / 2**20:,.0f} |"
            )
    return lines, words


def counts_table(rows: list[dict[str, Any]], name: str, most: int) -> list[str]:
    """Lines of Markdown: images a second of readers, or devices, beside what the model says.

    The first row of each kind is that of one.
    """
    lines = [f"| {name} | images/s | model | off by |", "|---|---|---|---|"]
    for row in rows:
        found = row["images_per_second"]
        one = next(other for other in rows if other["kind"] == row["kind"])["images_per_second"]
        model = one * min(row["count"], most)
        lines.append(
            f"| {row['kind']}, {row['count']} | {found:,.0f} | {model:,.0f} | "
            f"{100 * (model / found - 1):+.0f} % |"
        )
    return lines


PAGE = """# How the cost of a step grows

Training steps of `torchvision` in fp32, measured one at a time by `make growth`, which writes this
page, and keeps in `growth.json` what it has measured (delete that to begin anew): `alexnet bench
--framework F {options}` with the values below; rows with one core are bound to it.

![images a second by batch, width and image size](growth.png)

The lines, and the column "model", say seconds = operations / rate + parameters x update, with the
rate and the update fitted to the rows with {cores} cores by least squares of relative errors. A
step's operations grow with the batch, with the square of the width and nearly with that of the
image's side; each parameter is read and written several times a step, whatever the batch.

{words}

{table}

{conditions}

## Threads and worker processes

{readers}

## Devices

`train.py {spread}` on so many devices that JAX simulates on these cores (`JAX_NUM_CPU_DEVICES`,
`ALEXNET_ONEDNN=0` for all, since oneDNN works on one device alone); the median of the last eight
steps. Simulated devices share the cores and add no arithmetic: by the model a batch takes as long
on all of them as on one, and what is missing is what spreading it costs. It says nothing about
devices that are real.

{devices}
"""
READ = """Training batches of `paper` (random crops) from `{dataset}`{format}, up to the device's
doorstep: `alexnet bench --what input --variant paper --batch-size 128 --dataset D {options}` with
so many `--loader-threads`, or `--loader-workers`. The model: as many times the images of one as
there are readers, up to the {cores} cores.

{table}"""


def page(kept: dict[str, list]) -> str:
    """The page in Markdown."""
    rows, cores = kept["steps"], os.cpu_count() or 1
    lines, words = table(rows)
    first = kept["readers"][0] if kept["readers"] else {"dataset": "", "format": None}
    read = READ.format(
        dataset=first["dataset"],
        format=f" ({first['format']} images)" if first["format"] else "",
        options=" ".join(LENGTH),
        cores=cores,
        table="\n".join(counts_table(kept["readers"], "readers", cores)),
    )
    shown = {"contenders": [], "conditions": rows[0]["conditions"]}
    return PAGE.format(
        options=" ".join(LENGTH),
        cores=BASE["cores"],
        words="\n".join(words),
        table="\n".join(lines),
        conditions="\n".join(conditions_lines(shown)),
        readers=read if kept["readers"] else "Not measured: no data set was given.",
        spread=SPREAD,
        devices="\n".join(counts_table(kept["devices"], "devices", 1)),
    )


def picture(rows: list[dict[str, Any]], path: Path) -> None:
    """Images a second along each axis, points measured and lines by the model."""
    from matplotlib.figure import Figure

    shown = [axis for axis in AXES if axis != "cores"]
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    plots = figure.subplots(1, len(shown), sharey=True)
    for plot, axis in zip(plots, shown, strict=True):
        for framework in FRAMEWORKS:
            own = [r for r in rows if r["framework"] == framework and r["cores"] == BASE["cores"]]
            model = fitted(own)
            along = sorted(
                (r for r in own if all(r[k] == v for k, v in BASE.items() if k != axis)),
                key=lambda row: row[axis],
            )
            x = [row[axis] for row in along]
            color = COLORS[framework]
            plot.plot(x, [row["images_per_second"] for row in along], "o", color=color)
            predicted = [row["batch_size"] / float(model @ parts(row)) for row in along]
            plot.plot(x, predicted, color=color, label=framework, linewidth=1)
        plot.set_xlabel(axis.replace("_", " "))
        plot.set_xscale("log", base=2)
        plot.set_xticks(x, [f"{value:g}" for value in x])
        plot.set_yscale("log")
        plot.set_yticks([10, 20, 50, 100, 200, 500], [10, 20, 50, 100, 200, 500])
        plot.minorticks_off()
        plot.grid(alpha=0.3)
    plots[0].set_ylabel("images a second, training")
    plots[0].legend(title="lines: model", frameon=False)
    figure.savefig(path, dpi=120)


def main(folder: str = "docs", dataset: str | None = None) -> None:
    """Measure what is missing, and write the tables and the picture."""
    target = Path(folder)
    path = target / "growth.json"
    kept: dict[str, list] = {"steps": [], "readers": [], "devices": []}
    kept |= json.loads(path.read_text()) if path.exists() else {}

    def add(kind: str, asked: dict[str, Any], measure: Callable[..., dict], *given: Any) -> None:
        if any(all(row[name] == value for name, value in asked.items()) for row in kept[kind]):
            return
        kept[kind].append(measure(*given))
        print(asked, f"{kept[kind][-1]['images_per_second']:.1f} images/s", flush=True)
        with atomic_write(path) as file:
            file.write(json.dumps(kept, indent=1).encode())

    for case, framework in itertools.product(cases(), FRAMEWORKS):
        add("steps", {"framework": framework, **case}, measured, framework, case)
    for kind, count in READERS if dataset else ():
        asked = {"kind": kind, "count": count, "dataset": dataset}
        add("readers", asked, read_by, *asked.values())
    for count in DEVICES:
        add("devices", {"count": count}, spread_over, count)
    with atomic_write(target / "growth.md") as file:
        file.write(page(kept).encode())
    picture(kept["steps"], target / "growth.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
