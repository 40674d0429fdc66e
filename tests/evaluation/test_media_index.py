"""Media are found wherever they lie, and what is damaged is told."""

import zipfile

import pytest

from smolvlm2.errors import MediaError
from smolvlm2.evaluation.media_index import Absent, LooseFile, MediaIndex, ZipMember


def test_media_are_found_by_the_end_of_their_path(tmp_path, write):
    write.file(tmp_path / "deep/er/a.mp4", b"loose")
    write.zip(tmp_path / "z.zip", {"er/a.mp4": b"packed", "er/b.mkv": b"b", "../evil.mp4": b""})
    write.file(tmp_path / "broken.zip", b"PK no")
    index = MediaIndex(tmp_path)
    assert isinstance(index.find(["er/a.mp4"]), LooseFile)
    assert index.find(["er/b.mp4"], (".mkv",)).open() == b"b"
    assert isinstance(index.find(["er/b.mkv"]), ZipMember)
    assert isinstance(index.find(["r/a.mp4"]), Absent)
    assert isinstance(index.find(["../evil.mp4"]), Absent)
    assert isinstance(index.find_frames(["er"], 3.0), Absent)


def _encrypted(data: bytes) -> bytes:
    """The flag alone, in the member's own header and in the directory's."""
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = data.index(mark) + place
        data = data[:start] + b"\x01" + data[start + 1 :]
    return data


@pytest.mark.parametrize(
    ("method", "damage", "reason"),
    [
        (zipfile.ZIP_LZMA, lambda data: data[:50] + b"\xff" * 40 + data[90:], "Corrupt input"),
        (zipfile.ZIP_STORED, lambda data: data.replace("é".encode(), b"\xff\xff", 1), "utf-8"),
        (zipfile.ZIP_STORED, _encrypted, "encrypted"),
    ],
)
def test_a_damaged_member_of_a_zip_is_told(tmp_path, method, damage, reason):
    path = tmp_path / "z.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("é.mp4", bytes(range(256)) * 4)
    path.write_bytes(damage(path.read_bytes()))
    member = MediaIndex(tmp_path).find(["é.mp4"])
    with pytest.raises(MediaError, match=rf"z\.zip:é\.mp4: cannot be read \(.*{reason}"):
        member.open()


def test_a_zip_with_a_damaged_directory_holds_nothing(tmp_path, write):
    path = tmp_path / "z.zip"
    write.zip(path, {"é.mp4": b"clip"})
    path.write_bytes(path.read_bytes().replace("é".encode(), b"\xff\xff"))
    assert isinstance(MediaIndex(tmp_path).find(["é.mp4"]), Absent)
