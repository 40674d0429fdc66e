"""Steps of a plan, read by worker processes."""

from dataclasses import fields, replace
from itertools import islice

import numpy as np
import pytest

from smolvlm2.errors import DataError
from smolvlm2.loading.loader import Loader
from smolvlm2.loading.reader import Skip
from smolvlm2.plan.plan import Position

STEPS = 4


def steps_of(data, reader, *, workers=0, position=None, count=STEPS):
    with Loader(data.plan, reader, position or Position(), workers=workers) as loader:
        return [keep(step) for step in islice(loader, count)]


def keep(step):
    """A step that outlives the next one."""
    return replace(step, packs=[pack.copy() for pack in step.packs])


def assert_equal(left, right):
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert (a.position, a.skips, len(a.packs)) == (b.position, b.skips, len(b.packs))
        for mine, theirs in zip(a.packs, b.packs, strict=True):
            for field in fields(mine):
                np.testing.assert_array_equal(
                    getattr(mine, field.name), getattr(theirs, field.name), err_msg=field.name
                )


@pytest.fixture(scope="module")
def world_steps(make_reader):
    data, reader = make_reader()
    return data, reader, steps_of(data, reader)


@pytest.mark.parametrize("workers", [1, 4])
def test_workers_change_nothing(world_steps, workers):
    data, reader, expected = world_steps
    assert_equal(steps_of(data, reader, workers=workers), expected)


def test_a_later_position_gives_the_later_steps(world_steps):
    data, reader, expected = world_steps
    assert_equal(steps_of(data, reader, position=expected[1].position, count=2), expected[2:])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_can_be_gone_through_twice(world_steps, workers):
    data, reader, expected = world_steps
    with Loader(data.plan, reader, Position(), workers=workers) as loader:
        for _ in range(2):
            assert_equal([keep(step) for step in islice(loader, 2)], expected[:2])


def samples_of(steps):
    return [id for step in steps for pack in step.packs for id in pack.sample_ids]


@pytest.fixture
def broken(make_reader, broken_world):
    overrides, broken_id = broken_world
    data, reader = make_reader(*overrides)
    return data, reader, broken_id


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_skipped_alone_and_reported(broken, world_steps, workers):
    _, _, broken_id = broken
    whole = steps_of(*world_steps[:2], count=9)
    steps = steps_of(*broken[:2], workers=workers, count=9)
    expected = [id for id in samples_of(whole) if id != broken_id]
    assert samples_of(steps) == expected != samples_of(whole)
    skips = [skip for step in steps for skip in step.skips]
    assert {(skip.sample_id, skip.reason) for skip in skips} == {(broken_id, "corrupt_media")}
    assert len(skips) == len(samples_of(whole)) - len(expected)
    assert [step.position for step in steps] == [step.position for step in whole]


def test_a_lost_archive_is_missing_media(broken):
    data, reader, _ = broken
    manifest = data.manifests[1]
    path = manifest.data_root / manifest.row(0).media[0].path
    path.unlink()
    skips = [skip for step in steps_of(data, reader, count=9) for skip in step.skips]
    assert "missing_media" in {skip.reason for skip in skips}


def test_samples_left_out_by_the_user_are_not_reported(world_steps):
    data, reader, expected = world_steps
    unwanted = expected[0].packs[0].sample_ids[0]
    steps = steps_of(data, replace(reader, skip_ids=frozenset([unwanted])))
    assert unwanted not in samples_of(steps)
    assert not any(step.skips for step in steps)


def test_an_earlier_skip_holds_for_its_occurrence_alone(world_steps):
    data, reader, _ = world_steps
    seen = occurrences(data, reader, count=9)
    ids = [id for id, _ in seen]
    twice, epoch = next(each for place, each in enumerate(seen) if each[0] in ids[place + 1 :])
    skip = Skip(sample_id=twice, reason="corrupt_media", detail="once", epoch=epoch)
    steps = steps_of(data, replace(reader, skipped_before={skip.occurrence: skip}), count=9)
    assert [skip for step in steps for skip in step.skips] == [skip]
    left = ids.copy()
    left.remove(twice)  # the first one
    assert samples_of(steps) == left


def occurrences(data, reader, *, count):
    """Id and epoch of each sample of the first steps."""
    position, found = Position(), []
    for _ in range(count):
        packs, position = data.plan.step(position)
        for plan in (plan for pack in packs for plan in reader.planned(pack)):
            found.append((data.manifests[plan.source].sample_id(plan.row), plan.epoch))
    return found


def test_stale_geometry_stops_the_loader(world_steps):
    data, reader, _ = world_steps
    tables = [replace(table, tokens=table.tokens + 1) for table in reader.tables]
    with pytest.raises(DataError, match="geometry belongs to other data"):
        steps_of(data, replace(reader, tables=tables), workers=1, count=1)


def test_an_error_is_told_to_whoever_asks_again(world_steps):
    data, reader, _ = world_steps
    tables = [replace(table, tokens=table.tokens + 1) for table in reader.tables]
    with Loader(data.plan, replace(reader, tables=tables), Position(), workers=1) as loader:
        for _ in range(2):
            steps = iter(loader)
            for _ in range(2):
                with pytest.raises(DataError, match="geometry belongs to other data"):
                    next(steps)


@pytest.mark.parametrize("again", [True, False])
def test_a_step_that_was_interrupted_is_still_to_come(world_steps, monkeypatch, again):
    data, reader, expected = world_steps
    with Loader(data.plan, reader, Position(), workers=1) as loader:
        steps, result, asked = iter(loader), loader.pool.result, []

        def interrupted_once(ticket):
            asked.append(ticket)
            if len(asked) == 2:
                raise KeyboardInterrupt
            return result(ticket)

        monkeypatch.setattr(loader.pool, "result", interrupted_once)
        with pytest.raises(KeyboardInterrupt):
            next(steps)
        steps = iter(loader) if again else steps
        assert_equal([keep(step) for step in islice(steps, 2)], expected[:2])


def test_packs_hold_what_the_plan_says_in_its_order(world_steps):
    data, _, steps = world_steps
    position = Position()
    for step in steps:
        packs, position = data.plan.step(position)
        assert step.position == position
        for pack, batch in zip(packs, step.packs, strict=True):
            rows = pack.samples.column(data.tables, "rows").tolist()
            sources = pack.samples.source.tolist()
            ids = [data.manifests[s].sample_id(r) for s, r in zip(sources, rows, strict=True)]
            assert batch.sample_ids == ids
            assert (batch.tokens, batch.tiles) == (pack.tokens, pack.tiles)
            assert (batch.loss_weights > 0).sum() == pack.supervised
