"""The project's own weights file: self-describing safetensors.

The metadata holds the table of layers, the preprocessing, class names, and a SHA-256 of every array
and of the metadata itself: a flipped bit anywhere is an error. safetensors, Orbax and torch.save
don't offer that (measured: all three restore it silently).
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

from alexnet.errors import UserError
from alexnet.layers import variables
from alexnet.preprocess import from_json as preprocess_from_json
from alexnet.preprocess import to_json as preprocess_to_json
from alexnet.text import is_text, storable
from alexnet.weights import layout, safetensors, table
from alexnet.weights.core import LONGEST_TEXT, READABLE, Weights, check, from_file, names_from_json
from alexnet.weights.precision import Dtype, all_fp32

MARKER = "alexnet-weights"
MAX_SOURCE = 100_000  # characters
VERSION = "2"  # 1 had the variant's name and sizes in place of the table of layers
_NETWORKS = {"1": table.from_json_1, "2": table.from_json}


def write(file: BinaryIO, weights: Weights, dtype: Dtype = "fp32") -> None:
    """Write a canonical file.

    Args:
        file: open for writing, at its start.
        weights: the weights to write, already checked.
        dtype: of the numbers in the file; the digests are of these.

    Raises:
        UserError: where the metadata does not fit the arrays.
    """
    shapes = {name: variable.shape for name, variable in variables(weights.spec).items()}
    metadata = _describe(weights)
    # The digests come before the data but are known only after it: zeros hold their place.
    blank = _seal(metadata, dict.fromkeys(shapes, "0" * 64))
    file.write(safetensors.encode_header(shapes, blank, dtype))
    digests = {}
    for name in shapes:
        digest = hashlib.sha256()
        for block in layout.blocks(weights.arrays[name], dtype):
            digest.update(block)
            file.write(block)
        digests[name] = digest.hexdigest()
    file.seek(0)
    file.write(safetensors.encode_header(shapes, _seal(metadata, digests), dtype))


def read(file: BinaryIO) -> Weights:
    """Read a canonical file that is open at its start; check every digest, name, shape and type.

    Raises:
        UserError: for a file that is damaged or not canonical.
    """
    metadata, arrays = safetensors.read(file)
    if metadata.get("format") != MARKER:
        raise UserError("it has no marker of this project's weights")
    version = metadata.get("format_version", "")
    if version not in _NETWORKS:
        known = " and ".join(_NETWORKS)
        raise UserError(f"its format version is {version!r:.20}, and {known} are read")
    if metadata.pop("digest", "") != _digest(metadata):
        raise UserError("its description is damaged: the digest does not match")
    fields = {name: _json(metadata, name) for name in _JSON_FIELDS}
    _check_digests(arrays, fields["sha256"])
    spec = _NETWORKS[version](fields["spec"])
    check(arrays, spec, dtypes=READABLE)
    notes = all_fp32(arrays)
    names, mean_image = fields["class_names"], fields["mean_image"]
    source = metadata.get("source", "")
    if not isinstance(mean_image, bool) or not is_text(source, MAX_SOURCE):
        raise UserError("its metadata has a 'mean_image' or a 'source' that is none")
    return Weights(
        arrays={name: np.require(arrays[name], requirements="A") for name in variables(spec)},
        spec=spec,
        preprocess=preprocess_from_json(fields["preprocess"], spec.channels),
        class_names=None if names is None else names_from_json(names, spec.num_classes),
        source=source,
        preprocess_from=from_file(mean_image),
        mean_image=mean_image,
        notes=notes,
    )


_JSON_FIELDS = ("spec", "preprocess", "class_names", "mean_image", "sha256")


def _describe(weights: Weights) -> dict[str, str]:
    """The metadata without digests."""
    names = weights.class_names
    if names is not None:
        # A run must not lose its weights over a name.
        texts = [storable(name)[:LONGEST_TEXT] for name in names]
        names = names_from_json(texts, weights.spec.num_classes)
    preprocess = preprocess_to_json(weights.preprocess)
    preprocess_from_json(preprocess, weights.spec.channels)
    return {
        "format": MARKER,
        "format_version": VERSION,
        "spec": json.dumps(table.to_json(weights.spec)),
        "preprocess": json.dumps(preprocess),
        "class_names": json.dumps(names),
        "mean_image": json.dumps(weights.mean_image),
        "source": storable(weights.source[:LONGEST_TEXT]),
    }


def _seal(metadata: Mapping[str, str], digests: Mapping[str, str]) -> dict[str, str]:
    """The metadata with the arrays' digests and, last, its own."""
    sealed = {**metadata, "sha256": json.dumps(digests)}
    return {**sealed, "digest": _digest(sealed)}


def _digest(metadata: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(metadata, sort_keys=True).encode()).hexdigest()


def _json(metadata: Mapping[str, str], name: str) -> Any:
    try:
        return json.loads(metadata[name])
    except (KeyError, ValueError, RecursionError) as error:
        raise UserError(f"its metadata has no readable '{name}'") from error


def _bytes(array: np.ndarray) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _check_digests(arrays: Mapping[str, np.ndarray], digests: Any) -> None:
    """Refuse arrays whose bytes are not those written."""
    if not isinstance(digests, dict) or set(digests) != set(arrays):
        raise UserError("its digests are not those of its arrays")
    damaged = [
        name
        for name, array in arrays.items()
        if hashlib.sha256(_bytes(array)).hexdigest() != digests[name]
    ]
    if damaged:
        raise UserError(f"it is damaged: the digest does not match for {', '.join(damaged)}")
