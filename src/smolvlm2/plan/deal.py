"""The order in which a window's packs are taken, so that all steps look alike."""

import math

import numpy as np
from numpy.typing import NDArray

from smolvlm2.plan.permutation import derive_key, permute

POOL = 256
"""Packs that are compared for each place; more make steps hardly more alike."""
UNIT = 1 << 16
"""One standard deviation of a feature: sums stay exact in float64."""


def deal(features: NDArray[np.int64], *, seed: int, window: int) -> NDArray[np.int64]:
    """The order in which a window's packs are taken.

    Packs differ: one holds two videos, another a few texts more. Each time the pack of a drawn
    pool is taken that keeps the running sums of all features closest to a straight line; any run
    of consecutive packs then has nearly the window's mean features. Plain shuffling doubles the
    spread of a step's modality shares (``docs/decisions/008-plan.md``). The result is turned by a
    drawn number of places: odd packs, which nothing levels out, would else always come last.

    Args:
        features: ``(n, m)`` integer sums over each pack, such as samples of each modality.
        seed: Of the plan.
        window: Number of the window.

    Returns:
        ``(n,)`` pack numbers in the order they are taken.
    """
    count = len(features)
    left = permute(np.arange(count), count, derive_key(seed, window))
    steps = _deviations(features)[left]
    lengths = np.einsum("ij,ij->i", steps, steps)
    order = np.empty(count, dtype=np.int64)
    pool = np.arange(min(count, POOL))
    pooled, pooled_lengths = steps[pool], lengths[pool]
    size, chosen, total = len(pool), 0, np.zeros(features.shape[1])
    for place in range(count):
        if place:
            # The squared length of each sum, but for that of the total, which they share.
            near = pooled[:size] @ total
            near += near
            near += pooled_lengths[:size]
            chosen = int(near.argmin())
        number = pool[chosen]
        order[place], total = left[number], total + steps[number]
        # The next one takes its place, or the last of the pool where none is left.
        following = place + POOL
        if following < count:
            pool[chosen] = following
        else:
            size -= 1
            pool[chosen] = pool[size]
        pooled[chosen], pooled_lengths[chosen] = steps[pool[chosen]], lengths[pool[chosen]]
    return np.roll(order, derive_key(seed, window, 1) % max(count, 1))


def _deviations(features: NDArray[np.int64]) -> NDArray[np.float64]:
    """Integers: how far each pack is from the mean, in parts of a standard deviation."""
    count = len(features)
    away = features * count - features.sum(axis=0)
    columns = []
    for column in away.T.tolist():
        squares = sum(value * value for value in column)
        scale = math.isqrt(squares // max(count, 1))
        columns.append([value * UNIT // scale if scale else 0 for value in column])
    return np.array(columns, dtype=np.float64).T.reshape(features.shape)
