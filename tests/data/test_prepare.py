"""Prepare: every row ends in manifest or ledger, results repeat, interrupted work goes on."""

import io
import json
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from smolvlm2.data import prepare as prepare_module
from smolvlm2.data.demo.layouts import CAULDRON_SCHEMA, ONEVISION_SCHEMA
from smolvlm2.data.geometry import FLAGS
from smolvlm2.data.manifest import Manifest
from smolvlm2.data.media import MediaStore
from smolvlm2.data.prepare import prepare_source
from smolvlm2.data.sources.catalogue import SOURCES
from smolvlm2.data.sources.cauldron import ImagesAndTexts
from smolvlm2.data.sources.llava import LlavaOneVision, LlavaVideo, M4Instruct
from smolvlm2.errors import DataError, DataNotFoundError
from smolvlm2.processing.tokenizer import Tokenizer

CAULDRON = ImagesAndTexts(source="pages", licence="none")
ONEVISION = LlavaOneVision(source="onevision", licence="none")
M4 = M4Instruct(source="m4", licence="none")
VIDEO = LlavaVideo(source="clips", licence="none")


def cauldron_row(images, *pairs):
    return {
        "images": [{"bytes": data, "path": "lost.png"} for data in images],
        "texts": [{"user": q, "assistant": a, "source": "s"} for q, a in pairs],
    }


def write_rows(path: Path, rows: list[dict], schema=CAULDRON_SCHEMA):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema), path)


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


def reasons(lines):
    return [(line["row"], line["reason"]) for line in lines]


def test_cauldron_rows_end_in_manifest_or_ledger(raw, prepare, read_ledger, png):
    good = cauldron_row([png(1), png(2)], ("What is <image>?", "a digit"), ("And?", "b"))
    write_rows(
        raw / "one" / "train-00000-of-00001.parquet",
        [
            good,
            cauldron_row([png(1)]),
            cauldron_row([png(1)], ("q", ""), ("q", None)),
            cauldron_row([None], ("q", "a")),
            cauldron_row([b"not an image"], ("q", "a")),
            cauldron_row([b"%PDF-1.7 and so on"], ("q", "a")),
            cauldron_row([png(3, 210, 10)], ("q", "a")),
            good,
            cauldron_row([png(4)], ("q", "a")),
        ],
    )
    write_rows(raw / "one" / "validation-00000-of-00001.parquet", [good, good])
    (raw / "one" / "train-00000-of-00002.parquet").write_bytes(b"broken")
    folder, summary = prepare(CAULDRON)
    lines = read_ledger(folder)
    assert reasons(lines) == [
        (1, "no_conversation"),
        (2, "empty_answer"),
        (3, "missing_media"),
        (4, "corrupt_media"),
        (5, "unsupported_media"),
        (6, "bad_image_size"),
        (7, "duplicate"),
        (None, "unreadable_record"),
        (0, "non_train_split"),
        (1, "non_train_split"),
    ]
    assert lines[0]["source"] == "pages"
    assert lines[0]["file"] == "one/train-00000-of-00001.parquet"
    assert lines[0]["sample_id"] == "pages/one/train-00000-of-00001:1"
    assert all(line["detail"] for line in lines)
    assert (summary.rows_read, summary.rows_kept) == (11, 2)
    assert sum(summary.rows_left_out.values()) == 9
    assert summary.others_left_out == {"unreadable_record": 1}
    manifest = Manifest.open(folder)
    row = manifest.row(0)
    assert [part["type"] for part in row.messages[0]["content"]] == ["image", "image", "text"]
    assert row.messages[0]["content"][2]["text"] == "What is <image>?"
    store = MediaStore(manifest.data_root)
    assert [store.read(locator) for locator in row.media] == [png(1), png(2)]
    assert store.read(manifest.row(1).media[0]) == png(4)


