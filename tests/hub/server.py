"""The Hugging Face hub on the loopback: as much of its API as huggingface_hub 2.4 asks for.

Repositories of models live in memory: information, file listing, download, and commits of regular
files and, by the LFS protocol, of large ones. What was asked for is in `Hub.log`.
"""

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_" + "secret" * 5  # of the one user who may write
LARGE = ".safetensors"  # such files go by LFS


@dataclass
class Repo:
    private: bool = False
    gated: bool = False
    branches: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"main": {}})

    def at(self, revision: str) -> dict[str, bytes] | None:
        """Files of a branch or of a commit."""
        commits = {commit_of(files): files for files in self.branches.values()}
        return self.branches.get(revision, commits.get(revision))


@dataclass
class Hub:
    url: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)  # by SHA-256
    log: list[str] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)  # that are told in place of the true ones
    status: int | None = None  # what everything is answered with, if it is set


def commit_of(files: dict[str, bytes]) -> str:
    return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()


@contextlib.contextmanager
def running() -> Iterator[Hub]:
    """A hub that serves as long as the block lasts."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def _serve(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.path = unquote(urlsplit(self.path).path)
        self.hub.log.append(f"{self.command} {self.path}")
        if self.hub.status:
            self._answer(self.hub.status)
            return
        for pattern, methods in _ROUTES.items():
            if (match := re.fullmatch(pattern, self.path)) and self.command in methods:
                methods[self.command](self, **match.groupdict())
                return
        self._answer(404)

    do_GET = do_HEAD = do_POST = do_PUT = _serve

    def log_message(self, *_: Any) -> None:
        """Nothing on standard error."""

    def _answer(self, status: int, value: Any = None, error: str = "", **headers: str) -> None:
        data = value if isinstance(value, bytes) else json.dumps(value or {}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        if error:
            self.send_header("X-Error-Code", error)
        for name, text in headers.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _is_owner(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _find(self, repo: str, revision: str) -> tuple[Repo, dict[str, bytes]] | None:
        """A repository and its files, or None after saying why not."""
        found = self.hub.repos.get(repo)
        if found is None or (found.private and not self._is_owner()):
            self._answer(401 if not self._is_owner() else 404, error="RepoNotFound")
            return None
        if (files := found.at(revision)) is None:
            self._answer(404, error="RevisionNotFound")
            return None
        return found, files

    # --- reading -----------------------------------------------------------------------------

    def info(self, repo: str, revision: str | None = None) -> None:
        if found := self._find(repo, revision or "main"):
            siblings = [{"rfilename": name, "size": self.hub.sizes.get(name, len(data))}
                        for name, data in found[1].items()]  # fmt: skip
            self._answer(200, {"id": repo, "sha": commit_of(found[1]), "private": found[0].private,
                               "siblings": siblings, "tags": []})  # fmt: skip

    def tree(self, repo: str, revision: str) -> None:
        if found := self._find(repo, revision):
            self._answer(200, [
                {"type": "file", "path": name, "size": len(data), "oid": _etag(data)}
                for name, data in found[1].items()
            ])  # fmt: skip

    def resolve(self, repo: str, revision: str, name: str) -> None:
        if not (found := self._find(repo, revision)):
            return
        if found[0].gated and not self._is_owner():
            self._answer(401, error="GatedRepo")
        elif name not in found[1]:
            self._answer(404, error="EntryNotFound")
        else:
            data = found[1][name]
            self._answer(200, data, ETag=f'"{_etag(data)}"', X_Repo_Commit=commit_of(found[1]))

    # --- writing -----------------------------------------------------------------------------

    def _refused(self) -> bool:
        if not self._is_owner():
            self._answer(401)
        return not self._is_owner()

    def create(self) -> None:
        if self._refused():
            return
        asked = json.loads(self.body)
        repo = f"{asked['organization']}/{asked['name']}"
        there = repo in self.hub.repos
        private = asked.get("visibility") == "private" or asked.get("private") is True
        self.hub.repos.setdefault(repo, Repo(private))
        self._answer(409 if there else 200, {"url": f"{self.hub.url}/{repo}"})

    def branch(self, repo: str, revision: str) -> None:
        if not self._refused():
            branches = self.hub.repos[repo].branches
            there = revision in branches
            branches.setdefault(revision, dict(branches["main"]))
            self._answer(409 if there else 200, {})

    def validate(self) -> None:
        self._answer(200, {"errors": [], "warnings": []})

    def preupload(self, repo: str, revision: str) -> None:
        if not self._refused() and self._find(repo, revision):
            files = [
                {"path": each["path"], "shouldIgnore": False,
                 "uploadMode": "lfs" if each["path"].endswith(LARGE) else "regular"}
                for each in json.loads(self.body)["files"]
            ]  # fmt: skip
            self._answer(200, {"files": files})

    def batch(self, repo: str) -> None:
        if not self._refused():
            objects = [
                each | {"actions": {"upload": {"href": f"{self.hub.url}/lfs/{each['oid']}"}}}
                for each in json.loads(self.body)["objects"]
            ]
            self._answer(200, {"transfer": "basic", "objects": objects})

    def put(self, oid: str) -> None:
        assert hashlib.sha256(self.body).hexdigest() == oid
        self.hub.objects[oid] = self.body
        self._answer(200, {})

    def commit(self, repo: str, revision: str) -> None:
        if self._refused():
            return
        files = dict(self.hub.repos[repo].branches[revision])
        for line in map(json.loads, self.body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            if line["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
        self.hub.repos[repo].branches[revision] = files
        oid = commit_of(files)
        url = f"{self.hub.url}/{repo}/commit/{oid}"
        self._answer(200, {"success": True, "commitOid": oid, "commitUrl": url})


def _etag(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


_REPO = r"(?P<repo>[^/]+/[^/]+)"
_API = f"/api/models/{_REPO}"
_ROUTES = {
    "/api/repos/create": {"POST": _Handler.create},
    "/api/validate-yaml": {"POST": _Handler.validate},
    _API: {"GET": _Handler.info},
    f"{_API}/revision/(?P<revision>.+)": {"GET": _Handler.info},
    f"{_API}/tree/(?P<revision>.+)": {"GET": _Handler.tree},
    f"{_API}/branch/(?P<revision>.+)": {"POST": _Handler.branch},
    f"{_API}/preupload/(?P<revision>.+)": {"POST": _Handler.preupload},
    f"{_API}/commit/(?P<revision>.+)": {"POST": _Handler.commit},
    f"/{_REPO}/resolve/(?P<revision>[^/]+)/(?P<name>.+)": {
        "GET": _Handler.resolve,
        "HEAD": _Handler.resolve,
    },
    rf"/{_REPO}\.git/info/lfs/objects/batch": {"POST": _Handler.batch},
    "/lfs/(?P<oid>[0-9a-f]+)": {"PUT": _Handler.put},
}
