"""The training step compiled for a Cloud TPU slice, on a machine without a TPU.

libtpu compiles for chips that are not there. All figures are the compiler's own analysis; nothing
is run.
"""

import importlib.util
import math
import os
import re
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import topologies
from jax.sharding import Mesh, SingleDeviceSharding

from alexnet.config import TrainConfig
from alexnet.errors import RunError, UserError, choose
from alexnet.layers import Spec, count_dropouts, variables
from alexnet.schedule import learned
from alexnet_jax import parallel
from alexnet_jax.engine import DTYPES, prepare
from alexnet_jax.hlo import Collective, collectives
from alexnet_jax.model import AlexNet
from alexnet_jax.step import TrainState

GiB = 2**30


class Chip(NamedTuple):
    """A generation of TPU, with the numbers that Google publishes under `DOCS`."""

    bf16_flops: float  # a second
    hbm: int  # bytes
    hbm_bandwidth: float  # bytes a second
    most_chips: int  # in one slice
    shapes: str  # of slices, in words
    devices: int = 1  # JAX devices per chip; each has its share of the rest


DOCS = "https://docs.cloud.google.com/tpu/docs/"
_PLANE, _CUBE = "AxB, as 2x2, 4x4 or 8x16", "AxBxC, as 2x2x1, 2x2x2 or 4x4x8"

# Memory is published in GB, but what libtpu has of it (31.25 GiB of "32 GB") shows it means GiB.
CHIPS: Mapping[str, Chip] = {
    "v4": Chip(275e12, 32 * GiB, 1200e9, 4096, _CUBE),
    "v5e": Chip(197e12, 16 * GiB, 819e9, 256, _PLANE),
    "v5p": Chip(459e12, 95 * GiB, 2765e9, 6144, _CUBE),
    "v6e": Chip(918e12, 32 * GiB, 1638e9, 256, _PLANE),
    "tpu7x": Chip(2307e12, 192 * GiB, 7380e9, 9216, _CUBE, devices=2),
}

# Set before libtpu is loaded: it must not look for TPUs, nor insist on being in one process only.
_ENVIRONMENT = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_MIN_LOG_LEVEL": "3",
}


