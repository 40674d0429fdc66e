"""Sharing a window's samples out among packs so that all packs weigh alike, in several measures.

Ranks wait for their slowest, so packs must be alike in cost, not only below capacity. Samples are
spread largest first, then pairs of packs exchange samples for as long as it makes them more alike.
All numbers are integers (kept in float64 below 2**53, where sums and products are exact), so that
every machine finds the same packs.
"""

import heapq

import numpy as np
from numpy.typing import NDArray

from smolvlm2.plan.permutation import derive_key, permute

UNIT = 1 << 20
"""About a full pack, in each measure."""
CANDIDATES = 12
"""Samples of a pack that are looked at in one exchange; others have their turn in later rounds."""
REPAIRS = 48
"""Rounds in which packs above capacity may get rid of the excess."""
PATIENCE = 8
"""Rounds in which the packs above capacity must become half as many, else there is no hope."""
OVER = 1 << 26
"""Weight of a unit above capacity; any imbalance weighs less."""


def spread(
    packs: int,
    cost: NDArray[np.int64],
    tiles: NDArray[np.int64],
    tokens: NDArray[np.int64],
    *,
    documents: int,
) -> NDArray[np.int64]:
    """Give each sample to the pack that has least so far, from the largest sample down.

    Samples with tiles go by cost. Then those without go where fewest tokens are: they level out
    what the tiles have left over.

    Args:
        packs: Their number; with ``documents`` each they hold all samples.
        cost: ``(n,)`` of a sample.
        tiles: ``(n,)`` likewise.
        tokens: ``(n,)`` likewise.
        documents: Most samples of a pack.

    Returns:
        ``(n,)`` pack of each sample.
    """
    pack_of = np.zeros(len(cost), dtype=np.int64)
    visual, text = np.flatnonzero(tiles > 0), np.flatnonzero(tiles == 0)
    room, load = [documents] * packs, np.zeros(packs, dtype=np.int64)
    _give(visual[np.argsort(-cost[visual], kind="stable")], cost, load, room, pack_of)
    np.add.at(load, pack_of[visual], tokens[visual])
    _give(text[np.argsort(-tokens[text], kind="stable")], tokens, load, room, pack_of)
    return pack_of


def _give(
    order: NDArray[np.int64],
    values: NDArray[np.int64],
    load: NDArray[np.int64],
    room: list[int],
    pack_of: NDArray[np.int64],
) -> None:
    heap = [(total, pack) for pack, total in enumerate(load.tolist()) if room[pack]]
    heapq.heapify(heap)
    for sample, value in zip(order.tolist(), values[order].tolist(), strict=True):
        total, pack = heap[0]
        pack_of[sample] = pack
        room[pack] -= 1
        if room[pack]:
            heapq.heapreplace(heap, (total + value, pack))
        else:
            heapq.heappop(heap)


