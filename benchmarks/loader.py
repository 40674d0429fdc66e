"""JPEG bytes on disk to a pack in shared memory: our loader against torch's and the floor.

    OMP_NUM_THREADS=1 python benchmarks/loader.py

Tiles a second and core: tiles over the CPU seconds of all processes, start-up left out, because
neighbours on the machine disturb those least. Ours is the whole loader with one worker: plan, read,
decode, tile, tokenise, pack, hand over. ``transformers`` is a ``DataLoader`` with one worker over
its PIL image processor, prompts left out. ``floor`` is one process that decodes with PIL, resizes
once with torch to the grid and once to the global tile, and copies into tiles. On a device, packs
are pinned in place (``Loader(pin=True)``); nothing is copied for it, so it is not in the figures.
"""

import contextlib
import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from image_processing import lanczos, photograph
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from smolvlm2.data.manifest import ManifestRow
from smolvlm2.data.media import MediaLocator
from smolvlm2.loading.loader import Loader
from smolvlm2.loading.reader import PackReader
from smolvlm2.plan.packs import Capacity
from smolvlm2.plan.plan import Plan, Position
from smolvlm2.plan.samples import SourceTable
from smolvlm2.processing.images import ImageSettings, tile_grid
from smolvlm2.processing.processor import Processor
from smolvlm2.processing.tokenizer import extend_for_images
from smolvlm2.processing.tokenizer_training import train_base_tokenizer

RECIPES = {"published": (512, 2048, 64), "specification": (384, 1536, 64)}
"""Tile side, longest edge, tokens of a tile. Small images are enlarged in both, as transformers
does, so that all sides do the same work."""
SIZES = [(640, 480), (1024, 768), (1600, 1200), (1200, 1600), (2048, 1365), (768, 1024)]
SAMPLES_PER_PACK = 3
IMAGES = 18
ROUNDS = 3
WANTED_TILES_PER_S = 1000
ANSWER = "The photograph shows large soft shapes and a fine grain over all of them. " * 4


class Photographs:
    """A prepared source in short: one photograph and one pair of turns a sample."""

    source = "photographs"

    def __init__(self, root: Path) -> None:
        self.data_root = root

    def sample_id(self, index: int) -> str:
        """Stable id."""
        return f"photographs/{index}"

    def row(self, index: int) -> ManifestRow:
        """As ``Manifest.row``."""
        question = [{"type": "image"}, {"type": "text", "text": "What is shown?"}]
        answer = [{"type": "text", "text": ANSWER}]
        return ManifestRow(
            sample_id=self.sample_id(index),
            messages=[
                {"role": "user", "content": question},
                {"role": "assistant", "content": answer},
            ],
            media=[MediaLocator("image", f"{index}.jpg")],
            source=self.source,
        )


class Processed(Dataset):
    """transformers' image processor over the same files."""

    def __init__(self, root: Path, tile: int, edge: int) -> None:
        self.root = root
        self.processor = SmolVLMImageProcessorPil(
            size={"longest_edge": edge}, max_image_size={"longest_edge": tile}
        )

    def __len__(self) -> int:
        return 10**6

    def __getitem__(self, index: int) -> torch.Tensor:
        image = Image.open(self.root / f"{index % IMAGES}.jpg")
        return self.processor(image, return_tensors="pt")["pixel_values"][0]


def processor_for(recipe: str, folder: Path, resample: str) -> Processor:
    """Ours, with a small tokenizer made on the spot."""
    tile, edge, tokens = RECIPES[recipe]
    if not (folder / "tokenizer.json").exists():
        train_base_tokenizer([ANSWER], folder, vocab_size=290)
    return Processor(
        extend_for_images(folder, model_max_length=16384),
        tile_size=tile,
        tokens_per_tile=tokens,
        image=ImageSettings(longest_edge=edge, upscale="always", resample=resample),
    )


def our_loader(root: Path, processor: Processor) -> Loader:
    """Plan and loader over the photographs, one worker."""
    source = Photographs(root)
    samples = [
        processor.encode_sample(row.messages, [(root / row.media[0].path).read_bytes()])
        for row in map(source.row, range(len(SIZES)))
    ]
    at = np.arange(IMAGES) % len(SIZES)
    tiles = np.array([len(sample.tiles) for sample in samples], dtype=np.int32)[at]
    tokens = np.array([len(sample.input_ids) for sample in samples], dtype=np.int32)[at]
    supervised = np.array([sample.supervised.sum() for sample in samples], dtype=np.int32)[at]
    table = SourceTable(
        name=source.source,
        rows=np.arange(IMAGES),
        tiles=tiles,
        tokens=tokens,
        supervised=supervised,
        messages=np.full(IMAGES, 2, dtype=np.int32),
        modality=np.ones(IMAGES, dtype=np.uint8),
        excluded={},
    )
    capacity = Capacity(
        tokens=int(SAMPLES_PER_PACK * tokens.max()),
        tiles=int(SAMPLES_PER_PACK * tiles.max()),
        documents=8,
    )
    plan = Plan([table], [1.0], capacity=capacity, packs_per_step=1, window=IMAGES, seed=0)
    special = processor.tokenizer.special
    reader = PackReader(
        tables=[table],
        manifests=[source],
        processor=processor,
        capacity=capacity,
        image_token_id=special.image,
        pad_token_id=special.pad,
    )
    return Loader(plan, reader, Position(), workers=1)


