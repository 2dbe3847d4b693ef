"""The `alexnet` command as a process of its own: `alexnet`, `python -m alexnet`, `train.py`."""

import sys
from collections.abc import Sequence

from alexnet.signals import watch


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run a command, as `cli.main` does, and end at once when a signal asks for it."""
    watch()
    from alexnet import cli

    return cli.main(argv, prog)


if __name__ == "__main__":
    sys.exit(main())
