"""Asks a framework for its devices, in a process of its own: a runtime may hang or crash.

Reads a run's configuration as JSON from standard input and prints one line of JSON.
"""

import json
import sys
from typing import Any

from alexnet.config import TrainConfig, from_json
from alexnet.engine import import_framework
from alexnet.errors import UserError
from alexnet.processes import connect


def main() -> None:
    """Print what the framework sees, or `error`, a sentence."""
    try:
        seen = _look(from_json(json.load(sys.stdin)))
    except UserError as error:
        seen = {"error": str(error)}
    print(json.dumps(seen))


def _look(config: TrainConfig) -> dict[str, Any]:
    inspection = import_framework(config.framework, "inspection")
    processes = connect(config)
    try:
        return inspection.devices(config)
    finally:
        processes.leave(0)


if __name__ == "__main__":
    main()
