"""A bundle -> a model repository on the Hub: what the manifest lists, in one commit, nothing else.

The files' hashes are compared with those that are there, so only what is missing is sent; large files that arrived
before a connection dropped are not sent again. A reader finds the old bundle or the new one, never half of one.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.errors import ExportError
from export.manifest import check_files, read_manifest
from runtime.bundle import MANIFEST, Bundle
from runtime.errors import MissingDependencyError
from runtime.hub import HUB_ID, LOG_IN, first_line

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

CARD = "README.md"
# What the Hub itself puts into a new repository.
MADE_BY_THE_HUB = {".gitattributes", CARD}
DEFAULT_BRANCH = "main"


@dataclass(frozen=True)
class Pushed:
    """What a push did.

    Attributes:
        repo: its id.
        url: its page.
        revision: the branch.
        commit: the branch's head now.
        uploaded: the files sent.
        unchanged: the files that were there already.
        deleted: graphs of an older bundle that this one does not have.
        uploaded_bytes: of all files sent.
    """

    repo: str
    url: str
    revision: str
    commit: str
    uploaded: list[str]
    unchanged: list[str]
    deleted: list[str]
    uploaded_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def push(
    folder: str | Path,
    repo: str,
    *,
    private: bool = False,
    revision: str | None = None,
    license_id: str | None = None,
    base_model: str | None = None,
) -> Pushed:
    """Upload a bundle. A repository or branch that does not exist is created.

    Args:
        folder: a local bundle of ours.
        repo: `owner/name`.
        private: for a new repository.
        revision: the branch; None for `main`.
        license_id: for the model card, such as `apache-2.0`; None for the base model's own.
        base_model: the Hub id for the model card; None for the one that was exported, if it came from the Hub.

    Raises:
        ExportError: a changed file, no token, no network, no rights, or a repository that holds something else.
        MissingDependencyError: huggingface_hub is not installed.
    """
    bundle = Bundle.open(Path(folder))
    manifest = read_manifest(bundle.folder)
    check_files(bundle.folder, manifest)
    if not HUB_ID.fullmatch(repo):
        raise ExportError(f"--repo takes OWNER/NAME of a model repository, not {repo!r}")
    api = _api()
    branch = revision or DEFAULT_BRANCH
    _check_names(bundle.folder, manifest)
    with _one_line_errors(repo):
        url = str(api.create_repo(repo, private=private or None, exist_ok=True))
        if branch != DEFAULT_BRANCH:
            api.create_branch(repo, branch=branch, exist_ok=True)
        remote = _remote_files(api, repo, branch)
    _check_destination(repo, remote)
    contents = _contents(api, bundle.folder, manifest, license_id, base_model)
    changed = [name for name, content in contents.items() if not _is_there(content, remote.get(name))]
    stale = sorted(name for name in remote if name.startswith("onnx/") and name not in contents)
    with _one_line_errors(repo):
        commit = _commit(api, repo, branch, {name: contents[name] for name in changed}, stale)
    return Pushed(
        repo=repo,
        url=url,
        revision=branch,
        commit=commit,
        uploaded=changed,
        unchanged=[name for name in contents if name not in changed],
        deleted=stale,
        uploaded_bytes=sum(_size(contents[name]) for name in changed),
    )


def _api() -> HfApi:
    try:
        from huggingface_hub import HfApi, get_token
        from huggingface_hub.utils import disable_progress_bars
    except ModuleNotFoundError:
        raise MissingDependencyError("push needs huggingface_hub: pip install huggingface_hub") from None
    if get_token() is None:
        raise ExportError(f"the Hub wants a token that may write: {LOG_IN}")
    if not sys.stderr.isatty():
        disable_progress_bars()
    return HfApi()


def _remote_files(api: HfApi, repo: str, branch: str) -> dict[str, RepoFile]:
    from huggingface_hub.hf_api import RepoFile

    entries = api.list_repo_tree(repo, revision=branch, recursive=True)
    return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}


def _check_destination(repo: str, remote: Mapping[str, RepoFile]) -> None:
    others = sorted(remote.keys() - MADE_BY_THE_HUB)
    if others and MANIFEST not in remote:
        raise ExportError(f"{repo} holds {others[0]} and no {MANIFEST}: it is no bundle; choose another repository")


def _check_names(folder: Path, manifest: Mapping[str, Any]) -> None:
    """A manifest from a stranger must not send files that lie elsewhere."""
    for name in manifest["files"]:
        if not (folder / name).resolve().is_relative_to(folder.resolve()):
            raise ExportError(f"{folder / MANIFEST} lists {name}, which is outside the bundle")


def _contents(
    api: HfApi, folder: Path, manifest: dict[str, Any], license_id: str | None, base_model: str | None
) -> dict[str, Path | bytes]:
    """Name in the repository -> what to put there.

    The card gets its metadata. The manifest up there does not list the card, which its owner edits on the Hub, and
    which a download of what runs leaves out.
    """
    contents: dict[str, Path | bytes] = {name: folder / name for name in manifest["files"]}
    base_model = base_model or manifest.get("base_model")
    license_id = license_id or _license_of(api, base_model)
    if CARD in contents and (base_model or license_id):
        card = (folder / CARD).read_text(encoding="utf-8")
        contents[CARD] = _with_metadata(card, license_id, base_model).encode()
    files = {name: entry for name, entry in manifest["files"].items() if name != CARD}
    contents[MANIFEST] = (json.dumps(manifest | {"files": files}, indent=2, ensure_ascii=False) + "\n").encode()
    return contents


def _license_of(api: HfApi, base_model: str | None) -> str | None:
    """The licence in the base model's card; None where it cannot be read, which leaves our card without one."""
    if base_model is None:
        return None
    try:
        data = api.model_info(base_model).card_data
    except Exception:  # noqa: BLE001 - a private or absent model, or a connection that drops: each with its own class
        return None
    license_id = None if data is None else data.get("license")
    return license_id if isinstance(license_id, str) else None


