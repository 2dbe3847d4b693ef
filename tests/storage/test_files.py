"""Paths, files and data sets on gs://, against an emulator of the storage API."""

import contextlib
import dataclasses
import io
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import fsspec
import numpy as np
import pytest
from PIL import Image

from alexnet import cli, files, workdir
from alexnet.config_json import from_json, to_json
from alexnet.data.cache import Layout
from alexnet.data.cache_writer import Request, prepare
from alexnet.data.folder import open_folder
from alexnet.data.images import BadImage, decode
from alexnet.data.sources import open_dataset
from alexnet.errors import RunError, UserError
from alexnet.recipes import recipe
from tests.conftest import ROOT
from tests.doctor.helpers import config as parse
from tests.storage.helpers import NEEDS_STORAGE, put

pytestmark = NEEDS_STORAGE


# Paths


def test_a_path_survives_the_command_line_and_the_configuration(monkeypatch):
    url = "gs://bucket/run one"
    # Which would ask Google for the weights.
    monkeypatch.setattr("alexnet.start.with_preprocessing_of", lambda base, source, given: base)
    config = parse("--workdir", url, "--init-from", "gs://b/w.pth", "--data-dir", "d")
    assert str(config.run.workdir) == url
    assert str(config.model.init_from) == "gs://b/w.pth"
    assert str(config.data.data_dir) == "d"
    assert to_json(config)["run"]["workdir"] == url
    assert from_json(to_json(config)) == config
    assert str(files.as_path(config.run.workdir) / "checkpoints" / "x") == f"{url}/checkpoints/x"


@pytest.mark.parametrize(("text", "says"), [("s3://b/x", "can't be read"), ("gs://", "no bucket")])
def test_other_urls_are_refused(text, says, capsys):
    assert cli.main(["train", "--workdir", text]) == 2
    assert cli.main(["convert", text, "x.pth"]) == 2
    assert capsys.readouterr().err.count(says) == 2


