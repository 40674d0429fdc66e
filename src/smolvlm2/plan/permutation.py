"""A shuffled order as a function: the i-th row of an epoch without a list of all rows."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

ROUNDS = 4
"""Of the Feistel network; four are enough for a shuffle (Luby and Rackoff, 1988)."""
_WORD = 0xFFFFFFFFFFFFFFFF


def mix(values: NDArray[np.uint64], key: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble 64-bit integers with keys (the finaliser of splitmix64); wraps around."""
    x = values + key + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def derive_keys(*parts: ArrayLike) -> NDArray[np.uint64]:
    """Keys from several integers each, such as (seed, source, epoch); arrays are broadcast."""
    columns = [
        np.asarray(part & _WORD if isinstance(part, int) else part).astype(np.uint64)
        for part in parts
    ]
    key = np.zeros(np.broadcast_shapes((1,), *(column.shape for column in columns)), np.uint64)
    salt = np.full(1, 0x5851F42D4C957F2D, dtype=np.uint64)
    for column in columns:
        key = mix(key ^ column, salt)
    return key


def derive_key(*parts: int) -> int:
    """One key from several integers."""
    return int(derive_keys(*parts)[0])


def permute(
    indices: NDArray[np.int64], size: ArrayLike, key: int | NDArray[np.uint64]
) -> NDArray[np.int64]:
    """Where a keyed shuffle of ``range(size)`` sends each index; memory does not depend on size.

    Args:
        indices: ``(n,)`` values in ``[0, size)``.
        size: Length of the shuffled range, one or ``(n,)``.
        key: Chooses the shuffle, one or ``(n,)``.

    Returns:
        ``(n,)`` values in ``[0, size)``; a bijection over the whole range.

    Source:
        A Feistel network over the next even power of two, with cycle walking (Black and Rogaway,
        "Ciphers with arbitrary finite domains", 2002).
    """
    values = np.asarray(indices).astype(np.uint64)
    sizes = np.broadcast_to(np.asarray(size, dtype=np.uint64), values.shape)
    if isinstance(key, int):
        key = np.full(1, key & _WORD, dtype=np.uint64)
    keys = np.broadcast_to(key, values.shape)
    # Bits of size - 1, exact up to 2**53; each half of the network has half of them, rounded up.
    bits = np.frexp(np.maximum(sizes, 2).astype(np.float64) - 1)[1]
    shift = ((bits + 1) // 2).astype(np.uint64)
    round_keys = np.arange(ROUNDS, dtype=np.uint64) * np.uint64(0x632BE59BD9B4E019)
    walking = np.arange(len(values))
    while len(walking):
        half, now, value = shift[walking], keys[walking], values[walking]
        mask = (np.uint64(1) << half) - np.uint64(1)
        left, right = value >> half, value & mask
        for added in round_keys:
            left, right = right, left ^ (mix(right, now + added) & mask)
        values[walking] = (left << half) | right
        walking = walking[values[walking] >= sizes[walking]]
    return values.astype(np.int64)
