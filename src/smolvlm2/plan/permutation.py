"""A shuffled order as a function: the i-th row of an epoch without a list of all rows."""

import numpy as np
from numpy.typing import NDArray

ROUNDS = 4
"""Of the Feistel network; four are enough for a shuffle (Luby and Rackoff, 1988)."""


def mix(values: NDArray[np.uint64], key: int) -> NDArray[np.uint64]:
    """Scramble 64-bit integers with a key (the finaliser of splitmix64)."""
    with np.errstate(over="ignore"):
        x = values + np.uint64(key & 0xFFFFFFFFFFFFFFFF) + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def derive_key(*parts: int) -> int:
    """One key from several integers, such as (seed, source, epoch)."""
    key = np.zeros(1, dtype=np.uint64)
    for part in parts:
        key = mix(key ^ np.uint64(part & 0xFFFFFFFFFFFFFFFF), 0x5851F42D4C957F2D)
    return int(key[0])


def permute(indices: NDArray[np.int64], size: int, key: int) -> NDArray[np.int64]:
    """Where a keyed shuffle of ``range(size)`` sends each index; memory does not depend on size.

    Args:
        indices: ``(n,)`` values in ``[0, size)``.
        size: Length of the shuffled range.
        key: Chooses the shuffle.

    Returns:
        ``(n,)`` values in ``[0, size)``; a bijection over the whole range.

    Source:
        A Feistel network over the next even power of two, with cycle walking (Black and Rogaway,
        "Ciphers with arbitrary finite domains", 2002).
    """
    half = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
    shift, mask = np.uint64(half), np.uint64((1 << half) - 1)

    def encrypt(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        left, right = values >> shift, values & mask
        for index in range(ROUNDS):
            left, right = right, left ^ (mix(right, key + index * 0x632BE59BD9B4E019) & mask)
        return (left << shift) | right

    result = encrypt(np.asarray(indices, dtype=np.uint64))
    outside = result >= np.uint64(size)
    while outside.any():
        result[outside] = encrypt(result[outside])
        outside = result >= np.uint64(size)
    return result.astype(np.int64)
