import collections
import contextlib
import io
import os
import pickle
import struct
import tarfile
import time
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from alexnet.errors import UserError
from alexnet.spec import VARIANTS
from alexnet.weights import detect, load, pickles, save

from .helpers import CLASSES, close, forward, images, load_data, narrow, same, written


class TorchvisionAlexNet(nn.Module):
    """The layers and names of torchvision.models.alexnet, narrow."""

    def __init__(self, w, classes):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, w[0], 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
            nn.Conv2d(w[0], w[1], 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
            nn.Conv2d(w[1], w[2], 3, padding=1), nn.ReLU(),
            nn.Conv2d(w[2], w[3], 3, padding=1), nn.ReLU(),
            nn.Conv2d(w[3], w[4], 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2),
        )  # fmt: skip
        self.avgpool = nn.AdaptiveAvgPool2d(6)
        self.classifier = nn.Sequential(
            nn.Dropout(), nn.Linear(w[4] * 36, w[5]), nn.ReLU(),
            nn.Dropout(), nn.Linear(w[5], w[6]), nn.ReLU(), nn.Linear(w[6], classes),
        )  # fmt: skip

    def forward(self, x):
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


def model() -> TorchvisionAlexNet:
    torch.manual_seed(0)
    made = TorchvisionAlexNet((8, 12, 8, 4, 8, 16, 12), CLASSES).eval()
    return made


def narrow_model(weights):
    features = [len(weights.arrays[f"{n}.bias"]) for n in
                ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7")]  # fmt: skip
    return TorchvisionAlexNet(features, weights.spec.num_classes).eval()


def saved(value, new: bool = True) -> memoryview:
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=new)
    return memoryview(bytearray(file.getvalue()))


def state(weights) -> dict[str, torch.Tensor]:
    return torch.load(io.BytesIO(written(weights, "torchvision")), weights_only=True)


@pytest.mark.parametrize("new", [True, False], ids=["zip", "row"])
def test_torch_saves_and_this_reads(new, tmp_path):
    """The real direction: a torch model computes the same as the weights read from its file."""
    weights = narrow("torchvision")
    net = narrow_model(weights)  # torch's own random numbers
    path = tmp_path / "a.pth"
    path.write_bytes(saved(net.state_dict(), new))
    assert detect(path) == "torch"
    read = load(path)
    x = images(read.spec)
    with torch.no_grad():
        expected = net(torch.from_numpy(x).permute(0, 3, 1, 2)).numpy()
    close(forward(read, x), expected)
    assert read.spec.name == "torchvision"
    assert read.spec == weights.spec


def test_this_writes_and_torch_reads(tmp_path):
    weights = narrow("torchvision")
    save(tmp_path / "a.pth", weights)  # torchvision's keys, from suffix and variant
    net = narrow_model(weights)
    net.load_state_dict(torch.load(tmp_path / "a.pth", weights_only=True), strict=True)
    x = images(weights.spec)
    with torch.no_grad():
        expected = net(torch.from_numpy(x).permute(0, 3, 1, 2)).numpy()
    close(forward(weights, x), expected)
    mapped = torch.load(tmp_path / "a.pth", weights_only=True, mmap=True)
    assert all(torch.equal(mapped[key], value) for key, value in net.state_dict().items())


@pytest.mark.parametrize("name", VARIANTS)
def test_round_trip_with_this_projects_keys(name, tmp_path):
    weights = narrow(name)
    save(tmp_path / "a.pth", weights, "torch")
    same(weights, load(tmp_path / "a.pth", variant=name))
    keys = torch.load(tmp_path / "a.pth", weights_only=True)
    assert list(keys)[:2] == ["conv1.weight", "conv1.bias"]


@pytest.mark.parametrize("format", ["torchvision", "torch-safetensors"])
def test_round_trip_with_torchvisions_keys(format, tmp_path):
    weights = narrow("torchvision")
    save(tmp_path / "a", weights, format)
    same(weights, load(tmp_path / "a"))
    assert (tmp_path / "a").stat().st_size > 10_000


