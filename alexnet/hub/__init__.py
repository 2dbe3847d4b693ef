"""Networks shared as Hugging Face folders, on a disk and on the hub."""

from alexnet.hub.card import Training
from alexnet.hub.client import fetch, is_url, local, push
from alexnet.hub.folder import is_folder, read_folder, write_folder

__all__ = [
    "Training",
    "fetch",
    "is_folder",
    "is_url",
    "local",
    "push",
    "read_folder",
    "write_folder",
]
