"""Archives and loose files through prepare: what is hostile is named, its neighbours are read."""

import io
import json
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from PIL import Image

from smolvlm2.data import media_parts
from smolvlm2.data.manifest import Manifest
from smolvlm2.data.media import MediaStore
from smolvlm2.data.sources import archives
from smolvlm2.data.sources.archives import is_archive
from smolvlm2.data.sources.record import RawMedium, Record


@dataclass(frozen=True, kw_only=True)
class Named:
    """Rows of ``{"media": [[kind, path, ...], ...]}``; every archive and loose file counts."""

    source: str = "named"
    licence: str = "none"
    reader: ClassVar = "json"
    columns: ClassVar = ()
    optional_columns: ClassVar = ()
    placeholders: ClassVar = ()

    def record_files(self, raw):
        return sorted(raw.glob("*.json"))

    def archives(self, raw):
        return sorted(path for path in raw.rglob("*") if is_archive(path))

    def records(self, row, file):
        media = [
            RawMedium(kind=kind, paths=tuple(paths), **row.get("more", {}))
            for kind, *paths in row["media"]
        ]
        yield Record(
            native_id=row.get("id"), turns=[("user", "q"), ("assistant", "a")], media=media
        )


@pytest.fixture
def ask(raw, prepare, read_ledger):
    """Prepare rows that each name one medium; ``ask(["image", path], ...)`` gives what came."""

    def run(*media, more=None, **options):
        rows = [{"id": str(n), "media": [each], "more": more or {}} for n, each in enumerate(media)]
        (raw / "rows.json").write_text(json.dumps(rows))
        folder, summary = prepare(Named(), **options)
        manifest = Manifest.open(folder)
        found = {manifest.sample_id(n).split("/")[1]: manifest.row(n) for n in range(len(manifest))}
        lines = read_ledger(folder)
        reasons = {line["row"]: line["reason"] for line in lines if line["row"] is not None}
        outcome = [found.get(str(n)) or reasons[n] for n in range(len(media))]
        others = {line["member"] or line["file"]: line for line in lines if line["row"] is None}
        return outcome, others, folder, summary

    return run


def odd_members():
    """What no archive of media should hold."""
    made = []
    for name, kind in (("link.png", tarfile.SYMTYPE), ("hard.png", tarfile.LNKTYPE),
                       ("device", tarfile.CHRTYPE), ("pipe", tarfile.FIFOTYPE)):  # fmt: skip
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, "/etc/passwd"
        made.append(info)
    return made


@pytest.mark.parametrize(("name", "mode"), [
    ("a.tar", "w"), ("a.tar.gz", "w:gz"), ("a.tar.bz2", "w:bz2"), ("a.tar.xz", "w:xz"),
])  # fmt: skip
def test_hostile_tars_are_refused_by_member_and_their_neighbours_read(
    raw, ask, png, write_tar, name, mode, tree_bytes
):
    members = {"../up.png": png(1), "/abs.png": png(2), "a/../../b.png": png(3), "ok.png": png(4)}
    write_tar(raw / name, members, mode, odd_members())
    outcome, others, _, _ = ask(["image", "ok.png"], ["image", "link.png"])
    assert MediaStore(raw.parents[1]).read(outcome[0].media[0]) == png(4)
    assert outcome[1] == "unsafe_path"
    refused = {"../up.png", "/abs.png", "a/../../b.png", "link.png", "hard.png", "device", "pipe"}
    assert {member: line["reason"] for member, line in others.items()} == dict.fromkeys(
        refused, "unsafe_path"
    )
    top = raw.parents[2]
    assert {path.split("/")[0] for path in tree_bytes(top)} == {"data"}
    assert not any("up.png" in path or "b.png" in path for path in tree_bytes(top))
    assert not Path("/abs.png").exists()


