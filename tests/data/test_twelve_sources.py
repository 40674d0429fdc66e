"""Each published data set in small, from raw files to micro-batches: every row is accounted for."""

import importlib
import importlib.util
import json
import sys
from collections import Counter
from pathlib import Path

import pytest

from smolvlm2.data.manifest import Manifest
from smolvlm2.data.prepare import prepare_source
from smolvlm2.plan.plan import Position
from smolvlm2.training.stage import starting_tokenizer

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


@pytest.mark.parametrize("name", sorted(REPLICAS))
def test_what_is_kept_arrives_in_micro_batches(name, prepared, make_reader):
    folder, _ = prepared(name)
    replica = REPLICAS[name]
    root = folder.parents[1]
    data, reader = make_reader(
        f"data.root={root}", f"data.mixture.entries=[{{source: {name}, weight: 1.0}}]"
    )
    expected = {f"{name}/{sample}" for ids in replica.kept.values() for sample in ids} - {
        f"{name}/{sample}" for sample in replica.not_planned
    }
    seen: set[str] = set()
    position = Position()
    while seen != expected and position.window == 0:
        packs, position = data.plan.step(position)
        for pack in packs:
            batch, skips = reader.read(pack)
            assert skips == []
            seen |= set(batch.sample_ids)
            assert batch.loss_weights.sum() > 0
    assert seen == expected
