"""Opening a mixture of 24 million generated samples: first time, afterwards, and resuming."""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.lib.format import open_memmap

from smolvlm2.data.geometry import COLUMNS, TOKEN_COLUMNS, token_folder
from smolvlm2.data.manifest import MANIFEST_SCHEMA, Manifest
from smolvlm2.data.mixture import MixtureEntry, MixtureSettings, check_overlap
from smolvlm2.loading.sample_table import LimitSettings, admit, sample_shares
from smolvlm2.plan.packs import PackSettings, capacity_for
from smolvlm2.plan.plan import Plan, Position
from smolvlm2.processing.lengths import LengthModel
from smolvlm2.processing.tiling import ImageSettings
from smolvlm2.processing.tokenizer import Tokenizer, extend_for_images
from smolvlm2.processing.tokenizer_training import train_base_tokenizer
from smolvlm2.processing.video_sampling import VideoSettings

ROWS = 24_000_000
SUBSETS = 185
BATCH_ROWS = 1_000_000


def write_source(folder: Path, key: str) -> None:
    """A prepared source of one image a row: geometry as it would be, messages empty."""
    geometry, draw = folder / "geometry", np.random.default_rng(0)
    tokens = token_folder(geometry, key)
    tokens.mkdir(parents=True)
    sizes = dict.fromkeys(COLUMNS, ROWS) | {"message_role": 2 * ROWS}
    sizes |= {"media_offsets": ROWS + 1, "message_offsets": ROWS + 1}
    for name, dtype in (COLUMNS | TOKEN_COLUMNS).items():
        size = sizes.get(name, 2 * ROWS)
        where = tokens if name in TOKEN_COLUMNS else geometry
        column = open_memmap(where / f"{name}.npy", mode="w+", dtype=dtype, shape=(size,))
        for start in range(0, size, BATCH_ROWS):
            place = np.arange(start, min(start + BATCH_ROWS, size))
            column[place] = values(name, place, draw)
    with pa.ipc.new_file(folder / "manifest.arrow", MANIFEST_SCHEMA) as writer:
        for start in range(0, ROWS, BATCH_ROWS):
            ids = pc.binary_join_element_wise(
                "large", pc.cast(pa.array(np.arange(start, start + BATCH_ROWS)), pa.string()), "/"
            )
            empty = pa.array(["[]"] * BATCH_ROWS, pa.large_string())
            flags = pa.array(np.zeros(BATCH_ROWS, dtype=np.uint8))
            writer.write_batch(pa.record_batch([flags, ids, empty, empty], schema=MANIFEST_SCHEMA))
    facts = {"source": "large", "rows_kept": ROWS, "hash": "large"}
    facts["subsets"] = [f"part{number}" for number in range(SUBSETS)]
    (folder / "source.json").write_text(json.dumps(facts))


def values(name: str, place: np.ndarray, draw: np.random.Generator) -> Any:
    """One column's values for some rows, media or messages."""
    constant = {"media_fps": 0, "media_duration": 0, "media_frames": 1, "row_flags": 0}
    constant |= {"media_kind": 0, "media_message": 0, "row_modality": 1}
    if name in constant:
        return constant[name]
    if name.startswith("media_") and name != "media_offsets":
        return draw.integers(200, 2400, len(place))
    return {
        "media_offsets": place,
        "message_offsets": 2 * place,
        "message_role": 1 + place % 2,
        "row_subset": place * SUBSETS // ROWS,
        "message_text_tokens": draw.integers(10, 200, len(place)),
        "message_supervised": np.where(place % 2, draw.integers(5, 10, len(place)), 0),
    }[name]


def open_plan(folder: Path, tokenizer: Path) -> Plan:
    """What starting a run does, up to its plan."""
    lengths = LengthModel(
        Tokenizer.from_pretrained(tokenizer), 64, ImageSettings(), VideoSettings(), tile_size=512
    )
    manifest = Manifest.open(folder, lengths.tokenizer.key)
    entries = [MixtureEntry(source="large", subset=f"part{n}") for n in range(SUBSETS)]
    mixture = MixtureSettings(entries=entries, unit="visits")
    check_overlap(mixture, {"large": manifest.subsets})
    tables = admit(entries, {"large": manifest}, lengths, LimitSettings(), max_tokens=8192)
    shares = sample_shares(mixture, tables)
    most = [max(table.total(f"max_{name}") for table in tables) for name in ("tokens", "tiles")]
    # Means known from the totals stand in for those of a draw.
    mean = [
        np.array([int(8 * table.mean(name)) for table in tables]) for name in ("tokens", "tiles")
    ]
    capacity = capacity_for(
        PackSettings(),
        samples_per_pack=1,
        tokens=mean[0],
        tiles=mean[1],
        largest_tokens=most[0],
        largest_tiles=most[1],
    )
    plan = Plan(tables, shares, capacity=capacity, packs_per_step=32, window=8192, seed=0)
    plan.digest()
    return plan


def peak_mb() -> int:
    """Most memory this process has held, mapped pages of files included."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) // 1024


def measure_large() -> dict[str, float]:
    """Seconds and memory; the openings run in processes of their own."""
    folder = Path(tempfile.mkdtemp(prefix="plan_large"))
    try:
        train_base_tokenizer(
            ["What is this? User: Assistant:"] * 3, folder / "words", vocab_size=290
        )
        extend_for_images(folder / "words", model_max_length=8192).save_pretrained(folder / "t")
        key = Tokenizer.from_pretrained(folder / "t").key
        write_source(folder / "data" / "prepared" / "large", key)
        found: dict[str, float] = {"samples": ROWS}
        for phase in ("first", "again"):
            command = [sys.executable, __file__, str(folder)]
            out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found |= {f"{phase}_{name}": v for name, v in json.loads(out).items()}
        return found
    finally:
        shutil.rmtree(folder)


def main() -> None:
    """Open the source given as argument and print what it took."""
    folder = Path(sys.argv[1])
    before = peak_mb()
    start, cpu = time.perf_counter(), time.process_time()
    plan = open_plan(folder / "data" / "prepared" / "large", folder / "t")
    opened, opened_cpu = time.perf_counter(), time.process_time()
    peak = peak_mb()
    plan.step(Position(window=1234, pack=56))
    resumed, resumed_cpu = time.perf_counter(), time.process_time()
    print(
        json.dumps(
            {
                "open_s": round(opened - start, 3),
                "open_cpu_s": round(opened_cpu - cpu, 3),
                "open_peak_mb": peak - before,
                "resume_s": round(resumed - opened, 3),
                "resume_cpu_s": round(resumed_cpu - opened_cpu, 3),
                "process_peak_mb": peak_mb(),
            }
        )
    )


if __name__ == "__main__":
    main()
