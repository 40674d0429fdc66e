"""Rows about the same media become turns of one sample."""

import errno
import itertools
import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from smolvlm2.data import kept_results
from smolvlm2.data.geometry import Geometry
from smolvlm2.data.grouping import GroupedManifest, group_rows, open_grouped
from smolvlm2.data.manifest import Manifest
from smolvlm2.data.media import MediaStore
from smolvlm2.data.prepare import prepare_source
from smolvlm2.data.sources.catalogue import SOURCES
from smolvlm2.errors import DataError
from smolvlm2.processing.images import ImageSettings
from smolvlm2.processing.processor import Processor

ASKED = 5


@pytest.fixture(scope="module")
def repeated(demo_root, tokenizer, tmp_path_factory):
    """A source of image comparisons in which the first three are asked about five times."""
    raw = tmp_path_factory.mktemp("repeated") / "data" / "raw" / "m4"
    shutil.copytree(demo_root / "raw" / SOURCES["m4_digits"].raw_folder, raw)
    path = raw / "m4_instruct_annotations.json"
    rows = json.loads(path.read_text())
    for number in range(1, ASKED):
        for row in rows[:3]:
            question, *answers = row["conversations"]
            question = {**question, "value": question["value"] + f" Again, {number}."}
            again = {"conversations": [question, *answers], "sample_id": 1000 * number}
            rows.append({**row, **again, "sample_id": 1000 * number + row["sample_id"]})
    path.write_text(json.dumps(rows))
    folder = raw.parent.parent / "prepared" / "m4_digits"
    prepare_source(SOURCES["m4_digits"].adapter, raw, folder, tokenizer)
    return Manifest.open(folder, tokenizer.key)


def test_rows_of_the_same_media_are_joined_up_to_the_limit(repeated):
    rows, offsets = group_rows(repeated, 3)
    assert sorted(rows.tolist()) == list(range(len(repeated)))
    sizes = np.diff(offsets)
    assert sorted(sizes.tolist(), reverse=True)[:6] == [3, 3, 3, 2, 2, 2]
    assert set(sizes.tolist()) == {1, 2, 3}
    firsts = rows[offsets[:-1]]
    assert firsts.tolist() == sorted(firsts.tolist())
    for start, stop in itertools.pairwise(offsets):
        media = {json.dumps([vars(m) for m in repeated.row(r).media]) for r in rows[start:stop]}
        assert len(media) == 1
        assert rows[start:stop].tolist() == sorted(rows[start:stop].tolist())


def test_a_group_of_one_is_the_source_itself(repeated, tokenizer):
    assert open_grouped(repeated, 1, tokenizer) is repeated


@pytest.fixture(scope="module")
def grouped(repeated, tokenizer):
    return open_grouped(repeated, ASKED, tokenizer)


def test_a_forgotten_grouping_goes_when_a_new_one_is_made(
    repeated, grouped, tokenizer, monkeypatch
):
    monkeypatch.setattr(kept_results.prune, "__kwdefaults__", {"keep": 0})
    made = next(repeated.folder.glob(f"grouped-{ASKED}-*"))
    old = Path(shutil.copytree(made, repeated.folder / "grouped-9-old"))
    os.utime(old / "offsets.npy", (0, 0))
    os.utime(made / "offsets.npy", (0, 0))  # likewise, but in use
    open_grouped(repeated, 2, tokenizer)
    assert not old.exists()
    assert made.is_dir()


def test_a_joined_row_shows_its_media_once_and_asks_all_questions(repeated, grouped):
    joined = [i for i in range(len(grouped)) if len(grouped.members(i)) == ASKED]
    assert len(joined) == 3
    for index in joined:
        row, members = grouped.row(index), grouped.members(index)
        single = [repeated.row(member) for member in members]
        assert row.sample_id == grouped.sample_id(index) == f"{single[0].sample_id}+{ASKED - 1}"
        assert row.media == single[0].media
        assert len(row.messages) == sum(len(other.messages) for other in single)
        kinds = [part["type"] for message in row.messages for part in message["content"]]
        assert len([kind for kind in kinds if kind != "text"]) == len(row.media)
        assert row.messages[-1] == single[-1].messages[-1]


def test_lengths_of_joined_rows_are_those_of_every_sample_as_it_is_read(grouped, tokenizer):
    processor = Processor(
        tokenizer, tile_size=32, tokens_per_tile=4, image=ImageSettings(longest_edge=64)
    )
    geometry, lengths = grouped.geometry, processor.length_model()
    for index in range(len(grouped)):
        row = grouped.row(index)
        media = [MediaStore(grouped.data_root).read(locator) for locator in row.media]
        sample = processor.encode_sample(row.messages, media)
        part = slice(geometry.media_offsets[index], geometry.media_offsets[index + 1])
        tiles, tokens = lengths.images(geometry.media_width[part], geometry.media_height[part])
        messages = slice(geometry.message_offsets[index], geometry.message_offsets[index + 1])
        assert len(sample.tiles) == tiles.sum()
        text = geometry.message_text_tokens[messages].sum()
        assert len(sample.input_ids) == tokens.sum() + text
        assert sample.supervised.sum() == geometry.message_supervised[messages].sum()


def test_a_grouping_is_made_once_travels_and_has_its_own_hash(repeated, grouped, tokenizer):
    again = open_grouped(repeated, ASKED, tokenizer)
    assert isinstance(again, GroupedManifest)
    sent = pickle.loads(pickle.dumps(again))
    assert len(sent) == len(grouped) < len(repeated)
    assert sent.row(0) == grouped.row(0)
    hashes = {m.hash for m in (repeated, grouped, open_grouped(repeated, 3, tokenizer))}
    assert len(hashes) == 3
    assert list(repeated.folder.glob("*.partial")) == []


def test_flagged_rows_stay_alone(repeated, tokenizer):
    flags = np.array(repeated.geometry.row_flags)
    whole, _ = group_rows(repeated, ASKED)
    flags[whole[:ASKED]] = 1
    np.save(repeated.folder / "geometry" / "row_flags.npy", flags)
    try:
        flagged = Manifest.open(repeated.folder, tokenizer.key)
        _, offsets = group_rows(flagged, ASKED)
        assert (np.diff(offsets) == ASKED).sum() == 2
    finally:
        np.save(repeated.folder / "geometry" / "row_flags.npy", np.zeros_like(flags))


def test_rows_without_media_stay_alone(prepared_root, tokenizer):
    manifest = Manifest.open(prepared_root / "prepared" / "text_digits", tokenizer.key)
    rows, offsets = group_rows(manifest, 4)
    assert rows.tolist() == list(range(len(manifest)))
    assert len(offsets) == len(manifest) + 1


def test_a_sample_is_found_by_its_id_and_by_those_of_its_rows(repeated, grouped):
    sizes = [len(grouped.members(row)) for row in range(len(grouped))]
    assert max(sizes) == ASKED  # and rows are not where the source has them
    for row in range(len(grouped)):
        assert grouped.find(grouped.sample_id(row)) == row
        for member in grouped.members(row):
            assert grouped.find(repeated.sample_id(member)) == row
    assert grouped.find("nowhere") is None
    assert grouped.find("nowhere+2") is None


def test_a_folder_that_cannot_be_written_says_what_to_do(repeated, tokenizer, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Geometry, "save", refuse)
    with pytest.raises(DataError, match=r"Read-only file system.*or set data\.mixture\.group_by_m"):
        open_grouped(repeated, 7, tokenizer)
