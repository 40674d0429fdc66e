"""Rows of images and texts: each ends in the manifest or in the ledger."""

import tarfile

import pytest

from smolvlm2.data.ledger import LeftOutError
from smolvlm2.data.manifest import Manifest
from smolvlm2.data.media import MediaStore
from smolvlm2.data.sources.cauldron import ImagesAndTexts

CAULDRON = ImagesAndTexts(source="pages", licence="none")


def test_cauldron_rows_end_in_manifest_or_ledger(
    raw, prepare, read_ledger, png, cauldron_row, write_rows, reasons
):
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


def test_rows_that_are_left_out_leave_nothing_in_the_shards(
    raw, prepare, png, cauldron_row, write_rows
):
    rows = [cauldron_row([png(1), b"broken"], ("q", "a")), cauldron_row([png(2)], ("q", "a"))]
    write_rows(raw / "train-00000-of-00001.parquet", rows)
    folder, _ = prepare(CAULDRON)
    (shard,) = (folder / "shards").iterdir()
    with tarfile.open(shard) as archive:
        assert archive.getnames() == ["00000001-0.png"]


def test_the_folder_names_the_config_and_docmatix_calls_its_own_images():
    row = {"images": [], "texts": []}
    files = {"vqav2/train-00000-of-00002.parquet": "vqav2",
             "data/train-00000-of-01106.parquet": "images",
             "images/train-00000-of-01106.parquet": "images",
             "train-00000-of-00001.parquet": ""}  # fmt: skip
    for file, subset in files.items():
        (record,) = CAULDRON.records(row, file)
        assert record.subset == subset


def test_docmatix_other_configs_are_no_training_data(tmp_path):
    for folder in ("data", "pdf", "zero-shot-exp"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "train-00000-of-00001.parquet").write_bytes(b"")
    assert [path.parent.name for path in CAULDRON.record_files(tmp_path)] == ["data"]


def test_a_text_only_config_has_no_images():
    row = {"images": None, "texts": [{"user": "q", "assistant": "a", "source": "s"}]}
    (record,) = CAULDRON.records(row, "text_openhermes_2_5/train.parquet")
    assert (record.media, record.turns) == ([], [("user", "q"), ("assistant", "a")])


@pytest.mark.parametrize("texts", [[None], ["text"], "text"])
def test_texts_of_another_shape_are_unreadable(texts):
    with pytest.raises(LeftOutError, match="unreadable_record: 'texts' is"):
        list(CAULDRON.records({"images": [], "texts": texts}, "a/train.parquet"))
