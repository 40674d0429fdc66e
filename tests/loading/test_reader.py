"""One pack, from locators to arrays."""

import errno
import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from smolvlm2.data.media import MediaStore
from smolvlm2.errors import DataError
from smolvlm2.loading.micro_batch import PackBuffers
from smolvlm2.plan.packs import Capacity
from smolvlm2.processing import image_reading
from smolvlm2.processing.range_file import RangeFile
from smolvlm2.processing.video import FrameSequence

ROOM = Capacity(tokens=2000, tiles=40, documents=8)


@pytest.fixture(scope="module")
def planned_world(make_reader):
    data, reader = make_reader()
    reader = replace(reader, capacity=ROOM)
    plans = [plan for pack in data.plan.packs_of_window(0) for plan in reader.planned(pack)]
    return reader, {plan.modality: plan for plan in plans}


def read(reader, planned, buffers=None):
    buffers = buffers or PackBuffers.allocate(reader.shape)
    facts, skips = reader.read_into(buffers, planned)
    return facts.batch(buffers), skips


@pytest.mark.parametrize("modality", [1, 2, 3])
def test_a_medium_that_several_samples_show_is_read_once(planned_world, monkeypatch, modality):
    reader, plans = planned_world
    plan, text = plans[modality], plans[0]
    once, _ = read(reader, [plan])
    seen = []
    for name in ("read", "open"):
        plain = getattr(MediaStore, name)
        monkeypatch.setattr(
            MediaStore,
            name,
            lambda self, place, plain=plain: seen.append(place) or plain(self, place),
        )
    twice, skips = read(reader, [plan, text, plan])
    assert not skips
    assert len(seen) == len(set(seen)) > 0
    np.testing.assert_array_equal(twice.pixel_values[: plan.tiles], once.pixel_values[: plan.tiles])
    np.testing.assert_array_equal(
        twice.pixel_values[plan.tiles : 2 * plan.tiles], once.pixel_values[: plan.tiles]
    )
    assert twice.tiles == 2 * plan.tiles
    np.testing.assert_array_equal(twice.input_ids[: plan.tokens], once.input_ids[: plan.tokens])


def test_what_a_skipped_sample_left_behind_is_gone(make_reader, planned_world, broken_world):
    overrides, broken_id = broken_world
    reader = replace(make_reader(*overrides)[1], capacity=ROOM)
    _, plans = planned_world
    pair = plans[2]
    source = next(i for i, m in enumerate(reader.manifests) if m.source == broken_id.split("/")[0])
    row = next(
        n for n in range(len(reader.manifests[source]))
        if reader.manifests[source].sample_id(n) == broken_id
    )  # fmt: skip
    data, whole = make_reader()
    singles = [plan for pack in data.plan.packs_of_window(0) for plan in whole.planned(pack)]
    single = next(
        plan for plan in singles if plan.modality == 1 and (plan.source, plan.row) != (source, row)
    )
    broken = single._replace(source=source, row=row)
    for planned, kept in (([pair, broken, single], [pair, single]), ([broken], []), ([pair], None)):
        kept = planned if kept is None else kept
        buffers = PackBuffers.allocate(reader.shape)
        buffers.pixel_values[:] = 99
        found, skips = read(reader, planned, buffers)
        expected, _ = read(reader, kept)
        assert [skip.sample_id for skip in skips] == [broken_id] * (planned != kept)
        for name, value in vars(expected).items():
            np.testing.assert_array_equal(getattr(found, name), value, err_msg=name)


