"""A row of ids as chips: one a token, one for each run of visual tokens."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from smolvlm2.processing import prompt_strings
from smolvlm2.processing.processor import ProcessedSample
from smolvlm2.processing.template import VideoLayout
from smolvlm2.processing.tokenizer import Tokenizer

FAKE = prompt_strings.FAKE.encode()
_SIGNS = {"\n": "\u23ce", "\t": "\u21e5", "\r": "\u240d"}
"""What stands for characters without a picture."""


@dataclass(kw_only=True, frozen=True)
class Chip:
    """One token, or the visual tokens of one tile."""

    kind: Literal["text", "special", "visual"]
    """``special`` and ``visual`` by id: text can never look like them."""
    start: int
    """Position of the first token."""
    count: int
    """Tokens; more than 1 only for visual ones."""
    token_id: int
    """Of each."""
    data: bytes
    """What the id stands for."""
    supervised: bool
    """Whether they carry loss."""
    tile: int | None = None
    """Which tile the visual tokens are of."""

    @property
    def text(self) -> str:
        """The bytes as characters, those that are half a character as ``\\xNN``."""
        return self.data.decode("utf-8", "backslashreplace")

    @property
    def shown(self) -> str:
        """The text with signs for line breaks and tabs."""
        return "".join(_SIGNS.get(character, character) for character in self.text)

    @property
    def positions(self) -> str:
        """``12`` or ``12-75``."""
        last = self.start + self.count - 1
        return f"{self.start}-{last}" if self.count > 1 else str(self.start)

    @property
    def details(self) -> str:
        """Position, id, bytes and mask, in one line."""
        tile = f" · tile {self.tile}" if self.tile is not None else ""
        mask = "supervised" if self.supervised else "no loss"
        return f"{self.positions} · id {self.token_id} · {self.data!r}{tile} · {mask}"


def chips(sample: ProcessedSample, tokenizer: Tokenizer) -> list[Chip]:
    """Cut a sample's ids into chips; their counts sum to its length.

    Args:
        sample: As training gets it.
        tokenizer: That made its ids.
    """
    special = tokenizer.special
    specials = {special.bos, special.end_of_utterance, special.pad, special.fake}
    specials |= {special.global_image, *special.tiles.values()}
    found, tile = [], 0
    for start, stop in _runs(sample, special.image):
        token_id = int(sample.input_ids[start])
        visual = token_id == special.image
        found.append(
            Chip(
                kind="visual" if visual else "special" if token_id in specials else "text",
                start=start,
                count=stop - start,
                token_id=token_id,
                data=tokenizer.token_bytes(token_id),
                supervised=bool(sample.supervised[start]),
                tile=tile if visual else None,
            )
        )
        tile += visual
    return found


def _runs(sample: ProcessedSample, image: int) -> Iterator[tuple[int, int]]:
    """Start and end of each token; visual tokens in a row, equal in mask, are one run."""
    ids, supervised = sample.input_ids, sample.supervised
    joined = (ids[1:] == image) & (ids[:-1] == image) & (supervised[1:] == supervised[:-1])
    starts = [0, *(np.flatnonzero(~joined) + 1).tolist()] if len(ids) else []
    return zip(starts, [*starts[1:], len(ids)], strict=True)


@dataclass(kw_only=True, frozen=True)
class Tile:
    """One tile of a medium, and the tokens it became."""

    number: int
    """Index into ``ProcessedSample.tiles``."""
    name: str
    """What stands before its visual tokens: ``<row_1_col_2>`` or ``<global-img>``."""
    row: int | None = None
    """From 0; None for a whole image or a frame."""
    col: int | None = None
    """From 0; None for a whole image or a frame."""
    time: float | None = None
    """Of a frame, in seconds from the clip's start."""
    chip: Chip | None = None
    """Its visual tokens; None where the ids have none, which is a defect worth seeing."""


def tiles_of_media(sample: ProcessedSample, found: list[Chip]) -> list[list[Tile]]:
    """The tiles of each medium in reading order; names and positions come from the ids.

    Args:
        sample: As training gets it.
        found: Its chips.
    """
    runs = [place for place, chip in enumerate(found) if chip.kind == "visual"]
    media, number = [], 0
    for layout in sample.layouts:
        tiles = []
        for index in range(layout.tiles):
            place = runs[number] if number < len(runs) else None
            row = col = time = None
            if isinstance(layout, VideoLayout):
                time = layout.timestamps[index]
            elif index < layout.rows * layout.cols:
                row, col = divmod(index, layout.cols)
            tiles.append(
                Tile(
                    number=number,
                    name="no tokens" if place is None else _name_before(found, place),
                    row=row,
                    col=col,
                    time=time,
                    chip=None if place is None else found[place],
                )
            )
            number += 1
        media.append(tiles)
    return media


def _name_before(found: list[Chip], place: int) -> str:
    """Text between the marker in front of an image and its visual tokens.

    Beyond row or column 6 a name is several tokens of text.
    """
    first = place
    while first and found[first - 1].data != FAKE:
        first -= 1
    return "".join(chip.text for chip in found[first:place])


def defects(sample: ProcessedSample, found: list[Chip], tokens_per_tile: int) -> list[str]:
    """What does not fit together, in words; nothing in a sound sample.

    Args:
        sample: As training gets it.
        found: Its chips.
        tokens_per_tile: Visual tokens that the model makes of a tile.
    """
    visual = [chip for chip in found if chip.kind == "visual"]
    wrong = []
    if len(visual) != len(sample.tiles):
        wrong.append(f"{len(visual)} runs of visual tokens for {len(sample.tiles)} tiles")
    if odd := [chip.positions for chip in visual if chip.count != tokens_per_tile]:
        wrong.append(f"runs of other than {tokens_per_tile} visual tokens at {', '.join(odd)}")
    if not sample.supervised.any():
        wrong.append("no supervised token: the sample teaches nothing")
    return wrong