def test_other_programs_read_its_safetensors(tmp_path):
    from safetensors.torch import load_file

    weights = narrow("torchvision")
    save(tmp_path / "a.safetensors", weights, "torch-safetensors")
    assert detect(tmp_path / "a.safetensors") == "torch-safetensors"
    arrays = load_file(tmp_path / "a.safetensors")
    assert all(torch.equal(arrays[key], value) for key, value in state(weights).items())


def test_the_authors_own_networks_are_told_apart_by_name_alone(tmp_path):
    """cuda_convnet2 has torchvision's shapes; of the two only torchvision's files are held."""
    weights = narrow("torchvision", width=0.25)
    save(tmp_path / "a.pth", weights, "torch")
    read = load(tmp_path / "a.pth")
    same(weights, read)
    assert "though cuda_convnet2 would fit as well: --variant says which" in " ".join(read.notes)
    assert load(tmp_path / "a.pth", variant="cuda_convnet2").spec.name == "cuda_convnet2"
    assert not load(tmp_path / "a.pth", variant="torchvision").notes


def test_a_small_network_is_known_by_its_shapes(tmp_path):
    weights = narrow("cifar_80sec", width=1.0, num_classes=10)
    save(tmp_path / "a.pth", weights, "torch")
    same(weights, load(tmp_path / "a.pth"))


def test_shapes_that_several_variants_have_are_not_guessed(tmp_path):
    save(tmp_path / "a.pth", narrow("paper"), "torch")
    with pytest.raises(UserError, match=r"fit the variants paper, caffe, caffenet.*--variant"):
        load(tmp_path / "a.pth")


def test_image_sizes_are_not_guessed(tmp_path):
    weights = narrow("paper", image_size=131)
    save(tmp_path / "a.pth", weights, "torch")
    with pytest.raises(UserError, match=r"fc6 has 36 inputs.*from 131 to 162.*--image-size"):
        load(tmp_path / "a.pth", variant="paper")
    same(weights, load(tmp_path / "a.pth", variant="paper", image_size=131))


def test_torchvisions_keys_are_for_torchvisions_network(tmp_path):
    with pytest.raises(UserError, match="write them as torch"):
        save(tmp_path / "a.pth", narrow("paper"), "torchvision")
    save(tmp_path / "a.pth", narrow("torchvision"))
    with pytest.raises(UserError, match="named as in variant torchvision, not 'paper'"):
        load(tmp_path / "a.pth", variant="paper")


@pytest.mark.parametrize("new", [True, False], ids=["zip", "row"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"state_dict": s, "epoch": 3, "arch": "alexnet", "best_acc1": torch.tensor(5.0)},
        lambda s: {"model": s, "optimizer": {"state": {0: {"momentum_buffer": torch.ones(3)}},
                                             "param_groups": [{"lr": 0.1, "params": [0, 1]}]}},
        lambda s: {f"module.{key}": value for key, value in s.items()},
        lambda s: {f"_orig_mod.module.{key}": value for key, value in s.items()},
        lambda s: {"state_dict": {f"model.{key}": value for key, value in s.items()}, "epoch": 3},
        lambda s: {"net": s, "acc": 61.0},
        # pytorch/examples wraps AlexNet's features alone in DataParallel
        lambda s: {key.replace("features.", "features.module."): v for key, v in s.items()},
        lambda s: {key: nn.Parameter(value) for key, value in s.items()},
        lambda s: collections.OrderedDict(s),
    ],
)  # fmt: skip
def test_what_training_scripts_wrap_around(wrap, new):
    weights = narrow("torchvision")
    same(weights, load_data(saved(wrap(state(weights)), new), "torch", "w"))


