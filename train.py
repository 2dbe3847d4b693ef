"""Train AlexNet: `python train.py --framework jax` or `--framework torch`; `--help` has the rest.

The same as `alexnet train`.
"""

import os
import signal
import sys

if __name__ == "__main__":
    # Python's own answer to Ctrl-C is a traceback; imports take a while to replace it.
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    signal.signal(signal.SIGTERM, lambda *_: os._exit(143))
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as it is below nohup
        signal.signal(signal.SIGHUP, lambda *_: os._exit(143))

    from alexnet.__main__ import main

    sys.exit(main(["train", *sys.argv[1:]], prog="python train.py"))
