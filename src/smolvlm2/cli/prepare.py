"""What ``smolvlm2 prepare`` does and prints."""

import sys
from collections.abc import Sequence
from pathlib import Path

from smolvlm2.data.prepare import SourceSummary, prepare_source
from smolvlm2.data.sources.catalogue import find_source
from smolvlm2.errors import CheckpointError
from smolvlm2.processing.tokenizer import Tokenizer, extend_for_images


def prepare_sources(
    names: Sequence[str], data: Path, tokenizer: str, *, workers: int
) -> list[SourceSummary]:
    """Prepare sources one after the other, and say what became of their rows.

    Args:
        names: Of sources.
        data: Data root; ``raw/`` is read and ``prepared/`` written.
        tokenizer: Folder or hub id; a text decoder's tokenizer gets the image tokens first.
        workers: Processes; 0 works in this one.
    """
    sources = [find_source(name) for name in names]
    chosen = read_tokenizer(tokenizer)
    summaries = []
    for source in sources:
        name = source.adapter.source
        summary = prepare_source(
            source.adapter,
            data / "raw" / source.raw_folder,
            data / "prepared" / name,
            chosen,
            workers=workers,
            progress=_report if sys.stderr.isatty() else None,
        )
        left_out = ", ".join(f"{n} {reason}" for reason, n in summary.rows_left_out.items())
        print(
            f"{name}: {summary.rows_kept:,} of {summary.rows_read:,} rows"
            + (
                f"; left out: {left_out} (see {data / 'prepared' / name / 'ledger.jsonl'})"
                * bool(left_out)
            )
        )
        summaries.append(summary)
    return summaries


def read_tokenizer(name: str) -> Tokenizer:
    """A SmolVLM tokenizer, from a SmolVLM checkpoint or from a text decoder's."""
    try:
        return Tokenizer.from_pretrained(name)
    except CheckpointError:
        return extend_for_images(name)


def _report(what: str, done: int, total: int) -> None:
    print(f"\r{what} {done}/{total}", end="\n" if done == total else "", file=sys.stderr)