def test_rows_that_are_left_out_leave_nothing_in_the_shards(raw, prepare, png):
    rows = [cauldron_row([png(1), b"broken"], ("q", "a")), cauldron_row([png(2)], ("q", "a"))]
    write_rows(raw / "train-00000-of-00001.parquet", rows)
    folder, _ = prepare(CAULDRON)
    (shard,) = (folder / "shards").iterdir()
    with tarfile.open(shard) as archive:
        assert archive.getnames() == ["00000001-0.png"]


def test_onevision_rows_with_image_and_text_only(raw, prepare, read_ledger, png):
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


def test_m4_rows_end_in_manifest_or_ledger(raw, prepare, read_ledger, png, mp4):
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


def test_video_rows_end_in_manifest_or_ledger(raw, prepare, read_ledger, png, mp4):
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


def test_all_demo_rows_are_prepared(prepared_root):
    for name in SOURCES:
        manifest = Manifest.open(prepared_root / "prepared" / name)
        assert len(manifest) > 0
        facts = json.loads((manifest.folder / "source.json").read_text())
        assert facts["rows_read"] == facts["rows_kept"] + sum(facts["rows_left_out"].values())
        assert set(facts["rows_left_out"]) <= {"duplicate"}
        assert not (manifest.folder / "parts").exists()


def test_the_result_does_not_depend_on_the_order_of_the_map(
    demo_root, tokenizer, tmp_path, monkeypatch, tree_bytes
):
    raw = tmp_path / "data" / "raw" / "set"
    raw.parent.mkdir(parents=True)
    demo = demo_root / "raw" / "demo__cauldron_digits"
    for file in demo.rglob("*.parquet"):
        # Half of the second copy's rows are duplicates of the first: order must not decide.
        for copy in ("a", "b"):
            target = raw / copy / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    out = tmp_path / "data" / "prepared" / "pages"
    prepare_source(CAULDRON, raw, out, tokenizer)
    forward = tree_bytes(out)
    plain_run = prepare_module._run

    def backward(function, tasks, *rest):
        return plain_run(function, tasks[::-1], *rest)[::-1]

    monkeypatch.setattr(prepare_module, "_run", backward)
    out.rename(out.with_name("first"))
    prepare_source(CAULDRON, raw, out, tokenizer)
    assert tree_bytes(out) == forward


def test_worker_processes_give_the_same_bytes(
    demo_root, prepared_root, tokenizer, tmp_path, tree_bytes
):
    name = "m4_digits"
    out = tmp_path / "data" / "prepared" / name
    raw = tmp_path / "data" / "raw" / SOURCES[name].raw_folder
    raw.parent.mkdir(parents=True)
    raw.symlink_to(demo_root / "raw" / SOURCES[name].raw_folder)
    prepare_source(SOURCES[name].adapter, raw, out, tokenizer, workers=2)
    assert tree_bytes(out) == tree_bytes(prepared_root / "prepared" / name)


def test_a_finished_source_is_left_alone(raw, prepare, png, monkeypatch):
    write_rows(raw / "train-00000-of-00001.parquet", [cauldron_row([png(1)], ("q", "a"))])
    folder, first = prepare(CAULDRON)
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    monkeypatch.setattr(prepare_module, "map_rows", None)
    assert prepare(CAULDRON)[1] == first
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == times


def test_changed_inputs_are_prepared_again(raw, prepare, png):
    file = raw / "train-00000-of-00001.parquet"
    write_rows(file, [cauldron_row([png(1)], ("q", "a"))])
    _, first = prepare(CAULDRON)
    write_rows(file, [cauldron_row([png(1)], ("q", "b"))])
    folder, second = prepare(CAULDRON)
    assert first.hash != second.hash
    assert Manifest.open(folder).row(0).messages[1]["content"][0]["text"] == "b"
    assert [path.name for path in folder.parent.iterdir()] == [CAULDRON.source]


