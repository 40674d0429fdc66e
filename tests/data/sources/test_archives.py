"""Archives: offsets that fit, members that are unsafe or damaged, names that rows may use."""

import gzip
import io
import lzma
import tarfile
import zipfile

import pytest

from smolvlm2.data.sources import archives
from smolvlm2.data.sources.archives import (
    BadMember,
    BrokenMemberError,
    archive_members,
    is_archive,
    loose_member,
    member_keys,
)


def outcome(path):
    """Members by name: bytes, or the reason; the archive itself under None."""
    return {member.name: content(member) for member in archive_members(path)}


def content(member):
    """Bytes of a member, or why there are none."""
    if isinstance(member, BadMember):
        return member.problem.reason
    try:
        return b"".join(member.pieces)
    except BrokenMemberError:
        return "corrupt_media"


def write_tar(path, members, mode="w", link=None):
    with tarfile.open(path, mode) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        if link:
            info = tarfile.TarInfo("link.png")
            info.type, info.linkname = tarfile.SYMTYPE, link
            archive.addfile(info)
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)


def test_stored_zip_members_and_plain_tar_members_have_offsets(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("one.png", b"first")
        info = zipfile.ZipInfo("två.png")
        info.extra = b"\x99\x99\x04\x00abcd"
        archive.writestr(info, b"second")
    write_tar(tmp_path / "b.tar", {"x/one.mp4": b"first", "y" * 150: b"second"})
    for name in ("a.zip", "b.tar"):
        whole = (tmp_path / name).read_bytes()
        members = [(m.offset, b"".join(m.pieces)) for m in archive_members(tmp_path / name)]
        assert [data for _, data in members] == [b"first", b"second"]
        for offset, data in members:
            assert whole[offset : offset + len(data)] == data


def test_compressed_members_have_no_offset(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("one.png", b"first")
    write_tar(tmp_path / "b.tar.gz", {"one.png": b"first"}, "w:gz")
    for name in ("a.zip", "b.tar.gz"):
        (found,) = [
            (m.name, m.offset, b"".join(m.pieces)) for m in archive_members(tmp_path / name)
        ]
        assert found == ("one.png", None, b"first")


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_unsafe_tar_members_are_refused_and_the_others_read(tmp_path, mode):
    members = {"../up.png": b"x", "/abs.png": b"x", "a/../../b.png": b"x", "fine.png": b"good"}
    write_tar(tmp_path / "a.tar.gz", members, mode, link="/etc/passwd")
    unsafe = "unsafe_path"
    assert outcome(tmp_path / "a.tar.gz") == {
        "../up.png": unsafe,
        "/abs.png": unsafe,
        "a/../../b.png": unsafe,
        "link.png": unsafe,
        "fine.png": b"good",
    }


def test_unsafe_zip_members_are_refused_and_the_others_read(tmp_path):
    link = zipfile.ZipInfo("link.png")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("../up.png", b"x")
        archive.writestr("/abs.png", b"x")
        archive.writestr("C:/abs.png", b"x")
        archive.writestr(link, b"/etc/passwd")
        archive.writestr("fine.png", b"good")
    found = outcome(tmp_path / "a.zip")
    assert found.pop("fine.png") == b"good"
    assert len(found) == 4
    assert set(found.values()) == {"unsafe_path"}


def test_a_damaged_zip_member_does_not_hide_the_others(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("bad.png", b"12345")
        archive.writestr("fine.png", b"good")
    path.write_bytes(path.read_bytes().replace(b"12345", b"12344"))
    assert outcome(path) == {"bad.png": "corrupt_media", "fine.png": b"good"}


@pytest.mark.parametrize("mode", ["zip", "w", "w:gz"])
def test_a_member_too_large_to_read_is_refused_by_its_header(tmp_path, monkeypatch, mode):
    members = {"bomb.png": bytes(5000), "fine.png": b"good"}
    if mode == "zip":
        with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in members.items():
                archive.writestr(name, data)
    else:
        write_tar(tmp_path / "a.zip", members, mode)
    monkeypatch.setattr(archives, "MAX_MEMBER_BYTES", 4999)
    assert outcome(tmp_path / "a.zip") == {"bomb.png": "unsupported_media", "fine.png": b"good"}


def test_a_tar_that_is_cut_off_gives_what_it_has(tmp_path):
    path = tmp_path / "a.tar.gz"
    write_tar(path, {"one.png": b"1" * 1000, "two.png": b"2" * 100_000})
    path.write_bytes(gzip.compress(path.read_bytes()[:5000]))
    bad = "corrupt_media"
    assert outcome(path) == {"one.png": b"1" * 1000, "two.png": bad, None: bad}


def test_a_file_that_is_no_archive_is_corrupt(tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(b"hello")
    assert outcome(path) == {None: "corrupt_media"}


def test_rows_may_name_a_member_in_three_ways():
    assert member_keys("", "Src.zip", "Src/images/1.png") == [
        "Src/images/1.png", "Src/Src/images/1.png", "images/1.png",
    ]  # fmt: skip
    assert member_keys("", "Src.zip", "images/1.png")[1] == "Src/images/1.png"
    assert member_keys("cfg", "cfg_videos_1.tar.gz", "a/1.mp4")[0] == "cfg/a/1.mp4"


def test_archives_are_known_by_name(tmp_path):
    names = ["a.zip", "b.TAR", "c.tar.gz", "d.tgz", "e.json", "f.gz"]
    assert [name for name in names if is_archive(tmp_path / name)] == names[:4]


def test_a_loose_link_is_refused_and_a_loose_file_read(tmp_path):
    (tmp_path / "fine.png").write_bytes(b"x")
    (tmp_path / "link.png").symlink_to(tmp_path / "fine.png")
    assert content(loose_member(tmp_path / "fine.png", "fine.png")) == b"x"
    assert content(loose_member(tmp_path / "link.png", "link.png")) == "unsafe_path"


MEMBERS = {f"{n}.png": bytes([n + 1]) * 700 for n in range(4)}
THIRD = 2 * 3 * 512
"""First byte of the third member: each has a header and two blocks."""


@pytest.mark.parametrize(
    ("start", "stop", "filler"),
    [
        (THIRD + 100, THIRD + 160, b"\xff" * 60),  # a header that is none
        (THIRD + 200, None, b""),  # cut off in a header
        (THIRD, None, b""),  # cut off between members
        (THIRD, THIRD + 512, bytes(512)),  # a hole that looks like the end
    ],
    ids=["damaged", "cut", "cut between", "hole"],
)
@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_a_tar_that_ends_too_early_says_so(tmp_path, mode, start, stop, filler):
    write_tar(tmp_path / "a.tar", MEMBERS)
    data = bytearray((tmp_path / "a.tar").read_bytes())
    data[start:stop] = filler
    packed = {"w": bytes, "w:gz": gzip.compress, "w:xz": lzma.compress}[mode](data)
    (tmp_path / "a.tar").write_bytes(packed)
    first = {name: MEMBERS[name] for name in ("0.png", "1.png")}
    assert outcome(tmp_path / "a.tar") == first | {None: "corrupt_media"}


def test_a_packed_tar_may_be_several_streams(tmp_path):
    write_tar(tmp_path / "a.tar", MEMBERS)
    data = (tmp_path / "a.tar").read_bytes()
    pieces = (data[at : at + 1000] for at in range(0, len(data), 1000))
    (tmp_path / "a.tar.gz").write_bytes(b"".join(map(gzip.compress, pieces)))
    assert outcome(tmp_path / "a.tar.gz") == MEMBERS


def test_a_packed_tar_with_a_wrong_checksum_says_so(tmp_path):
    write_tar(tmp_path / "a.tar.gz", MEMBERS, "w:gz")
    data = bytearray((tmp_path / "a.tar.gz").read_bytes())
    data[-8] ^= 255
    (tmp_path / "a.tar.gz").write_bytes(data)
    assert outcome(tmp_path / "a.tar.gz") == MEMBERS | {None: "corrupt_media"}


def test_what_unpacks_before_the_damage_is_read(tmp_path):
    write_tar(tmp_path / "a.tar.gz", MEMBERS, "w:gz")
    data = (tmp_path / "a.tar.gz").read_bytes()
    (tmp_path / "a.tar.gz").write_bytes(data[:-9])
    assert outcome(tmp_path / "a.tar.gz") == MEMBERS | {None: "corrupt_media"}
