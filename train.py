"""Train AlexNet: `python train.py --framework jax` or `--framework torch`; `--help` has the rest.

The same as `alexnet train`.
"""

import sys

from alexnet.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]], prog="python train.py"))
