"""`make gpu-report`: parity and speed on a GPU, as a page of Markdown with its conditions.

    python -m tests.gpu_report OUTPUT [--minutes 60] [--variants torchvision paper]

The page is written anew after every measurement, so that what was measured survives whatever ends
the program; what there was no time for is listed. Exit codes: 0 where all went well, 1 where there
is no GPU, a parity test failed or a measurement did.
"""

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alexnet.errors import RunError, UserError
from alexnet.files import atomic_write, check_target
from alexnet.options import POSITIONAL, check_values, parse, require
from alexnet.report.bench import conditions_lines
from alexnet.spec import VARIANTS

# Not from conftest.py, which hides GPUs from JAX.
ROOT = Path(__file__).parents[1]

GPU_NAME = {
    "jax": "import jax; d = jax.devices()[0]; print(d.device_kind if d.platform == 'gpu' else '')",
    "torch": "from torch import cuda; print(cuda.get_device_name() if cuda.is_available() else '')",
}
PROBE_SECONDS = 120  # for a framework to start
LONGEST_SHARE = 0.4  # of the time, for the parity tests
ONE_SECONDS = 600  # at most for one measurement
PRECISIONS, BATCHES, WHAT = ("fp32", "bf16"), (128, 1024), ("train", "infer")
LENGTH = ("--blocks", "5", "--block-seconds", "1")
SHOWN = ("jax", "plain jax", "torch", "plain torch", "plain torch, compiled")


@dataclass(frozen=True)
class Options:
    """The page, the time, and what is measured."""

    # Markdown file to write.
    output: str = field(metadata=POSITIONAL)
    # Minutes after which nothing new begins and what runs is ended.
    minutes: float = 60.0
    # Variants to measure, the most important first.
    variants: tuple[str, ...] = (
        "torchvision",
        "paper",
        *sorted({*VARIANTS} - {"torchvision", "paper"}),
    )

    def __post_init__(self) -> None:
        check_values(self)
        require(0 < self.minutes <= 10_000, "minutes", self.minutes, "above 0 and at most 10000")
        require({*self.variants} <= {*VARIANTS}, "variants", self.variants, f"of {[*VARIANTS]}")


@dataclass
class Page:
    """What was measured so far."""

    options: Options
    gpus: Mapping[str, str]  # by framework
    parity: str = "not run"
    failures: list[str] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)  # sentences on what is missing

    def write(self) -> None:
        with atomic_write(self.options.output) as file:
            file.write(markdown(self).encode())


def main(argv: Sequence[str]) -> int:
    """Measure, and write the page."""
    try:
        options = parse(Options, argv, prog="python -m tests.gpu_report", description=__doc__ or "")
        return 0 if options is None else measure(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RunError as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1


def measure(options: Options) -> int:
    """Run the parity tests, then the benchmark, each within the time that is left."""
    end = time.monotonic() + 60 * options.minutes
    check_target(options.output)
    gpus = {name: found for name in GPU_NAME if (found := gpu(name))}
    if not gpus:
        raise RunError("no GPU: neither JAX nor torch sees one here, and this page is about them")
    page = Page(options, gpus)
    page.parity, page.failures = parity(LONGEST_SHARE * (end - time.monotonic()))
    page.write()
    for case in cases(options.variants):
        name = "{}, {}, batch {}, {}".format(*case)
        if (left := end - time.monotonic()) < 1:
            page.absent.append(f"{name}: not run, the time was over")
            continue
        print(f"{name}: {left / 60:.1f} minutes left", flush=True)
        found, message = benchmark(case, framework=_both_or_one(gpus), seconds=left)
        page.rows += [found] if found else []
        page.absent += [f"{name}: {message}"] if message else []
        page.write()
    page.write()
    print(options.output)
    return int(bool(page.failures or page.absent))


def cases(variants: Sequence[str]) -> list[tuple[str, str, int, str]]:
    """Variant, work, batch and precision, one variant after the other."""
    return list(itertools.product(variants, WHAT, BATCHES, PRECISIONS))


def _both_or_one(gpus: Mapping[str, str]) -> str:
    return "both" if len(gpus) > 1 else next(iter(gpus))


def gpu(framework: str) -> str:
    """The name of the GPU that a framework sees, empty where it sees none or isn't installed."""
    code, out, _ = run([sys.executable, "-c", GPU_NAME[framework]], PROBE_SECONDS)
    return out.strip() if code == 0 else ""


def parity(seconds: float) -> tuple[str, list[str]]:
    """The last line of the parity tests, run on the GPU, and those that failed."""
    command = [sys.executable, "-m", "pytest", "-n0", "-q", "-rf", "-p", "no:cacheprovider"]
    code, out, _ = run([*command, "tests/parity"], seconds, JAX_PLATFORMS="cuda,cpu")
    if code is None:
        return f"not finished in {seconds / 60:.0f} minutes", ["tests/parity"]
    lines = out.strip().splitlines() or [f"ended with code {code}"]
    failed = [line.removeprefix("FAILED ") for line in lines if line.startswith("FAILED ")]
    return lines[-1].strip("= "), failed or ["tests/parity"] * (code != 0)


def benchmark(
    case: tuple[str, str, int, str], framework: str, seconds: float
) -> tuple[dict[str, Any] | None, str]:
    """One measurement as `alexnet bench --json` prints it, or None; and what went wrong."""
    variant, what, batch, precision = case
    command = [sys.executable, "-m", "alexnet", "bench", "--framework", framework]
    command += ["--variant", variant, "--what", what, "--batch-size", str(batch)]
    command += ["--precision", precision, "--against", "plain", "--json", *LENGTH]
    code, out, err = run(command, min(seconds, ONE_SECONDS))
    if code is None:
        return None, "not finished in time"
    if code != 0:
        return None, (err.strip().splitlines() or [f"ended with code {code}"])[-1]
    return json.loads(out), ""


def run(command: Sequence[str], seconds: float, **env: str) -> tuple[int | None, str, str]:
    """The exit code, None where it had to be ended, and what a command printed."""
    try:
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, **env}, capture_output=True, text=True,
            timeout=max(1.0, seconds),
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return None, "", ""
    return done.returncode, done.stdout, done.stderr


