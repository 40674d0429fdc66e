"""The plan: which packs make which step, decided before anything is sharded."""

import copy
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray

from smolvlm2.errors import PlanError
from smolvlm2.plan.cost import CostModel
from smolvlm2.plan.deal import deal
from smolvlm2.plan.order import Order, SourcePlace
from smolvlm2.plan.packs import Capacity, Pack, pack_window
from smolvlm2.plan.samples import MODALITIES, Samples, SourceTable

KEPT_WINDOWS = 4
"""Packed windows kept in memory; a step reads one or two."""
VERSION = 3
"""Of the way samples become packs: part of the digest, raised when it changes."""


@dataclass(kw_only=True, frozen=True)
class Position:
    """Where a run stands in its plan: the state of the data, whole."""

    segment: int = 0
    """Segment of the run."""
    window: int = 0
    """Window of the order."""
    pack: int = 0
    """Pack of the window, in the order dealt."""
    step: int = 0
    """Optimiser step that begins here; it follows from the others and says where segments end."""


class Plan:
    """A pure function from a position to the packs of the next step.

    Args:
        tables: The sources under the recipe.
        weights: Share of samples of each source.
        capacity: Of a pack.
        packs_per_step: K; fixed for the segment, so steps have equal shapes at any world size.
        window: Samples that are packed together.
        seed: Chooses order and deal.
        cost: What samples cost; packs are made alike in it.
        epochs: After so many epochs every source ends; None: all repeat for ever.
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
        cost: CostModel | None = None,
        epochs: float | None = None,
    ) -> None:
        self.tables = tables
        self.order = Order(tables, weights, seed=seed, epochs=epochs)
        self.capacity = capacity
        self.packs_per_step = packs_per_step
        self.window = window
        self.seed = seed
        self.cost = cost or CostModel()
        self._windows: OrderedDict[int, list[Pack]] = OrderedDict()

    @property
    def windows(self) -> int | None:
        """Windows of the whole plan; None: it is endless."""
        length = self.order.length
        return None if length is None else -(-length // self.window)

    def packs_of_window(self, number: int) -> list[Pack]:
        """All packs of a window, in the order they are dealt."""
        packs = self._windows.get(number)
        if packs is None:
            packs = self._windows[number] = self.pack(number)
            while len(self._windows) > KEPT_WINDOWS:
                self._windows.popitem(last=False)
        return packs

    def step(self, position: Position) -> tuple[list[Pack], Position]:
        """The packs of the step that begins at ``position``, and where the next one begins.

        K packs; the last step of a plan that ends has what is left.

        Raises:
            PlanError: The plan ended before ``position``.
        """
        return self.step_from(position, self.packs_of_window)

    def step_from(
        self, position: Position, packs_of_window: Callable[[int], list[Pack]]
    ) -> tuple[list[Pack], Position]:
        """`step`, with the packs of each window from elsewhere."""
        packs: list[Pack] = []
        window, pack = position.window, position.pack
        while len(packs) < self.packs_per_step:
            if self.windows is not None and window >= self.windows:
                break
            available = packs_of_window(window)
            taken = available[pack : pack + self.packs_per_step - len(packs)]
            packs += taken
            pack += len(taken)
            if pack >= len(available):
                window, pack = window + 1, 0
        if not packs:
            raise PlanError(
                f"the plan ends after {self.windows} windows, before window {window}: every "
                f"source has been gone through; raise data.mixture.epochs to train on"
            )
        return packs, Position(
            segment=position.segment, window=window, pack=pack, step=position.step + 1
        )

    def starting_at(self, places: Sequence[SourcePlace]) -> "Plan":
        """The same plan over sources that go on where another plan left them."""
        plan = copy.copy(self)
        plan.order = self.order.starting_at(places)
        plan._windows = OrderedDict()
        return plan

    def places_at(self, position: Position) -> list[SourcePlace]:
        """Where each source stands when the steps before ``position`` are done."""
        start = position.window * self.window
        if not position.pack:
            return self.order.places_after(start, start, self.order.samples(start, start))
        done = self.packs_of_window(position.window)[: position.pack]
        used = Samples(
            **{
                name: np.concatenate([getattr(pack.samples, name) for pack in done])
                for name in ("source", "index", "epoch")
            }
        )
        return self.order.places_after(start, start + self.window, used)

    def pack(self, number: int) -> list[Pack]:
        """Pack and deal a window, without looking at what is kept; takes 0.1 to 0.5 s."""
        samples = self.order.samples(number * self.window, (number + 1) * self.window)
        names = ("tokens", "tiles", "supervised", "modality")
        tokens, tiles, supervised, modality = samples.columns(self.tables, names).values()
        squared = tokens * tokens
        costs = np.column_stack(
            [
                self.cost.cost(tiles, tokens, squared, supervised, frozen=frozen)
                for frozen in (True, False)
            ]
        )
        places = pack_window(tokens, tiles, self.capacity, costs)
        pack_of = np.repeat(np.arange(len(places)), [len(chosen) for chosen in places])
        sorted_by_pack = np.concatenate([*places, np.zeros(0, dtype=np.int64)])
        held = np.column_stack(
            [modality == code for code in range(len(MODALITIES))]
            + [supervised, tokens, tiles, squared]
        )[sorted_by_pack]
        sums = np.zeros((len(places), held.shape[1]), dtype=np.int64)
        np.add.at(sums, pack_of, held)
        order = deal(sums[:, : len(MODALITIES) + 1], seed=self.seed, window=number)
        return [_pack(samples.take(places[index]), sums[index]) for index in order.tolist()]

    def digest(self) -> str:
        """Hash of everything the plan depends on; a resumed run compares it."""
        digest = hashlib.sha256()
        for table in self.tables:
            digest.update(table.hash().encode())
        digest.update(self.order.shares.tobytes())
        capacity = self.capacity
        numbers = (capacity.tokens, capacity.tiles, capacity.documents, self.packs_per_step)
        ends = self.order.length
        cost = astuple(self.cost)
        digest.update(repr((*numbers, self.window, self.seed, ends, cost, VERSION)).encode())
        return digest.hexdigest()[:16]


def _pack(samples: Samples, sums: NDArray[np.int64]) -> Pack:
    supervised, tokens, tiles, squared = sums[len(MODALITIES) :].tolist()
    return Pack(samples=samples, tokens=tokens, tiles=tiles, supervised=supervised, squared=squared)


def packs_for(samples_per_step: int, mean_samples_per_pack: float) -> int:
    """K: packs that hold ``samples_per_step`` samples on average, at least one."""
    return max(1, round(samples_per_step / mean_samples_per_pack))


def count_steps(plan: Plan) -> int | None:
    """Steps of a plan that ends, the last one perhaps short; None: it is endless.

    Every window is packed once, 10 to 60 us a sample.
    """
    if plan.windows is None:
        return None
    packs = sum(len(plan.pack(number)) for number in range(plan.windows))
    return -(-packs // plan.packs_per_step)
