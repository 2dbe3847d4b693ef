"""torch.compile for the engine, with a cache for this user only and readable failures."""

import contextlib
import os
import sys
from collections.abc import Iterator

from torch import nn

from alexnet.errors import RunError, UserError, first_line
from alexnet.user_cache import own_folder


def compile_network(model: nn.Module) -> None:
    """Run a network's calls, forward and backward, through torch.compile.

    By default Inductor keeps compiled code, which it later runs, in a folder with a predictable
    name in the machine's shared /tmp; `~/.cache/alexnet/torch` replaces it, unless the environment
    sets another.
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
    """Turn exceptions of torch's compiler into a one-sentence error.

    Raises:
        RunError: with the first line of the compiler's message.
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