def compile_step(config: TrainConfig, num_classes: int, topology: str) -> dict[str, Any]:
    """Compile the training step of a run for a slice.

    Args:
        config: of the run; `data.batch_size` is over all chips.
        num_classes: of the data.
        topology: such as "v5e:4x4".

    Returns:
        The report that `alexnet compile --json` prints: bytes, operations and seconds, for one
        device (a chip, or half a tpu7x) and one step. Where the step needs more memory than a
        device has, `memory` says so, and the figures that need a compiled step are missing.

    Raises:
        UserError: for a topology that libtpu doesn't know, a batch or mesh that doesn't fit it, or
            where libtpu is not installed.
        RunError: where libtpu fails.
    """
    generation, devices = slice_devices(topology)
    spec = config.spec(num_classes)
    mesh = parallel.device_mesh(devices, *parallel.mesh_shape(config.devices.mesh, len(devices)))
    parallel.check_sizes(spec, config.data.batch_size, config.devices, mesh)
    hosts = len({device.process_index for device in devices})
    if config.devices.spmd == "pmap" and hosts > 1:
        raise UserError(
            f"--spmd pmap can be compiled for the chips of one host only, and {topology} has "
            f"{hosts} hosts: jit and shard_map can for any"
        )
    lowered = lower_step(config, spec, mesh)
    chip = CHIPS[generation]
    limits = {"available": available_memory(devices[0]), "published": chip.hbm // chip.devices}
    report = _conditions(config, spec, topology, mesh, chip) | {"source": DOCS + generation}
    start = time.perf_counter()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if not _OUT_OF_MEMORY.search(str(error)):
            raise RunError(f"libtpu could not compile the step: {error}") from error
        needed = _sizes(str(error))[0]
        return report | {"memory": {"fits": False, "total": needed, **limits}}
    seconds = time.perf_counter() - start
    costs: Any = compiled.cost_analysis()
    memory = _memory(compiled.memory_analysis())
    return report | {
        "memory": memory | {"fits": True, **limits},
        "flops": costs["flops"],
        "bytes_accessed": costs["bytes accessed"],
        "collectives": _by_kind(collectives(compiled.as_text() or "")),
        "computed": _computed(costs["flops"], costs["bytes accessed"], memory, chip),
        "compile_seconds": seconds,
    }


def _computed(
    flops: float, accessed: float, memory: Mapping[str, int], chip: Chip
) -> dict[str, float]:
    """Times in seconds, computed from the chip's published peaks.

    The first two are lower bounds: of arithmetic, and of reading every argument and writing every
    output once. The third is not, as the compiler also counts what stays in a core's own memory.
    """
    peak, bandwidth = chip.bf16_flops / chip.devices, chip.hbm_bandwidth / chip.devices
    return {
        "seconds_by_flops": flops / peak,
        "seconds_by_arguments_and_outputs": (memory["arguments"] + memory["outputs"]) / bandwidth,
        "seconds_by_bytes_accessed": accessed / bandwidth,
        "bf16_flops": peak,
        "hbm_bandwidth": bandwidth,
    }


def slice_devices(topology: str) -> tuple[str, Sequence[jax.Device]]:
    """The generation and the devices, for compiling only, of a slice such as "v5e:4x4".

    The process can't use a TPU afterwards.

    Raises:
        UserError: for a slice that doesn't exist, or where libtpu is not installed.
        RunError: where libtpu can't be used.
    """
    if not (parts := re.fullmatch(r"(\w+):(\d{1,4}(?:x\d{1,4}){1,2})", topology)):
        known = "; ".join(f"{name}:{chip.shapes}" for name, chip in CHIPS.items())
        raise UserError(f"--topology '{topology}' must read GENERATION:SHAPE: {known}")
    generation, shape = parts.groups()
    chip = CHIPS[choose("TPU generation", generation, CHIPS)]
    chips = math.prod(map(int, shape.split("x")))
    if not 1 <= chips <= chip.most_chips:
        raise UserError(
            f"--topology {topology} has {chips:,} chips, but a slice of {generation} has from 1 to "
            f"{chip.most_chips:,}"
        )
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "compiling for a TPU needs libtpu, which is not installed: run "
            "`pip install -c constraints.txt -e '.[tpu]'` (jax[tpu])"
        )
    os.environ.update(_ENVIRONMENT)
    # By default libtpu treats a v4 chip as two devices, but JAX on a v4 does not.
    options: dict[str, Any] = {"chip_config_name": "megacore"} if generation == "v4" else {}
    if chips == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        found = topologies.get_topology_desc(topology, "tpu", **options)
    except jax.errors.JaxRuntimeError as error:
        status, _, reason = str(error).splitlines()[0].partition(": ")
        if status != "INVALID_ARGUMENT":
            raise RunError(f"libtpu {version('libtpu')} can't be used: {error}") from error
        raise UserError(
            f"--topology {topology}: libtpu {version('libtpu')} refuses it ({reason}); slices of "
            f"{generation} are {chip.shapes}"
        ) from error
    return generation, found.devices