class Exchange:
    """Packs as rows of a table of samples, and how much each holds.

    Args:
        pack_of: ``(n,)`` pack of each sample.
        packs: Their number.
        measures: ``(n, m)`` what is to be alike, integers; a pack's sums are about `UNIT`.
        limits: Capacity of a pack in the first measures.
        documents: Most samples of a pack.
    """

    def __init__(
        self,
        pack_of: NDArray[np.int64],
        packs: int,
        measures: NDArray[np.int64],
        limits: NDArray[np.int64],
        *,
        documents: int,
    ) -> None:
        self.limits = limits.astype(np.float64)
        # An empty place is a sample that weighs nothing: exchanging with it moves a sample.
        self.empty = len(pack_of)
        self.measures = np.vstack([measures, np.zeros_like(measures[:1])]).astype(np.float64)
        counts = np.bincount(pack_of, minlength=packs)
        width = min(int(counts.max()) + 1, documents)
        order = np.argsort(pack_of, kind="stable")
        column = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
        self.members = np.full((packs, width), self.empty)
        self.members[pack_of[order], column] = order
        self.load = self.measures[self.members].sum(axis=1)

    def emphasise(self, weight: int) -> None:
        """Give the measures without a limit more weight in all that follows."""
        self.measures[:, len(self.limits) :] *= weight
        self.load[:, len(self.limits) :] *= weight

    def level(self, rounds: int, *, start: int = 0, capacity: bool = False) -> None:
        """Exchange one sample in each pair of packs, all pairs at once, for some rounds.

        Pairs join much with little of one measure after another; then they are drawn, and so on.

        Args:
            rounds: Their number.
            start: How many of them are done already.
            capacity: Whether packs within capacity stay there; slower.
        """
        packs, kinds = self.load.shape
        for number in range(start, rounds if packs > 1 else 0):
            kind = number % (kinds + 1)
            if kind < kinds:
                order = np.argsort(self.load[:, kind], kind="stable")
            else:
                order = permute(np.arange(packs), packs, derive_key(packs, number))
            half = packs // 2
            self._exchange(order[::-1][:half], order[:half], number, capacity=capacity)

    def excess(self) -> float:
        """By what part of its capacity a pack is above it, on average; 0 where none is."""
        share = self.load[:, : len(self.limits)] / self.limits
        return float(np.maximum(share - 1, 0).max(axis=1).mean())

    def repair(self) -> bool:
        """Exchange samples of packs above capacity; tells whether all are within it now."""
        before = 2 * len(self.load)
        for number in range(REPAIRS):
            share = self.load[:, : len(self.limits)] / self.limits
            fullest = share.max(axis=1)
            over = np.flatnonzero(fullest > 1)
            if not len(over):
                return True
            if number % PATIENCE == 0:
                if len(over) > before // 2:
                    return False
                before = len(over)
            over = over[np.argsort(-fullest[over], kind="stable")]
            kind = number % (len(self.limits) + 1)
            least = np.argsort(fullest if kind == len(self.limits) else share[:, kind])
            # Not the same partners each time, should they have nothing to offer.
            least = least[fullest[least] <= 1][number // 3 :]
            pairs = min(len(over), len(least))
            self._exchange(over[:pairs], least[:pairs], number, capacity=True)
        return self.excess() == 0

    def packs(self) -> list[NDArray[np.int64]]:
        """For each pack its samples, ascending; empty packs are left out."""
        rows = (np.sort(row[row != self.empty]) for row in self.members)
        return [row for row in rows if len(row)]

    def _candidates(self, start: int) -> NDArray[np.int64]:
        width = self.members.shape[1]
        return (np.arange(min(width, CANDIDATES)) + start) % width

    def _exchange(
        self, a: NDArray[np.int64], b: NDArray[np.int64], number: int, *, capacity: bool = False
    ) -> None:
        """The best exchange of one sample for one in each pair of packs, where one helps.

        A sample u of a and v of b change the sum of squared loads by 2 (u - v)(u - v - g), where g
        is the difference of the packs' loads.
        """
        # Steps without common divisors: in time all places of two packs meet.
        places_a, places_b = self._candidates(number * 11), self._candidates(number * 7)
        in_a, in_b = self.members[a][:, places_a], self.members[b][:, places_b]
        u, v = self.measures[in_a], self.measures[in_b]
        gap = (self.load[a] - self.load[b])[:, :, None]
        change = ((u * u).sum(axis=2) - (u @ gap)[:, :, 0])[:, :, None]
        change = change + ((v * v).sum(axis=2) + (v @ gap)[:, :, 0])[:, None, :]
        change -= 2 * (u @ v.transpose(0, 2, 1))
        if capacity:
            change = self._excess(a, b, u, v) * OVER + np.minimum(change / UNIT, OVER / 2)
        flat = change.reshape(len(a), change.shape[1] * change.shape[2])
        best = flat.argmin(axis=1)
        useful = np.flatnonzero(flat[np.arange(len(a)), best] < 0)
        i, j = best[useful] // len(places_b), best[useful] % len(places_b)
        a, b = a[useful], b[useful]
        from_a, from_b = in_a[useful, i], in_b[useful, j]
        self.members[a, places_a[i]], self.members[b, places_b[j]] = from_b, from_a
        moved = self.measures[from_a] - self.measures[from_b]
        self.load[a] -= moved
        self.load[b] += moved

    def _excess(
        self,
        a: NDArray[np.int64],
        b: NDArray[np.int64],
        u: NDArray[np.float64],
        v: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """By how much each exchange raises what is above capacity, ``(pairs, places, places)``."""
        found = np.zeros((len(a), u.shape[1], v.shape[1]))
        for kind, limit in enumerate(self.limits.tolist()):
            moved = u[:, :, None, kind] - v[:, None, :, kind]
            over_a = (self.load[a, kind] - limit)[:, None, None]
            over_b = (self.load[b, kind] - limit)[:, None, None]
            found -= np.maximum(over_a, 0) + np.maximum(over_b, 0)
            found += np.maximum(over_a - moved, 0)
            found += np.maximum(over_b + moved, 0)
        return found
