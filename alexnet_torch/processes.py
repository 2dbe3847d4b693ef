"""Several torch processes as one run: `torch.distributed`, as torchrun starts them."""

import os
from collections.abc import Sequence

import numpy as np
import torch
import torch.distributed as dist

from alexnet.config import DevicesConfig
from alexnet.errors import UserError
from alexnet.processes import Processes


class Group(Processes):
    """One of the processes that torchrun started."""

    def __init__(self) -> None:
        self.index, self.count = dist.get_rank(), dist.get_world_size()
        self._hosts = dist.new_group(backend="gloo")  # for numbers that stay on the host

    def describe(self) -> str:
        return f"process {self.index} of {self.count}, {dist.get_backend()}, 1 local device"

    def gather(self, numbers: Sequence[int]) -> np.ndarray:
        own = torch.tensor(list(map(int, numbers)))
        everyones = [torch.zeros_like(own) for _ in range(self.count)]
        dist.all_gather(everyones, own, group=self._hosts)
        return torch.stack(everyones).numpy()

    def agreed_stop(self, step: int, received: int) -> int:
        return int(self.gather([received]).max())

    def explain(self, error: Exception) -> str | None:
        if not (isinstance(error, dist.DistError) or "gloo" in str(error)):
            return None
        return f"another process of this run has ended or can't be reached: {error}".splitlines()[0]

    def leave(self, code: int) -> None:
        if code not in (1, 2):  # else torchrun ends the others
            dist.destroy_process_group()


def connect(devices: DevicesConfig) -> Group | None:
    """Join the other processes where torchrun started more than one.

    Raises:
        UserError: where there are more processes than GPUs, or the others can't be found.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return None
    gpus, local = torch.cuda.device_count(), int(os.environ.get("LOCAL_RANK", 0))
    if gpus and local >= gpus:
        raise UserError(f"there are {gpus} GPUs here, but torchrun started more processes")
    if gpus:
        torch.cuda.set_device(local)
    try:
        dist.init_process_group("nccl" if gpus else "gloo")
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"torch.distributed could not join the other processes: {error}; start them with "
            "`torchrun --nproc-per-node=N train.py --framework torch ...`, on every host"
        ) from error
    return Group()
