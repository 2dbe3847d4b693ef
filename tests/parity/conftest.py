"""Parity is measured on one device; tests/test_parallel.py shows that more give the same."""

import jax
import pytest

from alexnet_jax import parallel


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    mesh = parallel.device_mesh(jax.devices()[:1], 1, 1)
    monkeypatch.setattr(parallel, "run_mesh", lambda config: mesh)
