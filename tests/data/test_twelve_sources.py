"""Each published data set in small, from raw files to micro-batches: every row is accounted for."""

import importlib
import importlib.util
import json
import sys
from collections import Counter
from pathlib import Path

import pytest

from smolvlm2.data.geometry import FLAGS
from smolvlm2.data.manifest import Manifest
from smolvlm2.data.media import MediaStore
from smolvlm2.data.prepare import prepare_source
from smolvlm2.plan.plan import Position
from smolvlm2.training.starting_point import starting_tokenizer

# Test folders are no packages: these two are loaded by their paths.
_HERE = Path(__file__).parent


def _load(name: str, path: Path, **options):
    spec = importlib.util.spec_from_file_location(name, path, **options)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


_folder = _HERE / "replicas"
_load("replicas", _folder / "__init__.py", submodule_search_locations=[str(_folder)])
_loading = _load("loading_world", _HERE.parent / "loading" / "conftest.py")
world, make_recipe, make_reader = _loading.world, _loading.make_recipe, _loading.make_reader

REPLICAS = {
    value.adapter.source: value
    for name in ("parquet_sets", "llava_sets", "caption_sets")
    for value in vars(importlib.import_module(f"replicas.{name}")).values()
    if type(value).__name__ == "Replica"
}
TWELVE = (
    "the_cauldron", "docmatix", "llava_onevision", "mammoth_vl", "m4_instruct",
    "llava_video_178k", "finevideo", "video_star", "vript", "vista_400k", "moviechat",
    "sharegpt4video",
)  # fmt: skip


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, make_recipe):
    """Write and prepare a replica once: ``prepared(name)`` gives its folder and summary."""
    root = tmp_path_factory.mktemp("twelve") / "data"
    tokenizer = starting_tokenizer(make_recipe(), None)
    done = {}

    def run(name: str):
        if name not in done:
            replica = REPLICAS[name]
            raw = root / "raw" / replica.folder
            if name.endswith("_json"):
                raw = root / "raw" / f"{replica.folder}__json"
            raw.mkdir(parents=True)
            replica.write(raw)
            out = root / "prepared" / name
            done[name] = out, prepare_source(replica.adapter, raw, out, tokenizer)
        return done[name]

    return run


def read_ledger(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]


def ids_by_subset(manifest: Manifest) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for number, subset in enumerate(manifest.geometry.row_subset.tolist()):
        sample = manifest.sample_id(number).partition("/")[2]
        found.setdefault(manifest.subsets[subset], []).append(sample)
    return found


def test_there_is_a_replica_of_each_of_the_twelve_with_five_kinds_of_defects():
    assert set(TWELVE) <= set(REPLICAS)
    for name in TWELVE:
        replica = REPLICAS[name]
        reasons = {reason for lines in replica.left_out.values() for _, reason in lines}
        reasons |= {reason for *_, reason in replica.others}
        assert len(reasons) >= 5, name
        assert sum(map(len, replica.kept.values())) >= 3, name


@pytest.mark.parametrize("name", sorted(REPLICAS))
def test_exactly_the_expected_rows_are_kept(name, prepared):
    folder, summary = prepared(name)
    expected = {subset: list(ids) for subset, ids in REPLICAS[name].kept.items()}
    assert ids_by_subset(Manifest.open(folder)) == expected
    assert dict(summary.repairs).items() >= REPLICAS[name].repairs.items()


@pytest.mark.parametrize("name", sorted(REPLICAS))
def test_every_other_row_is_in_the_ledger_with_its_reason(name, prepared):
    folder, summary = prepared(name)
    replica = REPLICAS[name]
    lines = read_ledger(folder)
    rows: dict[str, list[tuple[int, str]]] = {}
    for line in lines:
        if line["row"] is not None:
            rows.setdefault(line["file"], []).append((line["row"], line["reason"]))
    assert rows == {file: list(expected) for file, expected in replica.left_out.items()}
    others = sorted(
        (line["file"], line["member"], line["reason"]) for line in lines if line["row"] is None
    )
    assert others == sorted(replica.others, key=str)
    assert all(line["detail"] and line["source"] == name for line in lines)
    lost = Counter(reason for lines in rows.values() for _, reason in lines)
    assert summary.rows_left_out == lost
    assert summary.rows_read == summary.rows_kept + lost.total()


