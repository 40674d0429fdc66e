"""LLaVA's three layouts: each row ends in the manifest or in the ledger."""

import io
import json
import tarfile
import zipfile
from pathlib import Path

import pytest

from smolvlm2.data.demo.layouts import ONEVISION_SCHEMA
from smolvlm2.data.geometry import FLAGS
from smolvlm2.data.ledger import LeftOutError
from smolvlm2.data.manifest import Manifest
from smolvlm2.data.media import MediaStore
from smolvlm2.data.sources.llava import (
    REFUSAL,
    LlavaOneVision,
    LlavaOneVisionJson,
    LlavaVideo,
    M4Instruct,
)

ONEVISION = LlavaOneVision(source="onevision", licence="none")
M4 = M4Instruct(source="m4", licence="none")
VIDEO = LlavaVideo(source="clips", licence="none")
FOLDERS = LlavaOneVisionJson(source="folders", licence="none")


def m4_row(number, images, *texts, dataset="Src", **metadata):
    roles = ("human", "gpt")
    return {
        "sample_id": number,
        "conversations": [{"from": roles[i % 2], "value": text} for i, text in enumerate(texts)],
        "image": images,
        "metadata": {"dataset": dataset, "split": "train"} | metadata,
    }


def write_m4(raw: Path, rows, members=None):
    (raw / "m4_instruct_annotations.json").write_text(json.dumps(rows))
    if members:
        with zipfile.ZipFile(raw / "Src.zip", "w") as archive:
            for name, data in members.items():
                archive.writestr(name, data)


def test_onevision_rows_with_image_and_text_only(
    raw, prepare, read_ledger, png, write_rows, reasons
):
    def row(name, image, *turns):
        conversation = [{"from": role, "value": text} for role, text in turns]
        picture = None if image is None else {"bytes": image, "path": None}
        return {"id": name, "image": picture, "conversations": conversation, "data_source": "s"}

    pair = (("human", "<image>\nq"), ("gpt", "a"))
    write_rows(
        raw / "set(part,x)" / "train-00000-of-00001.parquet",
        [
            row("a", png(1), *pair),
            row("b", None, ("human", "q"), ("gpt", "a")),
            row("c", None, *pair),
            row("a", png(2), *pair),
            row("", png(3), *pair),
        ],
        ONEVISION_SCHEMA,
    )
    folder, summary = prepare(ONEVISION)
    assert reasons(read_ledger(folder)) == [(2, "placeholder_mismatch")]
    manifest = Manifest.open(folder)
    assert [manifest.sample_id(i) for i in range(len(manifest))] == [
        "onevision/set(part,x)/a",
        "onevision/set(part,x)/b",
        "onevision/set(part,x)/a~2",
        "onevision/set(part,x)/train-00000-of-00001:4",
    ]
    assert manifest.geometry.row_modality.tolist() == [1, 0, 1, 1]
    assert summary.subsets == ["set(part,x)"]


def test_m4_rows_end_in_manifest_or_ledger(raw, prepare, read_ledger, png, mp4, reasons):
    a, b = "Src/images/a.png", "Src/images/b.png"
    two = "First <image> second <image> which?"
    write_m4(
        raw,
        [
            m4_row(1, [a, b], two, "first"),
            m4_row(2, [a, b], two, "I'm sorry, but I cannot tell."),
            m4_row(3, [b, a], "<image><image>which?", "second", dataset="twitter_post"),
            m4_row(4, [a], two, "x"),
            m4_row(5, [a, b], two, "x", split="test"),
            m4_row(6, ["Src/images/gone.png"], "q", "x"),
            m4_row(7, ["../../secret.png"], "q", "x"),
            m4_row(8, ["/etc/hostname"], "q", "x"),
            m4_row(9, ["Src/images/clip.png"], "q", "x"),
            m4_row(10, [7], "q", "x"),
            {"sample_id": 11, "conversations": "?", "image": [a]},
            m4_row(12, ["images/a.png"], "q", "extra folder"),
            m4_row(13, ["loose/c.png"], "q", "loose"),
            m4_row(14, ["Src/up/../../x.png"], "q", "x"),
            m4_row(1, [a, b], two, "other content, same id"),
        ],
        {a: png(1), b: png(2), "Src/images/clip.png": mp4, "../evil.png": png(3)},
    )
    (raw / "loose").mkdir()
    (raw / "loose" / "c.png").write_bytes(png(5))
    folder, summary = prepare(M4)
    lines = read_ledger(folder)
    assert lines[0]["member"] == "../evil.png"
    assert reasons(lines) == [
        (None, "unsafe_path"),
        (3, "placeholder_mismatch"),
        (4, "non_train_split"),
        (5, "missing_media"),
        (6, "unsafe_path"),
        (7, "unsafe_path"),
        (8, "unsupported_media"),
        (9, "unreadable_record"),
        (10, "unreadable_record"),
        (13, "unsafe_path"),
    ]
    manifest = Manifest.open(folder)
    assert [manifest.sample_id(i) for i in range(len(manifest))] == [
        "m4/Src/1", "m4/Src/2", "m4/twitter_post/3", "m4/Src/12", "m4/Src/13", "m4/Src/1~2",
    ]  # fmt: skip
    assert manifest.geometry.row_flags.tolist() == [0, FLAGS["refusal"], 0, 0, 0, 0]
    store = MediaStore(manifest.data_root)
    assert [store.read(locator) for locator in manifest.row(2).media] == [png(2), png(1)]
    assert store.read(manifest.row(4).media[0]) == png(5)
    # Stored zip members are read where they lie: nothing is written twice.
    assert manifest.row(0).media[0].path == "raw/owner__name/Src.zip"
    assert not (folder / "shards").exists()
    assert summary.rows_read == 15


