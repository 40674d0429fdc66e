"""How large an image of a training sample may become: fixed, or drawn for each sample."""

from dataclasses import dataclass

from smolvlm2.processing.tiling import ImageSettings

LARGE_EDGE = 1092
"""Recipes whose longest edge is above this, in pixels, draw among more tiles."""
LARGE_CHANCES = {2: 4, 3: 3, 4: 2, 5: 1}
"""Tiles along the longest edge and their chances, in tenths, above `LARGE_EDGE`."""
SMALL_CHANCES = {1: 5, 2: 3, 3: 2}
"""The same up to it."""


@dataclass(frozen=True)
class TileBudgets:
    """The longest edges that a sample's images may be given."""

    edges: tuple[int, ...]
    """Pixels, ascending."""
    chances: tuple[int, ...]
    """Of each edge, integers in any unit."""


def tile_budgets(settings: ImageSettings, tile_size: int) -> TileBudgets:
    """What a recipe draws from; one edge where it draws nothing.

    Args:
        settings: How images become tiles.
        tile_size: Side of a tile, in pixels.

    Source:
        The published image stages draw for every image; we draw once for a sample, so that its
        lengths under each budget can be computed before the plan (docs/decisions/014-recipe.md).

    >>> tile_budgets(ImageSettings(longest_edge=2048, random_tiles=True), 512)
    TileBudgets(edges=(1024, 1536, 2048), chances=(4, 3, 3))
    """
    if not settings.random_tiles:
        return TileBudgets((settings.longest_edge,), (1,))
    chances = LARGE_CHANCES if settings.longest_edge > LARGE_EDGE else SMALL_CHANCES
    found: dict[int, int] = {}
    for tiles, chance in chances.items():
        edge = min(tiles * tile_size, settings.longest_edge)
        found[edge] = found.get(edge, 0) + chance
    return TileBudgets(tuple(found), tuple(found.values()))
