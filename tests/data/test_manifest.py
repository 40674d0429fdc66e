"""The manifest as training opens it."""

import json
import pickle
import shutil
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest

from smolvlm2.data.manifest import Manifest
from smolvlm2.data.media import MediaStore
from smolvlm2.errors import DataError, DataNotFoundError


@pytest.fixture
def copy(prepared_root, tmp_path):
    """A prepared source that may be damaged."""
    return shutil.copytree(prepared_root / "prepared" / "m4_digits", tmp_path / "prepared" / "m4")


def test_rows_fit_their_geometry(prepared_root, tokenizer):
    manifest = Manifest.open(prepared_root / "prepared" / "m4_digits", tokenizer.key)
    geometry = manifest.geometry
    roles = {"system": 0, "user": 1, "assistant": 2}
    for index in range(len(manifest)):
        row = manifest.row(index)
        media = slice(*geometry.media_offsets[index : index + 2])
        messages = slice(*geometry.message_offsets[index : index + 2])
        assert [roles[m["role"]] for m in row.messages] == geometry.message_role[messages].tolist()
        places = [
            place
            for place, message in enumerate(row.messages)
            for part in message["content"]
            if part["type"] != "text"
        ]
        assert places == geometry.media_message[media].tolist()
        assert len(row.media) == media.stop - media.start
        assert row.sample_id == manifest.sample_id(index)
        assert row.source == "m4_digits"
        supervised = geometry.message_supervised[messages]
        assert (supervised > 0).tolist() == [m["role"] == "assistant" for m in row.messages]
    assert geometry.row_modality.tolist() == [2] * len(manifest)
    assert manifest.subsets == ["DigitPairs", "DigitTriples"]


def test_sample_ids_are_unique_and_carry_the_source(prepared_root):
    for folder in (prepared_root / "prepared").iterdir():
        manifest = Manifest.open(folder)
        ids = [manifest.sample_id(i) for i in range(len(manifest))]
        assert len(set(ids)) == len(ids)
        assert all(name.startswith(f"{folder.name}/") for name in ids)


def test_every_medium_of_the_demo_can_be_read(prepared_root):
    for folder in (prepared_root / "prepared").iterdir():
        manifest = Manifest.open(folder)
        store = MediaStore(manifest.data_root)
        for index in range(len(manifest)):
            for locator in manifest.row(index).media:
                start = store.read(locator)[:12]
                assert start[1:4] == b"PNG" or start[:2] == b"\xff\xd8" or start[4:8] == b"ftyp"


def test_a_row_beyond_the_end_is_an_index_error(prepared_root):
    manifest = Manifest.open(prepared_root / "prepared" / "text_digits")
    assert manifest.row(-1) == manifest.row(len(manifest) - 1)
    assert manifest.row(np.int64(0)) == manifest.row(0)
    for index in (len(manifest), -len(manifest) - 1):
        with pytest.raises(IndexError):
            manifest.row(index)


def test_a_manifest_opens_again_in_a_spawned_worker(prepared_root, tokenizer):
    manifest = Manifest.open(prepared_root / "prepared" / "text_digits", tokenizer.key)
    assert len(pickle.dumps(manifest)) < 1000
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert pool.submit(manifest.row, 3).result() == manifest.row(3)
    again = pickle.loads(pickle.dumps(manifest))
    assert again.geometry.message_text_tokens is not None


@pytest.mark.parametrize("name", ["manifest.arrow", "source.json"])
def test_what_is_not_prepared_names_the_command(copy, name):
    (copy / name).unlink()
    with pytest.raises(DataNotFoundError, match=f"{name} is missing.*smolvlm2 prepare m4"):
        Manifest.open(copy)


def test_a_damaged_manifest_is_refused(copy):
    (copy / "manifest.arrow").write_bytes(b"ARROW1 no more")
    with pytest.raises(DataError, match="prepare it again"):
        Manifest.open(copy)


def test_files_that_disagree_are_refused(copy, prepared_root):
    facts = json.loads((copy / "source.json").read_text())
    facts["rows_kept"] += 1
    (copy / "source.json").write_text(json.dumps(facts))
    with pytest.raises(DataError, match=r"rows, expected .* as source.json says"):
        Manifest.open(copy)


def test_geometry_of_another_source_is_refused(copy, prepared_root):
    shutil.rmtree(copy / "geometry")
    shutil.copytree(prepared_root / "prepared" / "text_digits" / "geometry", copy / "geometry")
    with pytest.raises(DataError, match=r"manifest.arrow has .* rows and the geometry"):
        Manifest.open(copy)


def test_rows_that_were_prepared_again_meanwhile_are_refused(copy, prepared_root):
    manifest = Manifest.open(copy)
    pickled = pickle.dumps(manifest)
    assert len(pickle.loads(pickled)) == len(manifest)
    shutil.rmtree(copy)
    shutil.copytree(prepared_root / "prepared" / "text_digits", copy)
    with pytest.raises(DataError, match="prepared again, with other rows, while it was in use"):
        pickle.loads(pickled)
