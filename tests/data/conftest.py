"""Fixtures of the data package's tests."""

import shutil

import pytest
from data_helpers import SHARED, make_photo
from PIL import Image

CIFAR = SHARED / "data" / "tfds" / "cifar10_jpeg" / "1.0.0"


@pytest.fixture
def photo():
    return make_photo()


@pytest.fixture
def image_folder(tmp_path):
    """A function that writes images below tmp_path/photos, given as relative paths."""
    root = tmp_path / "photos"

    def build(*paths):
        for number, path in enumerate(paths):
            file = root / path
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(make_photo(24, 32, seed=number)).save(file)
        return root

    return build


@pytest.fixture
def tfds_dir(tmp_path):
    """A copy of the prepared CIFAR-10's metadata, with links to its records."""
    pytest.importorskip("tensorflow_datasets")
    if not CIFAR.is_dir():
        pytest.skip("needs shared/data/tfds/cifar10_jpeg")
    folder = tmp_path / "tfds" / "cifar10_jpeg" / "1.0.0"
    folder.mkdir(parents=True)
    for path in CIFAR.iterdir():
        if "array_record-" in path.name:
            (folder / path.name).symlink_to(path)
        else:
            shutil.copy(path, folder)
    return tmp_path / "tfds"
