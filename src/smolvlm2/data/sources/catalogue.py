"""Which sources there are: where they are published, under which terms, who reads them.

The facts are in ``catalogue.yaml``. Nothing here imports a reader before it is asked for one, so
that listing and downloading need neither Arrow nor a decoder.
"""

import re
from dataclasses import dataclass, replace
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, cast

import yaml

from smolvlm2.data.sources.record import Adapter
from smolvlm2.errors import ConfigError, DataError

CATALOGUE_FILE = Path(__file__).with_name("catalogue.yaml")
HUB = "https://huggingface.co"
_OWN_NAME = re.compile(r"\w[\w.-]*")


@dataclass(frozen=True, kw_only=True)
class Repo:
    """One repository on the hub that a source is made of."""

    hub_id: str
    """``owner/name`` of a data set."""
    files: tuple[str, ...]
    """Globs on paths in the repository; ``*`` also matches slashes."""
    revision: str = "main"
    """Branch, tag or commit."""
    pinned: bool = False
    """The revision is a commit, so that the files can never change."""
    abbreviated: bool = False
    """Only the first digits of the commit are known; the hub's history completes them."""
    folder: str = ""
    """Where the files go below the source's raw folder."""


@dataclass(frozen=True, kw_only=True)
class Subset:
    """A part of a source that a mixture can name."""

    name: str
    files: tuple[str, ...] = ()
    """Globs on paths below the raw folder; empty where the source's rule finds the files."""
    rows: int | None = None
    size_gb: float | None = None
    """In 10^9 bytes."""
    default: bool = True
    """Fetched with its source; otherwise only when it is named."""


@dataclass(frozen=True, kw_only=True)
class SubsetRule:
    """Finds the subsets of a source by the paths of their files."""

    path: str
    """Regular expression on a whole path below the raw folder; its group ``subset`` is the name."""
    also: tuple[str, ...] = ()
    """Globs of files that go with a match, its groups filled in; such as a folder's archives."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """One data set that can be downloaded, prepared, or both."""

    name: str
    title: str
    stages: tuple[Literal["vision", "video"], ...]
    """Whose mixtures use it; empty for what is fetched only when it is named."""
    modality: str
    """What a row shows: one or several of text, image, multi-image, video."""
    adapter_name: str
    """``module:Class`` below ``smolvlm2.data.sources``."""
    repos: tuple[Repo, ...]
    """The first one gives the raw folder its name."""
    size_gb: float | None
    """Of the default subsets, in 10^9 bytes; None where nothing is known."""
    size_is: Literal["measured", "derived", "estimate", "unknown"]
    """Stated by the publisher, added up from listings, or an order of magnitude."""
    size_at_least: bool = False
    """Part of the set has no known size, so that ``size_gb`` is a lower bound."""
    rows: int | None
    licence: str
    research_only: bool = False
    """The terms exclude commercial use."""
    gated: bool = False
    """The hub asks to accept terms first, at ``terms_url``."""
    always: tuple[str, ...] = ()
    """Globs of files below the raw folder that every subset needs."""
    subset_rule: SubsetRule | None = None
    subsets: tuple[Subset, ...] = ()
    """The known ones; where there is a rule the hub may hold more."""
    bring: tuple[str, ...] = ()
    """What is not published and has to be put in place by hand."""
    traps: tuple[str, ...] = ()
    unverified: tuple[str, ...] = ()
    """What nobody could confirm, of this table's own facts."""
    raw: str | None = None
    """Name of the raw folder where it is not ``<owner>__<name>``."""
    made_locally: bool = False
    """A command here draws it; there is no hub."""

    @property
    def raw_folder(self) -> str:
        """Folder below ``data/raw``."""
        return self.raw or self.repos[0].hub_id.replace("/", "__")

    @property
    def terms_url(self) -> str:
        """Page of the data set, where terms are read and accepted."""
        return f"{HUB}/datasets/{self.repos[0].hub_id}"

    @property
    def adapter(self) -> Adapter:
        """The reader, imported now.

        Raises:
            DataError: This version has no such reader.
        """
        module, _, name = self.adapter_name.partition(":")
        path = f"smolvlm2.data.sources.{module}"
        try:
            factory = getattr(import_module(path), name)
        except (ModuleNotFoundError, AttributeError) as error:
            if isinstance(error, ModuleNotFoundError) and error.name != path:
                raise  # something that the reader needs
            raise DataError(
                f"source {self.name!r}: this version has no reader {self.adapter_name}; it can be "
                "downloaded but not prepared"
            ) from error
        return cast(Adapter, factory(source=self.name, licence=self.licence))


