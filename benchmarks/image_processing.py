"""JPEG bytes to tiles on one core: ours against transformers' and against the floor.

    OMP_NUM_THREADS=1 python benchmarks/image_processing.py

All sides run in one process, interleaved; figures are medians of CPU time (one thread, so that
neighbours on the machine disturb them least). ``floor`` is what cannot be avoided: PIL's JPEG
decoder, one uint8 Lanczos resize to the final grid by torch, one to the global tile, one copy into
tiles. The bits of ``exact`` are compared with transformers' first.
"""

import io
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from smolvlm2.processing.images import ImageSettings, image_tiles, open_image, tile_grid

TILE = 512
LONGEST_EDGE = 2048
SIZES = [(386, 386), (640, 480), (1600, 1200), (2480, 3508)]
ROUNDS = 11
RESULT = Path(__file__).parent / "results" / "image_processing.json"


def photograph(width: int, height: int) -> bytes:
    """A JPEG with large shapes and fine grain, quality 90."""
    generator = np.random.default_rng(width)
    shapes = generator.integers(0, 255, (height // 16 + 2, width // 16 + 2, 3), dtype=np.uint8)
    smooth = Image.fromarray(shapes).resize((width, height), Image.Resampling.BICUBIC)
    grain = generator.integers(-6, 7, (height, width, 1))
    pixels = (np.asarray(smooth).astype(np.int16) + grain).clip(0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def sides() -> dict[str, Callable[[bytes], np.ndarray]]:
    """The competitors: each takes JPEG bytes and gives its tiles."""
    exact = ImageSettings(longest_edge=LONGEST_EDGE, resample="exact")
    fast = ImageSettings(longest_edge=LONGEST_EDGE, resample="fast")
    theirs = SmolVLMImageProcessorPil(
        size={"longest_edge": LONGEST_EDGE}, max_image_size={"longest_edge": TILE}
    )

    def ours(settings: ImageSettings) -> Callable[[bytes], np.ndarray]:
        return lambda jpeg: image_tiles(open_image(jpeg), TILE, settings)[0]

    def transformers_pil(jpeg: bytes) -> np.ndarray:
        image = Image.open(io.BytesIO(jpeg))
        return theirs(image, return_tensors="np")["pixel_values"][0]

    def floor(jpeg: bytes) -> np.ndarray:
        image = Image.open(io.BytesIO(jpeg))
        rows, cols = (int(side) for side in tile_grid(*image.size, TILE, fast))
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
        grid = lanczos(pixels, rows * TILE, cols * TILE)
        tiles = np.empty((rows * cols + 1, 3, TILE, TILE), dtype=np.uint8)
        cut = grid[0].numpy().reshape(3, rows, TILE, cols, TILE).transpose(1, 3, 0, 2, 4)
        tiles[:-1].reshape(rows, cols, 3, TILE, TILE)[:] = cut
        tiles[-1] = lanczos(grid, TILE, TILE)[0].numpy()
        return tiles

    return {
        "transformers": transformers_pil,
        "exact": ours(exact),
        "fast": ours(fast),
        "floor": floor,
    }


def lanczos(pixels: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """torch's antialiased Lanczos on uint8."""
    return torch.nn.functional.interpolate(
        pixels, size=(height, width), mode="lanczos", antialias=True
    )


def measure(width: int, height: int) -> dict[str, float | str | int]:
    """Medians in milliseconds an image, and the ratios that matter."""
    jpeg = photograph(width, height)
    runs = sides()
    tiles = {name: run(jpeg) for name, run in runs.items()}
    restored = np.rint((tiles["transformers"] * 0.5 + 0.5) * 255).astype(np.uint8)
    if not np.array_equal(restored, tiles["exact"]):
        raise SystemExit(f"{width} x {height}: exact differs from transformers")
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            start = time.process_time()
            run(jpeg)
            times[name].append((time.process_time() - start) * 1000)
    ms = {name: statistics.median(values) for name, values in times.items()}
    apart = np.abs(tiles["fast"].astype(np.int16) - tiles["exact"])
    return {
        "size": f"{width}x{height}",
        "tiles": len(tiles["exact"]),
        **{f"{name}_ms": round(value, 1) for name, value in ms.items()},
        "exact_speedup": round(ms["transformers"] / ms["exact"], 2),
        "fast_speedup": round(ms["transformers"] / ms["fast"], 2),
        "fast_of_floor": round(ms["floor"] / ms["fast"], 2),
        "fast_tiles_per_s": round(len(tiles["fast"]) / ms["fast"] * 1000),
        "fast_max_difference": int(apart.max()),
        "fast_mean_difference": round(float(apart.mean()), 3),
    }


def main() -> None:
    """Print a table and one line of JSON; keep the result with versions and hardware."""
    torch.set_num_threads(1)
    rows = [measure(*size) for size in SIZES]
    names = list(rows[0])
    print("  ".join(name.rjust(11) for name in names))
    for row in rows:
        print("  ".join(str(row[name]).rjust(max(11, len(name))) for name in names))
    payload = {"tile": TILE, "longest_edge": LONGEST_EDGE, "rounds": ROUNDS, "images": rows}
    from results_file import record

    print(json.dumps(record(RESULT.stem, payload)))


if __name__ == "__main__":
    main()
