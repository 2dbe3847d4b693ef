"""Fixtures of the data package's tests."""

import pytest
from data_helpers import make_photo
from PIL import Image


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