def load_catalogue(path: Path = CATALOGUE_FILE) -> dict[str, Source]:
    """Read the catalogue: sources by name, in the file's order.

    Raises:
        ConfigError: An entry has an unknown or missing key, or a rule that is no expression.
    """
    # libyaml's loader where there is one: 15 ms instead of 140.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    with path.open(encoding="utf-8") as file:
        entries = yaml.load(file, loader)["sources"]
    sources = {}
    for name, entry in entries.items():
        try:
            sources[name] = _source(name, entry)
        except (TypeError, KeyError, re.error) as error:
            raise ConfigError(f"{path}: sources.{name}: {error}") from error
    return sources


def find_source(name: str, raw: Path | None = None) -> Source:
    """Look a source up: in the catalogue, or a folder of the user's own rows.

    Args:
        name: Of the source.
        raw: Folder of raw data; one in it that the catalogue does not know is the user's own.

    Raises:
        ConfigError: No such source; lists those there are.
        DataError: The user's own folder holds rows of two kinds.
    """
    if name in SOURCES:
        return SOURCES[name]
    if raw is not None and _OWN_NAME.fullmatch(name) and (raw / name).is_dir():
        return _own_source(name, raw / name)
    folders = [path.name for path in raw.iterdir()] if raw is not None and raw.is_dir() else []
    near = get_close_matches(name, [*SOURCES, *folders], n=1)
    own = "" if raw is None else f", or a folder {raw / name} with rows of your own"
    raise ConfigError(
        f"source {name!r} is unknown; expected one of {', '.join(sorted(SOURCES))}{own}"
        + (f"; did you mean {near[0]!r}?" if near else "")
    )


def _own_source(name: str, raw: Path) -> Source:
    from smolvlm2.data.sources.own_rows import own_adapter

    return Source(
        name=name,
        title="rows of the user's own",
        stages=(),
        modality="text, image, multi-image, video",
        adapter_name=own_adapter(raw),
        repos=(),
        size_gb=None,
        size_is="unknown",
        rows=None,
        licence="the user's own",
        raw=name,
        made_locally=True,
    )


def with_revision(source: Source, hub_id: str, revision: str) -> Source:
    """The source with one of its repositories at another revision."""
    repos = [
        replace(repo, revision=revision, abbreviated=False) if repo.hub_id == hub_id else repo
        for repo in source.repos
    ]
    return replace(source, repos=tuple(repos))


def _source(name: str, entry: dict[str, Any]) -> Source:
    values = _tuples(entry)
    values["adapter_name"] = values.pop("adapter")
    values["repos"] = tuple(Repo(**_tuples(repo)) for repo in entry["repos"])
    values["subsets"] = tuple(Subset(**_tuples(subset)) for subset in entry.get("subsets", ()))
    if rule := entry.get("subset_rule"):
        values["subset_rule"] = SubsetRule(**_tuples(rule))
        re.compile(rule["path"])
    return Source(name=name, **values)


def _tuples(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(v) if isinstance(v, list) else v for key, v in entry.items()}


SOURCES: dict[str, Source] = load_catalogue()
"""By name."""
DEMO_SOURCES = {name: source for name, source in SOURCES.items() if source.made_locally}
"""Those that ``smolvlm2 demo-data`` draws."""
