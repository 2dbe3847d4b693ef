"""hf:// and `alexnet push`, against a hub on the loopback; not run against the real hub."""

import builtins
import json
import os
import subprocess
import sys

import pytest
from huggingface_hub import constants

import alexnet_jax
import alexnet_torch
from alexnet import cli, hub
from alexnet.errors import RunError, UserError
from alexnet.files import MAX_READ
from alexnet.hub.folder import CARD, CONFIG, FILES, MODEL
from alexnet.trained import open_weights
from tests.conftest import ROOT
from tests.weights.helpers import same

from .helpers import hf_weights
from .server import TOKEN, Repo, commit_of, running

WEIGHTS = hf_weights()


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A hub that huggingface_hub asks in place of the real one, with an empty cache."""
    with running() as server:
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, server.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
        yield server


@pytest.fixture
def logged_in(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)


@pytest.fixture
def folder(tmp_path):
    hub.write_folder(tmp_path / "folder", WEIGHTS)
    (tmp_path / "folder" / "notes.txt").write_text("mine")
    return tmp_path / "folder"


def shared(folder, **options):
    """A repository with the folder's files, and another one that nobody asked for."""
    files = {name: (folder / name).read_bytes() for name in (*FILES, "notes.txt")}
    return Repo(**options, branches={"main": files, "v1": {**files, "notes.txt": b"old"}})


# --- fetching ---------------------------------------------------------------------------------


@pytest.mark.parametrize("revision", ["", "@main", "@v1", "@commit"])
def test_weights_from_the_hub(server, folder, revision):
    server.repos["org/net"] = repo = shared(folder)
    revision = revision.replace("commit", commit_of(repo.branches["v1"]))
    same(open_weights(f"hf://org/net{revision}"), WEIGHTS)
    asked = {line.rpartition("/")[2] for line in server.log if "/resolve/" in line}
    assert asked == {CONFIG, MODEL}
    other = commit_of(repo.branches["main" if revision in ("", "@main") else "v1"])
    assert all(other in line for line in server.log if "/resolve/" in line)


@pytest.mark.parametrize("package", [alexnet_jax, alexnet_torch])
def test_models_from_the_hub(server, folder, package):
    server.repos["org/net"] = shared(folder)
    model = package.AlexNet.from_pretrained("hf://org/net@v1")
    assert model.class_names == WEIGHTS.class_names
    assert all((model.weights()[name] == a).all() for name, a in WEIGHTS.arrays.items())


def test_what_is_in_the_cache_is_read_offline(server, folder, monkeypatch):
    server.repos["org/net"] = shared(folder)
    hub.fetch("hf://org/net")
    server.log.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    same(open_weights("hf://org/net"), WEIGHTS)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE"):
        hub.fetch("hf://org/other")
    assert not server.log


def test_what_is_in_the_cache_is_read_while_the_hub_is_down(server, folder):
    server.repos["org/net"] = shared(folder)
    hub.fetch("hf://org/net")
    server.status = 503
    same(open_weights("hf://org/net"), WEIGHTS)
    with pytest.raises(RunError, match="503"):
        hub.fetch("hf://org/other")


