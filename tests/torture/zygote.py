"""Training processes in a fraction of the time: forked from one that has imported everything.

`python -m tests.torture.zygote FRAMEWORK` reads requests from standard input, a line of JSON each,
and answers each with the process's number and, at its end, with its status. It is forked before
JAX or torch start threads or devices, so what a child does is what `python train.py` does.
"""

import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from alexnet.engine import load_engine
from alexnet.imports import hidden

_IMPORTED = (
    "alexnet.commands.train", "alexnet.data.digits", "alexnet.report.curves", "alexnet.run",
    "PIL.Image", "matplotlib.backends.backend_agg", "matplotlib.figure", "simplejpeg",
    "sklearn.datasets",
)  # fmt: skip
# What a run does to files and the audit hook sees; `os.replace` is told as a renaming.
_EVENTS = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.fsync")


class Zygote:
    """The parent's side: starts processes that run `alexnet` with some words."""

    def __init__(self, framework: str):
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.torture.zygote", framework],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout.readline() == "ready\n"

    def start(self, argv: list, log: Path, **fault) -> int:
        """Start a process, its output into `log`, and give its number.

        Args:
            argv: words of the command line, after `alexnet`.
            log: for both of its outputs.
            fault: `at`, `delay` and `folder`, for `kill_at`; or `trace` and `folder`; or `largest`,
                the bytes that a file may have.
        """
        request = {"argv": [str(word) for word in argv], "log": str(log), **fault}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def wait(self) -> int:
        """Wait for the process to end: its exit code, or less a signal's number."""
        return os.waitstatus_to_exitcode(int(self._process.stdout.readline()))

    def run(self, argv: list, log: Path, **fault) -> int:
        """Start a process and wait for it."""
        self.start(argv, log, **fault)
        return self.wait()


def watch(folder: str, on_event) -> None:
    """Call `on_event(kind, path)` before whatever Python changes in a folder."""
    fsync = os.fsync

    def audited(descriptor) -> None:
        number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
        sys.audit("os.fsync", os.readlink(f"/proc/self/fd/{number}"))
        fsync(descriptor)

    def hook(event: str, arguments: tuple) -> None:
        if event == "open":
            path, _, flags = arguments
            if not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        elif event in _EVENTS:
            path = arguments[0]
        else:
            return
        text = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ""
        if text.startswith(folder) or not text.startswith("/"):  # rmtree gives names alone
            on_event(event, text)

    os.fsync = audited
    sys.addaudithook(hook)


def kill_at(folder: str, at: int, delay: float) -> None:
    """End this process by SIGKILL at the `at`th change in a folder, or `delay` seconds after it."""
    seen = 0

    def kill() -> None:
        time.sleep(delay)
        os.kill(os.getpid(), signal.SIGKILL)

    def on_event(kind: str, path: str) -> None:
        nonlocal seen
        seen += 1
        if seen == at:
            threading.Thread(target=kill, daemon=True).start() if delay else kill()

    watch(folder, on_event)


def trace(folder: str, into: str) -> None:
    """Write down every change in a folder."""
    file = os.open(into, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    watch(folder, lambda kind, path: os.write(file, f"{kind}\t{path}\n".encode()))


def _preload(framework: str) -> None:
    """Import what a run imports, without starting anything."""
    own = {
        "jax": ("alexnet_jax.checkpoint",),
        "torch": ("alexnet_torch.checkpoint", "torch._dynamo", "torch._refs"),
    }
    with hidden("torch", "google.cloud.storage"):  # as `MetricsLog` does
        importlib.import_module("tensorboardX")
    load_engine(framework)
    for name in (*_IMPORTED, *own[framework]):
        importlib.import_module(name)


def _child(request: dict) -> None:
    """Become a run."""
    os.setpgid(0, 0)
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    if "at" in request:
        kill_at(request["folder"], request["at"], request["delay"])
    if "largest" in request:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["largest"],) * 2)
    if "trace" in request:
        trace(request["folder"], request["trace"])
    from alexnet.__main__ import main

    sys.exit(main(request["argv"]))


def main(framework: str) -> None:
    _preload(framework)
    print("ready", flush=True)
    for line in sys.stdin:
        if not (number := os.fork()):
            _child(json.loads(line))
        print(number, flush=True)
        print(os.waitpid(number, 0)[1], flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
