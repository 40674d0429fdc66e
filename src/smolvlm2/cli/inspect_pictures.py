"""Tiles and originals as data URIs, within a budget: a page must open on a phone."""

import base64
import io
from dataclasses import dataclass
from html import escape

import numpy as np
from PIL import Image

PAGE_BYTES = 16 * 2**20
"""Of all pictures of a page; what comes after is drawn as empty boxes and counted."""
SMALL_EDGE = 96
"""Pictures up to this size, in pixels, are kept bit for bit (PNG)."""
JPEG_QUALITY = 85


@dataclass(kw_only=True)
class Pictures:
    """Makes ``<img>`` elements until the budget is spent."""

    edge: int | None = 256
    """Longest edge that is embedded, in pixels; None keeps the size."""
    budget: int = PAGE_BYTES
    """Bytes left."""
    left_out: int = 0
    """Pictures that did not fit."""

    def tile(self, tile: np.ndarray, label: str) -> str:
        """A tile, uint8 ``(3, S, S)``, as the model gets it."""
        return self.image(Image.fromarray(np.ascontiguousarray(tile.transpose(1, 2, 0))), label)

    def image(self, image: Image.Image, label: str) -> str:
        """An RGB picture, reduced to ``edge``."""
        if self.budget <= 0:
            self.left_out += 1
            return f"<span class=blank title='{escape(label)}: left out of the page'></span>"
        if self.edge is not None and max(image.size) > self.edge:
            image = image.copy()
            image.thumbnail((self.edge, self.edge), Image.Resampling.LANCZOS)
        kind = "png" if max(image.size) <= SMALL_EDGE else "jpeg"
        file = io.BytesIO()
        image.save(file, kind, **({} if kind == "png" else {"quality": JPEG_QUALITY}))
        encoded = base64.b64encode(file.getvalue()).decode()
        self.budget -= len(encoded)
        return f"<img src='data:image/{kind};base64,{encoded}' alt='{escape(label)}'>"
