"""The 1,797 handwritten digit scans of scikit-learn and their split into train and held-out."""

from dataclasses import dataclass

import numpy as np

from smolvlm2.errors import DataError, MissingDependencyError


@dataclass(frozen=True, kw_only=True)
class Scans:
    """Some of the scans, with the index that each has in ``sklearn.datasets.load_digits``."""

    indices: np.ndarray
    """``(N,)`` int64, position in the full set."""
    pixels: np.ndarray
    """``(N, 8, 8)`` uint8, ink from 0 (paper) to 16 (black)."""
    labels: np.ndarray
    """``(N,)`` int64, 0 to 9."""
    bend: float = 0.0
    """Strength of random stretch and slant in drawings on pages, 0 to 1. Training scans get some,
    because 1,438 of them are few hands; held-out ones are drawn as they were written."""

    def __len__(self) -> int:
        return len(self.indices)

    def positions_of(self, label: int) -> np.ndarray:
        """Positions ``(n,)`` of the scans that show ``label``."""
        return np.flatnonzero(self.labels == label)


def load_scans() -> Scans:
    """Read all scans; they come with scikit-learn, nothing is downloaded.

    Returns:
        1,797 scans of 8x8 pixels with 17 grey levels.

    Raises:
        MissingDependencyError: scikit-learn is not installed.

    Source:
        UCI "Optical recognition of handwritten digits", test part, as bundled by scikit-learn.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingDependencyError(
            "the demo data are drawn from scikit-learn's digit scans, and scikit-learn is not "
            'installed; run: pip install "smolvlm2[demo]"'
        ) from error
    digits = load_digits()
    return Scans(
        indices=np.arange(len(digits.target), dtype=np.int64),
        pixels=digits.images.astype(np.uint8),
        labels=digits.target.astype(np.int64),
    )


def split_scans(scans: Scans, *, held_out_share: float, seed: int) -> tuple[Scans, Scans]:
    """Split by scan and stratified by digit, so that no scan is on both sides.

    Args:
        scans: What to split.
        held_out_share: Share of every digit's scans that is held out, between 0 and 1.
        seed: Of the shuffle inside a digit.

    Returns:
        Train scans and held-out scans, each in the order of the full set.

    Raises:
        DataError: The share leaves one side without a digit.
    """
    rng = np.random.default_rng([seed, 1])
    held_out = np.zeros(len(scans), dtype=bool)
    for label in range(10):
        positions = scans.positions_of(label)
        count = round(len(positions) * held_out_share)
        if not 0 < count < len(positions):
            raise DataError(
                f"held_out_share {held_out_share} puts {count} of {len(positions)} scans of digit "
                f"{label} aside; expected at least one on either side, choose a share near 0.2"
            )
        held_out[rng.permutation(positions)[:count]] = True
    return _take(scans, ~held_out), _take(scans, held_out)


def _take(scans: Scans, mask: np.ndarray) -> Scans:
    return Scans(indices=scans.indices[mask], pixels=scans.pixels[mask], labels=scans.labels[mask])