def test_what_is_kept_arrives_in_micro_batches(prepared, make_reader):
    folders = {name: prepared(name)[0] for name in sorted(REPLICAS)}
    entries = ", ".join(f"{{source: {name}, weight: 1.0}}" for name in folders)
    root = folders["docmatix"].parents[1]
    data, reader = make_reader(f"data.root={root}", f"data.mixture.entries=[{entries}]")
    expected = {
        f"{name}/{sample}"
        for name, replica in REPLICAS.items()
        for sample in set().union(*replica.kept.values()) - replica.not_planned
    }
    seen: set[str] = set()
    position = Position()
    while seen != expected and position.window < 10:
        packs, position = data.plan.step(position)
        for pack in packs:
            batch, skips = reader.read(pack)
            assert skips == []
            assert batch.loss_weights.sum() > 0
            seen |= set(batch.sample_ids)
    assert seen == expected


def rows_of(folder: Path) -> dict[str, int]:
    """Row numbers by id, without the source's name."""
    manifest = Manifest.open(folder)
    return {manifest.sample_id(n).partition("/")[2]: n for n in range(len(manifest))}


def test_hound_frames_become_a_clip_of_two_frames_a_second(prepared):
    folder, _ = prepared("llava_video_178k")
    manifest, rows = Manifest.open(folder), rows_of(folder)
    geometry = manifest.geometry
    for name, frames in (("h1", 11), ("h3", 3)):
        row = rows[f"sharegptvideo_qa_255k/{name}"]
        (medium,) = range(geometry.media_offsets[row], geometry.media_offsets[row + 1])
        assert geometry.media_frames[medium] == frames
        assert geometry.media_fps[medium] == 2
        assert geometry.media_duration[medium] == frames / 2
    # Loose frames are put in order by their numbers, not as words.
    found = MediaStore(manifest.data_root).read(manifest.row(row).media[0])
    assert [Path(frame.path).name for frame in manifest.row(row).media[0].frames] == [
        "1.jpeg", "2.jpeg", "10.jpeg",
    ]  # fmt: skip
    assert list(found.timestamps) == [0, 0.5, 1]


def test_both_samples_of_a_fine_video_show_one_stored_clip(prepared):
    folder, _ = prepared("finevideo")
    manifest, rows = Manifest.open(folder), rows_of(folder)
    seen, heard = (rows[f"data/train-00000-of-01357:1{tail}"] for tail in ("", "~2"))
    assert manifest.row(seen).media == manifest.row(heard).media
    assert "say" not in manifest.row(seen).messages[0]["content"][1]["text"]
    assert "say" in manifest.row(heard).messages[0]["content"][1]["text"]
    assert manifest.geometry.row_flags[[seen, heard]].tolist() == [0, FLAGS["speech_dependent"]]


def test_a_moment_of_a_film_is_told_in_its_question(prepared):
    folder, _ = prepared("moviechat")
    row = Manifest.open(folder).row(rows_of(folder)["1/breakpoint-0"])
    assert [part["type"] for part in row.messages[0]["content"]] == ["video", "text"]
    assert row.messages[0]["content"][1]["text"] == "At 00:00: What is near?"
    details = {line["sample_id"]: line["detail"] for line in read_ledger(folder)}
    assert "speaks of second 100" in details["moviechat/1/breakpoint-1"]


def test_the_ledger_says_where_a_clip_has_to_be_brought(prepared):
    folder, _ = prepared("video_star")
    details = {line["sample_id"]: line["detail"] for line in read_ledger(folder)}
    assert "'STAR-benchmark/0.mp4'" in details["video_star/starb/s0"]
    assert "'Kinetics700/rotten_000001_000011.mp4'" in details["video_star/kinetics700/k2"]


def test_annotations_that_changed_under_their_name_are_read_again(tmp_path, make_recipe):
    replica = REPLICAS["llava_video_178k"]
    raw, out = tmp_path / "data" / "raw" / replica.folder, tmp_path / "data" / "prepared" / "x"
    raw.mkdir(parents=True)
    replica.write(raw)
    tokenizer = starting_tokenizer(make_recipe(), None)
    first = prepare_source(replica.adapter, raw, out, tokenizer)
    (path,) = raw.rglob("*_cap_processed.json")
    rows = json.loads(path.read_text())
    path.write_text(json.dumps(rows[:1]))
    second = prepare_source(replica.adapter, raw, out, tokenizer)
    assert second.rows_read == first.rows_read - len(rows) + 1
    assert second.hash != first.hash
