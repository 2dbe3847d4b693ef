"""Settings that reduce the cost of allocating and freeing memory in every step."""

import _signal  # `signal` takes milliseconds, during which Ctrl-C would print a traceback
import contextlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path

# From glibc's malloc.h. mallopt takes nothing larger than an int.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_MOST = 2**31 - 1

_TUNABLES, _HUGE = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"
_CHOICE = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_SIGNALS = (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP)
_PROGRAMS = ("alexnet", "train.py")
_RESTARTED = "ALEXNET_RESTARTED"  # by which process


def keep_freed() -> bool:
    """Have the C library keep freed memory for the next step; return False if it can't.

    By default, glibc returns large blocks to the system at once, so every page of the next step's
    gradients and activations causes a page fault (docs/performance.md). JAX gains nothing: it
    allocates in threads, whose arenas are too small for this.
    """
    import ctypes

    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # not glibc
        return False
    options = {_MMAP_MAX: 0, _TRIM_THRESHOLD: _MOST, _TOP_PAD: 64 << 20}
    return all(mallopt(option, value) == 1 for option, value in options.items())


def with_huge_pages(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment in which a new process allocates large blocks of memory in pages of 2 MB.

    It is unchanged if the user has set this, if glibc is older than 2.35 or missing, or if the
    system gives such pages to every process or to none.
    """
    before = environment.get(_TUNABLES, "")
    with contextlib.suppress(OSError, ValueError):
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
        new = name == "glibc" and tuple(map(int, version.split("."))) >= (2, 35)
        if new and _HUGE not in before and "[madvise]" in _CHOICE.read_text():
            wish = f"{before}:{_HUGE}=1".removeprefix(":")
            return {**environment, _TUNABLES: wish}
    return dict(environment)


def restart_with_huge_pages() -> None:
    """Restart this process, once, in that environment, which glibc reads only at its start.

    A signal that arrives in between waits until the restarted process can handle it. Only a program
    started on its own is restarted, not one inside a debugger, a profiler or another program.
    """
    here = str(os.getpid())  # the same after the restart, even if the setting has been removed
    if os.environ.get(_RESTARTED) == here:
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, _SIGNALS)
        return
    environment = with_huge_pages(os.environ)
    if environment == dict(os.environ) or not _is_started_alone() or not sys.executable:
        return
    before = _signal.pthread_sigmask(_signal.SIG_BLOCK, _SIGNALS)
    try:
        words = [sys.executable, *sys.orig_argv[1:]]
        os.execve(sys.executable, words, {**environment, _RESTARTED: here})
    except OSError:
        _signal.pthread_sigmask(_signal.SIG_SETMASK, before)


def _is_started_alone() -> bool:
    """Return True for `python train.py`, `alexnet` or `python -m alexnet`, arguments unchanged."""
    first = len(sys.orig_argv) - len(sys.argv)  # the program's index, after Python's own options
    if first < 1 or sys.orig_argv[first + 1 :] != sys.argv[1:] or sys.gettrace():
        return False
    options, program = sys.orig_argv[1:first], sys.orig_argv[first]
    names = ("alexnet",) if options[-1:] == ["-m"] else _PROGRAMS
    return os.path.basename(program) in names and all(word.startswith("-") for word in options)