def test_another_tokenizer_only_adds_its_columns(raw, prepare, png, tokenizer, tmp_path):
    write_rows(raw / "train-00000-of-00001.parquet", [cauldron_row([png(1)], ("q", "a"))])
    folder, first = prepare(CAULDRON)
    other = another_tokenizer(tokenizer, tmp_path)
    assert other.key != tokenizer.key
    with pytest.raises(DataNotFoundError, match="smolvlm2 prepare pages"):
        Manifest.open(folder, other.key)
    again = prepare_source(CAULDRON, raw, folder, other)
    assert again == first
    assert Manifest.open(folder, other.key).geometry.message_text_tokens is not None
    assert Manifest.open(folder, tokenizer.key).geometry.message_text_tokens is not None


def another_tokenizer(tokenizer: Tokenizer, folder: Path) -> Tokenizer:
    """The same tokenizer with one merge less."""
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer.json"
    definition = json.loads(path.read_text())
    definition["model"]["merges"].pop()
    path.write_text(json.dumps(definition))
    return Tokenizer.from_pretrained(folder)


def test_interrupted_work_goes_on_where_it_stopped(raw, prepare, png, monkeypatch, tree_bytes):
    for n in range(3):
        rows = [cauldron_row([png(10 * n + k)], ("q", "a")) for k in range(3)]
        write_rows(raw / f"train-0000{n}-of-00003.parquet", rows)
    folder, _ = prepare(CAULDRON)
    whole = tree_bytes(folder)
    folder.rename(folder.with_name("whole"))
    mapped, plain_map = [], prepare_module.map_rows

    def stopping_map(place, file, archives):
        if len(mapped) == 2:
            # Half a shard is on disk when the power fails.
            (place.shards / "train-00002-of-00003-junk.tar").write_bytes(b"half")
            raise KeyboardInterrupt
        mapped.append(file)
        plain_map(place, file, archives)

    monkeypatch.setattr(prepare_module, "map_rows", stopping_map)
    with pytest.raises(KeyboardInterrupt):
        prepare(CAULDRON)
    assert not folder.exists()

    def counting_map(place, file, archives):
        mapped.append(file)
        plain_map(place, file, archives)

    monkeypatch.setattr(prepare_module, "map_rows", counting_map)
    prepare(CAULDRON)
    assert len(mapped) == len(set(mapped)) == 3
    found = tree_bytes(folder)
    found.pop("shards/train-00002-of-00003-junk.tar")
    assert found == whole


def test_progress_is_told_of_every_file(raw, prepare, png):
    write_rows(raw / "train-00000-of-00001.parquet", [cauldron_row([png(1)], ("q", "a"))])
    told = []
    prepare(CAULDRON, progress=lambda *what: told.append(what))
    assert told == [("files", 1, 1), ("tokens", 1, 1)]


def test_missing_raw_data_name_the_command(tmp_path, tokenizer):
    with pytest.raises(DataNotFoundError, match="smolvlm2 prepare pages"):
        prepare_source(CAULDRON, tmp_path / "raw" / "x", tmp_path / "prepared" / "x", tokenizer)


def test_a_raw_folder_without_rows_is_no_data_set(raw, prepare):
    (raw / "README.md").write_text("hello")
    with pytest.raises(DataError, match=r"no files with rows of pages, found \['README.md'\]"):
        prepare(CAULDRON)


def test_raw_data_outside_the_data_root_are_refused(tmp_path, tokenizer, png):
    write_rows(tmp_path / "elsewhere" / "train-00000-of-00001.parquet", [])
    out = tmp_path / "data" / "prepared" / "pages"
    with pytest.raises(DataError, match="outside the data root"):
        prepare_source(CAULDRON, tmp_path / "elsewhere", out, tokenizer)


def test_a_source_without_a_usable_row_is_empty_but_whole(raw, prepare):
    write_rows(raw / "train-00000-of-00001.parquet", [cauldron_row([], ("q", ""))])
    folder, summary = prepare(CAULDRON)
    assert summary.rows_kept == 0
    assert len(Manifest.open(folder)) == 0