def cpu_seconds(pids: list[int]) -> float:
    """Of this process and of others, so far."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split() for pid in pids]
    return time.process_time() + sum(int(f[11]) + int(f[12]) for f in fields) / 100


def settle(pids: list[int]) -> None:
    """Wait until the workers have filled their buffers and rest."""
    before = -1.0
    while (now := cpu_seconds(pids)) > before + 0.015:
        before = now
        time.sleep(0.5)


def measure(pids: list[int], take: Callable[[], int]) -> float:
    """Tiles a second and core of ``take``, which returns the tiles that it took."""
    settle(pids)
    start, tiles = cpu_seconds(pids), take()
    settle(pids)
    return tiles / (cpu_seconds(pids) - start)


def ours(loader: Loader) -> Callable[[], float]:
    """Rounds of the loader; it is warm when the first begins."""
    steps = iter(loader)
    next(steps)
    packs = IMAGES // SAMPLES_PER_PACK
    return lambda: measure(
        loader.pool.pids, lambda: sum(step.packs[0].tiles for step in islice(steps, packs))
    )


def theirs(root: Path, tile: int, edge: int) -> Callable[[], float]:
    """Rounds of torch's ``DataLoader``, likewise."""
    loader = DataLoader(
        Processed(root, tile, edge),
        batch_size=SAMPLES_PER_PACK,
        num_workers=1,
        collate_fn=torch.cat,
    )
    batches = iter(loader)
    next(batches)
    pids = [worker.pid for worker in batches._workers]
    packs = IMAGES // SAMPLES_PER_PACK
    return lambda: measure(pids, lambda: sum(len(batch) for batch in islice(batches, packs)))


def floor(root: Path, tile: int, edge: int) -> Callable[[], float]:
    """A round of what cannot be avoided."""
    settings = ImageSettings(longest_edge=edge)
    room = np.empty((SAMPLES_PER_PACK * 26, 3, tile, tile), dtype=np.uint8)

    def one(number: int, at: int) -> int:
        image = Image.open(io.BytesIO((root / f"{number}.jpg").read_bytes()))
        rows, cols = (int(side) for side in tile_grid(*image.size, tile, settings))
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
        grid = lanczos(pixels, rows * tile, cols * tile)
        tiles = room[at : at + rows * cols + 1]
        cut = grid[0].numpy().reshape(3, rows, tile, cols, tile).transpose(1, 3, 0, 2, 4)
        tiles[:-1].reshape(rows, cols, 3, tile, tile)[:] = cut
        tiles[-1] = lanczos(grid, tile, tile)[0].numpy()
        return len(tiles)

    def round_() -> float:
        start, total = time.process_time(), 0
        for first in range(0, IMAGES, SAMPLES_PER_PACK):
            at = 0
            for number in range(first, first + SAMPLES_PER_PACK):
                at += one(number, at)
            total += at
        return total / (time.process_time() - start)

    return round_


def compare(recipe: str, root: Path) -> dict[str, float | str]:
    """Medians of interleaved rounds, and the ratios that matter."""
    tile, edge, _ = RECIPES[recipe]
    with contextlib.ExitStack() as stack:
        loaders = {
            resample: stack.enter_context(
                our_loader(root, processor_for(recipe, root / "tokenizer", resample))
            )
            for resample in ("exact", "fast")
        }
        sides = {
            "transformers": theirs(root, tile, edge),
            **{resample: ours(loader) for resample, loader in loaders.items()},
            "floor": floor(root, tile, edge),
        }
        rounds = [{name: run() for name, run in sides.items()} for _ in range(ROUNDS)]
    rate = {name: statistics.median(each[name] for each in rounds) for name in sides}
    return {
        "recipe": recipe,
        **{f"{name}_tiles_per_s": round(value, 1) for name, value in rate.items()},
        "exact_speedup": round(rate["exact"] / rate["transformers"], 2),
        "fast_speedup": round(rate["fast"] / rate["transformers"], 2),
        "fast_of_floor": round(rate["fast"] / rate["floor"], 2),
        f"cores_for_{WANTED_TILES_PER_S}_tiles_per_s": round(WANTED_TILES_PER_S / rate["fast"], 1),
    }


def main() -> None:
    """Print a table and one line of JSON; keep the result with versions and hardware."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        jpegs = [photograph(*size) for size in SIZES]
        for number in range(IMAGES):
            (root / f"{number}.jpg").write_bytes(jpegs[number % len(jpegs)])
        rows = []
        for recipe in RECIPES:
            rows.append(compare(recipe, root))
            lines = (f"{name:28} {value}" for name, value in rows[-1].items())
            print("\n".join(lines), end="\n\n", flush=True)
    payload = {"images": IMAGES, "sizes": SIZES, "rounds": ROUNDS, "recipes": rows}
    from results_file import record

    print(json.dumps(record("loader", payload)))


if __name__ == "__main__":
    main()