def test_twitter_posts_have_their_roles_swapped_and_others_not(raw, prepare, png):
    rows = [
        m4_row(n, ["Src/a.png"], "", "", dataset=d) for n, d in enumerate(["twitter_post", "x"])
    ]
    for row in rows:
        row["conversations"] = [
            {"from": "gpt", "value": "<image>q"},
            {"from": "human", "value": "a"},
        ]
    write_m4(raw, rows, {"Src/a.png": png(1)})
    folder, summary = prepare(M4)
    manifest = Manifest.open(folder)
    assert len(manifest) == 1
    assert manifest.row(0).messages[1]["content"] == [{"type": "text", "text": "a"}]
    assert summary.repairs == {"swapped_roles": 1}


def test_a_refusal_is_looked_for_in_what_becomes_the_answer(raw, prepare):
    sorry = "I'm sorry, but I cannot tell."
    rows = [m4_row(n, [], "", "", dataset="twitter_post") for n in range(2)]
    for row, (question, answer) in zip(rows, [("q", sorry), (sorry, "a")], strict=True):
        row["conversations"] = [
            {"from": "gpt", "value": question},
            {"from": "human", "value": answer},
        ]
    write_m4(raw, rows, {})
    folder, _ = prepare(M4)
    assert Manifest.open(folder).geometry.row_flags.tolist() == [FLAGS["refusal"], 0]


def test_half_a_surrogate_pair_anywhere_in_a_row_concerns_that_row_alone(
    raw, prepare, png, reasons, read_ledger
):
    half = "\ud83d"
    rows = [
        m4_row(0, ["Src/a.png"], "q", "whole"),
        m4_row(1, ["Src/a.png"], "q", "named oddly", dataset=f"Src{half}"),
        m4_row(2, [f"Src/{half}.png"], "q", "lost"),
        m4_row(f"3{half}", ["Src/a.png"], "q", "numbered oddly"),
        m4_row(4, ["Src/a.png"], f"q{half}", "asked oddly"),
    ]
    write_m4(raw, rows, {"Src/a.png": png(1)})
    folder, _ = prepare(M4)
    manifest = Manifest.open(folder)
    ids = [manifest.sample_id(n) for n in range(len(manifest))]
    assert ids == ["m4/Src/0", "m4/Src?/1", "m4/Src/3?"]
    assert manifest.subsets == ["Src", "Src?"]
    assert reasons(read_ledger(folder)) == [(2, "missing_media"), (4, "bad_text")]


def write_clips(raw: Path, rows, members, folder="cfg"):
    (raw / folder).mkdir(exist_ok=True)
    (raw / folder / f"{folder}_mc_qa_processed.json").write_text(json.dumps(rows))
    with tarfile.open(raw / folder / f"{folder}_videos_1.tar.gz", "w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def clip_row(video, text="<image>\nq", **fields):
    turns = [{"from": "human", "value": text}, {"from": "gpt", "value": "a"}]
    return {"id": "v", "data_source": "cfg", "video": video, "conversations": turns} | fields


def test_video_rows_end_in_manifest_or_ledger(raw, prepare, read_ledger, png, mp4, reasons):
    write_clips(
        raw,
        [
            clip_row("a/1.mp4"),
            clip_row("a/still.mp4"),
            clip_row("a/broken.mp4"),
            clip_row("a/gone.mp4"),
            clip_row("a/1.mp4", "<video>\nother", id=None),
            clip_row("a/1.mp4", "<image> <video>"),
            clip_row("../../x.mp4"),
        ],
        {"a/1.mp4": mp4, "a/still.mp4": png(1), "a/broken.mp4": mp4[:200]},
    )
    folder, _ = prepare(VIDEO)
    assert reasons(read_ledger(folder)) == [
        (1, "unsupported_media"),
        (2, "corrupt_media"),
        (3, "missing_media"),
        (5, "placeholder_mismatch"),
        (6, "unsafe_path"),
    ]
    manifest = Manifest.open(folder)
    assert [manifest.sample_id(i) for i in range(2)] == [
        "clips/cfg_mc_qa/v", "clips/cfg/cfg_mc_qa_processed:4",
    ]  # fmt: skip
    geometry = manifest.geometry
    assert geometry.row_modality.tolist() == [3, 3]
    assert geometry.media_kind.tolist() == [1, 1]
    assert (geometry.media_width[0], geometry.media_height[0]) == (48, 32)
    assert geometry.media_duration[0] == pytest.approx(0.5)
    assert geometry.media_fps[0] == pytest.approx(8)
    assert geometry.media_frames[0] == 4
    # Two rows share one clip: it is repacked once.
    assert manifest.row(0).media == manifest.row(1).media
    assert MediaStore(manifest.data_root).read(manifest.row(0).media[0]) == mp4


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I\u2019m really sorry, I cannot see it",
        "Sorry, I do not know.",
        "I cannot provide an answer.",
        "As an AI language model, I have no eyes.",
        "I apologize, but I see nothing.",
    ],
)
def test_refusals_are_recognised(text):
    assert REFUSAL.search(text)


