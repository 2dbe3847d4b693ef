"""Parity is measured on one device; tests/test_parallel.py shows that more give the same."""

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from alexnet_jax import parallel


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    mesh = Mesh(np.array(jax.devices()[:1]), (parallel.AXIS,))
    monkeypatch.setattr(parallel, "data_mesh", lambda: mesh)
