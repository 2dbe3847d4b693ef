"""Train AlexNet: `python train.py --framework jax` or `--framework torch`; see `--help`.

This is the same as `alexnet train`.
"""

import _signal  # `signal` takes milliseconds, during which Ctrl-C would print a traceback
import os
import sys

if __name__ == "__main__":
    for number in (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP):
        if _signal.getsignal(number) != _signal.SIG_IGN:  # as under nohup
            _signal.signal(number, lambda n, _: os._exit(130 if n == _signal.SIGINT else 143))

    from alexnet.__main__ import program

    sys.exit(program(["train", *sys.argv[1:]], prog="python train.py"))
