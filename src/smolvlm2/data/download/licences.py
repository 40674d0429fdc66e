"""``LICENCES.md`` beside the raw data: under which terms each set was fetched, and from where."""

import os
from pathlib import Path

from smolvlm2.data.download.record import RECORD_FILE, Record
from smolvlm2.data.download.text import show_bytes
from smolvlm2.data.sources.catalogue import SOURCES, Source

LICENCES_FILE = "LICENCES.md"


def write_licences(raw_root: Path) -> None:
    """Describe every source that has a record below ``data/raw``; replaces the file at once."""
    parts = [
        _describe(source, Record.load(raw_root / source.raw_folder))
        for source in SOURCES.values()
        if (raw_root / source.raw_folder / RECORD_FILE).is_file()
    ]
    if not parts:
        return
    text = (
        "# Licences of the data in this folder\n\n"
        "As stated on the hub when the catalogue was written; each set's own README.md, fetched\n"
        "with it, has the last word. A model trained on several sets is bound by all of them.\n\n"
    )
    path = raw_root / LICENCES_FILE
    unfinished = path.with_name(f"{path.name}.partial")
    unfinished.write_text(text + "\n".join(parts), encoding="utf-8")
    os.replace(unfinished, path)


def _describe(source: Source, record: Record) -> str:
    size = show_bytes(sum(entry["size"] for entry in record.files.values()))
    lines = [
        f"## {source.name}",
        "",
        f"{source.title}. In `{source.raw_folder}/`: {len(record.files)} files, {size}.",
        "",
        f"- Licence: {source.licence}",
    ]
    if source.research_only:
        lines.append("- Research or non-commercial use only")
    if source.gated:
        lines.append(f"- Terms had to be accepted on {source.terms_url}")
    for hub_id, commit in record.commits.items():
        lines.append(f"- From https://huggingface.co/datasets/{hub_id}, commit {commit}")
    return "\n".join([*lines, ""])
