"""Cases that fail, each in another way, and one that holds."""

import os
import signal
import time
from pathlib import Path

from tests.torture.cases import Case


def begin(folder: Path):
    """A function that does to its process what must never happen."""

    def attempt(case: Case) -> str:
        match case.index:
            case 0:
                os.kill(os.getpid(), signal.SIGSEGV)
            case 1:
                time.sleep(600)
            case 2:
                raise AssertionError("it doesn't hold")
            case 3:
                bytearray(64 << 30)
        return "held"

    return attempt
