"""The training step compiled for TPU slices, and what is read from a compiled program."""

import dataclasses
import importlib.util
import json
import os
import re

import jax
import pytest

from alexnet.cli import main
from alexnet.engine import ON_DEVICE
from alexnet.errors import UserError
from alexnet.init import initial_weights
from alexnet.recipes import recipe
from alexnet_jax import parallel, topology
from alexnet_jax.engine import prepare
from alexnet_jax.hlo import Collective, collectives
from alexnet_jax.model import AlexNet
from tests import tpu_table
from tests.conftest import first_batches

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="libtpu is not installed: `pip install -c constraints.txt -e '.[tpu]'`",
)


@pytest.fixture(autouse=True)
def _same_environment_afterwards():
    """The command sets variables for its process, which here goes on."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


HEADER = "HloModule jit_step, is_scheduled=true, num_partitions=8\n\n"

# One line a form, as XLA writes them for CPU, GPU or TPU, and what it stands for.
FORMS = {
    "groups in a list": (
        "  %all-reduce.1 = f32[10,4]{1,0} all-reduce(%p), channel_id=1, "
        "replica_groups={{0,1,2,3},{4,5,6,7}}, use_global_device_ids=true, to_apply=%add",
        [Collective("all-reduce", 160, 4)],
    ),
    "groups counted": (
        "  ROOT %all-gather = bf16[64,9216]{1,0:T(8,128)(2,1)S(1)} all-gather(%p), channel_id=2, "
        "replica_groups=[4,2]<=[2,4]T(1,0), dimensions={0}",
        [Collective("all-gather", 64 * 9216 * 2, 2)],
    ),
    "groups along an axis of a mesh": (
        "  %ar = f32[3] all-reduce(p), channel_id=3, "
        "replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}, to_apply=add",
        [Collective("all-reduce", 12, 4)],
    ),
    "groups along two axes and a part of one": (
        "  %ar = f32[3] all-reduce(p), replica_groups=mesh['a'=2,'b'=2,'c'=8] {'a','c':(2)4}",
        [Collective("all-reduce", 12, 8)],
    ),
    "a mesh in another order": (
        "  %ar = f32[3] all-reduce(p), "
        "replica_groups=mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'b'}, to_apply=%add",
        [Collective("all-reduce", 12, 4)],
    ),
    "all devices": (
        "  %ar = f32[3] all-reduce(p), replica_groups={}, to_apply=add",
        [Collective("all-reduce", 12, 8)],
    ),
    "many arrays in one": (
        "  %all-reduce.21 = (bf16[4]{0:T(256)(128)(2,1)S(1)}, f32[], /*index=2*/pred[3,3], "
        "s4[2,4], f8e4m3fn[5], token[]) all-reduce(%a, %b, /*index=2*/%c, %d, %e, %f), "
        "channel_id=1, replica_groups=[1,8]<=[8], to_apply=%add",
        [Collective("all-reduce", 8 + 4 + 9 + 4 + 5, 8)],
    ),
    "an asynchronous all-reduce": (
        "  %ars = (f32[8]{0}, f32[2]{0}) all-reduce-start(%a, %b), channel_id=1, "
        "replica_groups={{0,1}}, to_apply=%add\n"
        "  %ard = (f32[8]{0}, f32[2]{0}) all-reduce-done(%ars)",
        [Collective("all-reduce", 40, 2)],
    ),
    "an asynchronous all-gather": (
        "  %ags = (f32[8]{0}, f32[16]{0}) all-gather-start(%a), channel_id=1, "
        "replica_groups={{0,1}}, dimensions={0}\n"
        "  %agd = f32[16]{0} all-gather-done(%ags)",
        [Collective("all-gather", 64, 2)],
    ),
    "an asynchronous all-gather of two": (
        "  %ags = ((f32[8,1]{1,0}, bf16[4]), (f32[16,1]{1,0}, bf16[8])) all-gather-start(%a, %b), "
        "channel_id=1, replica_groups={{0,1}}, dimensions={0}",
        [Collective("all-gather", 64 + 16, 2)],
    ),
    "an asynchronous reduce-scatter": (
        "  %s = ((f32[8]{0}), f32[4]{0}) reduce-scatter-start(%a), channel_id=1, "
        "replica_groups={{0,1}}, dimensions={0}, to_apply=%add\n"
        "  %d = f32[4]{0} reduce-scatter-done(%s)",
        [Collective("reduce-scatter", 32, 2)],
    ),
    "a permute": (
        "  %cps = (f32[8]{0}, f32[8]{0}, u32[], u32[]) collective-permute-start(%a), "
        "channel_id=1, source_target_pairs={{0,1},{1,2},{2,3}}\n"
        "  %cpd = f32[8]{0} collective-permute-done(%cps)",
        [Collective("collective-permute", 32, 4)],
    ),
    "an asynchronous all-gather of two in a TPU's layouts": (
        "  %ags = ((f32[8,1]{1,0:T(8,128)(2,1)S(1)}, /*index=1*/bf16[4]{0:T(256)}), "
        "(f32[16,1]{1,0:T(8,128)}, bf16[8]{0}), u32[]{:S(2)}) all-gather-start(%a, %b), "
        "channel_id=1, replica_groups={{0,1}}, dimensions={0}",
        [Collective("all-gather", 64 + 16, 2)],
    ),
    "an all-to-all in parts": (
        "  %a2a = (f32[2]{0}, f32[2]{0}) all-to-all(%a, %b), replica_groups={{0,1},{2,3}}",
        [Collective("all-to-all", 16, 2)],
    ),
    "two on one channel": (
        "  %a = f32[2] all-reduce(%p), channel_id=1, replica_groups={{0,1}}, to_apply=%add\n"
        "  %b = f32[2] all-reduce(%a), channel_id=1, replica_groups={{0,1}}, to_apply=%add",
        [Collective("all-reduce", 8, 2)] * 2,
    ),
    "none": (
        '  %x = f32[2] add(%all-reduce.1, %p), metadata={op_name="x = f32[2] all-reduce(y)"}\n'
        "  %y = f32[2] fusion(%all-gather.2), kind=kLoop, calls=%all-reduce-scatter",
        [],
    ),
}

# A TPU compiler's fusions: one that keeps a share of a sum, and two all-gathers of one channel,
# the first spread over two fusions, its copies in different memories.
SPREAD = 'backend_config={"async_collective_fusion_config":{"flag_start":"2","flag_end":"8"}}'
FUSED = f"""HloModule jit_step, num_partitions=4

