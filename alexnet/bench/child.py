"""The parent's side of a contender's process: starts it, commands it, and reports its death."""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import tempfile
from types import TracebackType
from typing import Any

from alexnet.bench.job import Job
from alexnet.errors import RunError, UserError
from alexnet.imports import command_of
from alexnet.memory import with_huge_pages
from alexnet.text import printable

_LAST_WORDS = 500  # characters
_TAIL = 4000  # bytes read from the end of its standard error to find them
_PATIENCE = 10  # seconds allowed for a process to end by itself


class Child:
    """A process with one contender in it, idle except when given a command.

    Raises:
        UserError: if the contender can't be built with these options.
        RunError: if its process fails.
    """

    def __init__(self, job: Job):
        self.job, self.name = job, job.name
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the process)
        self._process = subprocess.Popen(
            command_of("alexnet.bench.worker"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=_environment(job),
            text=True,
            bufsize=1,
        )
        try:
            about = self.ask(dataclasses.asdict(job))
        except BaseException:
            self.close()
            raise
        self.parts: list[str] = about.get("parts", [])
        self.unavailable: str | None = about.get("unavailable")
        self.note: str = about.get("note", "")
        self.device: dict[str, Any] = about.get("device", {})
        self.process_id = self._process.pid

    def ask(self, command: dict[str, Any]) -> dict[str, Any]:
        """Give a command, and wait for its answer."""
        pipes = self._process.stdin, self._process.stdout
        assert pipes[0] is not None
        assert pipes[1] is not None
        try:
            pipes[0].write(json.dumps(command) + "\n")
            line = pipes[1].readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise RunError(self._last_words())
        answer = json.loads(line)
        if "error" in answer:
            kind = UserError if answer["error"] == "user" else RunError
            raise kind(answer["message"])
        return answer

    def run(self, part: str, steps: int) -> dict[str, float]:
        """Time a number of steps of a part."""
        return self.ask({"part": part, "steps": steps})

    def close(self) -> None:
        """End the process."""
        with self._process as process:
            if process.stdin:
                with contextlib.suppress(BrokenPipeError):  # it died without reading its command
                    process.stdin.close()
            try:
                process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
        self._stderr.close()

    def __enter__(self) -> "Child":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _last_words(self) -> str:
        """A sentence about how the process ended."""
        code = self._process.wait()
        end = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, end - _TAIL))
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        said = f": {printable(lines[-1].strip()[:_LAST_WORDS])}" if lines else ""
        if code >= 0:
            return f"the process of '{self.name}' ended with code {code}{said}"
        name = signal.Signals(-code).name
        why = ", as the system does where memory runs out" if name == "SIGKILL" else ""
        return f"the process of '{self.name}' was ended by {name}{why}{said}"


def _environment(job: Job) -> dict[str, str]:
    """The environment for a contender: one device, and a GPU's memory shared with the others.

    Our own contenders get the same settings that `train.py` gives itself.
    """
    own = with_huge_pages(os.environ) if job.is_ours else dict(os.environ)
    gpu = own.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    shared = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    return {**shared, **own, "JAX_NUM_CPU_DEVICES": "1", "CUDA_VISIBLE_DEVICES": gpu}
