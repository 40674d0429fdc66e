"""Segments: a run's plan changes at a step, and no sample is lost or doubled by it."""

from collections import Counter

import hypothesis
import pytest
from hypothesis import strategies

from smolvlm2.errors import PlanError
from smolvlm2.plan.packs import Capacity
from smolvlm2.plan.plan import Plan, Position
from smolvlm2.plan.run_plan import RunPlan, Segment

CAPACITY = Capacity(tokens=8192, tiles=84, documents=64)


def build(tables, weights, *, packs_per_step=4, capacity=CAPACITY, epochs=None):
    return Plan(
        tables,
        weights,
        capacity=capacity,
        packs_per_step=packs_per_step,
        window=128,
        seed=5,
        epochs=epochs,
    )


def walk(plan, steps, position=None):
    """References of the samples of each step, by the source's name, and the last position."""
    position, seen = position or Position(), []
    for _ in range(steps):
        packs, position = plan.step(position)
        seen.append(
            [
                (plan.tables[source].name, index, epoch)
                for pack in packs
                for source, index, epoch in zip(
                    pack.samples.source.tolist(),
                    pack.samples.index.tolist(),
                    pack.samples.epoch.tolist(),
                    strict=True,
                )
            ]
        )
    return seen, position


def test_one_segment_is_its_plan(mixture):
    plan = build(*mixture)
    with RunPlan([Segment(first_step=0, plan=build(*mixture))]) as run:
        assert walk(run, 30)[0] == walk(plan, 30)[0]
    assert run.capacity == plan.capacity


@pytest.mark.parametrize("ahead", [False, True])
@hypothesis.given(first=strategies.integers(1, 12), second=strategies.integers(1, 12))
@hypothesis.settings(max_examples=6, deadline=None)
def test_each_sample_is_seen_once_an_epoch_across_segments(mixture_once, ahead, first, second):
    tables, weights = mixture_once
    segments = [
        Segment(first_step=0, plan=build(tables, weights)),
        Segment(first_step=first, plan=build(tables[::-1], [1, 1, 2, 2], packs_per_step=7)),
        Segment(first_step=first + second, plan=build(tables[:2], [1, 3])),
    ]
    with RunPlan(segments, ahead=ahead) as run:
        seen, position = walk(run, first + second + 6)
    assert position.segment == 2
    counts = Counter(reference for step in seen for reference in step)
    assert set(counts.values()) == {1}


@pytest.fixture(scope="module")
def mixture_once(request):
    """The mixture, made once for all examples of a property."""
    make = request.getfixturevalue("make_table_once")
    sizes = [("image", 300, 1), ("video", 200, 3), ("text", 150, 0), ("multi", 60, 2)]
    return [make(name, size, kind) for name, size, kind in sizes], [34.4, 33.0, 20.2, 12.3]


def test_sources_that_end_are_exhausted_exactly_across_segments(mixture):
    tables, weights = mixture
    segments = [
        Segment(first_step=0, plan=build(tables, weights, epochs=1)),
        Segment(first_step=9, plan=build(tables, [1, 1, 1, 1], epochs=1)),
    ]
    with RunPlan(segments) as run:
        seen, position = walk(run, 9)
        while True:
            try:
                packs, position = run.step(position)
            except PlanError:
                break
            seen.append([(source, 0, 0) for pack in packs for source in pack.samples.source])
    assert sum(len(step) for step in seen) == sum(len(table) for table in tables)


def test_a_source_goes_on_where_it_was_after_a_segment_without_it(mixture):
    tables = mixture[0]
    alone = [
        Segment(first_step=first, plan=build(*each, epochs=1))
        for first, each in ((0, mixture), (3, ([tables[1]], [1])), (4, ([tables[2]], [1])))
    ]
    last = Segment(first_step=5, plan=build(tables, [1, 1, 1, 1], epochs=1))
    with RunPlan([*alone, last], ahead=False) as run:
        seen, position = walk(run, 5)
        while True:
            try:
                more, position = walk(run, 1, position)
            except PlanError:
                break
            seen += more
    counts = Counter(reference for step in seen for reference in step)
    assert set(counts.values()) == {1}
    assert len(counts) == sum(len(table) for table in tables)
    assert last.resting == {}


def test_a_step_is_a_function_of_its_position_once_its_segment_was_entered(mixture):
    tables, weights = mixture
    segments = [
        Segment(first_step=0, plan=build(tables, weights)),
        Segment(first_step=5, plan=build(tables, [1, 2, 3, 4])),
    ]
    run = RunPlan(segments)
    _, position = walk(run, 8)
    expected, _ = walk(run, 3, position)
    again = RunPlan(
        [
            Segment(first_step=0, plan=build(tables, weights)),
            Segment(first_step=5, plan=build(tables, [1, 2, 3, 4]), places=segments[1].places),
        ]
    )
    assert walk(again, 3, position)[0] == expected
    run.close()
    again.close()


def test_a_source_whose_samples_changed_begins_anew(mixture, make_table):
    tables, weights = mixture
    grown = make_table("image", 1100, 1, seed=9)
    segments = [
        Segment(first_step=0, plan=build(tables, weights)),
        Segment(first_step=5, plan=build([grown, tables[1]], [1, 1])),
    ]
    run = RunPlan(segments, ahead=False)
    walk(run, 6)
    image, video = segments[1].places
    assert image.following == 0
    assert video.following > 0


def test_a_segment_that_was_not_reached_has_no_plan(mixture):
    tables, weights = mixture
    run = RunPlan(
        [
            Segment(first_step=0, plan=build(tables, weights)),
            Segment(first_step=5, plan=build(tables, weights)),
        ]
    )
    with pytest.raises(PlanError, match="segment 1 begins at step 5, not reached"):
        run.plan(1)


@pytest.mark.parametrize("steps", [[], [0, 4, 4], [0, 9, 3]])
def test_segments_ascend(mixture, steps):
    plan = build(*mixture)
    with pytest.raises(PlanError, match="segments begin at steps"):
        RunPlan([Segment(first_step=step, plan=plan) for step in steps])
