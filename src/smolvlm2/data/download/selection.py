"""Which sources, and which parts of them, a command line asks for. Needs no network."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Literal

from smolvlm2.config import find_recipe, load_raw
from smolvlm2.data.sources.catalogue import SOURCES, Source, find_source, with_revision
from smolvlm2.errors import ConfigError

Stage = Literal["vision", "video", "all"]
Entry = tuple[str, tuple[str, ...] | None]
"""Name of a source and globs on its subsets; None for the whole source."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """A source, whole or in part."""

    source: Source
    subsets: tuple[str, ...] | None = None
    """Globs on names of subsets; None takes those that belong to the source by default."""

    @property
    def is_whole(self) -> bool:
        """Whether this is all that belongs to the source by default, named or not."""
        if self.subsets is None:
            return True
        default = {subset.name for subset in self.source.subsets if subset.default}
        return self.source.subset_rule is None and set(self.known_subsets) == default

    @property
    def known_subsets(self) -> list[str]:
        """Names in the catalogue that are selected; where there is a rule, the hub has others."""
        if self.subsets is None:
            return [subset.name for subset in self.source.subsets if subset.default]
        return [s.name for s in self.source.subsets if matches(s.name, self.subsets)]


def matches(name: str, globs: Iterable[str]) -> bool:
    """Whether a subset's name is meant by one of the globs."""
    return any(name == glob or fnmatchcase(name, glob) for glob in globs)


def select(
    *,
    stage: Stage | None = None,
    sources: Sequence[str] = (),
    subsets: Sequence[str] = (),
    entries: Sequence[Entry] = (),
) -> list[Selection]:
    """Add up what is asked for, in the order of the catalogue.

    What names a subset is narrower than what names its source: ``subsets`` count before
    ``entries``, and these before ``sources`` and ``stage``.

    Args:
        stage: All sources in the mixtures of a stage.
        sources: Names.
        subsets: ``source:glob``.
        entries: Of a recipe's mixture.

    Raises:
        ConfigError: A name is unknown, or a source is made here and not downloaded.
    """
    wanted: dict[str, set[str] | None] = {}
    for source in SOURCES.values():
        if source.stages and (stage == "all" or stage in source.stages):
            wanted[source.name] = None
    for name in sources:
        wanted[find_source(name).name] = None
    for narrower in (entries, [_parse_subset(text) for text in subsets]):
        named: dict[str, set[str] | None] = {}
        for name, globs in narrower:
            earlier = named.get(find_source(name).name, set())
            named[name] = None if globs is None or earlier is None else earlier | set(globs)
        wanted |= named
    result = []
    for source in SOURCES.values():
        if source.name in wanted:
            chosen = wanted[source.name]
            globs = None if chosen is None else tuple(sorted(chosen))
            result.append(_checked(Selection(source=source, subsets=globs)))
    return result


def read_recipe_entries(name: str) -> list[Entry]:
    """Sources and subsets of a recipe's mixture.

    Args:
        name: A recipe's name or path, or a file of ``configs/mixtures``.

    Raises:
        ConfigError: No such recipe, or it has no mixture.
    """
    path = find_recipe(name)
    # Only two keys are of interest here: settings that this room does not know must not stop it.
    values = load_raw(path)
    data = values.get("data") or values
    mixture = (data.get("mixture") or values) if isinstance(data, dict) else None
    entries = mixture.get("entries") if isinstance(mixture, dict) else None
    if not entries:
        raise ConfigError(
            f"{path}: has no data.mixture.entries, so it says nothing about what to download; "
            "expected a recipe that extends one of configs/mixtures, or --source NAME"
        )
    result: list[Entry] = []
    for entry in entries:
        if not isinstance(entry, dict) or "source" not in entry:
            raise ConfigError(
                f"{path}: entry {entry!r} of the mixture names no source; expected a mapping such "
                "as {source: the_cauldron, subset: ai2d}"
            )
        subset = entry.get("subset")
        globs = [subset] if isinstance(subset, str) else subset
        result.append((entry["source"], None if globs is None else tuple(globs)))
    return result


def apply_revisions(
    selections: Sequence[Selection], revisions: Sequence[str]
) -> tuple[list[Selection], set[str]]:
    """Put ``source=revision`` (or ``owner/name=revision``) in force.

    Returns:
        The selections, and the hub ids whose revision was given.

    Raises:
        ConfigError: Not of that form, or not about a selected source.
    """
    given: dict[str, str] = {}
    hub_ids = {repo.hub_id for s in selections for repo in s.source.repos}
    first = {s.source.name: s.source.repos[0].hub_id for s in selections}
    for text in revisions:
        name, equals, revision = text.partition("=")
        hub_id = first.get(name, name)
        if not equals or not revision or hub_id not in hub_ids:
            raise ConfigError(
                f"--revision {text!r}: expected NAME=REVISION with NAME one of "
                f"{', '.join([*first, *sorted(hub_ids - set(first.values()))])}"
            )
        given[hub_id] = revision
    changed = []
    for selection in selections:
        source = selection.source
        for hub_id, revision in given.items():
            source = with_revision(source, hub_id, revision)
        changed.append(replace(selection, source=source))
    return changed, set(given)


def _parse_subset(text: str) -> Entry:
    name, colon, glob = text.partition(":")
    if not colon or not glob:
        raise ConfigError(
            f"--subset {text!r}: expected SOURCE:SUBSET, such as 'the_cauldron:ai2d' or "
            "'llava_video_178k:2_3_m_*'"
        )
    return name, (glob,)


def _checked(selection: Selection) -> Selection:
    source = selection.source
    if source.made_locally:
        raise ConfigError(
            f"source {source.name!r} is not downloaded but drawn; make it with: smolvlm2 demo-data"
        )
    if selection.subsets is None or source.subset_rule:
        return selection  # a rule's names are known once the hub has been asked
    names = [subset.name for subset in source.subsets]
    for glob in selection.subsets:
        if not any(matches(name, [glob]) for name in names):
            near = get_close_matches(glob, names, n=1, cutoff=0.4)
            raise ConfigError(
                f"source {source.name!r} has no subset {glob!r}; expected "
                f"{', '.join(names) if names else 'no subset at all'}"
                + (f"; did you mean {near[0]!r}?" if near else "")
            )
    return selection
