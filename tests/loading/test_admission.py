"""What a recipe admits is computed once, kept beside the source, and mapped."""

import errno
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from smolvlm2.data.kept_results import KEPT
from smolvlm2.data.manifest import Manifest
from smolvlm2.data.shards import unfinished_name
from smolvlm2.loading import admission as module
from smolvlm2.loading.admission import Admission, admitted_rows
from smolvlm2.plan.samples import RECORD
from smolvlm2.processing.images import ImageSettings
from smolvlm2.processing.lengths import LengthModel

ALL = Admission(max_tokens=512, max_images=None, exclude=())
NONE = np.zeros(0, dtype=np.int64)
"""No contaminated rows."""


@pytest.fixture
def opened(make_reader, tmp_path):
    """A source of two subsets, copied to be written beside, and the lengths of the reader."""
    data, reader = make_reader()
    target = tmp_path / "prepared" / "cauldron_digits"
    shutil.copytree(data.manifests[0].folder, target)
    for folder in target.glob("lengths-*"):
        shutil.rmtree(folder)
    lengths = reader.processor.length_model()
    return Manifest.open(target, lengths.tokenizer.key), lengths


def as_records(rows):
    records = np.zeros(len(rows.columns["rows"]), dtype=RECORD)
    for name in RECORD.names:
        records[name] = rows.columns[name]
    return records


def test_the_second_opening_reads_what_the_first_computed(opened, monkeypatch):
    manifest, lengths = opened
    first = admitted_rows(manifest, lengths, ALL)
    monkeypatch.setattr(module, "_compute", None)
    again = admitted_rows(manifest, lengths, ALL)
    assert np.array_equal(as_records(first), as_records(again))
    assert isinstance(again.columns["tokens"], np.memmap)
    assert (again.digest, again.subsets) == (first.digest, first.subsets)
    assert [path.name for path in manifest.folder.glob("*.partial")] == []


def test_forgotten_results_go_when_a_new_one_is_written(opened):
    manifest, lengths = opened
    admitted_rows(manifest, lengths, ALL)
    first = next(manifest.folder.glob("lengths-*"))
    for number in range(KEPT + 2):
        copy = Path(shutil.copytree(first, first.with_name(f"lengths-{number}")))
        os.utime(copy / "facts.json", (number, number))  # in 1970
    os.utime(first / "facts.json", (0, 0))  # likewise, but in use
    admitted_rows(manifest, lengths, replace(ALL, max_tokens=100))
    left = {path.name for path in manifest.folder.glob("lengths-*")}
    assert {"lengths-0", "lengths-1", "lengths-2"}.isdisjoint(left)
    assert first.name in left
    assert len(left) == KEPT + 1


def test_rows_are_sorted_by_subset_and_row_whatever_the_chunks(opened, monkeypatch):
    manifest, lengths = opened
    mixed = np.random.default_rng(0).integers(0, 2, len(manifest)).astype(np.int32)
    np.save(manifest.folder / "geometry" / "row_subset.npy", mixed)
    manifest = Manifest.open(manifest.folder, lengths.tokenizer.key)
    whole = admitted_rows(manifest, lengths, ALL)
    assert whole.offsets.tolist() == [0, (mixed == 0).sum(), len(mixed)]
    rows = np.asarray(whole.columns["rows"])
    assert rows.tolist() == np.argsort(mixed, kind="stable").tolist()
    for folder in manifest.folder.glob("lengths-*"):
        shutil.rmtree(folder)
    monkeypatch.setattr(module, "CHUNK_ROWS", 5)
    chunked = admitted_rows(manifest, lengths, ALL)
    assert np.array_equal(as_records(whole), as_records(chunked))
    assert (whole.digest, whole.subsets) == (chunked.digest, chunked.subsets)


def test_sums_and_maxima_are_those_of_the_columns(opened):
    rows = admitted_rows(*opened, ALL)
    for number, facts in enumerate(rows.subsets):
        part = slice(rows.offsets[number], rows.offsets[number + 1])
        assert facts["samples"] == part.stop - part.start
        for name in ("tiles", "tokens", "supervised"):
            assert facts[name] == rows.columns[name][part].sum()
        assert facts["max_tokens"] == rows.columns["tokens"][part].max()
        assert facts["max_tiles"] == rows.columns["tiles"][part].max()


def test_what_changes_a_length_has_its_own_file_and_what_does_not_shares_it(opened):
    manifest, lengths = opened

    def folders():
        return len(list(manifest.folder.glob("lengths-*")))

    def with_image(**changes):
        image = ImageSettings(**(vars(lengths.image) | changes))
        size = {"tile_size": lengths.tile_size}
        return LengthModel(lengths.tokenizer, lengths.tokens_per_tile, image, lengths.video, **size)

    admitted_rows(manifest, lengths, ALL)
    admitted_rows(manifest, with_image(resample="fast"), ALL)
    assert folders() == 1
    admitted_rows(manifest, with_image(longest_edge=32), ALL)
    admitted_rows(manifest, lengths, Admission(max_tokens=511, max_images=None, exclude=()))
    admitted_rows(manifest, lengths, Admission(max_tokens=512, max_images=3, exclude=()))
    assert folders() == 4


def test_a_folder_that_cannot_be_written_is_no_obstacle(opened):
    manifest, lengths = opened
    # Root may write everywhere, so a file stands where the folder would be made.
    name = unfinished_name(f"lengths-{module._key(manifest, lengths, ALL, NONE)}")
    (manifest.folder / name).write_text("")
    rows = admitted_rows(manifest, lengths, ALL)
    assert rows.records is None
    assert len(rows.columns["rows"]) == len(manifest)


def test_in_memory_and_on_disk_are_equal(opened):
    manifest, lengths = opened
    in_memory = module._compute(manifest, lengths, ALL, NONE, None)
    assert np.array_equal(as_records(in_memory), as_records(admitted_rows(manifest, lengths, ALL)))


def test_a_half_written_folder_is_not_taken_for_a_finished_one(opened):
    manifest, lengths = opened
    admitted_rows(manifest, lengths, ALL)
    (folder,) = manifest.folder.glob("lengths-*")
    folder.rename(folder.with_name(f"{folder.name}.99.partial"))
    assert len(admitted_rows(manifest, lengths, ALL).columns["rows"]) == len(manifest)
    assert folder.is_dir()


def test_a_full_disk_leaves_the_lengths_in_memory(opened, monkeypatch, caplog):
    """Reserved first: a mapped file on a full disk ends the process with a bus error."""
    manifest, lengths = opened
    whole = admitted_rows(manifest, lengths, ALL)
    for folder in manifest.folder.glob("lengths-*"):
        shutil.rmtree(folder)

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with caplog.at_level("INFO"):
        rows = admitted_rows(manifest, lengths, ALL)
    assert np.array_equal(as_records(rows), as_records(whole))
    assert (rows.digest, rows.records) == (whole.digest, None)
    assert list(manifest.folder.glob("lengths-*")) == []
    assert "no room (" in caplog.text
