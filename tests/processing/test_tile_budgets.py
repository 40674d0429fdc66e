"""Which longest edges a training image may be given."""

from smolvlm2.processing.tile_budgets import TileBudgets, tile_budgets
from smolvlm2.processing.tiling import ImageSettings


def budgets(longest_edge: int, tile_size: int, random_tiles: bool = True) -> TileBudgets:
    settings = ImageSettings(longest_edge=longest_edge, random_tiles=random_tiles)
    return tile_budgets(settings, tile_size)


def test_the_published_chances():
    assert budgets(2560, 512) == TileBudgets((1024, 1536, 2048, 2560), (4, 3, 2, 1))
    assert budgets(2048, 512) == TileBudgets((1024, 1536, 2048), (4, 3, 3))
    assert budgets(1536, 512) == TileBudgets((1024, 1536), (4, 6))
    assert budgets(1092, 364) == TileBudgets((364, 728, 1092), (5, 3, 2))


def test_without_draws_there_is_one_edge():
    assert budgets(2048, 512, random_tiles=False) == TileBudgets((2048,), (1,))
    assert budgets(512, 512) == TileBudgets((512,), (10,))