def _with_metadata(card: str, license_id: str | None, base_model: str | None) -> str:
    from huggingface_hub import ModelCard

    parsed = ModelCard(card, ignore_metadata_errors=True)
    if license_id is not None:
        parsed.data["license"] = license_id
    if base_model is not None:
        parsed.data["base_model"] = base_model
        parsed.data["base_model_relation"] = "quantized"  # the Hub's word for what other formats are made of
    return str(parsed)


def _is_there(content: Path | bytes, remote: RepoFile | None) -> bool:
    """Whether the repository has these bytes: by SHA-256 for large files, by git's hash for the others."""
    if remote is None or remote.size != _size(content):
        return False
    if remote.lfs is None:
        data = content if isinstance(content, bytes) else content.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest() == remote.blob_id
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest() == remote.lfs.sha256
    with content.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == remote.lfs.sha256


def _size(content: Path | bytes) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def _commit(api: HfApi, repo: str, branch: str, changed: Mapping[str, Path | bytes], stale: list[str]) -> str:
    """One commit with what is new; the branch's head where nothing is."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    if not changed and not stale:
        return str(api.model_info(repo, revision=branch).sha)
    additions = [
        CommitOperationAdd(name, content if isinstance(content, bytes) else str(content))
        for name, content in changed.items()
    ]
    deletions = [CommitOperationDelete(name) for name in stale]
    message = "Upload a bundle made by SmolText"
    return str(api.create_commit(repo, [*additions, *deletions], commit_message=message, revision=branch).oid)


@contextmanager
def _one_line_errors(repo: str) -> Iterator[None]:
    """What the library and its HTTP client raise, said in one line that names the remedy."""
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import HFValidationError

    try:
        yield
    except HFValidationError as error:
        raise ExportError(f"--repo {repo}: {first_line(error)}") from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise ExportError(
                f"the Hub refuses to write to {repo} ({status}): the token is not valid or has no right to; {LOG_IN}"
            ) from None
        raise ExportError(f"the Hub refuses {repo} ({status}): {first_line(error)}") from None
    except Exception as error:  # noqa: BLE001 - the HTTP client has classes of its own, uploads raise RuntimeError
        cause = error.__cause__ or error
        raise ExportError(
            f"the connection to the Hub failed: {first_line(cause)}; run the same command again, "
            "and only what is missing is sent"
        ) from None
