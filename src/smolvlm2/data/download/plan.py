"""What the hub has of a selection, what of it is here, and what is to come."""

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from huggingface_hub import HfApi

from smolvlm2.data.download.budget import within_budget
from smolvlm2.data.download.disk import PREPARE_NOTE, free_bytes
from smolvlm2.data.download.listing import Listing, list_selection
from smolvlm2.data.download.preview import notes
from smolvlm2.data.download.record import Record, RemoteFile
from smolvlm2.data.download.retries import Trouble, classify
from smolvlm2.data.download.selection import Selection
from smolvlm2.data.download.text import show_bytes, show_table
from smolvlm2.data.download.transfer import TransferSettings
from smolvlm2.errors import SmolVLMError


@dataclass(kw_only=True)
class Plan:
    """What the hub has of a selection, what of it is here, and what is to come."""

    data: Path
    listings: list[Listing]
    records: dict[str, Record]
    """By source."""
    present: dict[str, int] = field(default_factory=dict)
    """Files by source that are here already."""
    missing: list[RemoteFile] = field(default_factory=list)
    left_out: list[RemoteFile] = field(default_factory=list)
    """Beyond ``--max-gb``."""
    stale: dict[str, list[str]] = field(default_factory=dict)
    """By source: paths as an earlier commit had them. Prepare must not see two commits at once."""
    troubles: dict[str, Trouble] = field(default_factory=dict)
    """Sources that could not be listed."""

    @property
    def raw(self) -> Path:
        """Folder of all raw folders."""
        return self.data / "raw"

    @property
    def bytes_missing(self) -> int:
        """Still to come."""
        return sum(file.size for file in self.missing)

    @property
    def selections(self) -> list[Selection]:
        """Of all listings, in the order of the catalogue."""
        return [listing.selection for listing in self.listings]


def make_plan(
    selections: Sequence[Selection],
    data: Path,
    settings: TransferSettings,
    *,
    max_bytes: int | None = None,
    moved_on: set[str] | None = None,
    verify: bool = False,
    stop: threading.Event | None = None,
) -> Plan:
    """Ask the hub what there is and look what is here. Moves no byte of data.

    Args:
        selections: What is wanted.
        data: Data root.
        settings: Token, address and patience.
        max_bytes: Budget of all selected files, present ones included.
        moved_on: Hub ids whose recorded commit is given up for the selection's revision.
        verify: Hash files that the record knows, too.
        stop: Ends the waiting for a busy hub.
    """
    api = HfApi(endpoint=settings.endpoint, token=settings.token)
    plan = Plan(data=data, listings=[], records={})
    patience = settings.retries
    for selection in selections:
        source = selection.source
        record = Record.load(plan.raw / source.raw_folder)
        plan.records[source.name] = record
        fixed = {k: v for k, v in record.commits.items() if k not in (moved_on or ())}
        try:
            listing = list_selection(api, selection, fixed, patience, stop or threading.Event())
            patience = settings.retries
        except SmolVLMError as error:
            plan.troubles[source.name] = Trouble("error", str(error))
            listing = Listing(selection=selection)
        except Exception as error:  # the client's; one source's trouble must not end the others
            plan.troubles[source.name] = trouble = classify(error)
            if trouble.kind == "busy":  # the hub is away: the next sources need not wait as long
                patience = replace(patience, attempts=1)
            listing = Listing(selection=selection)
        plan.listings.append(listing)
        if any(record.commits.get(k, v) != v for k, v in listing.commits.items()):
            plan.stale[source.name] = [
                path
                for path, entry in record.files.items()
                if listing.published.get(path) != entry["digest"]
            ]
    files = [file for listing in plan.listings for file in listing.files]
    if max_bytes is not None:
        files, plan.left_out = within_budget(files, max_bytes)
    held = _look(files, plan.records, settings.workers, verify=verify)
    plan.missing = [file for file, here in zip(files, held, strict=True) if not here]
    plan.present = dict(Counter(f.source for f, here in zip(files, held, strict=True) if here))
    return plan


def _look(
    files: Sequence[RemoteFile], records: Mapping[str, Record], workers: int, *, verify: bool
) -> list[bool]:
    """Which files are here. Several are hashed at a time: it is the slow part of ``--verify``."""
    pool = ThreadPoolExecutor(workers)
    try:
        return list(pool.map(lambda file: records[file.source].holds(file, verify=verify), files))
    finally:
        pool.shutdown(cancel_futures=True)


def describe_plan(plan: Plan) -> str:
    """What the hub has and what will be fetched, source by source."""
    rows = []
    for listing in plan.listings:
        name = listing.selection.source.name
        mine = [file for file in plan.missing if file.source == name]
        rows.append(
            (
                name,
                " ".join(commit[:8] for commit in listing.commits.values()) or "-",
                str(len(listing.files)),
                show_bytes(listing.bytes),
                str(plan.present.get(name, 0)),
                show_bytes(sum(file.size for file in mine)),
                plan.troubles[name].detail if name in plan.troubles else "",
            )
        )
    header = ("source", "commit", "files", "size", "here", "to fetch", "")
    lines = [show_table(header, rows, right={2, 3, 4, 5}), ""]
    if plan.left_out:
        lines.append(
            f"left out by --max-gb: {show_files(plan.left_out)}, "
            f"{show_bytes(sum(file.size for file in plan.left_out))}"
        )
    for name, paths in plan.stale.items():
        if paths:
            lines.append(
                f"{name}: {len(paths)} files are not so in the new commit and will be deleted"
            )
    lines += [
        f"files to fetch: {len(plan.missing)}, {show_bytes(plan.bytes_missing)}",
        f"free on the disk of {plan.raw}: {show_bytes(free_bytes(plan.raw))}",
    ]
    return "\n".join([*lines, f"note: {PREPARE_NOTE}", *notes(plan.selections)])


def show_files(files: Sequence[RemoteFile], count: int = 5) -> str:
    """The first few paths, and how many others there are."""
    names = ", ".join(file.local for file in files[:count])
    return names + (f" and {len(files) - count} others" if len(files) > count else "")
