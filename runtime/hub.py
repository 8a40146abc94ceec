"""From what a user typed to a local folder: a path as it is, a Hub id by downloading the files that are needed.

Bundles and checkpoints share it. huggingface_hub is loaded only where a Hub id names no folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import MissingDependencyError, SmolTextError
from runtime.progress import bar_class

HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")  # not ../name, which is a path
LOG_IN = "run `hf auth login`, or set HF_TOKEN"


@dataclass(frozen=True)
class FolderKind:
    """What a folder is, in words, and the errors that say what is wrong with it.

    Attributes:
        noun: such as "bundle".
        contents: what such a folder holds.
        error: raised where the folder cannot be had.
        not_found: raised where neither a folder nor a repository has the name.
    """

    noun: str
    contents: str
    error: type[SmolTextError]
    not_found: type[SmolTextError]


def local_folder(name: str | Path, kind: FolderKind) -> Path | None:
    """The folder of this name, or None where `name` is a Hub id and no folder. A folder goes before a Hub id.

    Raises:
        kind.not_found: neither.
        kind.error: a file.
    """
    folder = Path(name)
    try:
        if folder.is_dir():
            return folder
        is_other = folder.exists()
    except OSError as error:  # a name that no file can have
        raise kind.not_found(f"there is no folder {name}: {error.strerror}") from None
    if is_other:
        raise kind.error(f"{name} is a file; a {kind.noun} is a folder with {kind.contents}")
    if isinstance(name, Path) or not HUB_ID.fullmatch(name):
        raise kind.not_found(f"there is no folder {name}; give a {kind.noun}'s folder or its Hub id")
    return None


def download(repo: str, kind: FolderKind, *, files: Sequence[str], revision: str | None = None) -> Path:
    """Download files of a repository, or find them in the cache.

    Args:
        repo: its Hub id.
        kind: what it should hold.
        files: patterns. One without a slash matches at the top level only.
        revision: branch, tag or commit; None for the main branch.

    Returns:
        The folder of the commit, in huggingface_hub's cache; the folder's name is the commit's.

    Raises:
        kind.not_found: no such repository.
        kind.error: no access, no such revision, or the Hub cannot be reached.
        MissingDependencyError: huggingface_hub is not installed.
    """
    with _one_line_errors(repo, kind, revision):
        from huggingface_hub import snapshot_download

        # A pattern's `*` matches a slash too.
        ignored = None if any("/" in pattern for pattern in files) else ["*/*"]
        folder = snapshot_download(
            repo, revision=revision, allow_patterns=list(files), ignore_patterns=ignored, tqdm_class=bar_class()
        )
        return Path(folder)


def remote_sizes(repo: str, kind: FolderKind, *, revision: str, folder: str) -> dict[str, int]:
    """The files of a repository's folder: name -> bytes. Raises as `download` does."""
    with _one_line_errors(repo, kind, revision):
        from huggingface_hub import HfApi
        from huggingface_hub.hf_api import RepoFile

        entries = HfApi().list_repo_tree(repo, folder, revision=revision)
        return {entry.path: entry.size for entry in entries if isinstance(entry, RepoFile)}


@contextmanager
def _one_line_errors(repo: str, kind: FolderKind, revision: str | None) -> Iterator[None]:
    """What huggingface_hub raises, in one line that says what it is and what to do."""
    try:
        from huggingface_hub import errors
    except ImportError:
        raise MissingDependencyError(
            f"there is no folder {repo}; to fetch it from the Hub: pip install huggingface_hub"
        ) from None
    try:
        yield
    except errors.HFValidationError:
        raise kind.not_found(f"there is neither a folder nor a Hub repository {repo}") from None
    except Exception as error:  # noqa: BLE001 - the library's HTTP client has classes of its own for dropped connections
        raise _explained(error, repo, kind, revision) from None


def _explained(error: Exception, repo: str, kind: FolderKind, revision: str | None) -> SmolTextError:
    from huggingface_hub import errors

    refusal = next((cause for cause in _causes(error) if isinstance(cause, errors.HfHubHTTPError)), None)
    status = getattr(getattr(refusal, "response", None), "status_code", None)
    raised = kind.error
    if isinstance(refusal, errors.GatedRepoError):  # a RepositoryNotFoundError too
        message = f"{repo} is gated on the Hub ({status}): accept its terms on {_page(repo)}, then {LOG_IN}"
    elif isinstance(refusal, errors.RevisionNotFoundError):
        message = f"the Hub repository {repo} has no revision {revision!r}{_revisions(repo)}"
    elif isinstance(refusal, errors.DisabledRepoError):
        message = f"the Hub has disabled {repo}: see {_page(repo)}"
    elif status == 401 and _has_token():
        message = f"the Hub does not accept your token (401): to read {repo}, {LOG_IN} anew"
    elif status == 401:  # the Hub's answer to a missing repository too, unless one is logged in
        raised = kind.not_found
        message = f"there is no folder {repo}, nor a public Hub repository: check the name; if it is private, {LOG_IN}"
    elif isinstance(refusal, errors.RepositoryNotFoundError):
        raised = kind.not_found
        message = f"there is neither a folder nor a Hub repository {repo}: check the owner and the name"
    elif status == 403:
        message = f"the Hub refuses {repo} (403): your token may not read it; {LOG_IN} to one that may"
    else:
        message = f"there is no folder {repo}, and the Hub could not be asked: {first_line(error)}"
    return raised(message)


def first_line(error: BaseException) -> str:
    """An exception in one line."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and those that it came from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _has_token() -> bool:
    from huggingface_hub import get_token

    return get_token() is not None


def _page(repo: str) -> str:
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{repo}"


def _revisions(repo: str) -> str:
    """The branches and tags of a repository, for an error message; where they cannot be listed, what to give."""
    from huggingface_hub import HfApi

    try:
        refs = HfApi().list_repo_refs(repo)
    except Exception:  # noqa: BLE001 - what is reported is the missing revision; the list is a help
        return ": give a branch, a tag or a commit"
    return f"; it has {', '.join(ref.name for ref in [*refs.branches, *refs.tags])}"
