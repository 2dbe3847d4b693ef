"""Bytes by operation, from a TPU compiler's text and against the analysis of a whole program."""

import jax
import jax.numpy as jnp
import pytest

from tests import tpu_bytes

TEXT = """HloModule jit_step, is_scheduled=true

%fused_computation (param_0: f32[1024], param_1: f32[1024]) -> f32[1024] {
  %param_0 = f32[1024]{0:T(1024)S(1)} parameter(0)
  %param_1 = f32[1024]{0:T(1024)} parameter(1)
  ROOT %add = f32[1024]{0:T(1024)} add(%param_0, %param_1)
}

ENTRY %main (x: f32[1024], y: f32[1024]) -> f32[1024] {
  %x = f32[1024]{0:T(1024)} parameter(0)
  %y = f32[1024]{0:T(1024)} parameter(1)
  %start = (f32[1024]{0:T(1024)S(1)}, f32[1024]{0:T(1024)}, u32[]{:S(2)}) copy-start(%x)
  %done = f32[1024]{0:T(1024)S(1)} copy-done(%start)
  ROOT %fusion = f32[1024]{0:T(1024)} fusion(%done, %y), kind=kLoop, calls=%fused_computation, metadata={op_name="jit(train_step)/transpose(jvp(lrn1))/add"}
}
"""  # noqa: E501


def test_a_tpus_operations_have_a_place_and_a_count():
    program = tpu_bytes.read(TEXT)
    found = {
        tpu_bytes.place(operation): (
            tpu_bytes.counted(name, program),
            tpu_bytes.in_memory(operation, program),
        )
        for name, operation in program.main.items()
        if operation.kind in ("fusion", "copy-done")
    }
    size = 4 * 1024  # the copy's marks, a few bytes, are counted too
    assert found["lrn1, backward"] == (3 * size, 2 * size)
    assert found["copies to and from VMEM"] == (pytest.approx(4 * size, abs=64), size)


def test_the_operations_add_up_to_the_program():
    x = jnp.ones((64, 64))
    compiled = jax.jit(lambda x: jnp.tanh(x @ x).sum(0)).lower(x).compile()
    program = tpu_bytes.read(compiled.as_text())
    total = sum(
        tpu_bytes.counted(name, program)
        for name, operation in program.main.items()
        if operation.kind != "parameter"
    )
    assert total == compiled.cost_analysis()["bytes accessed"] > 0