# --- the page -------------------------------------------------------------------------------------


def markdown(page: Page) -> str:
    """The page."""
    parts = ["# On a GPU", _intro(page), "## Parity", _parity(page)]
    if page.rows:
        parts += ["## Speed", _speed(page.rows), "## Memory and peak", _peaks(page.rows)]
        parts += [
            "## Conditions",
            "\n".join(f"- {line}" for line in conditions_lines(page.rows[0])),
        ]
    if page.absent:
        parts += ["## Missing", "\n".join(f"- {line}" for line in page.absent)]
    return "\n\n".join(parts) + "\n"


def _intro(page: Page) -> str:
    seen = ", ".join(f"{framework} on {name}" for framework, name in page.gpus.items())
    return (
        f"Measured {datetime.now(UTC):%Y-%m-%d} by `make gpu-report`: {seen}. "
        "[Performance](performance.md) says how, and what the columns mean."
    )


def _parity(page: Page) -> str:
    lines = [f"`pytest tests/parity` with JAX on the GPU: {page.parity}."]
    lines += [f"- {failure}" for failure in page.failures]
    return "\n".join(lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    ruler = ["---"] * len(head)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ruler, *rows))


def _case(found: Mapping[str, Any]) -> list[str]:
    job = found["job"]
    return [f"`{job['variant']}`", job["what"], job["precision"], f"{job['batch_size']:,}"]


def _speed(rows: Sequence[Mapping[str, Any]]) -> str:
    """Images a second of all contenders, and how many times as fast ours are as the plain ones."""
    head = ["variant", "", "precision", "batch", *(f"{name}, images/s" for name in SHOWN)]
    head += ["jax / plain jax", "torch / fastest plain torch"]
    table = []
    for found in rows:
        by_name = {row["name"]: row for row in found["contenders"]}
        cells = [_number(by_name.get(name, {}).get("images_per_second")) for name in SHOWN]
        ratios = [_ratio(by_name.get(name)) for name in ("jax", "torch")]
        table.append([*_case(found), *cells, *ratios])
    return _table(head, table)


def _ratio(row: Mapping[str, Any] | None) -> str:
    """Against the fastest plain network of the same framework, with its range over the blocks."""
    others = (row or {}).get("times_as_fast_as", {})
    own = [ratio for name, ratio in others.items() if row and f"plain {row['name']}" in name]
    if not own:
        return ""
    least = min(own, key=lambda ratio: ratio["median"])
    return f"{least['median']:.2f} ({least['min']:.2f} to {least['max']:.2f})"


def _peaks(rows: Sequence[Mapping[str, Any]]) -> str:
    """Shares of the matrix-product rate, and memory on the device, of ours."""
    head = ["variant", "", "precision", "batch"]
    for name in ("jax", "torch"):
        head += [f"{name}, ms a step", "of peak", "device MiB"]
    table = []
    for found in rows:
        cells = _case(found)
        by_name = {row["name"]: row for row in found["contenders"]}
        for name in ("jax", "torch"):
            row = by_name.get(name, {})
            share, memory = row.get("share_of_peak"), row.get("peak_device_memory_bytes")
            cells += [
                _number(row.get("milliseconds_per_step"), 2),
                "" if share is None else f"{share:.0%}",
                _number(memory and memory / (1 << 20)),
            ]
        table.append(cells)
    return _table(head, table)


def _number(value: float | None, digits: int = 0) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
