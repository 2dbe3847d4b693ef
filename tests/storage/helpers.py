"""What the tests of gs:// share."""

import importlib.util

import pytest

from alexnet import files

NEEDS_STORAGE = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("gcsfs", "gcp_storage_emulator"))),
    reason="gs:// needs gcsfs, its tests gcp-storage-emulator",
)


def put(path, data=b"x"):
    with files.atomic_write(path) as file:
        file.write(data)
    return path
