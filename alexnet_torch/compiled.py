"""torch.compile for the engine: programs kept for this user alone, and failures as sentences."""

import contextlib
import os
import sys
from collections.abc import Iterator

from torch import nn

from alexnet.errors import RunError, UserError, first_line
from alexnet.user_cache import own_folder


def compile_network(model: nn.Module) -> None:
    """Have a network's calls, forward and backward, go through torch.compile.

    Inductor's own place for what it compiles and later runs is a folder of a foreseeable name in
    the machine's shared /tmp; `~/.cache/alexnet/torch` takes its place, unless the environment
    says something else.
    """
    if "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
        try:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(own_folder("torch"))
        except (OSError, UserError) as error:
            where = "the temporary folder, not this user's own"
            print(f"note: compiled programs are kept in {where}: {error}", file=sys.stderr)
    model.compile()


@contextlib.contextmanager
def failures_told() -> Iterator[None]:
    """Turn what torch's compiler raises into a sentence.

    Raises:
        RunError: with the compiler's own words.
    """
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        raise RunError(
            f"torch.compile failed: {first_line(error)}; it needs a C++ compiler on a CPU (g++), "
            "and without --compile training needs none"
        ) from error