def test_views_strides_and_shared_storage():
    weights = narrow("torchvision")
    values = state(weights)
    values["classifier.4.weight"] = values["classifier.4.weight"].T.contiguous().T
    whole = torch.cat([torch.zeros(3), values["classifier.6.bias"], torch.zeros(2)])
    values["classifier.6.bias"] = whole[3:-2]
    for new in (True, False):
        same(weights, load_data(saved(values, new), "torch", "w"))


def test_all_problems_stand_in_one_error():
    values = state(narrow("torchvision"))
    del values["features.0.bias"]
    values["features.6.weight"] = values["features.6.weight"][:, :2]
    values["features.99.weight"] = torch.zeros(2)
    values["classifier.4.weight"] = values["classifier.4.weight"].int()
    with pytest.raises(UserError) as error:
        load_data(saved(values), "torch", "w.pth")
    message = str(error.value)
    for part in (
        "missing conv1.bias",
        "unexpected features.99.weight",
        "conv3.kernel (features.6.weight) is 3x3x2x8, not 3x3x4x8",
        "fc7.kernel (classifier.4.weight) is int32, not float32",
    ):
        assert part in message
    assert message.startswith("w.pth can't be read as torch")


def test_values_that_are_no_tensors_are_named():
    values = dict(state(narrow("torchvision"))) | {"extra": 3}
    with pytest.raises(UserError, match="unexpected extra"):
        load_data(saved(values), "torch", "w")


class _Runs:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("new", [True, False], ids=["zip", "row"])
def test_pickles_that_would_run_code(new, tmp_path):
    marker = tmp_path / "ran"
    with pytest.raises(UserError, match="could run code") as error:
        load_data(saved({"a": _Runs(marker)}, new), "torch", "w")
    assert "system" in str(error.value)
    assert not marker.exists()
    with pytest.raises(UserError, match="whole pickled model"):
        load_data(saved(nn.Linear(2, 2), new), "torch", "w")


def test_a_pickle_cannot_reach_builtins_by_attribute():
    for code in (b"c__builtin__\neval\n(X\x01\x00\x00\x001tR.", b"cos\nsystem\n."):
        bad = zipped({"data.pkl": b"\x80\x02" + code})
        with pytest.raises(UserError, match="could run code"):
            load_data(bad, "torch", "w")


def zipped(files: dict[str, bytes], **options) -> memoryview:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", **options) as archive:
        for name, content in files.items():
            archive.writestr(f"archive/{name}", content)
    return memoryview(bytearray(file.getvalue()))


def test_names_that_no_variant_has_are_not_compared_one_by_one():
    values = {"mine": dict(state(narrow("torchvision"))), "epoch": 3}
    with pytest.raises(UserError, match=r"no array has a name that is known: .*mine, epoch; mis"):
        load_data(saved(values, True), "torch", "w")


def test_torchscript_is_called_by_its_name(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "w.pt")
    with pytest.raises(UserError, match="TorchScript"):
        load(tmp_path / "w.pt")


def test_zip_bomb():
    bomb = zipped({"data.pkl": bytes(100_000_000)}, compression=zipfile.ZIP_DEFLATED)
    assert len(bomb) < 200_000
    with pytest.raises(UserError, match="compressed or encrypted"):
        load_data(bomb, "torch", "w")


