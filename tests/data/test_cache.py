"""Caches: made whole whatever happens, and read as the data set that they are copies of."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from data_helpers import make_config, training
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet import lock, sealed
from alexnet.cli import main
from alexnet.data import cache, cache_writer
from alexnet.data.augment import eval_view
from alexnet.data.cache import META, Layout, open_cache
from alexnet.data.cache_writer import Request, prepare
from alexnet.data.dataset import fingerprint
from alexnet.data.images import BadImage, decode
from alexnet.data.sources import open_dataset
from alexnet.errors import RunError, UserError

SIZE = 20
FORMATS = ["raw", "jpeg"]


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(cache_writer, "BLOCK", 4)


@pytest.fixture
def photos(image_folder):
    """17 photographs of 24 x 32 pixels to train on, 6 to evaluate on."""
    return image_folder(
        *(f"train/{'ab'[i % 2]}/{i}.png" for i in range(17)),
        *(f"val/{'ab'[i % 2]}/{i}.png" for i in range(6)),
    )


def request(source, target, format="raw", **changes):
    layout = Layout(format, **{"size": SIZE, **changes.pop("layout", {})})
    return Request(f"folder:{source}", target, layout, **changes)


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def read_all(source):
    return [decode(source[i][0], source.channels) for i in range(len(source))]


# --- what is in it -----------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["short", "warp"])
def test_raw_images_are_those_of_the_data_set_resized(photos, tmp_path, rule):
    made = prepare(request(photos, tmp_path / "c", layout={"resize_rule": rule}), 1)
    data, protocol = open_dataset(f"folder:{photos}"), Layout(size=SIZE, resize_rule=rule).protocol
    for ours, theirs in ((made.train, data.train), (made.eval, data.eval)):
        assert len(ours) == len(theirs)
        for index in range(len(theirs)):
            image, label = theirs[index]
            found, own_label = ours[index]
            np.testing.assert_array_equal(found, eval_view(decode(image, 3), protocol))
            assert own_label == label
            assert os.path.basename(theirs.describe(index)) in ours.describe(index)
    assert made.class_names == data.class_names == ("a", "b")
    assert {path.name for path in (tmp_path / "c").iterdir()} == {
        META, "train.images", "train.index", "eval.images", "eval.index"
    }  # fmt: skip


@pytest.mark.parametrize("channels", [1, 3])
def test_jpegs_are_near_the_raw_images(photos, tmp_path, channels):
    raw, jpeg = (
        prepare(request(photos, tmp_path / f, f, layout={"channels": channels}), 1).train
        for f in FORMATS
    )
    for one, other in zip(read_all(raw), read_all(jpeg), strict=True):
        assert one.shape == other.shape == (SIZE, SIZE, channels)
        assert (
            np.abs(one.astype(int) - other).mean() < 15
        )  # colors at half the size, of tiny images
    images = np.empty((2, SIZE, SIZE, channels), np.uint8)
    labels, readable = jpeg.read(np.array([3, 0]), images)
    assert labels.tolist() == [jpeg[3][1], jpeg[0][1]]
    assert readable.all()
    np.testing.assert_array_equal(images[0], decode(jpeg[3][0], channels))


@pytest.mark.parametrize("form", FORMATS)
def test_batches_hold_whole_images(photos, tmp_path, form):
    prepare(request(photos, tmp_path / "c", form), 1)
    config = make_config(f"cache:{tmp_path / 'c'}", resize_to=SIZE, color_noise=0.1, batch_size=4)
    data = config.open_dataset()
    batches = training(data, config)
    for batch in [next(batches) for _ in range(6)]:
        assert batch["image"].shape == (4, SIZE, SIZE, 3)
        for row, index in enumerate(batch["example"].tolist()):
            image, label = data.train[index]
            np.testing.assert_array_equal(batch["image"][row], decode(image, 3))
            assert batch["label"][row] == label
    other = make_config(f"cache:{tmp_path / 'c'}", resize_to=SIZE + 2, batch_size=4)
    batch = next(training(data, other))  # of another size: cut on the host
    assert batch["image"].shape == (4, 16, 16, 3)
    assert "crop" not in batch


def test_the_command_line(photos, tmp_path, capsys):
    words = ["prepare", f"folder:{photos}", str(tmp_path / "c"), "--size", "18", "--workers", "1"]
    assert main(words) == 0
    assert f"17 training and 6 test examples, 0.0 MB: --dataset cache:{tmp_path / 'c'}" in (
        capsys.readouterr().out
    )
    assert main([*words, "--json"]) == 0
    printed = capsys.readouterr()
    said = json.loads(printed.out)
    assert (said["train"], said["eval"], said["classes"]) == (17, 6, 2)
    assert "is complete" in printed.err


def test_fingerprints_go_by_content(photos, tmp_path):
    found = [
        fingerprint(prepare(request(photos, tmp_path / str(i), **changes), 1))
        for i, changes in enumerate([{}, {}, {"layout": {"size": 18}}, {"format": "jpeg"}])
    ]
    assert found[0] == found[1]
    assert found[0]["kind"] == "cache"
    assert len({each["train"]["digest"] for each in found}) == 3


# --- whatever happens --------------------------------------------------------------------------


class Notes(cache_writer.Observer):
    def __init__(self):
        self.sentences = []

    def note(self, text):
        self.sentences.append(text)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("writes", [0, 1, 4, 7, 13])
def test_an_interrupted_preparation_goes_on(photos, tmp_path, form, writes, monkeypatch):
    """Stopped before any of its writes, be it of images or of their records."""
    prepare(request(photos, tmp_path / "whole", form), 1)
    write, done = cache_writer._write, []

    def stopping(descriptor, data, place):
        if len(done) == writes:
            raise KeyboardInterrupt
        done.append(place)
        write(descriptor, data, place)

    with monkeypatch.context() as patch:
        patch.setattr(cache_writer, "_write", stopping)
        with pytest.raises(KeyboardInterrupt):
            prepare(request(photos, tmp_path / "c", form), 1)
    with pytest.raises(UserError, match="is not finished: call `alexnet prepare` as before"):
        open_cache(tmp_path / "c", "c")
    notes = Notes()
    prepare(request(photos, tmp_path / "c", form), 1, notes)
    assert content(tmp_path / "c") == content(tmp_path / "whole")
    there = min(17, writes // 2 * 4) + max(0, writes // 2 * 4 - 20)
    assert notes.sentences == ([f"going on: {there} examples of 23 are there"] if there else [])


@pytest.mark.parametrize("form", ["jpeg", pytest.param("raw", marks=pytest.mark.slow)])
def test_processes_make_the_same(photos, tmp_path, form):
    prepare(request(photos, tmp_path / "one", form), 1)
    code = (
        "import sys; from alexnet.data import cache_writer as w; from alexnet.data.cache import *;"
        "from pathlib import Path;"
        f"w.prepare(w.Request('folder:{photos}', Path('{tmp_path}/two'), "
        f"Layout('{form}', {SIZE})), 2)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_one_writer(photos, tmp_path):
    (tmp_path / "c").mkdir()
    held = lock.acquire(tmp_path / "c")
    with pytest.raises(UserError, match="is writing to"):
        prepare(request(photos, tmp_path / "c"), 1)
    held.release()
    prepare(request(photos, tmp_path / "c"), 1)


@pytest.mark.parametrize("where", ["train.images", "train.index"])
def test_a_full_disk(photos, tmp_path, where, monkeypatch):
    write = os.pwrite

    def full(descriptor, data, place):
        if os.path.realpath(f"/proc/self/fd/{descriptor}").endswith(where) and place > 200:
            raise OSError(28, "No space left on device")
        return write(descriptor, data, place)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(RunError, match="No space left on device; the same command goes on"):
            prepare(request(photos, tmp_path / "c"), 1)
    prepare(request(photos, tmp_path / "c"), 1)
    prepare(request(photos, tmp_path / "whole"), 1)
    assert content(tmp_path / "c") == content(tmp_path / "whole")


def test_too_little_space_is_said_before_anything_is_written(photos, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(RunError, match="--format jpeg takes about a tenth"):
        prepare(request(photos, tmp_path / "c"), 1)
    prepare(request(photos, tmp_path / "c", "jpeg"), 1)


def test_a_folder_that_cannot_be_written_to(photos, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"can't write .*file: File exists"):
        prepare(request(photos, tmp_path / "file"), 1)


@pytest.mark.parametrize("last", ["the plan", "the files", "meta.json"])
def test_stopped_at_its_beginning_or_end(photos, tmp_path, last, monkeypatch):
    whole, folder = tmp_path / "whole", tmp_path / "c"
    prepare(request(photos, whole), 1)
    target, name = {
        "the plan": (os, "truncate"),
        "the files": (cache_writer, "sync"),
        "meta.json": (cache_writer.Path, "unlink"),
    }[last]

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(target, name, stop)
        patch.setattr(lock._LocalLock, "release", lambda self: self._file.close())
        with pytest.raises(KeyboardInterrupt):
            prepare(request(photos, folder), 1)
    (folder / ".plan.json.tmp").touch()  # as a killed process leaves it
    prepare(request(photos, folder), 1)
    (folder / ".plan.json.tmp").unlink()
    assert content(folder) == content(whole)


def test_a_cache_tells_nothing_of_where_it_was_made(photos, tmp_path):
    prepare(request(photos, tmp_path / "one"), 1)
    moved = photos.rename(tmp_path / "elsewhere")
    prepare(request(moved, tmp_path / "two"), 1)
    assert content(tmp_path / "one") == content(tmp_path / "two")
    assert not any(b"photos" in data for data in content(tmp_path / "one").values())
    prepare(request(moved, tmp_path / "one"), 1)  # the same data set


@pytest.mark.parametrize("form", FORMATS)
def test_images_that_cannot_be_read(photos, tmp_path, form):
    (photos / "train" / "a" / "4.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"4\.png can't be read: .*--on-bad-image skip"):
        prepare(request(photos, tmp_path / "c", form), 1)
    made = prepare(request(photos, tmp_path / "c", form, on_bad_image="skip"), 1)
    (index,) = [i for i in range(17) if "a/4.png" in made.train.describe(i)]
    with pytest.raises(BadImage, match="unreadable when the cache was made"):
        made.train[index]
    assert len(made.train) == 17
    skipping = make_config("x", resize_to=SIZE, batch_size=17, on_bad_image="skip")
    batch = next(training(made, skipping))
    assert batch["mask"].sum() == 16
    assert not batch["image"][batch["example"] == index].any()
    stopping = make_config("x", resize_to=SIZE, batch_size=17)
    with pytest.raises(UserError, match=r"4\.png, example .* can't be read"):
        next(training(made, stopping))


def test_another_source_or_form_is_refused(photos, tmp_path):
    prepare(request(photos, tmp_path / "c"), 1)
    with pytest.raises(UserError, match="a cache of another size, format"):
        prepare(request(photos, tmp_path / "c", "jpeg"), 1)
    os.rename(photos / "train/a/0.png", photos / "train/b/0.png")
    with pytest.raises(UserError, match="a cache of another data set"):
        prepare(request(photos, tmp_path / "c"), 1)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "thesis.txt").touch()
    with pytest.raises(UserError, match="has files in it but no cache"):
        prepare(request(photos, tmp_path / "d"), 1)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_cache_does_not_become_a_class_of_its_source(image_folder, workers):
    root = image_folder(*(f"{name}/{i}.png" for name in "ab" for i in range(3)))
    for target in (root / "cache", root / "a" / "cache"):
        with pytest.raises(UserError, match="is inside the image folder"):
            prepare(request(root, target), workers)
    assert {path.name for path in root.iterdir()} == {"a", "b"}
    for target in (root.parent / "cache", root / ".cache"):
        prepare(request(root, target), 1)
    assert open_dataset(f"folder:{root}").class_names == ("a", "b")


# --- damage ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A cache in each format, of the first digits."""
    folders = {}
    for form in FORMATS:
        folders[form] = tmp_path_factory.mktemp("made") / form
        prepare(Request("digits", folders[form], Layout(form, 8, 1)), 1)
    return folders


