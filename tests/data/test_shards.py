"""Shards are plain tars that can be read by offset."""

import tarfile

from smolvlm2.data.shards import ShardWriter


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