%all-reduce-scatter.1 (input: bf16[64,1000]) -> bf16[16,1000] {{
  %input = bf16[64,1000]{{1,0}} parameter(0)
  %all-reduce.24 = bf16[64,1000]{{1,0}} all-reduce(%input), channel_id=7, replica_groups={{{{0,1,2,3}}}}
  ROOT %dynamic-slice.1 = bf16[16,1000]{{1,0}} dynamic-slice(%all-reduce.24, %partition-id, %zero)
}}

%fused_computation.1 (param: pred[16,2]) -> (pred[16,2], pred[64,2]) {{
  %all-gather.27 = pred[64,2]{{1,0:T(8,128)(4,1)}} all-gather(%param), channel_id=1, replica_groups=[1,4]<=[4], frontend_attributes={{chain_id="0"}}, {SPREAD}
}}

%fused_computation.2 (param: pred[16,2]) -> pred[64,2] {{
  ROOT %all-gather.29 = pred[64,2]{{1,0:T(8,128)(4,1)S(1)}} all-gather(%param), channel_id=1, replica_groups=[1,4]<=[4], frontend_attributes={{chain_id="0"}}, {SPREAD}
}}

%fused_computation.3 (param: pred[16,2]) -> pred[64,2] {{
  ROOT %all-gather.31 = pred[64,2]{{1,0:T(8,128)(4,1)}} all-gather(%param), channel_id=1, replica_groups=[1,4]<=[4], frontend_attributes={{chain_id="1"}}, {SPREAD}
}}

