"""The entry point of the `alexnet` process: `alexnet`, `python -m alexnet`, `train.py`."""

import _signal  # `signal` takes milliseconds, during which Ctrl-C would print a traceback
import os
import sys
from collections.abc import Sequence

# Until `watch` has taken over, as in train.py.
for _number in (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP):
    if _signal.getsignal(_number) != _signal.SIG_IGN:
        _signal.signal(_number, lambda n, _: os._exit(130 if n == _signal.SIGINT else 143))


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run a command, as `cli.main` does, and exit at once on a signal."""
    from alexnet.signals import watch

    watch()
    from alexnet import cli

    return cli.main(argv, prog)


def program(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run a command as a separate process; one that computes uses huge pages of memory."""
    from alexnet.output import open_closed

    open_closed()
    words = sys.argv[1:] if argv is None else argv
    if words[:1] in (["train"], ["evaluate"]):
        from alexnet.memory import restart_with_huge_pages

        restart_with_huge_pages()
    return main(argv, prog)


if __name__ == "__main__":
    sys.exit(program())
