"""One training step on one GPU: how fast, what limits it, what pays, and transformers at its best.

    python benchmarks/train_gpu.py                       # one Hopper GPU, at most 8 minutes
    python benchmarks/train_gpu.py --only compiled,peer  # some sections
    python benchmarks/train_gpu.py --dry                 # the code only: a tiny model on a CPU

Needs torch >= 2.11, numpy, safetensors and PyYAML, and transformers for the comparison; no network.
PYTHONPATH=src does where the package is not installed.
Weights are random, tiles and ids generated, packs the planner's of the general mixture
(plan_mixtures.py). The step is training's own (training/update.py on a model from
training/parallelize.py). Forward and backward passes are timed by device events over whole steps of
four packs, clipping and the exchange of words at their end included; the update of the weights is
given apart. transformers is timed without any update, its pixels already on the device.

Both shares of useful FLOPs are given: of the paper peak, and of the ceiling, which is a large
matrix product timed in the same run. Predictions are in train_gpu_predicted.py. A section starts if
its time is left; what failed is kept as text, and results are written after every measurement.
"""

import argparse
import datetime
import gc
import importlib.metadata
import json
import os
import subprocess
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import train_gpu_sections as sections
from train_gpu_report import print_table
from train_gpu_shapes import SIZES, draw_packs

from smolvlm2.plan.packs import Capacity
from smolvlm2.training.distributed import connect
from smolvlm2.training.launch import Launch

OUT = Path(__file__).parent / "results" / "train_gpu.json"
DOCUMENTS = 64
SECTIONS: dict[str, tuple[int, Callable[[sections.Run], None]]] = {
    "ceilings": (10, sections.ceilings),
    "ops": (35, sections.operations),
    "eager": (40, sections.own_eager),
    "compiled": (100, sections.own_compiled),
    "options": (60, sections.options),
    "peer": (90, sections.peer),
    "500m": (60, sections.large),
    "curves": (20, sections.curves),
    "again": (20, sections.again),
}
"""In order: seconds that each may take, and what it does."""


@dataclass(kw_only=True)
class Results:
    """A list of runs in a file, the newest last; this run's entry is written again and again."""

    path: Path
    entry: dict[str, Any]
    earlier: list[dict[str, Any]] = field(init=False)

    def __post_init__(self) -> None:
        self.earlier = json.loads(self.path.read_text()) if self.path.is_file() else []

    def write(self) -> None:
        """Under another name, then in place at once."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_name(self.path.name + ".partial")
        unfinished.write_text(json.dumps([*self.earlier, self.entry], indent=1) + "\n")
        os.replace(unfinished, self.path)


def environment(device: torch.device) -> dict[str, Any]:
    """What the figures were measured on; nothing is set."""
    found = {
        "schema": 1,
        "benchmark": "train_gpu",
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "commit": _said_by("git", "rev-parse", "--short", "HEAD"),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else "none",
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }
    for package in ("torch", "transformers", "triton", "numpy"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    if device.type == "cuda":
        query = "--query-gpu=clocks.sm,clocks.max.sm,clocks.mem,power.draw,power.limit"
        found["clocks_and_power"] = _said_by("nvidia-smi", query, "--format=csv,noheader")
    return found


def _said_by(*command: str) -> str | None:
    """What a program prints; None where it is missing, fails or takes too long."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def guarded(name: str, work: Callable[[], None], entry: dict[str, Any]) -> None:
    """Do ``work``; an error is kept as text and does not end the run."""
    started = time.monotonic()
    try:
        work()
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__}: {error}".strip()[:600]
        entry["errors"].append({"section": name, "error": text, "at": where.name})
        print(f"{name}: {text}")
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    entry["seconds"][name] = round(time.monotonic() - started, 1)


def kept(results: Results, name: str, work: Callable[[], None], entry: dict[str, Any]) -> None:
    """`guarded`, and the results written: a run that is killed leaves all it has measured."""
    try:
        guarded(name, work, entry)
    finally:  # a device that is lost for good refuses to be cleared, too
        results.write()


def start(options: argparse.Namespace) -> sections.Run:
    """Packs, device and an empty entry."""
    # Read once, at the first product: without it the deterministic variant is refused. It is the
    # size that torch takes on Hopper anyway.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    dry = options.dry or not torch.cuda.is_available()
    if dry:
        torch.set_num_threads(1)
    world = connect(Launch(), "cpu" if dry else "cuda")
    size = "tiny" if dry else options.size
    tokens, tiles = (192, 16) if dry else (options.tokens, options.tiles)
    capacity = Capacity(tokens=tokens, tiles=tiles, documents=DOCUMENTS)
    packs = draw_packs(SIZES[size], capacity, count=sections.PACKS + 1)
    entry = environment(world.device) | {
        "dry": dry,
        "pack": packs[0].figures() | {"token_slots": tokens, "tile_slots": tiles},
        "ceilings": {"matmul_tflops": [], "copy_tbps": []},
        **{name: [] for name in ("ops", "steps", "options", "curves", "skipped", "errors")},
        "seconds": {},
    }
    return sections.Run(
        world=world,
        size=size,
        large="tiny" if dry else "500m",
        capacity=capacity,
        packs=packs[: sections.PACKS],
        check=packs[-1],
        entry=entry,
        how={"least": 1, "seconds": 0.0} if dry else {},
        guarded=guarded,
        ends=time.monotonic() + options.deadline,
    )


def main() -> None:
    """Run the sections that fit, print a table, keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=["256m", "500m"], default="256m")
    parser.add_argument("--deadline", type=float, default=450, help="seconds")
    parser.add_argument("--out", type=Path, help="JSON file; default: results/train_gpu.json")
    parser.add_argument("--only", default="", help="sections, with commas between")
    parser.add_argument("--tiles", type=int, default=84, help="of a pack")
    parser.add_argument("--tokens", type=int, default=8192, help="of a pack")
    parser.add_argument("--dry", action="store_true", help="the tiny model on a CPU")
    options = parser.parse_args()
    wanted = options.only.split(",") if options.only else list(SECTIONS)
    if unknown := set(wanted) - set(SECTIONS):
        parser.error(f"no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    run = start(options)
    results = None
    if options.out or not run.entry["dry"]:
        results = Results(path=options.out or OUT, entry=run.entry)
        run.guarded = partial(kept, results)
    for name, (seconds, work) in SECTIONS.items():
        if name not in wanted:
            continue
        if not run.entry["dry"] and time.monotonic() + seconds > run.ends:
            run.entry["skipped"].append(name)
            continue
        print(f"-- {name}", flush=True)
        run.guarded(name, lambda work=work: work(run), run.entry)
    if not run.entry["dry"] and "ceilings" in wanted:
        run.guarded("ceilings at the end", lambda: sections.ceilings(run), run.entry)
    sections.conclude(run)
    if results is not None:
        results.write()
    print_table(run.entry)
    run.world.close()
    print(json.dumps(run.entry))


if __name__ == "__main__":
    main()
