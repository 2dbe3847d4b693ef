"""The default job in both frameworks, losses side by side: `make one-curve`.

Options after the module's name go to both runs; exit code 1 if the losses part by more than
1e-5 (first 10 steps) or 1e-3 (first 50), relative.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
BOUNDS = {10: 1e-5, 50: 1e-3}


def losses(framework: str, workdir: Path, options: list[str]) -> list[float]:
    """The training loss of every step of a run."""
    command = [sys.executable, ROOT / "train.py", "--framework", framework, "--log-every", "1"]
    subprocess.run([*command, "--workdir", workdir, *options], check=True)
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if line["split"] == "train"]


def main(options: list[str]) -> int:
    """Run both, print every tenth step, and judge."""
    with tempfile.TemporaryDirectory() as directory:
        ours, theirs = (losses(f, Path(directory) / f, options) for f in ("jax", "torch"))
    apart = [abs(a - b) / b for a, b in zip(ours, theirs, strict=True)]
    print(f"\n{'step':>6} {'JAX':>12} {'torch':>12} {'apart':>9}")
    for step in (1, *range(5, len(apart) + 1, 5)):
        print(f"{step:6d} {ours[step - 1]:12.7f} {theirs[step - 1]:12.7f} {apart[step - 1]:9.1e}")
    failed = False
    for steps, bound in BOUNDS.items():
        worst = max(apart[:steps])
        failed |= worst > bound
        print(f"first {steps} steps: at most {worst:.1e} apart, relative (bound {bound:.0e})")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or ["--epochs", str(51 / 44), "--eval-every", "1000"]))
