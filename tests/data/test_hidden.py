import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from data_helpers import SHARED

from alexnet.imports import hidden

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def rare_module(tmp_path, monkeypatch):
    """A module that can be imported and that nothing has imported yet."""
    (tmp_path / "rare_module.py").write_text("here = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "rare_module"
    sys.modules.pop("rare_module", None)


def test_hidden_modules_seem_absent_and_come_back(rare_module):
    with hidden(rare_module), pytest.raises(ImportError):
        importlib.import_module(rare_module)
    assert rare_module not in sys.modules
    assert importlib.import_module(rare_module).here


def test_modules_come_back_after_an_error(rare_module):
    with pytest.raises(ZeroDivisionError), hidden(rare_module):
        raise ZeroDivisionError
    assert importlib.import_module(rare_module).here


def test_imported_modules_stay():
    with hidden("json", "pathlib"):
        import json

        assert json.loads("1") == 1
    assert sys.modules["json"] is json


PIPELINE = """
import sys
from pathlib import Path
from alexnet.config import DataConfig, ModelConfig, TrainConfig
from data_helpers import evaluating, training
for name in sys.argv[1:]:
    config = TrainConfig(
        model=ModelConfig(image_size=16),
        data=DataConfig(dataset=name, batch_size=32, data_dir=Path({data_dir!r})),
    )
    data = config.open_dataset()
    assert next(training(data, config))["mask"].all()
    assert next(evaluating(data.eval, config))["mask"].all()
loaded = {{"jax", "jaxlib", "torch", "tensorflow", "flax"}} & set(sys.modules)
sys.exit(f"imported: {{loaded}}" if loaded else 0)
"""


def run_pipeline(*datasets):
    code = PIPELINE.format(data_dir=str(SHARED / "data" / "tfds"))
    return subprocess.run(
        [sys.executable, "-c", code, *datasets],
        env=os.environ | {"PYTHONPATH": f"{REPOSITORY}{os.pathsep}{Path(__file__).parent}"},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def test_pipeline_imports_neither_framework():
    done = run_pipeline("digits", "synthetic")
    assert done.returncode == 0, done.stderr


def test_tfds_imports_neither_framework():
    pytest.importorskip("tensorflow_datasets")
    if not (SHARED / "data" / "tfds" / "cifar10_jpeg").is_dir():
        pytest.skip("needs shared/data/tfds/cifar10_jpeg")
    done = run_pipeline("tfds:cifar10_jpeg")
    assert done.returncode == 0, done.stderr