def test_a_private_repository_needs_its_owner(server, folder, monkeypatch):
    server.repos["org/net"] = shared(folder, private=True)
    with pytest.raises(UserError, match="private") as error:
        hub.fetch("hf://org/net")
    assert "hf auth login" in str(error.value)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    same(open_weights("hf://org/net"), WEIGHTS)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("hf://org/none", "no such repository"),
        ("hf://org/net@v2", "no such revision"),
        ("hf://org/gated", "accept its terms"),
        ("hf://org/empty", "no model.safetensors"),
    ],
)
def test_what_cant_be_fetched_is_a_sentence(server, folder, url, message, capsys, tmp_path):
    server.repos["org/net"] = shared(folder)
    server.repos["org/gated"] = shared(folder, gated=True)
    server.repos["org/empty"] = Repo(branches={"main": {CONFIG: b"{}"}})
    assert cli.main(["convert", url, str(tmp_path / "x.pth")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert message in lines[-1]
    assert url in lines[-1]
    assert "Traceback" not in "".join(lines)


def test_too_large_a_file_is_not_fetched(server, folder):
    server.repos["org/net"] = shared(folder)
    server.sizes[MODEL] = MAX_READ + 1
    with pytest.raises(UserError, match="more than"):
        hub.fetch("hf://org/net")
    assert not any("/resolve/" in line for line in server.log)


def test_a_hub_that_isnt_there_is_a_sentence(server, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(RunError, match="can't be reached"):
        hub.fetch("hf://org/net")


@pytest.mark.parametrize(
    "url",
    [
        "hf://", "hf://net", "hf://org/net/file", "hf://../net", "hf://org/..", "hf://org/a..b",
        "hf://org/net@", "hf://org/net@a..b", "hf://org/net@../x", "hf://org/net@a b",
        "hf://org/n\x1bet", "hf://org/-net", "hf://org/net@-x", "hf://org/" + "n" * 100,
        "hf://user:x@evil/net",
    ],
)  # fmt: skip
def test_malformed_names_are_refused_before_anything_is_asked(server, url):
    with pytest.raises(UserError, match=r"no (name|revision)"):
        hub.fetch(url)
    assert not server.log


def test_without_the_package_the_sentence_says_what_to_install(monkeypatch):
    true = builtins.__import__

    def without(name, *rest):
        if name.startswith("huggingface_hub"):
            raise ModuleNotFoundError("", name="huggingface_hub")
        return true(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"pip install -c constraints.txt -e '.\[hub\]'"):
        hub.fetch("hf://org/net")


# --- pushing ----------------------------------------------------------------------------------


def test_a_folder_is_pushed_and_comes_back(server, logged_in, folder, capsys):
    assert cli.main(["push", str(folder), "me/net"]) == 0
    repo = server.repos["me/net"]
    assert repo.private
    assert repo.branches["main"] == {name: (folder / name).read_bytes() for name in FILES}
    assert server.objects  # the weights went by LFS
    shown = capsys.readouterr()
    assert "hf://me/net (private)" in shown.out
    assert commit_of(repo.branches["main"]) in shown.out
    assert TOKEN not in shown.out + shown.err
    same(open_weights("hf://me/net"), WEIGHTS)


def test_a_branch_and_the_public(server, logged_in, folder, capsys):
    words = ["push", str(folder), "me/net", "--public", "--revision", "v2", "--json"]
    assert cli.main(words) == 0
    done = json.loads(capsys.readouterr().out)
    repo = server.repos["me/net"]
    assert (done["private"], done["url"]) == (False, "hf://me/net@v2")
    assert not repo.private
    assert not repo.branches["main"]
    assert set(repo.branches["v2"]) == set(FILES)


def test_nothing_becomes_public_by_accident(server, logged_in, folder):
    server.repos["me/net"] = Repo(private=False)
    with pytest.raises(UserError, match="--public"):
        hub.push(folder, "me/net")
    assert not server.repos["me/net"].branches["main"]
    hub.push(folder, "me/net", public=True)
    assert server.repos["me/net"].branches["main"]


def test_a_folder_that_cant_be_read_is_not_pushed(server, logged_in, folder):
    data = bytearray((folder / MODEL).read_bytes())
    data[-1] ^= 1
    (folder / MODEL).write_bytes(data)
    with pytest.raises(UserError, match="SHA-256"):
        hub.push(folder, "me/net")
    assert not server.log


def test_no_link_is_followed_out_of_the_folder(server, logged_in, folder, tmp_path):
    (tmp_path / "private-key").write_text("mine")
    (folder / CARD).unlink()
    (folder / CARD).symlink_to(tmp_path / "private-key")
    with pytest.raises(UserError, match="is a link"):
        hub.push(folder, "me/net")
    assert not server.log


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("push {folder} net", "ORG/NAME"),
        ("push {folder} me/net --revision ..", "no revision"),
        ("push {folder}/none me/net", "config.json"),
        ("push gs://b/folder me/net", "local folder"),
        ("push {folder} me/net", "log in"),
    ],
)
def test_a_push_that_fails_is_a_sentence(server, folder, words, message, capsys):
    assert cli.main(words.format(folder=folder).split()) == 2
    assert message in capsys.readouterr().err
    assert not server.repos


def test_a_server_that_fails_is_a_sentence(server, logged_in, folder):
    server.status = 500
    with pytest.raises(RunError, match="500"):
        hub.push(folder, "me/net")


def test_an_answer_that_makes_no_sense_is_a_sentence(server, logged_in, folder):
    server.status = 200  # and nothing in it
    for ask in (lambda: hub.fetch("hf://org/net"), lambda: hub.push(folder, "me/net")):
        with pytest.raises(RunError, match="huggingface_hub failed"):
            ask()


def test_the_commands_in_a_process_of_their_own(folder, tmp_path):
    """By the environment alone, as a user sets it; the library is told nothing by the test."""
    with running() as server:
        environment = {
            **os.environ, "HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "home"),
            "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
        }  # fmt: skip
        for words in (["push", folder, "me/net"], ["convert", "hf://me/net", tmp_path / "x.pth"]):
            command = [sys.executable, "-m", "alexnet", *words]
            done = subprocess.run(
                command, env=environment, cwd=ROOT, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr
            assert TOKEN not in done.stdout + done.stderr
    same(open_weights(tmp_path / "x.pth", image_size=67), WEIGHTS)
    assert os.listdir(tmp_path / "home" / "hub")
