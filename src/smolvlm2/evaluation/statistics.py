"""Intervals and tests of mean scores whose questions are not independent.

Three questions about one video rise and fall together, so uncertainty is counted in clusters.
"""

import math
from collections.abc import Hashable, Sequence

import numpy as np

NORMAL_95 = 1.959964
"""Quantile of the normal distribution that leaves 2.5 % on either side."""
DRAWS = 10_000
"""Random sign flips of the paired test."""


def wilson_interval(successes: float, n: float, *, z: float = NORMAL_95) -> tuple[float, float]:
    """Confidence interval of a share.

    Args:
        successes: Sum of scores, 0 to ``n``.
        n: Number of questions, or what they are worth; positive.
        z: Quantile of the normal distribution; the default gives 95 %.

    Returns:
        Lower and upper bound, both within 0 and 1.

    Raises:
        ValueError: ``n`` is not positive, or ``successes`` is out of range.

    Source:
        E. B. Wilson, Journal of the American Statistical Association 22 (1927), 209-212.
    """
    if n <= 0 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} questions make no share")
    share = successes / n
    scale = 1 + z * z / n
    centre = (share + z * z / (2 * n)) / scale
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / scale
    # Rounding must not put a share of 0 or 1 outside its own interval.
    return min(share, max(0.0, centre - spread)), max(share, min(1.0, centre + spread))


def macro_weights(groups: Sequence[Hashable]) -> np.ndarray:
    """Weights with which scores sum to the mean of their groups' means, ``(n,)``, sum 1.

    >>> macro_weights(["a", "a", "b"]).tolist()
    [0.25, 0.25, 0.5]
    """
    _, member, sizes = np.unique(
        np.array([str(group) for group in groups]), return_inverse=True, return_counts=True
    )
    return 1 / (len(sizes) * sizes[member])


def standard_error(
    values: Sequence[float],
    weights: np.ndarray,
    groups: Sequence[Hashable],
    clusters: Sequence[Hashable],
) -> float:
    """Standard error of a weighted mean whose values depend on each other within clusters.

    Args:
        values: One a question.
        weights: ``(n,)``, sum 1.
        groups: Each value is compared with the mean of its group: one group for a plain mean, the
            tasks for a mean of tasks.
        clusters: Values of different clusters are independent.

    Source:
        The cluster-robust variance of a mean (Liang and Zeger, Biometrika 73 (1986), 13-22), with
        the small-sample factor C / (C - 1); independent questions then have C = n.
    """
    scores = np.asarray(values, dtype=np.float64)
    _, member, sizes = np.unique(
        np.array([str(group) for group in groups]), return_inverse=True, return_counts=True
    )
    means = np.bincount(member, weights=scores) / sizes
    _, cluster = np.unique(np.array([str(name) for name in clusters]), return_inverse=True)
    sums = np.bincount(cluster, weights=weights * (scores - means[member]))
    count = len(sums)
    return math.sqrt(float((sums**2).sum()) * (count / (count - 1) if count > 1 else 1.0))


def clustered_interval(
    values: Sequence[float],
    weights: np.ndarray,
    groups: Sequence[Hashable],
    clusters: Sequence[Hashable],
) -> tuple[float, float]:
    """95 % interval of a mean score: Wilson's, with as many questions as the clusters are worth.

    Never narrower than for independent right-or-wrong answers, so a benchmark of few clusters that
    happen to agree does not look certain. Arguments as in ``standard_error``; values 0 to 1.
    """
    mean = min(1.0, max(0.0, float(np.dot(weights, values))))
    count = len(set(map(str, clusters)))
    # A plain mean of n questions; fewer where groups weigh unequally.
    worth = 1 / float((weights**2).sum())
    if count < len(values):
        error = standard_error(values, weights, groups, clusters)
        spread = mean * (1 - mean)
        worth = min(worth, spread / error**2 if error else float(count))
    return wilson_interval(mean * worth, worth)


def paired_test(
    differences: Sequence[float],
    weights: np.ndarray,
    groups: Sequence[Hashable],
    clusters: Sequence[Hashable],
    *,
    seed: int = 0,
) -> tuple[float, tuple[float, float], float]:
    """Whether two models differ on the same questions.

    Args:
        differences: Score of one minus score of the other, one a question.
        weights: ``(n,)``, sum 1.
        groups: As in ``standard_error``.
        clusters: Likewise.
        seed: Of the sign flips.

    Returns:
        The mean difference; its 95 % interval (normal, clustered); and the two-sided p value of a
        test that flips the sign of whole clusters at random: the share of flips that give a
        difference as large as the one seen, the one seen included.
    """
    values = np.asarray(differences, dtype=np.float64)
    mean = float(np.dot(weights, values))
    error = standard_error(differences, weights, groups, clusters)
    _, cluster = np.unique(np.array([str(name) for name in clusters]), return_inverse=True)
    sums = np.bincount(cluster, weights=weights * values)
    sums = sums[sums != 0]
    rng = np.random.default_rng(seed)
    extreme = 0
    for start in range(0, DRAWS, 500):  # bounds memory for thousands of clusters
        signs = rng.integers(0, 2, (min(500, DRAWS - start), len(sums))) * 2 - 1
        extreme += int((np.abs(signs @ sums) >= abs(mean) - 1e-12).sum())
    p_value = (extreme + 1) / (DRAWS + 1)
    return mean, (mean - NORMAL_95 * error, mean + NORMAL_95 * error), p_value
