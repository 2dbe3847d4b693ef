"""One worker of the torture program: tries its share of a campaign's cases, one by one.

It prints a line of JSON for each, for `harness`, which reads them and starts another worker after a
crash or a hang.
"""

import argparse
import importlib
import json
import os
import resource
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

from tests.torture.cases import CAMPAIGNS, Case, Skip

MEMORY = 8 << 30  # bytes of addresses, of which JAX and torch take several GB and never use them


def main() -> None:
    options = _options()
    results = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no result
    module = importlib.import_module(f"tests.torture.{CAMPAIGNS[options.campaign].module}")
    options.own.mkdir(parents=True, exist_ok=True)
    if options.prepare:
        getattr(module, "prepare", lambda folder: None)(options.shared)
        results.write('{"ready": true}\n')
        return
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    attempt = module.begin(options.shared)
    results.write('{"ready": true}\n')
    for index in range(options.first, options.end, options.step):
        if time.monotonic() > options.until:
            break
        case = Case(options.campaign, options.seed, index, options.own)
        results.write(json.dumps({"case": index, **_outcome(attempt, case)}) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("campaign")
    parser.add_argument("--shared", type=Path)
    parser.add_argument("--own", type=Path)
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument("--until", type=float, default=0)
    for name in ("seed", "first", "end", "step"):
        parser.add_argument(f"--{name}", type=int, default=0)
    return parser.parse_args()


def _outcome(attempt, case: Case) -> dict:
    try:
        done = attempt(case)
        return {"held": Counter(done if isinstance(done, dict) else [done])}
    except Skip as reason:
        return {"skipped": str(reason)}
    except Exception as error:
        return {"failed": _told(error)}
    finally:
        case.clear()


def _told(error: Exception) -> str:
    """An error and where it came from, in one line."""
    notes = getattr(error, "__notes__", [])
    text = " ".join(": ".join([*notes, str(error)]).split())
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}"
    kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
    return ascii(f"{kind}{text:.1500} ({place})")[1:-1]


if __name__ == "__main__":
    main()
    sys.stdout.flush()
