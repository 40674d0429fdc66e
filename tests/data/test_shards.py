"""Shards are plain tars that can be read by offset."""

import itertools
import os
import socket
import subprocess
import sys
import tarfile

import pytest

from smolvlm2.data.shards import (
    ShardWriter,
    is_abandoned,
    tar_header,
    unfinished_name,
    verify_shards,
)
from smolvlm2.errors import DataError

CAPTURE = {"capture_output": True, "text": True, "check": True}


def test_a_shard_is_a_tar_and_its_offsets_fit(tmp_path):
    blobs = [b"a" * size for size in (0, 1, 511, 512, 513)]
    with ShardWriter(tmp_path, "part") as shards:
        places = [shards.add(f"{n}.bin", blob) for n, blob in enumerate(blobs)]
    assert {name for name, _ in places} == {"part-00000.tar"}
    content = (tmp_path / "part-00000.tar").read_bytes()
    for (_, offset), blob in zip(places, blobs, strict=True):
        assert content[offset : offset + len(blob)] == blob
    with tarfile.open(tmp_path / "part-00000.tar") as archive:
        assert [archive.extractfile(member).read() for member in archive] == blobs


def test_a_full_shard_is_followed_by_another(tmp_path):
    with ShardWriter(tmp_path, "part", max_bytes=2000) as shards:
        names = [shards.add(f"{n}.bin", b"x" * 900)[0] for n in range(5)]
    assert names == ["part-00000.tar", "part-00000.tar", "part-00001.tar", "part-00001.tar",
                     "part-00002.tar"]  # fmt: skip
    members = []
    for name in sorted(set(names)):
        with tarfile.open(tmp_path / name) as archive:
            members.append(archive.getnames())
    assert members == [["0.bin", "1.bin"], ["2.bin", "3.bin"], ["4.bin"]]


def test_without_media_nothing_is_written(tmp_path):
    with ShardWriter(tmp_path / "shards", "part"):
        pass
    assert not (tmp_path / "shards").exists()


@pytest.mark.parametrize(("name", "size"), [("a.bin", 0), ("x" * 100, 8 * 2**30 - 1)])
def test_headers_are_what_tarfile_writes(name, size):
    info = tarfile.TarInfo(name)
    info.size = size
    assert tar_header(name, size) == info.tobuf(format=tarfile.USTAR_FORMAT)


def test_a_member_that_is_not_kept_leaves_nothing(tmp_path):
    with ShardWriter(tmp_path / "a", "part") as shards:
        shards.add("0.bin", b"first")
        with shards.begin("1.bin", 1000) as member:
            member.write(b"x" * 600)
        shards.add("2.bin", b"last")
        with shards.begin("3.bin", 9000) as member:
            member.write(b"y" * 8000)
    with ShardWriter(tmp_path / "b", "part") as others:
        others.add("0.bin", b"first")
        others.add("2.bin", b"last")
    paths = [tmp_path / folder / "part-00000.tar" for folder in "ab"]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert shards.checksums == others.checksums


def test_a_shard_without_members_is_not_there(tmp_path):
    with ShardWriter(tmp_path, "part", max_bytes=10) as shards:
        with shards.begin("0.bin", 5) as member:
            member.write(b"x")
        shards.add("1.bin", b"data")
        with shards.begin("2.bin", 5):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["part-00000.tar"] == shards.names


def test_a_member_is_as_long_as_announced(tmp_path):
    with ShardWriter(tmp_path, "part") as shards:
        with shards.begin("0.bin", 3) as member:
            with pytest.raises(ValueError, match="more than the 3 bytes announced"):
                member.write(b"1234")
            member.write(b"12")
            with pytest.raises(ValueError, match="1 of the 3 bytes announced are missing"):
                member.keep()
        assert shards.names == []


def test_an_error_leaves_no_file_and_touches_none(tmp_path):
    (tmp_path / "part-00000.tar").write_bytes(b"of an earlier run")
    shards = ShardWriter(tmp_path, "part")
    shards.add("0.bin", b"data")
    shards.__exit__(KeyboardInterrupt, None, None)
    assert [path.name for path in tmp_path.iterdir()] == ["part-00000.tar"]
    assert (tmp_path / "part-00000.tar").read_bytes() == b"of an earlier run"


def test_a_shard_that_reads_back_differently_is_an_error(tmp_path):
    with ShardWriter(tmp_path, "part") as shards:
        shards.add("0.bin", b"data")
    verify_shards(tmp_path, shards.checksums)
    content = bytearray((tmp_path / "part-00000.tar").read_bytes())
    content[512] ^= 1
    (tmp_path / "part-00000.tar").write_bytes(content)
    with pytest.raises(DataError, match=r"part-00000\.tar: reads back other bytes.*nothing was"):
        verify_shards(tmp_path, shards.checksums)


def test_only_the_files_of_ended_runs_are_abandoned(tmp_path):
    mine = tmp_path / unfinished_name("x.tar")
    assert not is_abandoned(mine)
    done = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], **CAPTURE)
    ended = mine.with_name(mine.name.replace(f"-{os.getpid()}.", f"-{int(done.stdout)}."))
    assert is_abandoned(ended)
    assert not is_abandoned(ended.with_name(f"x.tar.elsewhere-{int(done.stdout)}.partial"))
    assert not is_abandoned(tmp_path / "x.partial")


@pytest.mark.skipif(not os.path.exists("/proc/self/ns/pid"), reason="needs Linux")
def test_containers_of_one_machine_do_not_take_each_others_files_for_abandoned(tmp_path):
    mine, space = unfinished_name("x.tar"), str(os.stat("/proc/self/ns/pid").st_ino)
    done = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], **CAPTURE)
    assert f".{space}-" in mine
    ended = mine.replace(f"-{os.getpid()}.", f"-{int(done.stdout)}.")
    assert is_abandoned(tmp_path / ended)
    assert not is_abandoned(tmp_path / ended.replace(space, f"{space}1"))


def test_a_machine_may_change_its_name_while_a_shard_is_written(tmp_path, monkeypatch):
    names = itertools.count()
    monkeypatch.setattr(socket, "gethostname", lambda: f"laptop-{next(names)}")
    with ShardWriter(tmp_path, "part") as shards:
        shards.add("0.bin", b"data")
    assert [path.name for path in tmp_path.iterdir()] == ["part-00000.tar"]