@pytest.mark.parametrize(
    "text", ["The man says: I'm sorry.", "I can see two cats.", "Sorry, the shop is closed.", "No."]
)
def test_answers_are_no_refusals(text):
    assert not REFUSAL.search(text)


def test_both_spellings_of_turns_are_read():
    row = {"conversations": [{"role": "user", "content": "q"}, {"from": "gpt", "value": "a"}]}
    (record,) = M4.records(row, "x.json")
    assert record.turns == [("user", "q"), ("gpt", "a")]


def test_a_row_that_names_no_clip_lacks_its_medium():
    with pytest.raises(LeftOutError, match="missing_media: the row names no clip"):
        list(VIDEO.records(clip_row(None), "cfg/x_processed.json"))


def test_a_clip_is_looked_for_where_the_row_and_where_the_file_say():
    file = "0_30_s_nextqa/0_30_s_nextqa_oe_qa_processed.json"
    (record,) = VIDEO.records(clip_row("a/1.mp4", data_source="0_30_s_NextQA"), file)
    assert record.media[0].paths == ("0_30_s_NextQA/a/1.mp4", "0_30_s_nextqa/a/1.mp4")
    assert record.media[0].frame_rate is None


@pytest.mark.parametrize(
    ("video", "place"),
    [
        ("x-Scene-003", "llava_hound/x-Scene-003"),
        ("x-Scene-003", "llava_hound/train_300k/x-Scene-003"),
        ("train_300k/x-Scene-003", "llava_hound/train_300k/x-Scene-003"),
        ("some/where/x-Scene-003.mp4", "llava_hound/train_300k/x-Scene-003"),
        ("llava_hound/frames/x", "llava_hound/frames/x"),
    ],
)
def test_a_clip_of_hound_is_a_folder_of_two_frames_a_second(video, place):
    file = "llava_hound/sharegptvideo_qa_255k_processed.json"
    (record,) = VIDEO.records(clip_row(video, data_source="llava_hound"), file)
    assert record.subset == "sharegptvideo_qa_255k"
    (medium,) = record.media
    assert (medium.kind, medium.frame_rate) == ("video", 2.0)
    assert place in medium.paths


@pytest.mark.parametrize("video", ["/frames/x", "../x"])
def test_a_clip_of_hound_cannot_leave_the_data_set(video):
    file = "llava_hound/sharegptvideo_qa_255k_processed.json"
    (record,) = VIDEO.records(clip_row(video), file)
    assert record.media[0].paths == (video,)


def test_onevision_1_5_spells_turns_its_own_way():
    turns = [
        {"role": "user", "content": "<image>\nq", "from": None, "value": None, "markdown": None},
        {"role": "assistant", "content": "a", "markdown": "stray"},
    ]
    row = {"id": 7, "image": {"bytes": b"png"}, "conversations": turns}
    (record,) = ONEVISION.records(row, "subset/train.parquet")
    assert record.turns == [("user", "<image>\nq"), ("assistant", "a")]
    assert record.native_id == "subset/7"


def test_a_onevision_file_without_image_column_is_text():
    (record,) = ONEVISION.records({"conversations": []}, "magpie_pro(l3_80b_mt)/train.parquet")
    assert (record.media, record.native_id) == ([], None)


def test_onevision_folders_without_parquet_are_a_source_of_their_own(tmp_path):
    for name in ("ureader_kg/ureader_kg.json", "ureader_kg/images.zip", "cambrian(x)/a.jsonl",
                 "sroie/train-00000-of-00001.parquet", "sroie/notes.json"):  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in ONEVISION.record_files(tmp_path)] == [
        "train-00000-of-00001.parquet"
    ]
    assert [path.name for path in FOLDERS.record_files(tmp_path)] == ["a.jsonl", "ureader_kg.json"]
    assert [path.name for path in FOLDERS.archives(tmp_path)] == ["images.zip"]


def test_their_images_are_looked_for_in_the_folder_and_beside_it():
    row = {"id": "a", "image": "images/1.jpg", "conversations": []}
    (record,) = FOLDERS.records(row, "ureader_kg/ureader_kg.json")
    assert (record.subset, record.native_id) == ("ureader_kg", "ureader_kg/a")
    assert record.media[0].paths == ("ureader_kg/images/1.jpg", "images/1.jpg")
