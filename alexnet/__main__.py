"""The `alexnet` command as a process of its own: `alexnet`, `python -m alexnet`, `train.py`."""

import _signal  # `signal` itself takes milliseconds, in which a Ctrl-C would be a traceback
import os
import sys
from collections.abc import Sequence

# Until `watch` has taken over, as in train.py.
for _number in (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP):
    if _signal.getsignal(_number) != _signal.SIG_IGN:
        _signal.signal(_number, lambda n, _: os._exit(130 if n == _signal.SIGINT else 143))


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run a command, as `cli.main` does, and end at once when a signal asks for it."""
    from alexnet.signals import watch

    watch()
    from alexnet import cli

    return cli.main(argv, prog)


def program(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run a command as a process of its own, which takes memory in huge pages where it computes."""
    from alexnet.output import open_closed

    open_closed()
    words = sys.argv[1:] if argv is None else argv
    if words[:1] in (["train"], ["evaluate"]):
        from alexnet.memory import restart_with_huge_pages

        restart_with_huge_pages()
    return main(argv, prog)


if __name__ == "__main__":
    sys.exit(program())
