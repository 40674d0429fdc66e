"""What ``smolvlm2 data contamination`` does and prints."""

import sys
from collections.abc import Sequence
from pathlib import Path

from smolvlm2.data.contamination import (
    BenchmarkSet,
    Contamination,
    compare_source,
    read_benchmarks,
    write_contamination,
)
from smolvlm2.data.manifest import Manifest

EXAMPLES = 5
"""Matches of a source that are printed; the file has all."""


def find_contamination(
    sources: Sequence[str], benchmarks: Sequence[Path], data: Path, *, workers: int
) -> list[Contamination]:
    """Compare sources with benchmarks, write what is found beside each manifest, print a table.

    Args:
        sources: Names of prepared sources.
        benchmarks: Folders.
        data: Data root.
        workers: Processes; 0 works in this one.
    """
    manifests = [Manifest.open(data / "prepared" / name) for name in sources]
    known = read_benchmarks(benchmarks, workers=workers)
    for problem in known.problems:
        print(f"warning: {problem}", file=sys.stderr)
    results = []
    for manifest in manifests:
        found = compare_source(manifest, known, workers=workers)
        write_contamination(manifest, known, found)
        results.append(found)
    print(contamination_text(known, results))
    return results


def contamination_text(known: BenchmarkSet, results: Sequence[Contamination]) -> str:
    """One line a source, then its first matches."""
    width = max([len("source"), *(len(found.source) for found in results)])
    lines = [
        f"benchmarks: {len(known.images):,} different images, {len(known.others):,} other files",
        "",
        f"{'source':{width}} {'rows':>11} {'images':>11} {'same size':>10} {'clips':>9} "
        f"{'same bytes':>10} {'unreadable':>10} {'contaminated':>12}",
    ]
    for found in results:
        lines.append(
            f"{found.source:{width}} {found.rows:11,} {found.images:11,} "
            f"{found.images_compared:10,} {found.clips:9,} {found.clips_compared:10,} "
            f"{found.unreadable:10,} {len(found.contaminated):12,}"
        )
    for found in results:
        if found.clips_as_frames:
            lines.append(
                f"{found.source}: {found.clips_as_frames:,} clips are kept as frames and have no "
                "file to compare"
            )
        lines += [
            f"  {match.sample_id} medium {match.medium} is {', '.join(match.benchmark)}"
            for match in found.matches[:EXAMPLES]
        ]
        if len(found.matches) > EXAMPLES:
            lines.append(f"  and {len(found.matches) - EXAMPLES:,} more of {found.source}")
    return "\n".join(lines)