def test_a_disk_that_fails_within_a_clip_costs_that_sample(planned_world, monkeypatch):
    reader, plans = planned_world
    clip, text = plans[3], plans[0]
    whole = RangeFile.readinto
    reads, failing = [], []

    def fail(self, buffer):
        reads.append(self)
        if len(reads) in failing:
            raise OSError(errno.EIO, "Input/output error")
        return whole(self, memoryview(buffer)[:500])  # a clip of many reads, small as it is

    monkeypatch.setattr(RangeFile, "readinto", fail)
    read(reader, [clip])
    for number in range(1, len(reads) + 1, 3):
        reads.clear()
        failing[:] = [number]
        found, skips = read(reader, [clip, text])
        assert [skip.reason for skip in skips] == ["corrupt_media"]
        assert "Input/output error" in skips[0].detail
        assert len(found.sample_ids) == 1


def test_a_picture_too_large_for_the_memory_left_costs_that_sample(planned_world, monkeypatch):
    reader, plans = planned_world
    picture, text = plans[1], plans[0]
    place = reader.manifests[picture.source].row(picture.row).media[0]

    def run_out(image):
        raise MemoryError

    monkeypatch.setattr(image_reading, "_to_rgb", run_out)
    found, (skip,) = read(reader, [picture, text])
    assert (skip.reason, len(found.sample_ids)) == ("corrupt_media", 1)
    assert skip.detail == f"{place}: cannot be read (MemoryError())"


def test_a_skip_says_where_its_medium_lies(make_reader, planned_world, broken_world):
    overrides, broken_id = broken_world
    reader = replace(make_reader(*overrides)[1], capacity=ROOM)
    source = next(i for i, m in enumerate(reader.manifests) if m.source == broken_id.split("/")[0])
    manifest = reader.manifests[source]
    row = manifest.find(broken_id)
    broken = planned_world[1][1]._replace(source=source, row=row)
    _, (skip,) = read(reader, [broken])
    assert skip.detail.startswith(f"{manifest.row(row).media[0]}: image of ")


@pytest.mark.parametrize("size", [(60, 20), (20, 60), (90, 90)])
def test_a_picture_that_was_replaced_costs_that_sample(planned_world, monkeypatch, size):
    reader, plans = planned_world
    pair, text = plans[2], plans[0]
    expected, _ = read(reader, [text, plans[1]])
    place = reader.manifests[pair.source].row(pair.row).media[1]
    stored = io.BytesIO()
    Image.new("RGB", size).save(stored, "PNG")
    whole = MediaStore.read
    monkeypatch.setattr(
        MediaStore, "read", lambda self, at: stored.getvalue() if at == place else whole(self, at)
    )
    found, (skip,) = read(reader, [text, pair, plans[1]])
    assert skip.reason == "corrupt_media"
    was = f"{place}: is another file than was prepared: {size[0]} x {size[1]} pixels, expected "
    assert skip.detail.startswith(was)
    for name, value in vars(expected).items():
        np.testing.assert_array_equal(getattr(found, name), value, err_msg=name)


def test_a_clip_that_was_replaced_costs_that_sample(planned_world, monkeypatch):
    reader, plans = planned_world
    clip, text = plans[3], plans[0]
    manifest = reader.manifests[clip.source]
    place = manifest.row(clip.row).media[0]
    frames = int(manifest.geometry.media_frames[manifest.geometry.media_offsets[clip.row]])
    black = FrameSequence([Image.new("RGB", (9, 9))], [0.0], 1.0)
    monkeypatch.setattr(MediaStore, "open", lambda self, at: black)
    found, (skip,) = read(reader, [clip, text])
    assert skip.detail.startswith(f"{place}: is another file than was prepared: 9 x 9 pixels, 1 f")
    assert f", {frames} frames in " in skip.detail
    assert found.tiles == 0


def test_another_length_of_the_same_files_is_an_error(planned_world):
    reader, plans = planned_world
    for modality in (1, 2, 3):
        plan = plans[modality]
        with pytest.raises(DataError, match="geometry belongs to other data"):
            read(reader, [plan._replace(tokens=plan.tokens + 1)])


def test_workers_get_no_tables(planned_world):
    reader, _ = planned_world
    assert reader.tables
    assert reader.without_tables().tables == []