def test_without_gcsfs_a_sentence_says_what_to_install():
    code = (
        "import sys; sys.modules['gcsfs'] = None\nfrom alexnet.cli import main\n"
        "sys.exit(main(['convert', 'gs://b/w.safetensors', 'w.pth']))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2
    assert "gs:// paths need the package gcsfs" in result.stderr
    assert "pip install -c constraints.txt -e '.[gcs]'" in result.stderr


# Files


def test_a_file_is_written_whole_or_not_at_all(bucket):
    path = put(bucket / "a" / "file", b"old")
    with contextlib.suppress(ZeroDivisionError), files.atomic_write(path) as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert path.read_bytes() == b"old"
    with files.atomic_write(str(path)) as file:
        file.write(b"old too")
    assert path.read_bytes() == b"old too"
    data = np.random.default_rng(0).bytes(30 << 20)  # more than one part
    with files.atomic_write(path) as file:
        file.write(data)
        file.seek(2)
        file.write(b"new")
        assert path.read_bytes() == b"old too"
    data = data[:2] + b"new" + data[5:]
    with files.open_file(path) as file:
        assert bytes(files.read_all(file)) == data
        file.seek(20 << 20)
        assert file.read(100) == data[20 << 20 :][:100]
        assert file.read() == data[(20 << 20) + 100 :]
    assert path.open("rb").read() == data
    with pytest.raises(UserError, match="more than the 10 bytes"), files.open_file(path, limit=10):
        pass


def test_the_head_of_a_file_is_one_request(bucket, asked):
    path, empty = put(bucket / "file", b"12345"), put(bucket / "empty", b"")
    asked()
    assert files.first_bytes(path, 3) == b"123"
    assert files.first_bytes(path, 9) == b"12345"
    assert files.first_bytes(empty, 3) == b""
    assert len(asked()) == 3
    with files.open_file(empty) as file:
        assert bytes(files.read_all(file)) == b""


def test_deleting_leaves_the_neighbours_alone(bucket):
    kept = [put(bucket / name) for name in ("run2/x", "run.txt", "ru/n")]
    for name in ("run/a", "run/b/c", "run/b/odd #?%[1]*.bin"):
        put(bucket / name)
    run = bucket / "run"
    assert run.is_dir()
    assert not run.is_file()
    assert [p.name for p in run.iterdir()] == ["a", "b"]
    assert len(files.list_files(run)) == 3
    names = [(here, folders, names) for here, folders, names in files.walk(run)]
    assert names[1] == ("gs://bucket/run/b", [], ["c", "odd #?%[1]*.bin"])
    files.remove_tree(run)
    assert not run.exists()
    files.remove_tree(run)
    assert files.list_files(bucket) == sorted(kept)


def test_no_name_is_a_pattern(bucket):
    kept, odd = put(bucket / "run1/x"), put(bucket / "run[12]" / "a*")
    put(bucket / "run[12]" / "ab")
    odd.unlink()
    assert files.list_files(bucket) == [kept, bucket / "run[12]/ab"]
    files.remove_tree(bucket / "run[12]")
    assert files.list_files(bucket) == [kept]


def test_buckets_are_neither_made_nor_deleted(bucket):
    files.remove_tree(bucket)
    assert list(bucket.iterdir()) == []
    for options in ({}, {"parents": True}):
        files.as_path("gs://no-bucket/run").mkdir(**options)
        with pytest.raises(FileNotFoundError, match="there is no bucket gs://no-bucket"):
            list(files.as_path("gs://no-bucket").iterdir())


def test_a_folder_made_in_the_console_is_not_in_itself(bucket):
    fsspec.filesystem("gcs").pipe_file("bucket/run/", b"")
    put(bucket / "run" / "x")
    assert [path.name for path in (bucket / "run").iterdir()] == ["x"]
    assert files.list_files(bucket / "run") == [bucket / "run/x"]
    assert (bucket / "run").is_dir()


def test_on_google_too_each_object_is_deleted_by_a_request_of_its_own(bucket, asked, monkeypatch):
    """gcsfs would make a batch of them, which the emulator doesn't know; its errors are JSON."""
    from alexnet.gcs import Storage

    monkeypatch.setattr(Storage, "on_google", True)
    for name in "abc":
        put(bucket / "run" / name)
    asked()
    files.remove_tree(bucket / "run")
    assert sum("DELETE" in line for line in asked()) >= 3
    assert files.list_files(bucket) == []


def test_folders_need_no_making(bucket):
    folder = bucket / "new" / "folder"
    folder.mkdir(parents=True, exist_ok=True)
    assert list(folder.iterdir()) == []
    (folder / "mark").touch()
    with pytest.raises(FileExistsError):
        folder.mkdir()
    with pytest.raises(NotADirectoryError):
        list((folder / "mark").iterdir())
    with pytest.raises(UserError, match="Is a directory"), files.open_file(folder):
        pass
    folder.rename(folder.with_name("other"))
    assert files.list_files(bucket) == [bucket / "new/other/mark"]


def test_what_others_write_and_delete_is_seen(bucket):
    mine = put(bucket / "run" / "mine")
    others = fsspec.filesystem("gcs", skip_instance_cache=True)
    assert [p.name for p in (bucket / "run").iterdir()] == ["mine"]
    others.pipe_file("bucket/run/theirs", b"x")
    others.rm_file("bucket/run/mine")
    assert [p.name for p in (bucket / "run").iterdir()] == ["theirs"]
    assert not mine.exists()


# What goes wrong

REASONS = {
    "gs://no-bucket/x": "there is no bucket gs://no-bucket",
    "gs://forbidden/x": "does not permit it: me@example.com does not have storage.objects.list",
    "gs://anonymous/x": "gcloud auth application-default login",
}


@pytest.mark.parametrize("url", REASONS)
def test_a_bucket_that_cant_be_used_is_a_sentence(requests_log, url, tmp_path, capsys):
    path, reason = files.as_path(url), REASONS[url]
    with pytest.raises(UserError, match=reason), files.open_file(path / "w.safetensors"):
        pass
    with pytest.raises(UserError, match=reason):
        files.write_json(path / "config.json", 1)
    config = recipe("digits")
    config = dataclasses.replace(config, run=dataclasses.replace(config.run, workdir=str(path)))
    with pytest.raises(UserError, match=reason):
        workdir.prepare(config)
    assert cli.main(["convert", f"{url}/w.safetensors", str(tmp_path / "w.pth")]) == 2
    assert cli.main(["train", "--dataset", f"folder:{url}"]) == 2
    errors = capsys.readouterr().err
    assert errors.count(reason) == 2
    assert "Traceback" not in errors


def test_a_network_that_is_gone_is_a_sentence(requests_log, monkeypatch, capsys):
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")  # where nothing listens
    import gcsfs.retry

    async def at_once(_):
        return None

    monkeypatch.setattr(gcsfs.retry, "asyncio", SimpleNamespace(sleep=at_once))
    path = files.as_path("gs://bucket/x")
    for ask in (path.exists, path.is_dir, path.is_file):
        with pytest.raises(ConnectionError, match="can't be reached"):
            ask()
    with pytest.raises(RunError, match=r"could not write gs://bucket/x.*can't be reached"):
        put(path)
    assert cli.main(["convert", "gs://bucket/w.safetensors", "w.pth"]) == 1
    assert "failed: gs://bucket/" in capsys.readouterr().err


def test_an_image_that_isnt_there_is_bad_and_a_lost_right_stops(bucket):
    with pytest.raises(BadImage, match="there is no such object"):
        decode(bucket / "x.png", 3)
    with pytest.raises(RunError, match="does not permit it"):
        decode(files.as_path("gs://forbidden/x.png"), 3)


def test_tfds_says_what_to_do_instead(capsys):
    options = ["--dataset", "tfds:mnist", "--data-dir", "gs://bucket/tfds"]
    assert cli.main(["train", *options]) == 2
    error = capsys.readouterr().err
    assert "--data-dir is gs://bucket/tfds" in error
    assert "gcsfuse, or copy the data set to a local disk" in error


# Data


def test_an_image_folder_is_the_same_in_a_bucket(bucket, tmp_path, asked):
    rng = np.random.default_rng(0)
    for split, count in (("train", 3), ("val", 2)):
        for name in ("cat", "dog", "cat/deeper"):
            for i in range(count):
                image = Image.fromarray(rng.integers(0, 256, (8, 9, 3), np.uint8))
                png = io.BytesIO()
                image.save(png, "PNG")
                place = f"{split}/{name}/{i}.png"
                put(bucket / "photos" / place, png.getvalue())
                (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / place).write_bytes(png.getvalue())
    put(bucket / "photos/train/cat/notes.txt")
    local = open_folder(tmp_path, "n", seed=0)
    asked()
    remote = open_folder(bucket / "photos", "n", seed=0)
    listings = asked()
    assert remote.class_names == local.class_names == ("cat", "dog")
    assert len(remote.train) == len(local.train) == 9
    print(f"{len(listings)} requests to list 6 folders")
    assert len(listings) <= 25
    for i in (0, 4, 8):
        (path, label), (local_path, local_label) = remote.train[i], local.train[i]
        assert label == local_label
        assert np.array_equal(decode(path, 3), decode(local_path, 3))
    reads = asked()
    assert len(reads) == 3, reads  # only what is read is fetched, each by one request


def test_a_cache_is_copied_once(bucket, tmp_path, monkeypatch, asked, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    prepare(Request("digits", tmp_path / "c", Layout("jpeg", 8, 1)), 1)
    for path in (tmp_path / "c").iterdir():
        put(bucket / "c" / path.name, path.read_bytes())
    data, local = (open_dataset(f"cache:{place}") for place in (bucket / "c", tmp_path / "c"))
    assert data.train[7] == local.train[7]
    (copy,) = (tmp_path / "home" / "alexnet" / "caches").iterdir()
    assert {p.name: p.read_bytes() for p in copy.iterdir()} == {
        p.name: p.read_bytes() for p in (tmp_path / "c").iterdir()
    }
    os.truncate(copy / "eval.images", 100)  # as a copy that was stopped
    asked()
    assert open_dataset(f"cache:{bucket / 'c'}").eval[7] == local.eval[7]
    read = [line for line in asked() if "alt=media" in line]
    assert sum("images" in line for line in read) == 1
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    os.truncate(copy / "eval.images", 100)
    with pytest.raises(RunError, match="set XDG_CACHE_HOME to a larger disk"):
        open_dataset(f"cache:{bucket / 'c'}")
    with pytest.raises(UserError, match="there is no folder gs://bucket/none"):
        open_dataset("cache:gs://bucket/none")
