"""Best fit, decreasing: as few packs as possible, for samples that are large against a pack."""

import heapq

import numpy as np
from numpy.typing import NDArray


def best_fit(
    tokens: NDArray[np.int64],
    tiles: NDArray[np.int64],
    *,
    most_tokens: int,
    most_tiles: int,
    documents: int,
) -> NDArray[np.int64]:
    """Give each sample to the pack in which it leaves the fewest tiles free.

    Samples with tiles come first, from the largest down; among packs with equally many free tiles
    the one with most room for tokens is tried. Samples without tiles follow, each to the pack with
    most room for tokens.

    Args:
        tokens: ``(n,)`` tokens of each sample, none above ``most_tokens``.
        tiles: ``(n,)`` tiles likewise.
        most_tokens: Capacity of a pack.
        most_tiles: Likewise.
        documents: Most samples of a pack.

    Returns:
        ``(n,)`` pack of each sample.
    """
    pack_of = np.zeros(len(tokens), dtype=np.int64)
    # Open packs by free tiles, each list a heap with most room for tokens on top.
    by_tiles: list[list[tuple[int, int]]] = [[] for _ in range(most_tiles + 1)]
    held: list[int] = []
    visual, text = np.flatnonzero(tiles > 0), np.flatnonzero(tiles == 0)
    size = np.maximum(tiles / most_tiles, tokens / most_tokens)
    for sample in visual[np.argsort(-size[visual], kind="stable")].tolist():
        wanted_tiles, wanted_tokens = int(tiles[sample]), int(tokens[sample])
        for free in range(wanted_tiles, most_tiles + 1):
            heap = by_tiles[free]
            if heap and -heap[0][0] >= wanted_tokens:
                room, pack = heapq.heappop(heap)
                break
        else:
            free, room, pack = most_tiles, -most_tokens, len(held)
            held.append(0)
        pack_of[sample] = pack
        held[pack] += 1
        if held[pack] < documents:
            heapq.heappush(by_tiles[free - wanted_tiles], (room + wanted_tokens, pack))
    heap = [entry for entries in by_tiles for entry in entries]
    heapq.heapify(heap)
    for sample in text[np.argsort(-tokens[text], kind="stable")].tolist():
        wanted_tokens = int(tokens[sample])
        if heap and -heap[0][0] >= wanted_tokens:
            room, pack = heapq.heappop(heap)
        else:
            room, pack = -most_tokens, len(held)
            held.append(0)
        pack_of[sample] = pack
        held[pack] += 1
        if held[pack] < documents:
            heapq.heappush(heap, (room + wanted_tokens, pack))
    return pack_of
