"""Which files the hub has, at one commit, and which of them are wanted."""

import json
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from glob import escape
from pathlib import PurePosixPath
from typing import Any, TypeVar

from huggingface_hub import HfApi, get_session
from huggingface_hub.hf_api import RepoFile

from smolvlm2.data.download.record import CONSUMED_FILE, RECORD_FILE, RemoteFile
from smolvlm2.data.download.retries import RetrySettings, call_patiently
from smolvlm2.data.download.selection import Selection, matches
from smolvlm2.data.sources.catalogue import Repo, Source
from smolvlm2.errors import DataError

T = TypeVar("T")
_SILENCE = 20.0
"""Seconds without a byte after which a request for a listing has failed."""
_COMMIT = re.compile(r"[0-9a-f]{40}")
_CARD = ("README.md", "LICENSE*", "LICENCE*")
"""Fetched with every source, so that its terms lie beside it as they were."""


@dataclass(kw_only=True)
class Listing:
    """What the hub has of a selection."""

    selection: Selection
    commits: dict[str, str] = field(default_factory=dict)
    """By hub id."""
    files: list[RemoteFile] = field(default_factory=list)
    """Rows first, then archives, each in natural order of their paths."""
    published: dict[str, str] = field(default_factory=dict)
    """Digests by path of all that the source's globs find, wanted or not."""
    unmatched: list[str] = field(default_factory=list)
    """Globs on subsets for which the hub has no file."""

    @property
    def bytes(self) -> int:
        """Of all files."""
        return sum(file.size for file in self.files)


def list_selection(
    api: HfApi,
    selection: Selection,
    recorded: Mapping[str, str],
    retries: RetrySettings,
    stop: threading.Event,
) -> Listing:
    """Ask the hub for the files of a selection.

    Args:
        api: Client of the hub.
        selection: What is wanted.
        recorded: Commit by hub id at which a repository was fetched before. It stays at it, since
            files are replaced under the same name and a folder must not mix two commits.
        retries: For a hub that is busy.
        stop: Ends the waiting.

    Raises:
        DataError: A path would leave the raw folder.
        Exception: The client's last error.
    """
    listing = Listing(selection=selection)
    found: dict[str, RemoteFile] = {}
    for repo in selection.source.repos:
        commit = recorded.get(repo.hub_id) or call_patiently(
            lambda repo=repo: _ask(repo, lambda: _resolve(api, repo)),  # type: ignore[misc]
            retries,
            stop,
        )
        listing.commits[repo.hub_id] = commit
        entries = call_patiently(
            lambda repo=repo, commit=commit: _ask(  # type: ignore[misc]
                repo, lambda: _list(api, repo, commit)
            ),
            retries,
            stop,
        )
        for entry in entries:
            if any(fnmatchcase(entry.path, glob) for glob in (*repo.files, *_CARD)):
                file = _remote_file(selection.source, repo, commit, entry)
                found.setdefault(file.local, file)
    listing.published = {path: file.digest for path, file in found.items()}
    wanted, listing.unmatched = choose(selection, found)
    listing.files = sorted((found[path] for path in wanted), key=download_order)
    return listing


def choose(selection: Selection, paths: Iterable[str]) -> tuple[set[str], list[str]]:
    """Of the paths below a raw folder, those that belong to a selection.

    Returns:
        The paths, and the globs on subsets that match nothing.
    """
    source, paths = selection.source, list(paths)
    parts = subset_paths(source, paths)
    if selection.subsets is None:
        left_out = {subset.name for subset in source.subsets if not subset.default}
        if not left_out:
            return set(paths), []
        names = [name for name in parts if name not in left_out]
        unmatched = []
    else:
        names = [name for name in parts if matches(name, selection.subsets)]
        unmatched = [g for g in selection.subsets if not any(matches(n, [g]) for n in names)]
    always = _matching(paths, (*source.always, *_CARD))
    return always.union(*(parts[name] for name in names)), unmatched


