"""What ``smolvlm2 prepare`` does and prints."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from smolvlm2.data.kept_frames import FrameSettings
from smolvlm2.data.manifest import LEDGER_FILE
from smolvlm2.data.prepare import PrepareSettings, SourceSummary, map_share, prepare_source
from smolvlm2.data.sources.catalogue import find_source
from smolvlm2.errors import CheckpointError, ConfigError
from smolvlm2.processing.tokenizer import Tokenizer, extend_for_images

_UNREAD = ("unreadable_record", "corrupt_media")


def prepare_sources(
    names: Sequence[str],
    data: Path,
    tokenizer: str,
    settings: PrepareSettings | None = None,
    *,
    max_left_out: float = 1.0,
) -> int:
    """Prepare sources one after the other, and say what became of their rows.

    Args:
        names: Of sources.
        data: Data root; ``raw/`` is read and ``prepared/`` written.
        tokenizer: Folder or hub id; a text decoder's tokenizer gets the image tokens first.
        settings: How to prepare; None takes the defaults.
        max_left_out: Share of a source's rows, 0 to 1, that may end in the ledger.

    Returns:
        Exit status: 1 when a source lost more than that, or no row of it could be read; all are
        prepared all the same.
    """
    sources = [find_source(name, data / "raw") for name in names]
    chosen = read_tokenizer(tokenizer)
    summaries = []
    for source in sources:
        name = source.adapter.source
        summaries.append(
            prepare_source(
                source.adapter,
                data / "raw" / source.raw_folder,
                data / "prepared" / name,
                chosen,
                settings,
                progress=_report if sys.stderr.isatty() else None,
            )
        )
    print(summary_table(summaries))
    for source, each in zip(sources, summaries, strict=True):
        if each.rows_left_out.get("missing_media"):
            for text in source.bring:
                print(f"{source.name}: {text}")
    for each in summaries:
        for line in unread_files(data / "prepared" / each.source):
            print(f"{each.source}: {line}")
    problems = [
        _loss(each, data, max_left_out)
        for each in summaries
        if each.rows_read - each.rows_kept > max_left_out * each.rows_read or not each.rows_read
    ]
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if problems else 0


def map_shares(
    names: Sequence[str], data: Path, task: str, settings: PrepareSettings | None = None
) -> None:
    """Map one task's share of each source, and say how the rest is done.

    Args:
        names: Of sources.
        data: Data root.
        task: ``I/N``: this is task I, from 0, of N.
        settings: How to prepare; None takes the defaults.

    Raises:
        ConfigError: ``task`` is not of that form.
    """
    share = parse_task(task)
    left = 0
    for source in [find_source(name, data / "raw") for name in names]:
        name = source.adapter.source
        done = map_share(
            source.adapter,
            data / "raw" / source.raw_folder,
            data / "prepared" / name,
            share,
            settings,
            progress=_report if sys.stderr.isatty() else None,
        )
        left += done.left
        print(
            f"{name}: task {task} has mapped its {done.mapped:,} of {done.total:,} inputs; "
            f"{done.left:,} are left to other tasks"
        )
    then = "when the other tasks have ended" if left else "now"
    print(f"to finish, run the same command {then} without --task")


def frame_settings(keep: bool, **asked: float | int | None) -> FrameSettings | None:
    """What ``--frames`` and the options beside it ask for; None without it.

    Raises:
        ConfigError: An option that has a meaning with ``--frames`` only.
    """
    given = {name: value for name, value in asked.items() if value is not None}
    if keep:
        return FrameSettings(**given)  # type: ignore[arg-type]
    if given:
        named = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in given.items())
        raise ConfigError(f"{named}: says which frames are kept of a clip; add --frames")
    return None


def parse_task(text: str) -> tuple[int, int]:
    """Number and count of a task.

    Raises:
        ConfigError: Not ``I/N`` with 0 <= I < N.
    """
    number, slash, count = text.partition("/")
    if slash and number.isdecimal() and count.isdecimal() and int(number) < int(count):
        return int(number), int(count)
    raise ConfigError(f"--task {text}: expected I/N with I from 0 to N - 1, such as 0/8")


def summary_table(summaries: Sequence[SourceSummary]) -> str:
    """A plain table: rows in and kept a source, then what was left out and repaired, by kind."""
    head = ("source", "rows in", "kept", "left out", "media")
    rows = [
        (
            each.source,
            f"{each.rows_read:,}",
            f"{each.rows_kept:,}",
            f"{each.rows_read - each.rows_kept:,}",
            f"{each.media_kept:,}",
        )
        for each in summaries
    ]
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = [_line(head, widths)]
    for row, each in zip(rows, summaries, strict=True):
        lines.append(_line(row, widths))
        kinds = (
            ("left out", each.rows_left_out),
            ("besides rows", each.others_left_out),
            ("repairs", each.repairs),
        )
        for what, counts in kinds:
            if counts:
                listed = ", ".join(f"{reason} {count:,}" for reason, count in counts.items())
                lines.append(f"  {what}: {listed}")
    return "\n".join(lines)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = zip(cells, widths, strict=True)
    return "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)])


def unread_files(prepared: Path, most: int = 5) -> list[str]:
    """Files of a source that could not be read to their end: nobody knows what they hold.

    Args:
        prepared: Folder of the prepared source.
        most: Files named; of more the number is said.
    """
    lines = []
    with (prepared / LEDGER_FILE).open(encoding="utf-8") as ledger:
        for text in ledger:
            line = json.loads(text)
            if line["row"] is None and line["member"] is None and line["reason"] in _UNREAD:
                lines.append(f"{line['file']}: {line['detail']}; fetch it again")
    more = [f"and {len(lines) - most:,} files more, see ledger.jsonl"] if len(lines) > most else []
    return lines[:most] + more


def _loss(summary: SourceSummary, data: Path, most: float) -> str:
    ledger = data / "prepared" / summary.source / "ledger.jsonl"
    if not summary.rows_read:
        return f"{summary.source}: no row could be read; see {ledger} and fetch the files again"
    lost = summary.rows_read - summary.rows_kept
    return (
        f"{summary.source}: {lost:,} of {summary.rows_read:,} rows "
        f"({lost / summary.rows_read:.1%}) are left out, more than --max-left-out {most:g}; see "
        f"{ledger}, bring what is missing and prepare again, or allow more"
    )


def read_tokenizer(name: str) -> Tokenizer:
    """A SmolVLM tokenizer, from a SmolVLM checkpoint or from a text decoder's."""
    try:
        return Tokenizer.from_pretrained(name)
    except CheckpointError:
        return extend_for_images(name)


def _report(what: str, done: int, total: int) -> None:
    print(f"\r{what} {done}/{total}", end="\n" if done == total else "", file=sys.stderr)
