"""Fetch published data sets: ``python -m smolvlm2.data.download_datasets --help``.

``smolvlm2 download`` and ``scripts/download_all_datasets.sh`` are the same function.
"""

import argparse
import os
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from smolvlm2.data.download.preview import preview
from smolvlm2.data.download.record import Record
from smolvlm2.data.download.selection import (
    Selection,
    Stage,
    apply_revisions,
    read_recipe_entries,
    select,
)
from smolvlm2.data.sources.catalogue import SOURCES, Source
from smolvlm2.errors import ConfigError, DataError, SmolVLMError

COMPLETE, INCOMPLETE, INTERRUPTED = 0, 3, 130
"""Exit statuses; 2 is a wrong command, as everywhere."""


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="smolvlm2 download",
        description="Fetch published data sets to DATA/raw, verified and resumable: the same "
        "command goes on where it was ended. Exit status 0: everything is there; 3: something is "
        "missing, and said; 130: interrupted.",
        epilog=f"Sources: {', '.join(n for n, s in SOURCES.items() if not s.made_locally)}.",
    )
    stages = ["vision", "video", "all"]
    parser.add_argument("stage", nargs="?", choices=stages, help="sources of a stage's mixture")
    parser.add_argument("--stage", dest="stage_flag", choices=stages, help=argparse.SUPPRESS)
    parser.add_argument("--source", action="append", default=[], metavar="NAME", help="repeatable")
    parser.add_argument(
        "--subset",
        action="append",
        default=[],
        metavar="SOURCE:SUBSET",
        help="only this part of a source; a glob; repeatable",
    )
    parser.add_argument(
        "--recipe",
        action="append",
        default=[],
        metavar="RECIPE",
        help="sources and subsets of a recipe's mixture, by name or file; repeatable",
    )
    parser.add_argument(
        "--benchmarks", metavar="NAMES", help="questions and media of benchmarks, commas between"
    )
    data = os.environ.get("DATA_DIR", "data")
    parser.add_argument(
        "--data", type=Path, default=Path(data), help="data root (default: DATA_DIR, or data)"
    )
    parser.add_argument("--preview", action="store_true", help="print what it would be; no network")
    parser.add_argument("--online", action="store_true", help="with --preview: ask the hub")
    parser.add_argument(
        "--max-gb", type=_gigabytes, help="fetch files in order until so many 10^9 bytes are there"
    )
    parser.add_argument("--workers", type=int, default=8, help="files at the same time (default 8)")
    parser.add_argument(
        "--revision",
        action="append",
        default=[],
        metavar="NAME=REVISION",
        help="another commit, tag or branch of a source or hub id; repeatable",
    )
    parser.add_argument("--token", help="of the hub; default: HF_TOKEN, then `hf auth login`")
    parser.add_argument("--verify", action="store_true", help="hash what is there already, too")
    parser.add_argument(
        "--fetched",
        action="store_true",
        help="print which of the sources are here, whole, and do nothing",
    )
    parser.add_argument("--yes", action="store_true", help="do not ask before the first byte")
    options = parser.parse_args(arguments)
    if options.stage and options.stage_flag and options.stage != options.stage_flag:
        parser.error(f"stage given twice: {options.stage} and {options.stage_flag}")
    if options.workers < 1:
        parser.error(f"--workers is {options.workers}, expected at least 1")
    options.stage = options.stage or options.stage_flag
    return options


def run(
    arguments: Sequence[str] | None = None,
    *,
    benchmark_source: Callable[[str], Source] | None = None,
) -> int:
    """Do what a command line asks for.

    Args:
        arguments: Of the command line; None: those of the process.
        benchmark_source: Finds what to fetch for a benchmark by its name.

    Returns:
        Exit status.

    Raises:
        SmolVLMError: The command is wrong, or the disk too small or not to be used.
    """
    options = parse_arguments(arguments)
    try:
        return _run(options, benchmark_source)
    except OSError as error:  # the disk's; the hub's are told apart where they are made
        raise DataError(
            f"{error}; --data is {options.data}, expected a folder on a disk that can be read and "
            "written"
        ) from error


