"""Scorers: pure functions of a prediction and its references, each between 0 and 1."""

import math
from collections.abc import Callable, Mapping, Sequence

Scorer = Callable[[str, Sequence[str]], float]


def normalise_answer(text: str) -> str:
    """Lower case, single spaces, no space or full stop at the ends.

    >>> normalise_answer("  To the  Left. ")
    'to the left'
    """
    return " ".join(text.lower().split()).rstrip(".").rstrip()


def exact_match(prediction: str, references: Sequence[str]) -> float:
    """1 when the prediction equals any reference after ``normalise_answer``, else 0.

    An empty prediction never matches.
    """
    found = normalise_answer(prediction)
    return float(bool(found) and any(found == normalise_answer(text) for text in references))


SCORERS: Mapping[str, Scorer] = {"exact_match": exact_match}
"""Scorers by the name that a benchmark's YAML uses."""


def wilson_interval(successes: float, n: int, *, z: float = 1.959964) -> tuple[float, float]:
    """Confidence interval of a share.

    Args:
        successes: Sum of scores, 0 to ``n``.
        n: Number of questions, at least 1.
        z: Quantile of the normal distribution; the default gives 95 %.

    Returns:
        Lower and upper bound, both within 0 and 1.

    Raises:
        ValueError: ``n`` is not positive, or ``successes`` is out of range.

    Source:
        E. B. Wilson, Journal of the American Statistical Association 22 (1927), 209-212.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} questions make no share")
    share = successes / n
    scale = 1 + z * z / n
    centre = (share + z * z / (2 * n)) / scale
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / scale
    # Rounding must not put a share of 0 or 1 outside its own interval.
    return min(share, max(0.0, centre - spread)), max(share, min(1.0, centre + spread))