def subset_paths(source: Source, paths: list[str]) -> dict[str, set[str]]:
    """The files of every subset that has any, by name."""
    parts: dict[str, set[str]] = {}
    if source.subset_rule is not None:
        rule = re.compile(source.subset_rule.path)
        also: dict[str, set[str]] = {}
        for path in paths:
            if match := rule.fullmatch(path):
                parts.setdefault(match["subset"], set()).add(path)
                groups = {key: escape(value or "") for key, value in match.groupdict().items()}
                globs = {glob.format(**groups) for glob in source.subset_rule.also}
                also.setdefault(match["subset"], set()).update(globs)
        for name, globs in also.items():
            parts[name] |= _matching(paths, globs)
    for subset in source.subsets:
        if found := _matching(paths, subset.files):
            parts.setdefault(subset.name, set()).update(found)
    return parts


def download_order(file: RemoteFile) -> tuple[bool, list[tuple[int, str]]]:
    """Sort key: rows before the archives that they need, ``x_2`` before ``x_10``."""
    pieces = re.split(r"(\d+)", file.local)
    archive = re.search(r"\.(zip|z\d\d|tar|tgz|tar\.\w+)(\.\w+)?$", file.local) is not None
    return archive, [(int(p), "") if p.isdigit() else (-1, p) for p in pieces]


def _matching(paths: Iterable[str], globs: Iterable[str]) -> set[str]:
    globs = list(globs)
    return {path for path in paths if any(fnmatchcase(path, glob) for glob in globs)}


def _ask(repo: Repo, question: Callable[[], T]) -> T:
    """Ask the hub, which must answer within some time, and as a hub does."""
    hooks = get_session().event_hooks["request"]
    if _limit_silence not in hooks:
        hooks.append(_limit_silence)
    try:
        return question()
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise DataError(
            f"{repo.hub_id}: what answers is no hub ({type(error).__name__}: {error}); look at "
            "HF_ENDPOINT, the proxy, and whether this network wants a login in a browser"
        ) from error


def _limit_silence(request: Any) -> None:
    """Give a request of the client a time limit where it has none: listings would wait for ever."""
    limits = request.extensions.get("timeout", {})
    request.extensions["timeout"] = {
        name: limits.get(name) or _SILENCE for name in ("connect", "read", "write", "pool")
    }


def _resolve(api: HfApi, repo: Repo) -> str:
    """The full commit that a revision stands for now."""
    if _COMMIT.fullmatch(repo.revision):
        return repo.revision
    if repo.abbreviated:
        commits = api.list_repo_commits(repo.hub_id, repo_type="dataset")
        full = [c.commit_id for c in commits if c.commit_id.startswith(repo.revision)]
        if len(full) != 1:
            raise DataError(
                f"{repo.hub_id}: {len(full)} commits begin with the pinned {repo.revision}, "
                f"expected 1; choose one with --revision {repo.hub_id}=REVISION, such as main"
            )
        return full[0]
    sha = api.dataset_info(repo.hub_id, revision=repo.revision).sha
    if sha is None:
        raise DataError(f"{repo.hub_id}: the hub names no commit for revision {repo.revision!r}")
    return sha


def _list(api: HfApi, repo: Repo, commit: str) -> list[RepoFile]:
    tree = api.list_repo_tree(repo.hub_id, recursive=True, revision=commit, repo_type="dataset")
    return [entry for entry in tree if isinstance(entry, RepoFile)]


def _remote_file(source: Source, repo: Repo, commit: str, entry: RepoFile) -> RemoteFile:
    local = f"{repo.folder}/{entry.path}" if repo.folder else entry.path
    parts = PurePosixPath(local).parts
    if ".." in parts or local.startswith("/") or "\\" in local:
        raise DataError(
            f"{repo.hub_id} at {commit[:8]}: path {entry.path!r} would leave the raw folder; "
            "nothing of this repository is fetched"
        )
    if local in (RECORD_FILE, CONSUMED_FILE):
        raise DataError(
            f"{repo.hub_id} at {commit[:8]}: has a file {entry.path!r}, which would overwrite the "
            "record of what was fetched; nothing of this repository is fetched"
        )
    return RemoteFile(
        source=source.name,
        hub_id=repo.hub_id,
        commit=commit,
        path=entry.path,
        local=local,
        size=entry.size,
        sha256=entry.lfs.sha256 if entry.lfs else None,
        blob_id=entry.blob_id,
    )
