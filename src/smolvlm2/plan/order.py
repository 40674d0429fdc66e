"""Which sample stands at which position: a weighted interleave of per-source shuffles.

A pure function of (seed, position): nothing is stored, any position can be asked for.
"""

import math
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from smolvlm2.plan.permutation import derive_keys, permute
from smolvlm2.plan.samples import Samples, SourceTable, check_tables

BISECTIONS = 100
"""Halvings of a time interval; after them its ends are neighbouring floats."""


class Order:
    """The sequence of samples of a mixture.

    Source i with share p_i puts its k-th sample at the virtual time (k + 1/2) / p_i; sorting by it
    keeps every prefix within about one sample a source of its share. Each source visits every
    sample once an epoch, in an order of its own for each epoch.

    Args:
        tables: The sources.
        weights: Share of samples of each source, in any unit.
        seed: Chooses the shuffles.
        epochs: After so many epochs each source ends, and the others go on among themselves; None:
            all repeat for ever.
    """

    def __init__(
        self,
        tables: list[SourceTable],
        weights: list[float],
        *,
        seed: int,
        epochs: float | None = None,
    ) -> None:
        check_tables(tables, weights)
        self.sizes = [len(table) for table in tables]
        total = sum(weights)
        self.shares = np.array([weight / total for weight in weights])
        self.seed = seed
        self.ends: NDArray[np.int64] | None = None
        if epochs is not None:
            exact = Fraction(str(epochs))
            self.ends = np.array([math.ceil(exact * size) for size in self.sizes], dtype=np.int64)

    @property
    def length(self) -> int | None:
        """Samples of the whole sequence; None: it is endless."""
        return None if self.ends is None else int(self.ends.sum())

    def samples(self, start: int, stop: int) -> Samples:
        """The samples at positions ``start`` to ``stop - 1``, in order; fewer at the end."""
        if self.length is not None:
            start, stop = min(start, self.length), min(stop, self.length)
        first, last = self._counts_before(start), self._counts_before(stop, above=True)
        source = np.repeat(np.arange(len(first)), last - first)
        ordinal = np.arange(len(source)) - np.repeat(np.cumsum(last - first) - last, last - first)
        times = (ordinal + 0.5) / self.shares[source]
        chosen = np.lexsort((source, times))[start - first.sum() : stop - first.sum()]
        return self._look_up(source[chosen].astype(np.int32), ordinal[chosen])

    def _counts_before(self, position: int, *, above: bool = False) -> NDArray[np.int64]:
        """At most (or ``above``: at least) the samples of each source before a position.

        At time t source i has put floor(p_i t + 1/2) samples, or all that it has. The time of a
        position is found by bisection, and one sample a source is left for rounding.
        """
        low, high = 0.0, float(position + len(self.shares) + 2)
        while self.ends is not None and self._at(high).sum() < position:
            high *= 2
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            if middle in (low, high):
                break
            low, high = (middle, high) if self._at(middle).sum() < position else (low, middle)
        counts = self._at(high) + 1 if above else self._at(low) - 1
        return np.clip(counts, 0, None if self.ends is None else self.ends)

    def _at(self, time: float) -> NDArray[np.int64]:
        counts = np.floor(self.shares * time + 0.5).astype(np.int64)
        return counts if self.ends is None else np.minimum(counts, self.ends)

    def _look_up(self, source: NDArray[np.int32], ordinal: NDArray[np.int64]) -> Samples:
        size = np.array(self.sizes)[source]
        epoch = ordinal // size
        keys = derive_keys(self.seed, source, epoch)
        index = permute(ordinal % size, size, np.broadcast_to(keys, size.shape))
        return Samples(source=source, index=index, epoch=epoch.astype(np.int32))