def lower_step(config: TrainConfig, spec: Spec, mesh: Mesh) -> jax.stages.Lowered:
    """The training step that `engine.Engine` runs, traced on shapes alone."""
    state, steps = abstract_state(config, spec)
    spmd, fsdp = config.devices.spmd, config.devices.fsdp
    train: Any = parallel.compile_steps(steps, state, mesh, spmd, fsdp).train
    keys = jax.ShapeDtypeStruct((count_dropouts(spec), 2), np.uint32)
    rates = jax.ShapeDtypeStruct((len(learned(variables(spec))),), np.float32)
    batch = abstract_batch(config, spec)
    if config.devices.spmd == "pmap":
        batch = {
            name: jax.ShapeDtypeStruct((mesh.size, x.shape[0] // mesh.size, *x.shape[1:]), x.dtype)
            for name, x in batch.items()
        }
    return train.lower(state, batch, rates, keys)


def abstract_state(config: TrainConfig, spec: Spec) -> tuple[TrainState, parallel.Steps]:
    """The shapes of a run's state, and its pure steps; no weight is made."""

    def model() -> AlexNet:
        weights: Any = {name: jnp.zeros(v.shape) for name, v in variables(spec).items()}
        return AlexNet(spec, weights=weights, dtype=DTYPES[config.model.precision])

    return prepare(nnx.eval_shape(model), config.preprocess, config.optim, abstract=True)


def abstract_batch(config: TrainConfig, spec: Spec) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of a step's batch from the data pipeline, over all devices."""
    rows, size, channels = config.data.batch_size, spec.image_size, spec.channels
    shapes = {
        "image": ((rows, size, size, channels), np.uint8),
        "label": ((rows,), np.int32),
        "mask": ((rows,), np.float32),
    }
    if config.data.color_noise:
        shapes["color_shift"] = ((rows, channels), np.float32)
    if config.data.color_noise_shrink:
        shapes["color_scale"] = ((rows,), np.float32)
    return {name: jax.ShapeDtypeStruct(*shape) for name, shape in shapes.items()}


_OUT_OF_MEMORY = re.compile(r"RESOURCE_EXHAUSTED.*hbm", re.DOTALL | re.IGNORECASE)


def available_memory(device: jax.Device) -> int:
    """The bytes of a chip's memory that programs can use.

    libtpu reports them only when it rejects a program, so this compiles one that no chip can hold.
    """
    here = SingleDeviceSharding(device)
    too_large = jax.ShapeDtypeStruct((2**50,), np.int8)
    lowered = jax.jit(jnp.copy, in_shardings=here, out_shardings=here).lower(too_large)
    try:
        lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        return _sizes(str(error))[1]
    raise AssertionError("a petabyte fitted into a chip")


def _sizes(message: str) -> list[int]:
    """The sizes in libtpu's out-of-memory message, in bytes: needed, available."""
    units = {"": 1, **{unit: 1024**n for n, unit in enumerate("KMGTP", 1)}}
    return [
        round(float(number) * units[unit])
        for number, unit in re.findall(r"([\d.]+)([KMGTP]?)\b", message)
    ]


def _conditions(
    config: TrainConfig, spec: Spec, topology: str, mesh: Mesh, chip: Chip
) -> dict[str, Any]:
    devices = mesh.devices.flat
    return {
        "topology": topology, "device": devices[0].device_kind, "chips": mesh.size // chip.devices,
        "devices": mesh.size, "hosts": len({device.process_index for device in devices}),
        "variant": spec.name, "recipe": config.recipe, "parameters": spec.num_params,
        "image_size": spec.image_size, "num_classes": spec.num_classes,
        "precision": config.model.precision, "batch_size": config.data.batch_size,
        "spmd": config.devices.spmd, "fsdp": config.devices.fsdp, "mesh": dict(mesh.shape),
        "versions": {name: version(name) for name in ("jax", "libtpu")},
    }  # fmt: skip


def _memory(stats: Any) -> dict[str, int]:
    """Bytes per device; outputs that reuse donated arguments count once in the total."""
    parts = {
        "arguments": stats.argument_size_in_bytes,
        "outputs": stats.output_size_in_bytes,
        "shared": stats.alias_size_in_bytes,
        "temporaries": stats.temp_size_in_bytes,
        "code": stats.generated_code_size_in_bytes,
    }
    return parts | {"total": sum(parts.values()) - 2 * parts["shared"]}


def _by_kind(found: Sequence[Collective]) -> list[dict[str, Any]]:
    """Collectives added up by kind and group size."""
    groups = defaultdict(list)
    for one in found:
        groups[one.kind, one.group_size].append(one.bytes)
    return [
        {"kind": kind, "group_size": size, "count": len(sizes), "bytes": sum(sizes)}
        for (kind, size), sizes in sorted(groups.items())
    ]
