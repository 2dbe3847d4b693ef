"""An emulator of Google Cloud Storage on the loopback, and a bucket in it."""

import subprocess
import sys

import fsspec
import pytest

from alexnet import files
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def requests_log(tmp_path_factory):
    """Starts the emulator, for this process and those it starts; the file of its requests."""
    log = tmp_path_factory.mktemp("storage") / "requests.log"
    command = [sys.executable, "-m", "tests.storage.emulator", log]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with pytest.MonkeyPatch.context() as patch, subprocess.Popen(command, cwd=ROOT, **pipes) as up:
        url = f"http://127.0.0.1:{int(up.stdout.readline())}"
        patch.setenv("STORAGE_EMULATOR_HOST", url)  # gcsfs
        patch.setenv("TENSORSTORE_GCS_HTTP_URL", url)
        patch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "none")  # else TensorStore looks for one
        patch.setenv("FSSPEC_GCS_TOKEN", "anon")
        files.as_path("gs://bucket")  # makes fsspec's settings, to which this is added
        patch.setitem(fsspec.config.conf["gcs"], "token", "anon")
        yield log
        up.stdin.close()


@pytest.fixture
def bucket(requests_log):
    """An empty bucket."""
    path = files.as_path("gs://bucket")
    files.remove_tree(path)
    return path


@pytest.fixture
def asked(requests_log):
    """Says which requests were made since the test began, or since it was last asked."""
    seen = len(requests_log.read_text().splitlines())

    def since() -> list[str]:
        nonlocal seen
        lines = requests_log.read_text().splitlines()
        new, seen = lines[seen:], len(lines)
        return new

    return since
