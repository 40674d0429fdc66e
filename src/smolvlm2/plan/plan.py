"""The plan: which packs make which step, decided before anything is sharded."""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from smolvlm2.plan.order import Order
from smolvlm2.plan.packs import Capacity, Pack, deal, pack_window
from smolvlm2.plan.samples import MODALITIES, SourceTable

KEPT_WINDOWS = 4
"""Packed windows kept in memory; a step reads one or two."""


@dataclass(kw_only=True, frozen=True)
class Position:
    """Where a run stands in its plan: the state of the data, whole."""

    segment: int = 0
    """Segment of the run."""
    window: int = 0
    """Window of the order."""
    pack: int = 0
    """Pack of the window, in the order dealt."""


class Plan:
    """A pure function from a position to the packs of the next step.

    Args:
        tables: The sources under the recipe.
        weights: Share of samples of each source.
        capacity: Of a pack.
        packs_per_step: K; fixed for the segment, so steps have equal shapes at any world size.
        window: Samples that are packed together.
        seed: Chooses order and deal.
    """

    def __init__(
        self,
        tables: list[SourceTable],
        weights: list[float],
        *,
        capacity: Capacity,
        packs_per_step: int,
        window: int,
        seed: int,
    ) -> None:
        self.tables = tables
        self.order = Order(tables, weights, seed=seed)
        self.capacity = capacity
        self.packs_per_step = packs_per_step
        self.window = window
        self.seed = seed
        self._windows: OrderedDict[int, list[Pack]] = OrderedDict()

    def packs_of_window(self, number: int) -> list[Pack]:
        """All packs of a window, in the order they are dealt."""
        if number not in self._windows:
            self._windows[number] = self._pack(number)
            while len(self._windows) > KEPT_WINDOWS:
                self._windows.popitem(last=False)
        return self._windows[number]

    def step(self, position: Position) -> tuple[list[Pack], Position]:
        """The packs of the step that begins at ``position``, and where the next one begins."""
        packs: list[Pack] = []
        window, pack = position.window, position.pack
        while len(packs) < self.packs_per_step:
            available = self.packs_of_window(window)
            taken = available[pack : pack + self.packs_per_step - len(packs)]
            packs += taken
            pack += len(taken)
            if pack >= len(available):
                window, pack = window + 1, 0
        return packs, Position(segment=position.segment, window=window, pack=pack)

    def _pack(self, number: int) -> list[Pack]:
        samples = self.order.samples(number * self.window, (number + 1) * self.window)
        columns = {
            name: samples.column(self.tables, name) for name in ("tokens", "tiles", "supervised")
        }
        places = pack_window(columns["tokens"], columns["tiles"], self.capacity)
        packs = [
            Pack(
                samples=samples.take(chosen),
                **{name: int(values[chosen].sum()) for name, values in columns.items()},
            )
            for chosen in places
        ]
        features = np.zeros((len(packs), len(MODALITIES) + 1))
        modality = samples.column(self.tables, "modality")
        for features_of_pack, chosen in zip(features, places, strict=True):
            features_of_pack[:-1] = np.bincount(modality[chosen], minlength=len(MODALITIES))
            features_of_pack[-1] = columns["supervised"][chosen].sum()
        order = deal(features, seed=self.seed, window=number)
        return [packs[index] for index in order]

    def digest(self) -> str:
        """Hash of everything the plan depends on; a resumed run compares it."""
        digest = hashlib.sha256()
        for table in self.tables:
            digest.update(f"{table.name} {table.content}".encode())
            for column in (table.rows, table.tiles, table.tokens, table.supervised, table.messages):
                digest.update(np.ascontiguousarray(column).tobytes())
        digest.update(self.order.shares.tobytes())
        capacity = self.capacity
        numbers = (capacity.tokens, capacity.tiles, capacity.documents, self.packs_per_step)
        digest.update(repr((*numbers, self.window, self.seed)).encode())
        return digest.hexdigest()[:16]


def packs_for(samples_per_step: int, mean_samples_per_pack: float) -> int:
    """K: packs that hold ``samples_per_step`` samples on average, at least one."""
    return max(1, round(samples_per_step / mean_samples_per_pack))
