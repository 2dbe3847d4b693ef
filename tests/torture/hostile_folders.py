"""Folders made to harm: prepared TFDS data sets and Hugging Face folders."""

import atexit
import contextlib
import functools
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Literal

import numpy as np

from alexnet import hub, metrics, sealed, workdir
from alexnet.checkpoints import Checkpoints
from alexnet.data import cache, cache_writer
from alexnet.data.sources import open_dataset
from alexnet.trained import open_weights
from tests.hub.helpers import published
from tests.torture.odd import replaced_inside
from tests.weights.helpers import narrow

TFDS = "tensorflow_datasets.core.features"


def tfds(random: np.random.Generator, folder: Path, canary: Path) -> None:
    """A data set whose description names a class to import: none but TFDS's own may be."""
    module = f"evil_{folder.name.replace('-', '_')}"
    code = f"open({str(canary)!r}, 'w').close()\nclass Feature: pass\n"
    (folder / f"{module}.py").write_text(code)
    here = folder / "data" / "mine" / "1.0.0"
    here.mkdir(parents=True)
    info = {
        "name": "mine", "version": "1.0.0", "fileFormat": "array_record",
        "splits": [{"name": name, "numBytes": "10", "shardLengths": ["1"]}
                   for name in ("train", "test")],
    }  # fmt: skip
    image = {
        "pythonClassName": f"{TFDS}.image_feature.Image",
        "image": {"dtype": "uint8", "shape": {"dimensions": ["-1", "-1", "3"]}},
    }
    label = {
        "pythonClassName": f"{TFDS}.class_label_feature.ClassLabel",
        "classLabel": {"numClasses": "2"},
    }
    features = {
        "pythonClassName": f"{TFDS}.features_dict.FeaturesDict",
        "featuresDict": {"features": {"image": image, "label": label}},
    }
    names = (f"{module}.Feature", f"{module}.missing", "os.system", "builtins.eval", "..", "",
             "subprocess.Popen", f"{TFDS}.{module}.Feature", "x" * 10_000, f"{module}")  # fmt: skip
    choice = random.random()
    if choice < 0.6:
        random.choice([features, image, label])["pythonClassName"] = str(random.choice(names))
    elif choice < 0.8:
        features = replaced_inside(random, features)
    else:
        info = replaced_inside(random, info)
    (here / "features.json").write_text(json.dumps(features))
    (here / "dataset_info.json").write_text(json.dumps(info))
    sys.path.insert(0, str(folder))
    try:
        open_dataset("tfds:mine", data_dir=folder / "data")
    finally:
        sys.path.remove(str(folder))


def hugging_face(random: np.random.Generator, folder: Path, canary: Path) -> None:
    """A Hugging Face folder whose config.json lies, or whose files are none."""
    path = folder / "hf"
    if random.random() < 0.5:
        published(path)
    else:
        hub.write_folder(path, narrow("torchvision", image_size=67))
    config, model = path / "config.json", path / "model.safetensors"
    make = [
        lambda: config.write_text("[" * 100_000), lambda: config.write_bytes(random.bytes(300)),
        lambda: os.truncate(model, int(random.integers(1000))), model.unlink,
        lambda: _as_link(model, "/dev/zero"), lambda: _as_link(config, "/dev/zero"),
        lambda: _as_link(config, config.name), lambda: shutil.copyfile(config, model),
    ]  # fmt: skip
    if random.random() < 0.7:
        values = json.loads(config.read_text())
        config.write_text(json.dumps(replaced_inside(random, values)))
    else:
        make[random.integers(len(make))]()
    hub.read_folder(path)


@functools.lru_cache(maxsize=2)
def _cache(format: Literal["raw", "jpeg"]) -> Path:
    """A whole cache of the digits, made once in a process."""
    path = Path(tempfile.mkdtemp(prefix="alexnet-torture-cache-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    cache_writer.prepare(cache_writer.Request("digits", path, cache.Layout(format, 8, 1)), 1)
    return path


def cached(random: np.random.Generator, folder: Path, canary: Path) -> None:
    """A cache that says other things, with digests that are right, or whose files are none."""
    path = folder / "cache"
    shutil.copytree(_cache(("raw", "jpeg")[random.integers(2)]), path)
    split = cache.SPLITS[random.integers(2)]
    index, images = cache.index_file(path, split), cache.images_file(path, split)
    match random.integers(4):
        case 0:
            _forged(random, path / cache.META)
        case 1:
            file = (path / cache.META, index, images)[random.integers(3)]
            _as_link(file, ("/dev/zero", file.name)[random.integers(2)])
        case 2:
            os.truncate((index, images)[random.integers(2)], int(random.integers(1 << 40)))
        case 3:
            meta = sealed.read(path / cache.META)
            records = cache.read_index(path, split, meta["splits"][split]["examples"])
            for _ in range(random.integers(1, 20)):
                name = str(random.choice(["length", "crc", "label", "state"]))
                records[name][random.integers(len(records))] = random.integers(1 << 31)
            index.write_bytes(records.tobytes())
            meta["splits"][split]["index"] = cache.index_digest(records)
            sealed.write(path / cache.META, meta)
    data = cache.open_cache(path, "c")
    for source in (data.train, data.eval):
        images = np.empty((len(source), 8, 8, 1), np.uint8)
        source.read(np.arange(len(source)), images)


def forged_run(whole: Path, random: np.random.Generator, folder: Path, canary: Path) -> None:
    """A run whose files say other things, with digests that are right."""
    path = folder / "run"
    shutil.copytree(whole, path)
    checkpoint = max((path / workdir.CHECKPOINTS).iterdir())
    match random.integers(3):
        case 0:
            _forged(random, path / workdir.CONFIG)
        case 1:
            _forged(random, checkpoint / "meta.json")
        case 2:
            records = replaced_inside(random, metrics.read(path))
            lines = [json.dumps(one) for one in records] if isinstance(records, list) else ["1"]
            (path / metrics.METRICS).write_text("\n".join(lines) + "\n")
            (path / metrics.DIGESTS).unlink()
    metrics.read(path)
    config = workdir.read_config(path)
    meta = Checkpoints(path / workdir.CHECKPOINTS, 2, lambda *_: None).restore(
        lambda state: None, lambda text: None
    )
    assert meta
    metrics.kept(path, meta["step"], meta.get("log"))
    config.spec(meta.get("num_classes", 10))
    open_weights(path)


def _forged(random: np.random.Generator, file: Path) -> None:
    values = replaced_inside(random, sealed.read(file))
    if isinstance(values, dict):
        with contextlib.suppress(ValueError):  # no digest is of NaN
            sealed.write(file, values)
            return
    file.write_text(json.dumps(values))


def _as_link(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(target)
