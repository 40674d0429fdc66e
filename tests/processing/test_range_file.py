import io
from pathlib import Path

import pytest

from smolvlm2.errors import MediaError, MediaNotFoundError
from smolvlm2.processing.range_file import RangeFile


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "shard.tar").write_bytes(bytes(range(100)))
    return tmp_path / "shard.tar"


def test_a_range_is_a_file_of_its_own(path: Path):
    with RangeFile(path, 20, 30) as file:
        assert (file.size, file.readable(), file.seekable(), file.writable()) == (
            *(30, True, True),
            False,
        )
        assert file.read(4) == bytes(range(20, 24))
        assert file.tell() == 4
        assert file.read() == bytes(range(24, 50))
        assert file.read(1) == b""
        assert file.seek(-2, io.SEEK_END) == 28
        assert file.read(10) == bytes([48, 49])
        assert file.seek(5) == 5
        assert file.seek(2, io.SEEK_CUR) == 7
        assert file.read(1) == bytes([27])
        file.seek(1000)
        assert file.read(1) == b""
    assert file.closed
    assert str(file) == f"{path} (bytes 20 to 50)"


def test_without_a_range_it_is_the_whole_file(path: Path):
    with RangeFile(path) as file:
        assert file.read() == path.read_bytes()


def test_a_seek_before_the_start_is_refused(path: Path):
    with RangeFile(path, 20, 30) as file, pytest.raises(ValueError, match="seek to -1"):
        file.seek(-1)


def test_a_file_that_is_too_short_or_missing_is_named(path: Path, tmp_path: Path):
    with pytest.raises(MediaError, match=r"shard\.tar: has 100 bytes, expected 30 at offset 80"):
        RangeFile(path, 80, 30)
    with pytest.raises(MediaNotFoundError, match=r"none\.tar: no such file"):
        RangeFile(tmp_path / "none.tar")
    with pytest.raises(MediaError, match="cannot be opened"):
        RangeFile(tmp_path)
