"""One download: fetch what a plan misses, keep the records, say what is still missing."""

import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing

from smolvlm2.data.download.disk import check_room, free_bytes
from smolvlm2.data.download.licences import write_licences
from smolvlm2.data.download.listing import download_order
from smolvlm2.data.download.plan import Plan, show_files
from smolvlm2.data.download.preview import gate_advice
from smolvlm2.data.download.progress import DownloadProgress
from smolvlm2.data.download.record import Record, RemoteFile
from smolvlm2.data.download.retries import Trouble, classify
from smolvlm2.data.download.selection import Selection
from smolvlm2.data.download.text import show_bytes
from smolvlm2.data.download.transfer import TransferSettings, staging_folder, transfer
from smolvlm2.errors import DataError

_SAVE_EVERY = 10.0
"""Seconds between two writes of a record; a killed run hashes what came since, nothing more."""


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
    check_room(plan.raw, plan.bytes_missing)
    raw_folders = {name: record.raw for name, record in plan.records.items()}
    failed: list[tuple[RemoteFile, Trouble]] = []
    with ExitStack() as stack:
        for name, raw in raw_folders.items():
            if name not in plan.troubles:
                stack.enter_context(staging_folder(raw))
        _refuse_other_records(plan)
        _begin(plan)
        stack.callback(_save, plan)
        progress = stack.enter_context(DownloadProgress(plan.bytes_missing, len(plan.missing)))
        saved = dict.fromkeys(plan.records, time.monotonic())
        arrivals = stack.enter_context(
            closing(transfer(plan.missing, raw_folders, settings, progress.moved, stop))
        )
        for arrival in arrivals:
            file = arrival.file
            if arrival.trouble is not None:
                failed.append((file, arrival.trouble))
                continue
            progress.arrived()
            plan.records[file.source].add(file)
            if time.monotonic() - saved[file.source] > _SAVE_EVERY:
                _unless_full(plan.records[file.source].save)
                saved[file.source] = time.monotonic()
    still_missing = _summarise(plan, failed)
    for name, record in plan.records.items():
        record.complete = name not in still_missing and bool(record.files or record.consumed)
    _save(plan)
    return still_missing


def _refuse_other_records(plan: Plan) -> None:
    """A download that ended between plan and lock has changed what the plan was made from."""
    for name, record in plan.records.items():
        if name not in plan.troubles and Record.load(record.raw).commits != record.commits:
            raise DataError(
                f"{record.raw}: another download has changed this folder's commit meanwhile; run "
                "the same command again"
            )


def _begin(plan: Plan) -> None:
    """Put down what the folders are about to hold, and remove what is of another commit."""
    for listing in plan.listings:
        name = listing.selection.source.name
        record = plan.records[name]
        record.complete = False
        for path in plan.stale.get(name, ()):
            (record.raw / path).unlink(missing_ok=True)
            record.files.pop(path, None)
        if name not in plan.troubles:
            record.commits.update(listing.commits)
            record.save()
    write_licences(plan.raw)


def _save(plan: Plan) -> None:
    for name, record in plan.records.items():
        if name not in plan.troubles:
            _unless_full(record.save)
    _unless_full(lambda: write_licences(plan.raw))


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
            lines.append(f"{show_files([file for file, _ in files])}: {advice}")
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
            f"the disk is full ({trouble.detail}), {show_bytes(free_bytes(plan.raw))} are free; "
            "make room and run the same command again"
        )
    return trouble.detail
