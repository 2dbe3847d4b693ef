"""The Hugging Face hub: fetch `hf://ORG/NAME@REVISION`, and push a folder.

The package `huggingface_hub` does the work, with the token and the cache that it finds by itself.
"""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

from alexnet.errors import RunError, UserError
from alexnet.files import MAX_READ, as_path, is_remote
from alexnet.hub.folder import CONFIG, FILES, MODEL, read_folder

SCHEME = "hf://"
_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9_]|[-.](?![-.])){0,95}(?<![-.])"
_REPO = re.compile(rf"{_NAME}/{_NAME}")
_REVISION = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_/-]|\.(?!\.)){0,199}")
_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


def is_url(source: str | PurePath) -> bool:
    """True for hf://..."""
    return str(source).startswith(SCHEME)


def local(source: str | PurePath) -> Path:
    """A path to read: a fetched folder for hf://ORG/NAME@REVISION, else `files.as_path`'s."""
    return fetch(str(source)) if is_url(source) else as_path(source)


def fetch(url: str) -> Path:
    """The folder at hf://ORG/NAME[@REVISION], in huggingface_hub's cache.

    Only `config.json` and `model.safetensors` are asked for.

    Raises:
        UserError: for a malformed name, or where there is no such folder for this user.
        RunError: where the hub can't be reached or fails.
    """
    repo, at, name = url.removeprefix(SCHEME).partition("@")
    revision = name if at else None
    _check(repo, revision)
    library = _library()
    where = {"repo_id": repo, "revision": revision}
    with _sentences(url):
        # If the hub doesn't answer, cached files may still do.
        with contextlib.suppress(library.errors.HTTPError, library.errors.OfflineModeIsEnabled):
            for file in library.HfApi().model_info(**where, files_metadata=True).siblings or ():
                if file.rfilename in (CONFIG, MODEL) and (file.size or 0) > MAX_READ:
                    raise UserError(
                        f"{url}: {file.rfilename} has more than the {MAX_READ:,} bytes that are "
                        "read"
                    )
        path = Path(library.snapshot_download(**where, allow_patterns=[CONFIG, MODEL]))
    if missing := [name for name in (CONFIG, MODEL) if not (path / name).is_file()]:
        raise UserError(f"{url} has no {' and no '.join(missing)}: it is not a folder of this kind")
    return path


def push(
    folder: Path,
    repo: str,
    *,
    public: bool = False,
    revision: str | None = None,
    message: str = "Upload weights",
) -> dict[str, Any]:
    """Upload a folder's three files, after reading them.

    Args:
        folder: one that `write_folder` wrote.
        repo: ORG/NAME; created if missing, private unless `public`.
        public: let everyone see it.
        revision: branch to upload to, created if missing; the main one by default.
        message: of the commit.

    Returns:
        `repo`, `url` (hf://...), `commit` and `private`.

    Raises:
        UserError: for a folder that can't be read, or where the hub forbids this user to push.
        RunError: where the hub can't be reached or fails.
    """
    _check(repo, revision)
    if is_remote(folder):
        raise UserError(f"{folder}: only a local folder is pushed: copy it here first")
    for name in FILES:
        if (folder / name).is_symlink():  # it might lead anywhere
            raise UserError(f"{folder / name} is a link: copy the file it leads to into the folder")
    read_folder(folder)
    api, url = _library().HfApi(), SCHEME + repo + (f"@{revision}" if revision else "")
    with _sentences(url):
        api.create_repo(repo, private=not public, exist_ok=True)
        private = bool(api.model_info(repo).private)
        if not (private or public):
            raise UserError(f"{repo} is there already, and public: add --public, or name another")
        if revision:
            api.create_branch(repo, branch=revision, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            allow_patterns=list(FILES),
            revision=revision,
            commit_message=message,
        )
    oid = commit.oid if re.fullmatch("[0-9a-f]{7,64}", commit.oid) else "unknown"
    return {"repo": repo, "url": url, "commit": oid, "private": private}


def _check(repo: str, revision: str | None) -> None:
    """Refuse names that the hub can't have, before any request to it."""
    if not _REPO.fullmatch(repo):
        raise UserError(f"'{repo:.100}' is no name on the hub: write ORG/NAME, as in timm/alexnet")
    if revision is not None and not _REVISION.fullmatch(revision):
        raise UserError(f"'{revision:.100}' is no revision: name a branch, a tag or a commit")


def _library() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise UserError(
            f"the hub needs the package {error.name}, which is not installed: "
            "pip install -c constraints.txt -e '.[hub]'"
        ) from error
    return huggingface_hub


@contextlib.contextmanager
def _sentences(url: str) -> Iterator[None]:
    """Turn the library's errors into sentences, without repeating the server's messages."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise UserError(
            f"{url} is gated: accept its terms on its page on the hub, and {_LOG_IN}"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(
            f"{url}: there is no such repository, or it is private: check the name, or {_LOG_IN}"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"{url}: the repository has no such revision") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise UserError(f"{url}: the hub refuses this: {_LOG_IN}, with write access to push") \
                from error  # fmt: skip
        raise RunError(f"{url}: the hub answered with HTTP status {status}") from error
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError) as error:
        cause = error.__cause__ or error
        if isinstance(cause, errors.OfflineModeIsEnabled):
            raise UserError(
                f"{url} is not in the cache, and HF_HUB_OFFLINE keeps the hub from being asked"
            ) from error
        code = getattr(getattr(cause, "response", None), "status_code", None)
        reason = f"answered with HTTP status {code}" if code else "can't be reached"
        raise RunError(f"{url} is not in the cache, and the hub {reason}") from error
    except errors.HTTPError as error:  # type: ignore[attr-defined]
        raise RunError(f"{url}: the hub can't be reached ({type(error).__name__})") from error
    except (UserError, RunError):
        raise
    except Exception as error:  # a malformed answer can make the library raise anything
        shown = f"{type(error).__name__}: {str(error)[:200]}".removesuffix(": ")
        raise RunError(f"{url}: huggingface_hub failed with {shown}") from error
