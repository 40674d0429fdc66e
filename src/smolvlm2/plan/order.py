"""Which sample stands at which position: a weighted interleave of per-source shuffles.

A pure function of (seed, position): nothing is stored, any position can be asked for.
"""

import numpy as np
from numpy.typing import NDArray

from smolvlm2.plan.permutation import derive_key, permute
from smolvlm2.plan.samples import Samples, SourceTable, check_tables


class Order:
    """The endless sequence of samples of a mixture.

    Source i with share p_i puts its k-th sample at the virtual time (k + 1/2) / p_i; sorting by it
    keeps every prefix within about one sample a source of its share. Each source visits every
    sample once an epoch, in an order of its own for each epoch.

    Args:
        tables: The sources.
        weights: Share of samples of each source, in any unit.
        seed: Chooses the shuffles.
    """

    def __init__(self, tables: list[SourceTable], weights: list[float], *, seed: int) -> None:
        check_tables(tables, weights)
        self.sizes = [len(table) for table in tables]
        total = sum(weights)
        self.shares = np.array([weight / total for weight in weights])
        self.seed = seed

    def samples(self, start: int, stop: int) -> Samples:
        """The samples at positions ``start`` to ``stop - 1``, in order."""
        # The k at virtual time t is p_i t - 1/2 in each source, so the first `start` samples of the
        # merged sequence end within one sample a source of time `start`; two are margin enough.
        margin = len(self.shares) + 2
        first = np.maximum(np.floor(self.shares * (start - margin)) - 1, 0).astype(np.int64)
        last = np.ceil(self.shares * (stop + margin)).astype(np.int64) + 1
        source = np.repeat(np.arange(len(first)), last - first)
        ordinal = np.concatenate([np.arange(a, b) for a, b in zip(first, last, strict=True)])
        times = (ordinal + 0.5) / self.shares[source]
        chosen = np.lexsort((source, times))[start - first.sum() : stop - first.sum()]
        return self._look_up(source[chosen].astype(np.int32), ordinal[chosen])

    def _look_up(self, source: NDArray[np.int32], ordinal: NDArray[np.int64]) -> Samples:
        index = np.zeros(len(source), dtype=np.int64)
        epoch = np.zeros(len(source), dtype=np.int32)
        for i, size in enumerate(self.sizes):
            here = np.flatnonzero(source == i)
            epoch[here] = ordinal[here] // size
            for number in np.unique(epoch[here]):
                now = here[epoch[here] == number]
                key = derive_key(self.seed, i, int(number))
                index[now] = permute(ordinal[now] % size, size, key)
        return Samples(source=source, index=index, epoch=epoch)