ENTRY %main (p: pred[16,2]) -> pred[64,2] {{
  %async-collective-start = (pred[16,2], pred[64,2]) fusion(%p), calls=%fused_computation.1
  ROOT %async-collective-done = pred[64,2] fusion(%p), calls=%fused_computation.2
}}
"""  # noqa: E501


@pytest.mark.parametrize("form", FORMS)
def test_collectives_are_read_in_every_form(form):
    lines, expected = FORMS[form]
    assert collectives(f"{HEADER}ENTRY %main (p: f32[]) -> f32[] {{\n{lines}\n}}\n") == expected


def test_collectives_in_fusions_count_once():
    assert collectives(FUSED) == [
        Collective("reduce-scatter", 64 * 1000 * 2, 4),
        Collective("all-gather", 128, 4),
        Collective("all-gather", 128, 4),
    ]


def test_what_each_device_must_send():
    sent = {kind: tpu_table.sent(kind, 800, 4) for kind in ("all-reduce", "all-gather")}
    assert sent == {"all-reduce": 1200, "all-gather": 600}
    assert tpu_table.sent("collective-permute", 800, 4) == 800


def narrow(batch_size=32, precision="fp32", variant="paper", **devices):
    base = recipe("paper")
    return dataclasses.replace(
        base,
        model=dataclasses.replace(
            base.model, variant=variant, width=0.0625, image_size=67, precision=precision
        ),
        data=dataclasses.replace(base.data, batch_size=batch_size, dataset="digits"),
        devices=dataclasses.replace(base.devices, **devices),
    )


def test_shapes_are_those_of_a_run():
    config = narrow()
    spec = config.spec(10)
    (batch,) = first_batches(config)
    abstract = topology.abstract_batch(config, spec)
    assert {k: (v.shape, v.dtype) for k, v in batch.items() if k in ON_DEVICE} == {
        k: (v.shape, v.dtype) for k, v in abstract.items()
    }
    model = AlexNet(spec, weights=initial_weights(spec, 0))
    real, _ = prepare(model, config.preprocess, config.optim)
    found, _ = topology.abstract_state(config, spec)
    shapes = [jax.tree.map(lambda x: (x.shape, x.dtype), state) for state in (real, found)]
    assert shapes[0] == shapes[1]


def test_bytes_of_a_compiled_step_are_those_of_its_gradients():
    """On eight CPU devices: the gradients, loss, top-1, top-5 and the count of images, in fp32."""
    config = narrow()
    spec = config.spec(10)
    mesh = parallel.device_mesh(jax.devices(), 8, 1)
    found = collectives(topology.lower_step(config, spec, mesh).compile().as_text())
    assert {(one.kind, one.group_size) for one in found} == {("all-reduce", 8)}
    assert sum(one.bytes for one in found) == 4 * (spec.num_params + 4)


MISTAKES = {
    "v5e": "must read GENERATION:SHAPE: v4:AxBxC",
    "v5e:4x": "must read GENERATION:SHAPE",
    "v5e:2x2 ": "must read GENERATION:SHAPE",
    "v9:2x2": "unknown TPU generation 'v9'.*known are v4, v5e, v5p, v6e, tpu7x",
    "v5e:64x64": "4,096 chips, but a slice of v5e has from 1 to 256",
    "v5e:0x2": "0 chips",
    "v5p:9999x9999x9999": "a slice of v5p has from 1 to 6,144",
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_slice_that_there_is_not_is_refused(name):
    with pytest.raises(UserError, match=MISTAKES[name]):
        topology.slice_devices(name)


def test_a_missing_libtpu_is_told(monkeypatch):
    monkeypatch.setattr(topology.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"libtpu.*not installed: run .*\[tpu\]"):
        topology.slice_devices("v5e:2x2")


@needs_libtpu
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--topology v5e:4x4 --spmd pmap", "one host only, and v5e:4x4 has 4 hosts"),
        ("--topology v5e:2x2 --framework torch", "torch can't be compiled for a TPU"),
        ("--topology v5e:3x3 --batch-size 9", "refuses it.*not divisible"),
        ("--topology v5e:2x2 --batch-size 30", "use 28 or 32"),
        ("--topology v5e:2x2 --batch-size 32 --mesh data=2,model=1", "there are 4: use data=4"),
        ("--topology v5e:2x2 --batch-size 32 --image-size 9", "smallest that works is 63"),
    ],
)
def test_mistakes_are_told_on_the_command_line(options, sentence, capsys):
    assert main(["compile", *options.split()]) == 2
    error = capsys.readouterr().err
    print(error)
    assert re.search(sentence, error)


@needs_libtpu
@pytest.mark.parametrize(
    ("name", "chips", "hosts"),
    [
        ("v4:2x2x1", 4, 1),
        ("v4:2x2x2", 8, 2),
        ("v5e:1x1", 1, 1),
        ("v5e:4x4", 16, 4),
        ("v5p:2x2x2", 8, 2),
        ("v6e:8x8", 64, 16),
        ("tpu7x:2x2x1", 4, 1),
    ],
)
def test_a_device_is_a_chip(name, chips, hosts):
    """A v4 chip too, whose two cores libtpu takes for two devices by default; half a tpu7x."""
    _, devices = topology.slice_devices(name)
    chip = topology.CHIPS[name.split(":")[0]]
    assert len(devices) == chips * chip.devices
    assert len({d.process_index for d in devices}) == hosts
    available = topology.available_memory(devices[0])
    published = chip.hbm / chip.devices
    print(f"{name}: {available / 2**30:.2f} of {published / 2**30:.0f} GiB")
    assert 0.9 < available / published < 1.02


@needs_libtpu
def test_the_step_for_a_slice_is_the_tpus():
    """Compiled for four chips: pooling as on TPU, and nothing but gradients is exchanged."""
    config = narrow(precision="bf16")
    spec = config.spec(10)
    _, devices = topology.slice_devices("v5e:2x2")
    mesh = parallel.device_mesh(devices, 4, 1)
    cpus = parallel.device_mesh(jax.devices()[:4], 4, 1)
    of_windows = [
        topology.lower_step(config, spec, m).as_text().count("stablehlo.select_and_scatter")
        for m in (mesh, cpus)
    ]
    assert of_windows == [3, 0]  # the pools' gradients; on CPU pools are made of slices
    report = topology.compile_step(config, 10, "v5e:2x2")
    print(json.dumps(report, indent=2))
    assert report["memory"]["fits"]
    assert report["memory"]["total"] > report["memory"]["arguments"] > 2 * 4 * spec.num_params
    (exchanged,) = report["collectives"]
    assert (exchanged["kind"], exchanged["group_size"]) == ("all-reduce", 4)
    assert 2 * spec.num_params <= exchanged["bytes"] <= 4 * (spec.num_params + 4)
    assert report["flops"] > 0 < report["bytes_accessed"]


@needs_libtpu
def test_a_step_that_does_not_fit_is_told(capsys):
    options = "--topology v5e:2x2 --precision bf16 --batch-size 262144"
    assert main(["compile", *options.split(), "--json"]) == 1
    memory = json.loads(capsys.readouterr().out)["memory"]
    assert not memory["fits"]
    assert memory["total"] > 2 * memory["available"] > 0
    assert main(["compile", *options.split()]) == 1
    assert "DOES NOT FIT" in capsys.readouterr().out