@pytest.fixture
def copy(made, tmp_path):
    def build(form):
        return shutil.copytree(made[form], tmp_path / "copy", dirs_exist_ok=True)

    return build


def flip(path, place, bit=0):
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= 1 << bit
    path.write_bytes(data)


def use(folder):
    data = open_cache(folder, "c")
    for source in (data.train, data.eval):
        source.read(np.arange(len(source)), np.empty((len(source), 8, 8, 1), np.uint8))


@settings(max_examples=20, deadline=None)
@given(form=st.sampled_from(FORMATS), place=st.integers(0, 2**40), bit=st.integers(0, 7),
       file=st.sampled_from([META, "train.images", "train.index", "eval.images"]))  # fmt: skip
def test_a_flipped_bit_is_found(made, tmp_path_factory, form, file, place, bit):
    folder = shutil.copytree(made[form], tmp_path_factory.mktemp("flip") / "c")
    before = (folder / file).read_bytes()
    flip(folder / file, place, bit)
    with pytest.raises((UserError, RunError)) as error:
        use(folder)
    assert str(error.value).isprintable()
    (folder / file).write_bytes(before)
    use(folder)
    shutil.rmtree(folder)


@pytest.mark.parametrize("form", FORMATS)
def test_damaged_images_are_replaced(copy, made, form):
    folder = copy(form)
    for split, place in (("train", 100), ("train", 9_000), ("eval", 50)):
        flip(folder / f"{split}.images", place)
    with pytest.raises(RunError, match="is damaged: its checksum is another"):
        use(folder)
    request = Request("digits", folder, Layout(form, 8, 1))
    prepare(request, 1)  # says that it is complete: nothing is read
    with pytest.raises(RunError):
        use(folder)
    prepare(request, 1, check=True)
    assert content(folder) == content(made[form])
    use(folder)


