"""JSON that carries a digest of itself, so that a flipped bit is detected on reading."""

import hashlib
import json
from pathlib import Path
from typing import Any

from alexnet.errors import UserError
from alexnet.files import atomic_write, open_file

DIGEST = "digest"  # the field's name
MAX_JSON = 64 << 20  # bytes; a checkpoint's with a million class names takes half of that


def digest(values: Any, after: str = "") -> str:
    """SHA-256 of plain values, and of the text `after` which they come."""
    return hashlib.sha256(after.encode() + json.dumps(values, sort_keys=True).encode()).hexdigest()


def write(path: Path, values: dict[str, Any]) -> None:
    """Write values with their digest, whole or not at all."""
    text = json.dumps({**values, DIGEST: digest(values)}, indent=2, allow_nan=False)
    with atomic_write(path) as file:
        file.write(text.encode() + b"\n")


def read(path: Path) -> dict[str, Any]:
    """The values in a file, without their digest; earlier versions wrote none.

    Raises:
        ValueError: if they are not JSON, or not as they were written.
        OSError: if the file can't be read.
    """
    try:
        with open_file(path, MAX_JSON) as file:
            values = json.loads(file.read())
    except UserError as error:
        if isinstance(error.__cause__, OSError):
            raise error.__cause__ from None
        raise ValueError(str(error)) from error
    except RecursionError as error:
        raise ValueError("it is not JSON: nested too deep") from error
    if not isinstance(values, dict):
        raise ValueError("it is not a JSON object")
    found = values.pop(DIGEST, None)
    if found is not None and found != digest(values):
        raise ValueError("it is not as it was written: its digest does not match")
    return values
