"""The plan of a whole run: segments one after another, each source going on where it was left."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from smolvlm2.errors import PlanError
from smolvlm2.plan.ahead import PlanAhead
from smolvlm2.plan.cost import CostModel
from smolvlm2.plan.order import SourcePlace
from smolvlm2.plan.packs import Capacity, Pack
from smolvlm2.plan.plan import Plan, Position
from smolvlm2.plan.samples import SourceTable


@dataclass(kw_only=True)
class Segment:
    """Steps under one plan, until the next segment begins."""

    first_step: int
    """Optimiser step at which it begins."""
    plan: Plan
    """Of its mixture, from the beginning of every source."""
    places: list[SourcePlace] | None = None
    """Where each source goes on; None: not known before the segment is entered."""
    resting: dict[str, SourcePlace] = field(default_factory=dict)
    """Where sources of earlier segments that this one does without would go on, by hash."""

    def go_on(self, left: dict[str, SourcePlace]) -> None:
        """Begin where earlier segments left their sources.

        Args:
            left: Places by the hash of a source's samples; others begin anew.
        """
        hashes = [table.hash() for table in self.plan.tables]
        self.places = [left.get(each, SourcePlace()) for each in hashes]
        self.resting = {each: place for each, place in left.items() if each not in hashes}


class RunPlan:
    """Stands in for a `Plan`: a pure function from a position to packs, over all segments.

    A source goes on where an earlier segment left it, also when segments between do without it:
    what was in an unfinished window comes first, and no sample is seen twice in an epoch. A source
    whose samples changed in between begins anew.

    Args:
        segments: In order of their first steps, from the one in progress on.
        first: Number of the first of them in the run.
        ahead: Pack coming windows in a thread.

    Raises:
        PlanError: First steps do not ascend.
    """

    def __init__(self, segments: Sequence[Segment], *, first: int = 0, ahead: bool = True) -> None:
        first_steps = [segment.first_step for segment in segments]
        if not first_steps or first_steps != sorted(set(first_steps)):
            raise PlanError(f"segments begin at steps {first_steps}; expected ascending numbers")
        self.segments = list(segments)
        self._first = first
        if self.segments[0].places is None:
            self.segments[0].places = [SourcePlace() for _ in self.segments[0].plan.tables]
        self.tables: list[SourceTable] = []
        self._first_table = []
        for segment in self.segments:
            self._first_table.append(len(self.tables))
            self.tables += segment.plan.tables
        self._ahead = ahead
        self._open: tuple[int, PlanAhead | Plan] | None = None

    @property
    def capacity(self) -> Capacity:
        """The shape of a pack: one for the whole run, the largest of all segments."""
        capacities = [segment.plan.capacity for segment in self.segments]
        return Capacity(
            tokens=max(capacity.tokens for capacity in capacities),
            tiles=max(capacity.tiles for capacity in capacities),
            documents=max(capacity.documents for capacity in capacities),
        )

    @property
    def cost(self) -> CostModel:
        """What samples cost: the model is the same in all segments."""
        return self.segments[0].plan.cost

    @property
    def packs_per_step(self) -> int:
        """Most packs that a step has."""
        return max(segment.plan.packs_per_step for segment in self.segments)

    def plan(self, number: int) -> Plan:
        """The plan of a segment, its sources going on where the one before left them.

        Raises:
            PlanError: The segment was not entered yet.
        """
        return self._segment(number).plan.starting_at(self.places(number))

    def places(self, number: int) -> list[SourcePlace]:
        """Where each source goes on in a segment.

        Raises:
            PlanError: The segment was not entered yet.
        """
        segment = self._segment(number)
        if segment.places is None:
            raise PlanError(f"segment {number} begins at step {segment.first_step}, not reached")
        return segment.places

    def resting(self, number: int) -> dict[str, SourcePlace]:
        """Where sources would go on that a segment does without."""
        return self._segment(number).resting

    def pass_over(self, position: Position, steps: int) -> Position:
        """Where the data of the step at ``position`` begin when those of some steps are left out.

        The step's number stays, and so does its segment.
        """
        plan, step = self._opened(position.segment), position.step
        for _ in range(steps):
            _, position = plan.step(position)
        return replace(position, step=step)

    def step(self, position: Position) -> tuple[list[Pack], Position]:
        """The packs of the step at ``position``, and where the next one begins.

        Their samples refer to ``tables`` of the run.

        Raises:
            PlanError: The segment's plan ended before ``position``.
        """
        number = position.segment
        packs, following = self._opened(number).step(position)
        if first := self._first_table[number - self._first]:
            packs = [
                replace(pack, samples=replace(pack.samples, source=pack.samples.source + first))
                for pack in packs
            ]
        return packs, self.enter(following)

    def enter(self, position: Position) -> Position:
        """``position``, or the beginning of the segment that begins with its step."""
        following = position.segment + 1
        if following == self._first + len(self.segments):
            return position
        segment = self._segment(following)
        if position.step < segment.first_step:
            return position
        if segment.places is None:
            before = self.plan(position.segment)
            hashes = (table.hash() for table in before.tables)
            left = dict(zip(hashes, before.places_at(position), strict=True))
            segment.go_on(self._segment(position.segment).resting | left)
        return Position(segment=following, step=position.step)

    def digests(self) -> list[str]:
        """Of each segment's plan."""
        return [segment.plan.digest() for segment in self.segments]

    def close(self) -> None:
        """Stop packing ahead."""
        if self._open is not None and isinstance(self._open[1], PlanAhead):
            self._open[1].close()
        self._open = None

    def _segment(self, number: int) -> Segment:
        return self.segments[number - self._first]

    def _opened(self, number: int) -> "PlanAhead | Plan":
        if self._open is None or self._open[0] != number:
            self.close()
            plan = self.plan(number)
            self._open = number, PlanAhead(plan) if self._ahead else plan
        return self._open[1]

    def __enter__(self) -> "RunPlan":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