def test_hostile_zips_are_refused_by_member_and_their_neighbours_read(raw, ask, png):
    link = zipfile.ZipInfo("link.png")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(raw / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../up.png", png(1))
        archive.writestr("/abs.png", png(2))
        archive.writestr(link, "/etc/passwd")
        archive.writestr("ok.png", png(4))
    outcome, others, _, _ = ask(["image", "ok.png"])
    assert MediaStore(raw.parents[1]).read(outcome[0].media[0]) == png(4)
    assert set(others) == {"../up.png", "/abs.png", "link.png"}


def white_bmp():
    """An honest picture that shrinks a thousandfold."""
    buffer = io.BytesIO()
    Image.new("RGB", (3000, 2500), "white").save(buffer, "BMP")
    return buffer.getvalue()


def test_bombs_are_refused_without_filling_the_disk(raw, ask, png, monkeypatch):
    monkeypatch.setattr(archives, "_RATIO_FROM", 1 << 20)
    monkeypatch.setattr(media_parts, "MAX_UNKNOWN_BYTES", 1 << 20)
    with zipfile.ZipFile(raw / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.png", bytes(20 << 20))
        archive.writestr("white.bmp", white_bmp())
        archive.writestr("ok.png", png(4))
    with tarfile.open(raw / "b.tar.gz", "w:gz") as archive:
        info = tarfile.TarInfo("zeros.png")
        info.size = 20 << 20
        archive.addfile(info, io.BytesIO(bytes(info.size)))
        info = tarfile.TarInfo("fine.png")
        info.size = len(png(5))
        archive.addfile(info, io.BytesIO(png(5)))
    outcome, others, folder, _ = ask(
        ["image", "ok.png"], ["image", "fine.png"], ["image", "bomb.png"], ["image", "zeros.png"]
    )
    store = MediaStore(raw.parents[1])
    assert [store.read(row.media[0]) for row in outcome[:2]] == [png(4), png(5)]
    assert outcome[2:] == ["unsupported_media"] * 2
    assert {name: line["reason"] for name, line in others.items()} == dict.fromkeys(
        ["bomb.png", "white.bmp", "zeros.png"], "unsupported_media"
    )
    assert sum(path.stat().st_size for path in (folder / "shards").iterdir()) < 100_000


def test_a_member_that_breaks_off_is_cut_from_its_shard(raw, ask, png, clip):
    data = clip(40)
    with zipfile.ZipFile(raw / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bad.mp4", data)
        archive.writestr("broken.mp4", data[: len(data) // 2])
        archive.writestr("ok.mp4", clip(41))
    content = bytearray((raw / "a.zip").read_bytes())
    # The directory's checksum of the first member, so that all of it is read before the error.
    place = content.index(b"PK\1\2") + 16
    content[place] ^= 1
    (raw / "a.zip").write_bytes(content)
    names = ("bad.mp4", "broken.mp4", "ok.mp4")
    outcome, others, folder, _ = ask(*(["video", name] for name in names))
    assert outcome[:2] == ["corrupt_media"] * 2
    assert MediaStore(raw.parents[1]).read(outcome[2].media[0]) == clip(41)
    assert list(others) == ["bad.mp4"]
    (shard,) = (folder / "shards").iterdir()
    with tarfile.open(shard) as archive:
        assert archive.getnames() == ["00000002.mp4"]


@pytest.mark.parametrize("method", [0, 8])
def test_split_zips_are_repacked(raw, ask, png, write_split_zip, method):
    members = {f"x/{number}.png": png(number) for number in range(4)}
    write_split_zip(raw / "split.zip", members, 900, method)
    outcome, others, folder, _ = ask(["image", "x/0.png"], ["image", "x/3.png"])
    store = MediaStore(raw.parents[1])
    assert [store.read(row.media[0]) for row in outcome] == [png(0), png(3)]
    assert others == {}
    assert (folder / "shards").is_dir()


@pytest.mark.parametrize("gone", ["split.z02", "split.zip"])
def test_a_missing_part_of_a_split_zip_is_one_line(raw, ask, png, write_split_zip, gone):
    write_split_zip(raw / "split.zip", {f"{n}.png": png(n) for n in range(4)}, 900)
    (raw / gone).unlink()
    outcome, others, _, _ = ask(["image", "0.png"])
    assert outcome == ["missing_media"]
    (line,) = others.values()
    assert (line["file"], line["reason"]) == ("split.zip", "corrupt_media")
    assert f"part {gone}" in line["detail"]


def test_loose_media_are_read_where_they_lie_and_links_are_refused(raw, ask, png, mp4, tmp_path):
    (raw / "deep" / "er").mkdir(parents=True)
    (raw / "deep" / "er" / "a.png").write_bytes(png(1))
    (raw / "clip.bin").write_bytes(mp4)
    (raw / "LICENSE").write_text("Do what you want.")
    (raw / ".hidden.png").write_bytes(png(2))
    (tmp_path / "secret.png").write_bytes(png(3))
    (raw / "link.png").symlink_to(tmp_path / "secret.png")
    (raw / "folder").symlink_to(tmp_path)
    outcome, others, folder, summary = ask(
        ["image", "deep/er/a.png"],
        ["video", "clip.bin"],
        ["image", "link.png"],
        ["image", "folder/secret.png"],
        ["image", "gone.png"],
        ["image", ".hidden.png"],
        ["image", "LICENSE"],
        ["image", "clip.bin"],
        ["image", "./deep//er/a.png"],
    )
    store = MediaStore(raw.parents[1])
    assert store.read(outcome[0].media[0]) == png(1)
    assert outcome[0].media[0].offset is None
    assert store.read(outcome[1].media[0]) == mp4
    assert outcome[2:8] == [
        "unsafe_path", "unsafe_path", "missing_media", "missing_media", "unsupported_media",
        "unsupported_media",
    ]  # fmt: skip
    assert outcome[8] == "duplicate"
    assert {name: line["reason"] for name, line in others.items()} == {
        "link.png": "unsafe_path", "folder": "unsafe_path",
    }  # fmt: skip
    assert summary.not_media == 1
    assert not (folder / "shards").exists()


def test_texts_and_hidden_files_in_archives_are_passed_over(raw, ask, png, write_tar):
    members = {"v/cut_meta.json": b'{"a": 1}', "README": b"hello", "__MACOSX/._a.png": b"\0\5\x16",
               ".DS_Store": b"\0\1", "a.png": png(1)}  # fmt: skip
    write_tar(raw / "a.tar", members)
    outcome, others, _, summary = ask(["image", "a.png"], ["image", "README"])
    assert outcome[1] == "unsupported_media"
    assert others == {}
    assert summary.not_media == 4


def test_a_likelier_spelling_beats_an_earlier_archive(raw, ask, png, write_tar):
    write_tar(raw / "a.tar", {"outer/x.png": png(1), "y.png": png(2)})
    write_tar(raw / "b.tar", {"x.png": png(3), "y.png": png(4)})
    (raw / "y.png").write_bytes(png(5))
    outcome, *_ = ask(["image", "x.png"], ["image", "y.png"], ["image", "b/y.png"],
                      ["image", "gone.png", "outer/x.png"])  # fmt: skip
    store = MediaStore(raw.parents[1])
    assert [store.read(row.media[0]) for row in outcome] == [png(3), png(2), png(4), png(1)]


def test_accents_may_be_spelled_in_two_ways(raw, ask, png, write_tar):
    (raw / "cafe\u0301.png").write_bytes(png(1))
    write_tar(raw / "a.tar", {"th\u00e9.png": png(2)})
    outcome, *_ = ask(["image", "caf\u00e9.png"], ["image", "the\u0301.png"], ["image", "the.png"])
    store = MediaStore(raw.parents[1])
    assert [store.read(row.media[0]) for row in outcome[:2]] == [png(1), png(2)]
    assert outcome[2] == "missing_media"


def test_a_folder_of_images_is_a_clip(raw, ask, png, write_tar):
    names = ["c/v/1.png", "c/v/2.png", "c/v/10.png", "c/v/deeper/0.png", "c/w/0.png"]
    members = {name: png(number, 40, 30) for number, name in enumerate(names)}
    members |= {"c/v/notes.txt": b"hello", "c/x/0.png": b"\0broken", "c/y/0.png": b"404 not found"}
    write_tar(raw / "frames.tar.gz", members, "w:gz")
    asked = [["video", f"c/{folder}"] for folder in ("v", "x", "y", "gone", "w/")]
    outcome, *_ = ask(*asked, more={"frame_rate": 2.0})
    clip = MediaStore(raw.parents[1]).read(outcome[0].media[0])
    assert clip.frames == [png(number, 40, 30) for number in range(3)]
    assert (clip.timestamps, clip.duration) == ([0.0, 0.5, 1.0], 1.5)
    assert outcome[1:4] == ["corrupt_media", "unsupported_media", "missing_media"]
    assert len(outcome[4].media[0].frames) == 1


def test_a_folder_of_clips_is_no_clip(raw, ask, mp4, write_tar):
    write_tar(raw / "a.tar", {"v/0.mp4": mp4})
    outcome, *_ = ask(["video", "v"], more={"frame_rate": 2.0})
    assert outcome == ["unsupported_media"]


def test_a_clip_that_ends_before_its_row_is_incomplete(raw, ask, clip):
    (raw / "a.mp4").write_bytes(clip(16, 8))
    outcome, *_ = ask(["video", "a.mp4"], more={"min_duration": 2.5})
    assert outcome == ["incomplete_record"]
    outcome, *_ = ask(["video", "a.mp4"], more={"min_duration": 1.5})
    assert outcome[0].media[0].kind == "video"


def test_a_row_that_names_nothing_misses_its_medium(ask):
    outcome, *_ = ask(["image"])
    assert outcome == ["missing_media"]


def test_unmarked_files_are_opened_to_see_what_they_are(raw, ask, write_tar):
    buffer = io.BytesIO()
    Image.new("RGB", (20, 10), "red").save(buffer, "PPM")
    picture = buffer.getvalue()
    write_tar(raw / "a.tar.gz", {"a.ppm": picture, "noise.png": bytes(range(7, 200))}, "w:gz")
    (raw / "b.ppm").write_bytes(picture.replace(b"\xff", b"\xfd"))
    outcome, *_ = ask(["image", "a.ppm"], ["image", "b.ppm"], ["image", "noise.png"])
    store = MediaStore(raw.parents[1])
    assert store.read(outcome[0].media[0]) == picture
    assert outcome[1].media[0].path.endswith("b.ppm")
    assert outcome[2] == "corrupt_media"
