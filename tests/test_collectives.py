"""What eight devices exchange in a training step: gradients, and what a way to spread it adds."""

import jax
import numpy as np
import pytest

from alexnet.layers import variables
from alexnet.recipes import recipe
from alexnet_jax import parallel, topology
from alexnet_jax.hlo import collectives
from tests.test_parallel import make_config


def exchanged(config):
    """The collectives of a run's compiled step."""
    mesh = parallel.run_mesh(config.devices)
    step = topology.lower_step(config, config.spec(10), mesh)
    return collectives(step.compile().as_text())


def test_batch_norm_adds_only_its_sums():
    """Four layers' means and variances, forward and back, beside the gradients."""
    for spmd in ("jit", "shard_map", "pmap"):
        config = make_config("bn", spmd=spmd)
        spec = config.spec(10)
        found = exchanged(config)
        assert {(one.kind, one.group_size) for one in found} == {("all-reduce", 8)}, spmd
        extra = sum(one.bytes for one in found) - 4 * (spec.num_params + 4)
        tracked = sum(v.shape[0] for v in variables(spec).values() if v.role == "statistic")
        assert 0 < extra <= 4 * 4 * tracked, spmd


@pytest.mark.parametrize(
    "variant",
    ["torchvision", "paper", "caffenet", "krizhevsky2012", "cuda_convnet2", "cifar_18pct"],
)
def test_only_gradients_cross_devices(variant):
    """The gradients, and loss, top-1, top-5 and the count of images, in fp32; nothing else."""
    for spmd in ("jit", "shard_map", "pmap") if variant == "torchvision" else ("jit",):
        config = make_config(variant, spmd=spmd)
        spec = config.spec(10)
        found = exchanged(config)
        assert {(one.kind, one.group_size) for one in found} == {("all-reduce", 8)}, spmd
        assert sum(one.bytes for one in found) == 4 * (spec.num_params + 4), spmd


@pytest.mark.parametrize("variant", ["torchvision", "cifar_18pct"])
def test_fsdp_moves_kernels_and_sums_of_gradients(variant):
    """Dense kernels are gathered once and their gradients scattered once; all else is added up.

    That is what other steps exchange, and, for clipping, a number for each kernel's own sum.
    """
    config = make_config(variant, fsdp=True)
    spec = config.spec(10)
    found = exchanged(config)
    assert {one.group_size for one in found} == {8}
    by_kind = {one.kind: sum(c.bytes for c in found if c.kind == one.kind) for one in found}
    shapes = {name: v.shape for name, v in variables(spec).items() if v.role == "kernel"}
    kernels = [int(np.prod(s)) for s in shapes.values() if len(s) == 2 and s[0] % 8 == 0]
    split = 4 * sum(kernels)
    print(f"{variant}: {by_kind}, of {4 * spec.num_params} bytes")
    assert by_kind.pop("all-gather") == by_kind.pop("reduce-scatter") == split > 0
    assert by_kind == {"all-reduce": 4 * (spec.num_params + 4 + len(kernels)) - split}


def test_control_grouped_convolution_would_gather_the_batch():
    """Why `conv` splits groups by hand (openxla/xla#47945); if this fails, it need not."""
    mesh = parallel.device_mesh(jax.devices(), 8, 1)

    def grouped(x, kernel):
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (1, 1),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=2,
        )

    rows, everywhere = parallel.batch_sharding(mesh), jax.NamedSharding(mesh, jax.P())
    shapes = [jax.ShapeDtypeStruct(s, np.float32) for s in ((16, 9, 9, 8), (3, 3, 4, 8))]
    step = jax.jit(grouped, in_shardings=(rows, everywhere), out_shardings=rows)
    found = collectives(step.lower(*shapes).compile().as_text())
    assert "all-gather" in {one.kind for one in found}


def test_one_weird_trick_sends_activations_instead_of_dense_gradients():
    """At full width, batch 128: bytes that a step all-reduces, and that it gathers."""
    base = recipe("paper")
    reduced = {}
    for shape in ((8, 1), (1, 8)):
        mesh = parallel.device_mesh(jax.devices(), *shape)
        spec = base.spec(1000)
        found = collectives(topology.lower_step(base, spec, mesh).compile().as_text())
        by_kind = {kind: sum(c.bytes for c in found if c.kind == kind) / 1e6 for kind in
                   ("all-reduce", "all-gather", "reduce-scatter")}  # fmt: skip
        print(f"data={shape[0]},model={shape[1]}: {by_kind} MB")
        reduced[shape] = by_kind["all-reduce"]
        assert (by_kind["all-gather"] > 0) == (by_kind["reduce-scatter"] > 0) == (shape[1] > 1)
    assert reduced[8, 1] == pytest.approx(4 * base.spec(1000).num_params / 1e6, rel=1e-3)
    assert reduced[8, 1] > 5 * reduced[1, 8]
