"""Generated mixtures: sizes only, in the proportions of what is published of them."""

import numpy as np

from smolvlm2.plan.samples import SourceTable

SAMPLES = 20_000
"""Of a mixture."""


def table(name: str, code: int, tiles: np.ndarray, text: np.ndarray, loss: float) -> SourceTable:
    """A source: 64 visual tokens and 3 markers a tile, and its text."""
    return SourceTable(
        name=name,
        rows=np.arange(len(tiles)),
        tiles=tiles.astype(np.int32),
        tokens=(text + 67 * tiles).astype(np.int32),
        supervised=(text * loss).astype(np.int32),
        messages=np.full(len(tiles), 2, dtype=np.int32),
        modality=np.full(len(tiles), code, dtype=np.uint8),
        excluded={},
    )


def general(frames: tuple[int, int]) -> list[SourceTable]:
    """Image 34 %, video 33 %, text 20 %, several images 12 %."""
    draw = np.random.default_rng(0)

    def between(low: int, high: int, count: int) -> np.ndarray:
        return draw.integers(low, high + 1, count)

    image, video, text, several = (int(SAMPLES * s) for s in (0.344, 0.33, 0.202, 0.124))
    large = np.where(draw.random(image) < 0.3, between(1, 4, image), between(5, 17, image))
    pages = between(2, 4, several) * between(1, 5, several)
    return [
        table("image", 1, large, between(30, 300, image), 0.25),
        table("video", 3, between(*frames, video), between(30, 300, video), 0.25),
        table("text", 0, np.zeros(text, dtype=int), between(200, 1500, text), 0.67),
        table("multi-image", 2, pages, between(30, 300, several), 0.25),
    ]


def documents() -> list[SourceTable]:
    """Single images and documents of 1 to 14 pages, up to 16k tokens; 384 px, 17 tiles a page."""
    draw = np.random.default_rng(0)
    image, document = int(SAMPLES * 0.7), int(SAMPLES * 0.3)
    pages = np.rint(np.exp(draw.uniform(0, np.log(14), document))).astype(int)
    return [
        table("image", 1, draw.integers(1, 18, image), draw.integers(30, 301, image), 0.25),
        table("document", 2, pages * 17, draw.integers(30, 301, document), 0.25),
    ]
