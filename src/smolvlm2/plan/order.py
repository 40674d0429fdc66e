"""Which sample stands at which position: a weighted interleave of per-source shuffles.

A pure function of (seed, position): nothing is stored, any position can be asked for.
"""

import copy
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from smolvlm2.plan.permutation import derive_keys, permute
from smolvlm2.plan.samples import NamedSamples, Samples, check_tables

BISECTIONS = 100
"""Halvings of a time interval; after them its ends are neighbouring floats."""


@dataclass(kw_only=True)
class SourcePlace:
    """Where a source stands when an order begins, in samples of its own sequence."""

    following: int = 0
    """First sample that no earlier order had anything to do with."""
    left_over: list[int] = field(default_factory=list)
    """Earlier samples that were never used, ascending: they come first."""


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
        tables: Sequence[NamedSamples],
        weights: list[float],
        *,
        seed: int,
        epochs: float | None = None,
    ) -> None:
        check_tables(tables, weights)
        self.sizes = [len(table) for table in tables]
        # By name: a source keeps its shuffle when others join the mixture or leave it.
        self._names = np.array([_name_key(table.name) for table in tables], dtype=np.int64)
        total = sum(weights)
        self.shares = np.array([weight / total for weight in weights])
        self.seed = seed
        self.epochs = epochs
        self._begin([SourcePlace() for _ in tables])

    def starting_at(self, places: Sequence[SourcePlace]) -> "Order":
        """The same sources and shares, each source going on where another order left it.

        Args:
            places: For each source.
        """
        order = copy.copy(self)
        order._begin(list(places))
        return order

    def _begin(self, places: list[SourcePlace]) -> None:
        assert len(places) == len(self.sizes), (len(places), len(self.sizes))
        self.places = places
        self.ends: NDArray[np.int64] | None = None
        if self.epochs is not None:
            exact = Fraction(str(self.epochs))
            ends = np.array([math.ceil(exact * size) for size in self.sizes], dtype=np.int64)
            left = ends - [place.following for place in places]
            self.ends = np.maximum(left, 0) + [len(place.left_over) for place in places]

    @property
    def length(self) -> int | None:
        """Samples of the whole sequence; None: it is endless."""
        return None if self.ends is None else int(self.ends.sum())

    def samples(self, start: int, stop: int) -> Samples:
        """The samples at positions ``start`` to ``stop - 1``, in order; fewer at the end."""
        return self._look_up(*self._merge(start, stop)[1:])

    def places_after(self, start: int, stop: int, used: Samples) -> list[SourcePlace]:
        """Where each source stands after the samples before ``start`` and some of the next.

        Args:
            start: All samples at earlier positions are used.
            stop: No sample at this position or a later one is.
            used: Those used of the samples between, in any order.

        Returns:
            A place for each source: an order that begins there takes what was left over first, and
            no sample twice.
        """
        counts, source, ordinal = self._merge(start, stop)
        waiting = ~np.isin(self._keys(self._look_up(source, ordinal)), self._keys(used))
        places = []
        for number, place in enumerate(self.places):
            here = source == number
            # Of an earlier left-over this order may not even have reached all.
            numbers = np.concatenate(
                [
                    ordinal[here & waiting],
                    np.arange(counts[number] + here.sum(), len(place.left_over)),
                ]
            )
            left_over = self._own_numbers(np.full(len(numbers), number), numbers)
            reached = int(counts[number] + here.sum()) - len(place.left_over)
            places.append(
                SourcePlace(
                    following=place.following + max(reached, 0),
                    left_over=np.sort(left_over).tolist(),
                )
            )
        return places

    def _merge(
        self, start: int, stop: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64]]:
        """Samples of each source before ``start``; source and ordinal of those up to ``stop``."""
        if self.length is not None:
            start, stop = min(start, self.length), min(stop, self.length)
        first, last = self._counts_before(start), self._counts_before(stop, above=True)
        source = np.repeat(np.arange(len(first)), last - first)
        ordinal = np.arange(len(source)) - np.repeat(np.cumsum(last - first) - last, last - first)
        times = (ordinal + 0.5) / self.shares[source]
        merged = np.lexsort((source, times))
        before, chosen = np.split(merged[: stop - first.sum()], [start - first.sum()])
        counts = first + np.bincount(source[before], minlength=len(first))
        return counts, source[chosen].astype(np.int32), ordinal[chosen]

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
        number = self._own_numbers(source, ordinal)
        epoch = number // size
        keys = derive_keys(self.seed, self._names[source], epoch)
        index = permute(number % size, size, np.broadcast_to(keys, size.shape))
        return Samples(source=source, index=index, epoch=epoch.astype(np.int32))

    def _own_numbers(self, source: NDArray, ordinal: NDArray[np.int64]) -> NDArray[np.int64]:
        """Numbers in their sources' own sequences of the ordinal-th samples of this order."""
        numbers = ordinal.copy()
        for index, place in enumerate(self.places):
            if not place.following and not place.left_over:
                continue
            here = np.flatnonzero(source == index)
            wanted, waiting = ordinal[here], np.array(place.left_over, dtype=np.int64)
            numbers[here] = place.following + wanted - len(waiting)
            first = wanted < len(waiting)
            numbers[here[first]] = waiting[wanted[first]]
        return numbers

    def _keys(self, samples: Samples) -> NDArray[np.int64]:
        """One number for each sample of each epoch: 2^44 samples of 2^19 sources fit."""
        size = np.array(self.sizes)[samples.source]
        within = samples.epoch.astype(np.int64) * size + samples.index
        return (samples.source.astype(np.int64) << 44) + within


def _name_key(name: str) -> int:
    digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)
