"""One download from the first question to the last file."""

import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import HfApi

from smolvlm2.data.download.budget import within_budget
from smolvlm2.data.download.disk import PREPARE_NOTE, check_room, free_bytes
from smolvlm2.data.download.licences import write_licences
from smolvlm2.data.download.listing import Listing, download_order, list_selection
from smolvlm2.data.download.preview import gate_advice, notes
from smolvlm2.data.download.progress import DownloadProgress
from smolvlm2.data.download.record import Record, RemoteFile
from smolvlm2.data.download.retries import Trouble, classify
from smolvlm2.data.download.selection import Selection
from smolvlm2.data.download.text import show_bytes, show_table
from smolvlm2.data.download.transfer import TransferSettings, staging_folder, transfer
from smolvlm2.errors import SmolVLMError

_SAVE_EVERY = 20
"""Files between two writes of the record; a killed run hashes these again, nothing more."""


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
    troubles: dict[str, Trouble] = field(default_factory=dict)
    """Sources that could not be listed."""

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
    for selection in selections:
        source = selection.source
        record = Record.load(data / "raw" / source.raw_folder)
        plan.records[source.name] = record
        fixed = {k: v for k, v in record.commits.items() if k not in (moved_on or ())}
        try:
            listing = list_selection(
                api, selection, fixed, settings.retries, stop or threading.Event()
            )
        except SmolVLMError as error:
            plan.troubles[source.name] = Trouble("error", str(error))
            listing = Listing(selection=selection)
        except Exception as error:  # the client's; one source's trouble must not end the others
            plan.troubles[source.name] = classify(error)
            listing = Listing(selection=selection)
        plan.listings.append(listing)
    files = [file for listing in plan.listings for file in listing.files]
    if max_bytes is not None:
        files, plan.left_out = within_budget(files, max_bytes)
    counts: Counter[str] = Counter()
    for file in files:
        if plan.records[file.source].holds(file, verify=verify):
            counts[file.source] += 1
        else:
            plan.missing.append(file)
    plan.present = dict(counts)
    return plan


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
            f"left out by --max-gb: {_some(plan.left_out)}, "
            f"{show_bytes(sum(file.size for file in plan.left_out))}"
        )
    lines += [
        f"files to fetch: {len(plan.missing)}, {show_bytes(plan.bytes_missing)}",
        f"free on the disk of {plan.data}: {show_bytes(free_bytes(plan.data))}",
    ]
    return "\n".join([*lines, f"note: {PREPARE_NOTE}", *notes(plan.selections)])


def run_plan(plan: Plan, settings: TransferSettings, stop: threading.Event) -> dict[str, list[str]]:
    """Fetch what is missing.

    Args:
        plan: Of ``make_plan``; its records are completed and saved.
        settings: Workers, token and patience.
        stop: Ends the download early; what has arrived stays.

    Returns:
        What is still missing and why, by source; empty when everything is there.

    Raises:
        DataError: The disk is too small, or another process is downloading to a folder.
    """
    check_room(plan.data, plan.bytes_missing)
    for listing in plan.listings:
        name = listing.selection.source.name
        record = plan.records[name]
        record.complete = False
        if name not in plan.troubles:
            record.commits.update(listing.commits)
            record.save()
    raw_root = plan.data / "raw"
    write_licences(raw_root)
    raw_folders = {name: record.raw for name, record in plan.records.items()}
    failed: list[tuple[RemoteFile, Trouble]] = []
    with ExitStack() as stack:
        for name in dict.fromkeys(file.source for file in plan.missing):
            stack.enter_context(staging_folder(raw_folders[name]))
        progress = stack.enter_context(DownloadProgress(plan.bytes_missing, len(plan.missing)))
        stack.callback(_save, plan, raw_root)
        since_saved: Counter[str] = Counter()
        for arrival in transfer(plan.missing, raw_folders, settings, progress.moved, stop):
            file = arrival.file
            if arrival.trouble is not None:
                failed.append((file, arrival.trouble))
                continue
            progress.arrived()
            plan.records[file.source].add(file)
            since_saved[file.source] += 1
            if since_saved[file.source] % _SAVE_EVERY == 0:
                _unless_full(plan.records[file.source].save)
    still_missing = _summarise(plan, failed)
    for name, record in plan.records.items():
        record.complete = name not in still_missing and bool(record.files or record.consumed)
    _save(plan, raw_root)
    return still_missing


def _save(plan: Plan, raw_root: Path) -> None:
    for name, record in plan.records.items():
        if name not in plan.troubles:
            _unless_full(record.save)
    _unless_full(lambda: write_licences(raw_root))


def _unless_full(write: Callable[[], None]) -> None:
    """A full disk keeps the old record; the next run recognises what it does not name."""
    try:
        write()
    except OSError as error:
        if classify(error).kind != "disk full":
            raise
        print(f"the record could not be written: {error}", file=sys.stderr)


def _summarise(plan: Plan, failed: Sequence[tuple[RemoteFile, Trouble]]) -> dict[str, list[str]]:
    """What is missing, in sentences, by source."""
    result: dict[str, list[str]] = {}
    for listing in plan.listings:
        source = listing.selection.source
        lines = [f"the hub has no files of subset {name!r}" for name in listing.unmatched]
        if (trouble := plan.troubles.get(source.name)) is not None:
            lines.append(_advise(trouble, listing.selection, plan))
        mine = [(file, trouble) for file, trouble in failed if file.source == source.name]
        mine.sort(key=lambda pair: download_order(pair[0]))  # they came in as they happened
        for kind in dict.fromkeys(trouble.kind for _, trouble in mine):
            files = [(file, t) for file, t in mine if t.kind == kind]
            advice = _advise(files[0][1], listing.selection, plan)
            lines.append(f"{_some([file for file, _ in files])}: {advice}")
        if lines:
            result[source.name] = lines
    return result


def _advise(trouble: Trouble, selection: Selection, plan: Plan) -> str:
    source = selection.source
    if trouble.kind == "gated":
        return f"{trouble.detail}; {gate_advice(source)}"
    if trouble.kind == "refused":
        return f"{trouble.detail}; make one at https://huggingface.co/settings/tokens that may read"
    if trouble.kind == "gone":
        return f"{trouble.detail}; --revision {source.name}=main moves on to the present commit"
    if trouble.kind == "disk full":
        return (
            f"the disk is full ({trouble.detail}); {show_bytes(free_bytes(plan.data))} are free, "
            "make room and run the same command again"
        )
    return trouble.detail


def _some(files: Sequence[RemoteFile], count: int = 5) -> str:
    names = ", ".join(file.local for file in files[:count])
    return names + (f" and {len(files) - count} others" if len(files) > count else "")
