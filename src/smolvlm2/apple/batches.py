"""Samples to a batch of MLX arrays: filled up on the right, every assistant turn supervised."""

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from smolvlm2.processing.processor import ProcessedSample


@dataclass(frozen=True)
class LoraBatch:
    """Samples of any lengths and tile counts that pass the model together."""

    input_ids: mx.array
    """``(B, L)``."""
    tiles: np.ndarray
    """uint8 ``(T, 3, S, S)``, all samples' in order; T may be 0."""
    slots: mx.array
    """``(T * K,)`` places of the visual tokens in the flattened ``B * L``."""
    positions: mx.array
    """``(P,)`` places that predict a supervised token, likewise."""
    targets: mx.array
    """``(P,)`` the supervised tokens."""

    @property
    def supervised(self) -> int:
        """Number of supervised tokens."""
        return len(self.targets)


def collate(samples: Sequence[ProcessedSample], *, image_token_id: int, pad: int) -> LoraBatch:
    """Put samples into rows.

    Args:
        samples: At least one.
        image_token_id: Id of ``<image>``; never supervised, because no assistant says it.
        pad: Id that fills rows up.
    """
    length = max(len(sample.input_ids) for sample in samples)
    ids_BL = np.full((len(samples), length), pad, dtype=np.int32)
    supervised_BL = np.zeros((len(samples), length), dtype=bool)
    for row, sample in enumerate(samples):
        ids_BL[row, : len(sample.input_ids)] = sample.input_ids
        supervised_BL[row, : len(sample.input_ids)] = sample.supervised
    supervised_BL[:, 0] = False  # nothing stands before it to predict it
    places = np.flatnonzero(supervised_BL)
    slots = np.flatnonzero(ids_BL == image_token_id)
    return LoraBatch(
        input_ids=mx.array(ids_BL),
        tiles=np.concatenate([sample.tiles for sample in samples]),
        slots=mx.array(slots.astype(np.int32)),
        positions=mx.array((places - 1).astype(np.int32)),
        targets=mx.array(ids_BL.reshape(-1)[places]),
    )
