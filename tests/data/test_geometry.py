"""Geometry columns: kept on disk, mapped when opened, checked against one another."""

import numpy as np
import pytest

from smolvlm2.data.geometry import COLUMNS, Geometry
from smolvlm2.errors import DataError, DataNotFoundError


@pytest.fixture
def folder(tmp_path):
    """Two rows: one with an image, one without."""
    lengths = {"media": 1, "message": 4}
    columns = {}
    for name, dtype in COLUMNS.items():
        columns[name] = np.zeros(lengths.get(name.split("_")[0], 2), dtype=dtype)
    columns["media_offsets"] = np.array([0, 1, 1])
    columns["message_offsets"] = np.array([0, 2, 4])
    Geometry(**columns).save(tmp_path / "src" / "geometry")
    return tmp_path / "src" / "geometry"


def test_columns_are_mapped_not_read(folder):
    geometry = Geometry.open(folder)
    assert isinstance(geometry.message_role, np.memmap)
    assert len(geometry) == 2
    assert geometry.message_text_tokens is None
    assert {name: str(getattr(geometry, name).dtype) for name in COLUMNS} == COLUMNS


@pytest.mark.parametrize("name", ["media_width", "message_role", "row_flags", "media_offsets"])
def test_a_column_of_another_length_is_named(folder, name):
    column = np.load(folder / f"{name}.npy")
    np.save(folder / f"{name}.npy", np.concatenate([column, column[-1:]]))
    with pytest.raises(DataError, match=f"column {name} has {len(column) + 1} entries, expected"):
        Geometry.open(folder)


def test_a_missing_column_names_the_command(folder):
    (folder / "media_fps.npy").unlink()
    with pytest.raises(DataNotFoundError, match=r"media_fps.*smolvlm2 prepare src "):
        Geometry.open(folder)


def test_missing_token_columns_name_the_command(folder):
    with pytest.raises(DataNotFoundError, match=r"tokens-abc.*smolvlm2 prepare src "):
        Geometry.open(folder, "abc")


def test_a_column_of_another_type_is_refused(folder):
    np.save(folder / "media_width.npy", np.zeros(1))
    with pytest.raises(DataError, match=r"found float64 .*expected a flat int32"):
        Geometry.open(folder)


def test_a_column_that_is_no_array_is_refused(folder):
    (folder / "media_width.npy").write_bytes(b"hello there, no header")
    with pytest.raises(DataError, match="not a NumPy column"):
        Geometry.open(folder)


def test_an_empty_file_is_no_column(folder):
    (folder / "media_width.npy").write_bytes(b"")
    with pytest.raises(DataError, match=r"media_width.*not a NumPy column"):
        Geometry.open(folder)