def main() -> None:
    """Entry point of the specification's command."""
    try:
        sys.exit(run())
    except SmolVLMError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _run(options: argparse.Namespace, benchmark_source: Callable[[str], Source] | None) -> int:
    selections, moved_on = _selections(options, benchmark_source)
    if options.fetched:
        records = {s.source.name: options.data / "raw" / s.source.raw_folder for s in selections}
        print(*(name for name, raw in records.items() if Record.load(raw).complete), sep="\n")
        return COMPLETE
    if options.preview and not options.online:
        print(preview(selections, options.data))
        return COMPLETE
    stop = threading.Event()
    try:
        return _download(options, selections, moved_on, stop)
    except KeyboardInterrupt:
        stop.set()
        print(
            "\ninterrupted; every file that is in place is complete. The same command goes on with "
            "the rest.",
            file=sys.stderr,
        )
        return INTERRUPTED


def _selections(
    options: argparse.Namespace, benchmark_source: Callable[[str], Source] | None
) -> tuple[list[Selection], set[str]]:
    benchmarks = []
    if options.benchmarks:
        if benchmark_source is None:
            raise ConfigError("--benchmarks: this module knows none; use smolvlm2 download")
        names = [name.strip() for name in options.benchmarks.split(",") if name.strip()]
        benchmarks = [Selection(source=benchmark_source(name)) for name in names]
    stage: Stage | None = options.stage
    entries = [entry for name in options.recipe for entry in read_recipe_entries(name)]
    if not (stage or options.source or options.subset or entries or benchmarks):
        if not options.preview:
            raise ConfigError(
                "nothing chosen to download; name a stage (vision, video or all), --source, "
                "--subset, --recipe or --benchmarks; --preview shows what there is"
            )
        stage = "all"
    selections = select(
        stage=stage, sources=options.source, subsets=options.subset, entries=entries
    )
    return apply_revisions([*selections, *benchmarks], options.revision)


def _download(
    options: argparse.Namespace,
    selections: Sequence[Selection],
    moved_on: set[str],
    stop: threading.Event,
) -> int:
    _check_endpoint(os.environ.get("HF_ENDPOINT"))
    # The hub's client takes a while to import, and the preview needs none.
    from smolvlm2.data.download.plan import describe_plan, make_plan
    from smolvlm2.data.download.run import run_plan
    from smolvlm2.data.download.transfer import TransferSettings

    settings = TransferSettings(workers=options.workers, token=options.token)
    plan = make_plan(
        selections,
        options.data,
        settings,
        max_bytes=options.max_gb,
        moved_on=moved_on,
        verify=options.verify,
        stop=stop,
    )
    print(describe_plan(plan), flush=True)
    if options.preview:
        return COMPLETE
    if plan.missing and not options.yes and sys.stdin.isatty():
        try:
            answer = input(f"fetch {len(plan.missing)} files? [y/N] ")
        except EOFError:
            answer = "no"
        if answer.strip().lower() not in ("y", "yes"):
            print("nothing was fetched")
            return INCOMPLETE
    missing = run_plan(plan, settings, stop)
    for name, lines in missing.items():
        for line in lines:
            print(f"missing of {name}: {line}", file=sys.stderr)
    if missing:
        print("run the same command again to go on", file=sys.stderr)
        return INCOMPLETE
    beyond = f", but for {len(plan.left_out)} files beyond --max-gb" if plan.left_out else ""
    names = ", ".join(selection.source.name for selection in selections)
    print(f"complete{beyond}: {names} in {options.data / 'raw'}")
    return COMPLETE


def _check_endpoint(address: str | None) -> None:
    """The hub's client reads the address as it is imported, and fails there without saying why."""
    if address is None:
        return
    try:
        parts = urlsplit(address)
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise ConfigError(
            f"HF_ENDPOINT is {address!r}, expected an address such as https://huggingface.co"
        )


def _gigabytes(text: str) -> int:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of gigabytes above 0")
    return round(value * 1e9)


if __name__ == "__main__":
    main()
