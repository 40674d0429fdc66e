"""Packing ahead changes nothing but who waits."""

import pytest

from smolvlm2.errors import PlanError
from smolvlm2.plan.ahead import PlanAhead
from smolvlm2.plan.packs import Capacity
from smolvlm2.plan.plan import Plan, Position

CAPACITY = Capacity(tokens=8192, tiles=84, documents=64)


def build(mixture, epochs=None):
    return Plan(*mixture, capacity=CAPACITY, packs_per_step=7, window=128, seed=0, epochs=epochs)


def rows(packs):
    return [pack.samples.index.tolist() for pack in packs]


def test_steps_are_those_of_the_plan_from_any_position(mixture):
    plan = build(mixture)
    for start in (Position(), Position(window=5, pack=3)):
        position = expected = start
        with PlanAhead(build(mixture)) as ahead:
            for _ in range(12):
                packs, position = ahead.step(position)
                planned, expected = plan.step(expected)
                assert rows(packs) == rows(planned)
                assert position == expected


def test_the_next_windows_are_packed_before_they_are_asked_for(mixture):
    with PlanAhead(build(mixture), windows=3) as ahead:
        ahead.step(Position(window=2))
        assert sorted(ahead._packing) == [2, 3, 4, 5]
        ahead._packing[5].result()
        ahead.step(Position(window=4))
        assert sorted(ahead._packing) == [4, 5, 6, 7]


def test_a_plan_that_ends_ends_ahead_too(mixture):
    plan = build(mixture, epochs=1)
    with PlanAhead(build(mixture, epochs=1)) as ahead:
        position = Position()
        while position.window < plan.windows:
            packs, position = ahead.step(position)
            assert packs
        with pytest.raises(PlanError, match="the plan ends after"):
            ahead.step(position)