def test_flipped_bit_in_a_zip():
    bad = written(narrow("torchvision"), "torchvision")
    bad[len(bad) // 2] ^= 1
    with pytest.raises(UserError, match="Bad CRC-32 for file"):
        load_data(bad, "torch", "w")


def test_zip_entries_of_one_name():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("archive/data.pkl", b"\x80\x02}.")
    with pytest.raises(UserError, match="parts overlap"):
        load_data(memoryview(file.getvalue()), "torch", "w")


def test_overlapping_zip_entries():
    data = written(narrow("torchvision"), "torchvision")
    # All entries point to the first one's content.
    raw = bytes(data)
    at, directory = raw.rfind(b"PK\5\6"), 0
    directory = struct.unpack_from("<I", raw, at + 16)[0]
    first = struct.unpack_from("<I", raw, directory + 42)[0]
    bad, place = bytearray(raw), directory
    while raw[place : place + 4] == b"PK\1\2":
        struct.pack_into("<I", bad, place + 42, first)
        place += 46 + sum(struct.unpack_from("<3H", raw, place + 28))
    with pytest.raises(UserError):
        load_data(memoryview(bad), "torch", "w")


def test_huge_shapes_in_the_pickle():
    weights = narrow("torchvision")
    files = {}
    with zipfile.ZipFile(io.BytesIO(written(weights, "torchvision"))) as archive:
        for name in archive.namelist():
            files[name.partition("/")[2]] = archive.read(name)
    good = files["data.pkl"]
    shape = b"J" + struct.pack("<i", 64)
    assert shape in good
    for number in (2**31 - 1, -1):
        files["data.pkl"] = good.replace(shape, b"J" + struct.pack("<i", number))
        with pytest.raises(UserError):
            load_data(zipped(files), "torch", "w")
    # Memo at an index that pickle.Unpickler would allocate 32 GB for.
    files["data.pkl"] = good[:2] + b"Nr\xff\xff\xff\xff0" + good[2:]
    with pytest.raises(UserError, match="memo index out of range"):
        load_data(zipped(files), "torch", "w")


def test_endless_pickle():
    with pytest.raises(UserError, match="more than 500,000 opcodes"):
        load_data(zipped({"data.pkl": b"\x80\x02" + b"N" * 2_000_000}), "torch", "w")


# --- pickles made to take time or memory --------------------------------------------------------

NEST = b")q\x00" + b"h\x00\x86q\x00" * 60  # t = (t, t), 60 times
LESS = b")q\x00" + b"h\x00\x86q\x00" * 30  # a billion parts still
DEEP = b"N" + b"\x85" * 150_000  # a tuple in a tuple in a tuple
CALL = {name: b"c" + name.replace(b" ", b"\n") + b"\n" for name in (
    b"torch Size", b"collections OrderedDict", b"torch FloatStorage",
    b"torch._utils _rebuild_tensor_v2", b"torch._utils _rebuild_parameter")}  # fmt: skip


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


HOSTILE = {
    "deep key": (b"}" + DEEP + b"Ns.", "more than 32 deep"),
    "tuple as key": (b"}N\x85Ns.", "a key is neither"),
    "nest as key": (b"}" + NEST + b"Ns.", "more than 32 deep"),
    "smaller nest as key": (b"}" + LESS + b"Ns.", "a key is neither"),
    "smaller nest as id": (LESS + b"Q.", "invalid storage"),
    "smaller nest as a storage's view": (
        b"(" + text("storage") + CALL[b"torch FloatStorage"] + text("0") + LESS + b"K\x01" + LESS
        + b"tQ.", "invalid storage"),
    "smaller nest as a size": (CALL[b"torch Size"] + LESS + b"\x85R.", "no state dict"),
    "smaller nest as a table": (
        CALL[b"collections OrderedDict"] + LESS + b"\x85R.", "invalid table"),
    "smaller nest as a value": (b"}" + text("a") + LESS + b"s.", "unexpected|missing|fit"),
    "nest as id": (NEST + b"Q.", "more than 32 deep"),
    "deep id": (DEEP + b"Q.", "more than 32 deep"),
    "memo of 2^31": (b"Nr\x00\x00\x00\x80.", "memo index"),
    "state of a function": (CALL[b"torch Size"] + b"}" + text("a") + b"Nsb.", "takes none"),
    "state of a type": (CALL[b"torch FloatStorage"] + b"(K\x01NNNtb.", "takes none"),
    "state of a class": (CALL[b"torch._utils _rebuild_tensor_v2"] + b"N}\x86b.", "takes none"),
    "state of a table": (b"}}" + text("a") + b"Nsb.", "takes none"),
    "state of a type, passed on": (
        CALL[b"torch._utils _rebuild_parameter"] + CALL[b"torch FloatStorage"]
        + b"\x85R}" + text("a") + b"Nsb.", "corrupt pickle"),
    "class called as a type": (CALL[b"torch FloatStorage"] + b")R.", "not callable"),
    "integers as keys": (
        b"}(" + b"".join(b"\x8a\x10" + (n * (2**61 - 1)).to_bytes(16, "little") + b"N"
                        for n in range(20_000)) + b"u.", "integers as keys"),
    "pairs with tuples as keys": (
        CALL[b"collections OrderedDict"] + b"]N\x85N\x86a\x85R.", "invalid table"),
    "text of 4 GB": (b"X\xff\xff\xff\xff.", "longer than the rest"),
    "text of 2^63": (b"\x8d" + b"\xff" * 7 + b"\x7f.", "longer than the rest"),
    "bytes of 4 GB": (b"B\xff\xff\xff\xff.", "longer than the rest"),
    "frame of 2^62": (b"\x95" + b"\xff" * 7 + b"\x3f.", "longer than the rest"),
    "name without end": (b"ctorch\n" + b"a" * 1_000_000, "does not end"),
    "wide text": (b"X" + struct.pack("<I", 1_000_003) + b"a" * 1_000_000 + "\u4e00".encode() + b".",
                  "not an array's bytes"),
    "underflow": (b"\x86.", "stack underflow"),
    "mark missing": (b"NNt.", "stack underflow"),
    "memo missing": (b"h\x05.", "missing memo entry"),
    "protocol 9": (b"\x80\x09N.", "protocol"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_pickles(case):
    """Each is refused within a second and a few megabytes."""
    pickled, match = HOSTILE[case]
    data = zipped({"data.pkl": b"\x80\x02" + pickled})
    peak, seconds = measured(data, "torch", match)
    assert peak < 12e6
    assert seconds < 1


def measured(data: memoryview, format: str, match: str) -> tuple[int, float]:
    """Bytes and seconds that refusing a file takes."""
    start = time.process_time()
    with pytest.raises(UserError, match=match):
        load_data(data, format, "w")
    seconds = time.process_time() - start
    tracemalloc.start()
    with contextlib.suppress(UserError):
        load_data(data, format, "w")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(f"{seconds:.2f} s, {peak / 1e6:.1f} MB for {len(data) / 1e6:.1f} MB")
    return peak, seconds


@pytest.mark.parametrize("name", [b"torch Size", b"collections OrderedDict"])
def test_the_same_list_made_into_something_again_and_again(name):
    """A megabyte that asked for four gigabytes: calls must not copy what they are given twice."""
    pairs = b"".join(text(f"{n:05}") + b"N\x86" for n in range(50_000))
    again = b"h\x00h\x01\x85R" * 3_000
    data = zipped({"data.pkl": b"(" + CALL[name] + b"q\x00](" + pairs + b"eq\x01" + again + b"t."})
    peak, seconds = measured(data, "torch", "no state dict")
    assert peak < 20e6
    assert seconds < 1


def test_short_strings_are_bounded(monkeypatch):
    """In memory they can take four times as much as in the file."""
    monkeypatch.setattr(pickles, "_MAX_SHORT", 10_000)
    for count, match in ((150, "no state dict"), (250, "bytes of short strings")):
        pickled = b"\x80\x02(" + text("a" * 49 + "\U0001f600") * count + b"t."
        with pytest.raises(UserError, match=match):
            load_data(zipped({"data.pkl": pickled}), "torch", "w")


def test_a_row_with_a_nest_as_its_keys():
    nest = b"\x80\x02" + NEST + b"."
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, 2)
    head = magic + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2)
    with pytest.raises(UserError, match="more than 32 deep"):
        load_data(memoryview(head + nest + nest), "torch", "w")
    keys = pickle.dumps([(("a",),)], 2)
    with pytest.raises(UserError, match="invalid list of storages"):
        load_data(memoryview(head + pickle.dumps({}, 2) + keys), "torch", "w")


def test_zip_directories_are_bounded():
    """Five megabytes of entries would be a hundred once `zipfile` has read them."""
    data = zipped({f"data/{n:020}": b"" for n in range(20_000)})
    peak, seconds = measured(data, "torch", "directory is too large")
    assert peak < 2.5 * len(data)
    assert seconds < 1


def test_truncation_anywhere():
    for new in (True, False):
        data = saved(state(narrow("torchvision")), new)
        for end in np.linspace(0, len(data) - 1, 60).astype(int):
            with pytest.raises(UserError):
                load_data(data[:end], "torch", "w")


# --- the tar of 2016 -------------------------------------------------------------------------


class _Tensor:
    def __init__(self, key):
        self.key = key


class _Pickler(pickle.Pickler):
    def persistent_id(self, value):
        return value.key if isinstance(value, _Tensor) else None


def tarred(
    values: dict[str, torch.Tensor], pickled: bytes | None = None, views=False
) -> memoryview:
    """A file of torch 0.1.1, with views of its storages if `views`."""
    storages, tensors = io.BytesIO(), io.BytesIO()
    pickle.dump(len(values), storages, 2)
    pickle.dump(len(values), tensors, 2)
    table = collections.OrderedDict()
    for key, (name, value) in enumerate(values.items(), 100):
        pickle.dump((key, "cpu", torch.FloatStorage), storages, 2)
        storages.write(struct.pack("<q", value.numel()) + value.numpy().tobytes())
        pickle.dump((key + 1000, key + 2000 if views else key, torch.FloatTensor), tensors, 2)
        tensors.write(struct.pack("<ii", value.ndim, 0))
        numbers = (*value.shape, *value.stride(), value.storage_offset())
        tensors.write(struct.pack(f"<{len(numbers)}q", *numbers))
        table[name] = _Tensor(key + 1000)
    parts = enumerate(values.values(), 100) if views else ()
    pickle.dump([(key + 2000, key, 0, value.numel()) for key, value in parts], storages, 2)
    objects = io.BytesIO()
    _Pickler(objects, 2).dump(table)
    if pickled is not None:
        objects = io.BytesIO(pickled)
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:", format=tarfile.PAX_FORMAT) as archive:
        for name, content in (("storages", storages), ("tensors", tensors), ("pickle", objects)):
            info = tarfile.TarInfo(name)
            info.size = len(content.getvalue())
            archive.addfile(info, io.BytesIO(content.getvalue()))
    return memoryview(bytearray(file.getvalue()))


@pytest.mark.parametrize("nest", [NEST, DEEP, LESS], ids=["nest", "deep", "smaller"])
def test_tar_with_tuples_as_ids(nest):
    data = tarred(state(narrow("torchvision")), b"\x80\x02}" + text("a") + nest + b"Qs.")
    match = "a tensor is missing" if nest == LESS else "more than 32 deep"
    peak, seconds = measured(data, "torch", match)
    assert peak < 12e6
    assert seconds < 1


def test_tar_headers_are_checked():
    data = tarred(state(narrow("torchvision")))
    data[130] ^= 1
    with pytest.raises(UserError, match="bad checksum"):
        load_data(data, "torch", "w")


def test_the_tar_layout(tmp_path):
    weights = narrow("torchvision")
    data = tarred(state(weights))
    (tmp_path / "a.pth").write_bytes(data)
    # torch itself agrees that this is such a file
    again = torch.load(tmp_path / "a.pth", weights_only=False)
    assert all(torch.equal(again[key], value) for key, value in state(weights).items())
    assert detect(tmp_path / "a.pth") == "torch"
    same(weights, load(tmp_path / "a.pth"))
    same(weights, load_data(tarred(state(weights), views=True), "torch", "w"))
    for end in np.linspace(0, len(data) - 20_000, 40).astype(int):
        with pytest.raises(UserError):
            load_data(data[:end], "torch", "w")