@pytest.mark.parametrize("file", [META, "eval.index", "eval.images"])
def test_of_a_file_that_is_cut_short_it_is_said_what_to_do(copy, file):
    folder = copy("jpeg")
    os.truncate(folder / file, 100)
    with pytest.raises(UserError, match=rf"{file} .*delete {folder}, prepare it anew"):
        open_cache(folder, "c")


def test_a_file_that_shrinks_while_it_is_read(copy):
    folder = copy("raw")
    data = open_cache(folder, "c")
    os.truncate(folder / "train.images", 1000)
    with pytest.raises(RunError, match="the file of images has become shorter"):
        data.train[100]


CHANGES = {
    "another version": (("version",), 2, "a cache of version 2"),
    "no classes": (("class_names",), [], "malformed"),
    "too few classes": (("class_names",), ["0", "1"], "labels of classes that meta.json does not"),
    "a size that is none": (("layout", "size"), -1, "malformed"),
    "a huge size": (("layout", "size"), 2**30, "malformed"),
    "another size": (("layout", "size"), 9, "not those that its index says"),
    "another format": (("layout", "format"), "zip", "malformed"),
    "another kind": (("kind",), "song", "malformed"),
    "a count that is none": (("splits", "train", "examples"), "many", "malformed"),
    "a huge count": (("splits", "train", "examples"), 2**39, "bytes, but"),
    "too small a count": (("splits", "train", "examples"), 5, "has more than the"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_a_hostile_cache_says_is_checked(copy, change):
    folder, (keys, value, message) = copy("raw"), CHANGES[change]
    meta = holder = sealed.read(folder / META)
    for key in keys[:-1]:
        holder = holder[key]
    holder[keys[-1]] = value
    sealed.write(folder / META, meta)
    with pytest.raises(UserError, match=message):
        open_cache(folder, "c")


def test_jpegs_of_another_size_are_refused(copy):
    """Decoding into a batch's row must not write beside it, whatever the checksums say."""
    import simplejpeg

    folder = copy("jpeg")
    meta = sealed.read(folder / META)
    records = cache.read_index(folder, "train", meta["splits"]["train"]["examples"])
    data = (folder / "train.images").read_bytes()[records[0]["length"] :]
    large = simplejpeg.encode_jpeg(np.zeros((64, 64, 1), np.uint8), 90, "GRAY", "Gray")
    (folder / "train.images").write_bytes(large + data)
    records["length"][0] = len(large)
    records["crc"][0] = cache.checksum(np.frombuffer(large, np.uint8))
    (folder / "train.index").write_bytes(records.tobytes())
    meta["splits"]["train"]["index"] = cache.index_digest(records)
    sealed.write(folder / META, meta)
    with pytest.raises(RunError, match="its size is another"):
        open_cache(folder, "c").train.read(np.array([0]), np.empty((1, 8, 8, 1), np.uint8))


def test_no_cache(tmp_path, photos):
    with pytest.raises(UserError, match=r"there is no folder .*`alexnet prepare SOURCE"):
        open_dataset(f"cache:{tmp_path / 'none'}")
    with pytest.raises(UserError, match="holds no cache"):
        open_dataset(f"cache:{photos}")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("digits gs://bucket/cache", "is a bucket: prepare in a local folder"),
        ("digits c --size 0", "--size is 0"),
        ("digits c --format png", "'png'"),
        ("digits c --channels 2", "--channels is 2, but it must be 1 or 3"),
        ("digits c --workers 0", "--workers is 0"),
        ("dogits c", "did you mean 'digits'"),
    ],
)
def test_wrong_use(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["prepare", *words.split()]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
