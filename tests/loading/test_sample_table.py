"""What the planner sees of the samples."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from smolvlm2.data.contamination import CONTAMINATION_FILE
from smolvlm2.data.grouping import open_grouped
from smolvlm2.data.manifest import Manifest
from smolvlm2.data.media import MediaStore
from smolvlm2.data.mixture import MixtureEntry, MixtureSettings
from smolvlm2.errors import ConfigError, DataError, DataNotFoundError
from smolvlm2.loading.sample_table import (
    LimitSettings,
    admit,
    open_sources,
    sample_shares,
    unexpected_size,
)
from smolvlm2.plan.samples import SourceTable


@pytest.fixture
def make_table():
    """A source of one modality, 0 text or 3 video."""

    def make(name, size, modality, *, seed=0):
        draw = np.random.default_rng(seed)
        tiles = draw.integers(8, 33, size) if modality else np.zeros(size, dtype=np.int64)
        return SourceTable(
            name=name,
            rows=np.arange(size),
            tiles=tiles.astype(np.int32),
            tokens=(tiles * 66 + draw.integers(20, 300, size)).astype(np.int32),
            supervised=np.full(size, 9, dtype=np.int32),
            messages=np.full(size, 2, dtype=np.int32),
            modality=np.full(size, modality, dtype=np.uint8),
            excluded={},
        )

    return make


@pytest.fixture(scope="module")
def opened(make_reader):
    data, reader = make_reader()
    return data, reader.processor


def table_of(opened, place=0, *, subset=None, max_tokens=512, manifest=None, **limits):
    data, processor = opened
    manifest = manifest or data.manifests[place]
    entry = MixtureEntry(source=manifest.source, subset=subset)
    sources, lengths = {manifest.source: manifest}, processor.length_model()
    return admit([entry], sources, lengths, LimitSettings(**limits), max_tokens=max_tokens)[0]


def encoded(processor, manifest, row, messages):
    item = manifest.row(row)
    kept = item.messages[:messages]
    markers = sum(part["type"] != "text" for message in kept for part in message["content"])
    media = [MediaStore(manifest.data_root).read(place) for place in item.media[:markers]]
    return processor.encode_sample(kept, media)


@pytest.mark.parametrize("max_tokens", [512, 85])
def test_lengths_are_those_of_every_sample_as_it_is_read(opened, max_tokens):
    data, processor = opened
    cut = 0
    for place, manifest in enumerate(data.manifests):
        table = table_of(opened, place, max_tokens=max_tokens)
        cut += table.cut
        messages, tokens = table.column("messages"), table.column("tokens")
        for number, row in enumerate(table.column("rows").tolist()):
            sample = encoded(processor, manifest, row, int(messages[number]))
            assert len(sample.input_ids) == tokens[number] <= max_tokens
            assert len(sample.tiles) == table.column("tiles")[number]
            assert sample.supervised.sum() == table.column("supervised")[number]
    assert cut > 0 if max_tokens < 512 else cut == 0


def test_turns_are_cut_from_the_end_and_whole(opened):
    data, processor = opened
    manifest = data.manifests[3]
    whole = table_of(opened, 3)
    limit = int(whole.column("tokens").max()) - 1
    short = table_of(opened, 3, max_tokens=limit)
    place = {row: number for number, row in enumerate(short.column("rows").tolist())}
    seen = 0
    for number, row in enumerate(whole.column("rows").tolist()):
        if (
            row not in place
            or short.column("messages")[place[row]] == whole.column("messages")[number]
        ):
            continue
        seen += 1
        kept = int(short.column("messages")[place[row]])
        messages = manifest.row(row).messages
        assert messages[kept - 1]["role"] == "assistant"
        # The next pair would not have fitted.
        assert len(encoded(processor, manifest, row, kept + 2).input_ids) > limit
    assert seen == short.cut > 0


def test_a_conversation_whose_first_pair_does_not_fit_is_left_out_and_counted(opened):
    table = table_of(opened, 0, max_tokens=60)
    assert table.excluded["too_long"] + len(table) == len(opened[0].manifests[0])
    assert table.excluded["too_long"] > 0


@pytest.mark.parametrize("joined", [1, 2])
def test_rows_that_a_benchmark_shows_are_left_out_and_counted(opened, tmp_path, joined):
    data, processor = opened
    source = data.manifests[0]
    folder = tmp_path / "data" / "prepared" / source.source
    shutil.copytree(source.folder, folder)
    before = table_of(opened, manifest=Manifest.open(folder, source.tokenizer_key))
    found = {"manifest": source.hash, "rows": [0, 3, 4]}
    (folder / CONTAMINATION_FILE).write_text(json.dumps(found))
    manifest = Manifest.open(folder, source.tokenizer_key)
    manifest = open_grouped(manifest, joined, processor.tokenizer)
    expected = manifest.holding(np.array([0, 3, 4]))
    table = table_of(opened, manifest=manifest)
    assert table.excluded["contaminated"] == len(expected) > 0
    assert not set(expected.tolist()) & set(table.column("rows").tolist())
    assert table.hash() != before.hash()


def test_samples_with_too_many_images_are_left_out_whole_and_counted(opened):
    manifest = opened[0].manifests[1]
    table = table_of(opened, 1, max_images=2)
    images = np.diff(manifest.geometry.media_offsets)
    assert table.excluded == {"too_many_images": int((images > 2).sum())}
    assert set(table.column("rows").tolist()) == set(np.flatnonzero(images <= 2).tolist())


def test_flags_leave_samples_out_as_the_recipe_says(opened):
    manifest = opened[0].manifests[3]
    flags = np.array(manifest.geometry.row_flags)
    flags[:3], flags[3] = 1, 2
    flagged = object.__new__(type(manifest))
    flagged.__dict__.update(
        vars(manifest),
        geometry=replace(manifest.geometry, row_flags=flags),
        _facts={**manifest._facts, "hash": "flagged"},
    )
    table = table_of(opened, manifest=flagged)
    assert table.excluded == {"refusal": 3, "speech_dependent": 1}
    assert table.column("rows").tolist() == list(range(4, len(manifest)))
    assert table_of(opened, manifest=flagged, exclude=[]).excluded == {}


def test_a_subset_takes_its_rows_only(opened):
    manifest = opened[0].manifests[0]
    tables = {name: table_of(opened, 0, subset=name) for name in manifest.subsets}
    assert len(tables) == 2
    assert sum(map(len, tables.values())) == len(manifest)
    for number, table in enumerate(tables.values()):
        assert (manifest.geometry.row_subset[table.column("rows")] == number).all()


def test_an_unknown_subset_is_an_error(opened):
    with pytest.raises(ConfigError, match="has no subset 'nothing'; it has digits_one"):
        table_of(opened, subset="nothing")


def test_token_columns_are_needed(opened):
    manifest = opened[0].manifests[0]
    with pytest.raises(DataError, match="opened without token columns"):
        table_of(opened, manifest=type(manifest).open(manifest.folder))


def test_a_source_that_is_not_prepared_names_the_command(opened, make_recipe):
    manifest = opened[0].manifests[0]
    mixture = make_recipe().data.mixture
    another = SimpleNamespace(key="another-tokenizer")
    with pytest.raises(DataNotFoundError, match="run: smolvlm2 prepare"):
        open_sources(mixture, manifest.folder.parent, another)


@pytest.mark.parametrize("name", ["max_tokens", "max_images", "max_turns"])
def test_limits_below_one_are_refused(name):
    with pytest.raises(ConfigError, match=rf"limits\.{name} is 0"):
        LimitSettings(**{name: 0})


@pytest.mark.parametrize("value", [-1, 65])
def test_an_impossible_number_of_orders_is_refused(value):
    with pytest.raises(ConfigError, match=rf"limits\.turn_orders is {value}, expected 0"):
        LimitSettings(turn_orders=value)


def test_the_plans_digest_covers_what_the_samples_say(make_reader):
    plan = make_reader()[0].plan
    before = plan.digest()
    plan.tables = [replace(plan.tables[0], content="other"), *plan.tables[1:]]
    assert plan.digest() != before


def table_for(opened, place=0, **entry):
    data, processor = opened
    manifest = data.manifests[place]
    chosen = MixtureEntry(source=manifest.source, **entry)
    sources = {manifest.source: manifest}
    lengths = processor.length_model()
    return admit([chosen], sources, lengths, LimitSettings(), max_tokens=512)[0]


def test_take_keeps_a_fixed_part_of_the_admitted_rows(opened):
    whole = table_for(opened).column("rows").tolist()
    some = table_for(opened, take="random:30%")
    rows = some.column("rows").tolist()
    assert len(rows) == len(some) == -(-len(whole) * 30 // 100)
    assert set(rows) < set(whole)
    assert rows == table_for(opened, take="random:30%").column("rows").tolist()
    assert rows != whole[: len(rows)]
    more = table_for(opened, take="random:60%").column("rows").tolist()
    assert more[: len(rows)] == rows
    assert table_for(opened, take="first:4").column("rows").tolist() == whole[:4]
    assert table_for(opened, take="end:4").column("rows").tolist() == whole[-4:]


def test_a_pattern_takes_several_subsets(opened):
    both = table_for(opened, subset="digits_*")
    assert len(both) == len(opened[0].manifests[0])
    assert len(table_for(opened, subset=["digits_one", "digits_page"])) == len(both)


def test_an_entrys_own_cap_counts_beside_the_recipes(opened):
    images = np.diff(opened[0].manifests[1].geometry.media_offsets)
    table = table_for(opened, 1, max_images=2)
    assert table.excluded == {"too_many_images": int((images > 2).sum())}


def test_shares_by_other_units_become_shares_of_samples(make_table):
    tables = [make_table("short", 100, 0, seed=1), make_table("long", 50, 3, seed=2)]

    def shares(unit, weights=(1, 1)):
        entries = [
            MixtureEntry(source=table.name, weight=weight)
            for table, weight in zip(tables, weights, strict=True)
        ]
        return sample_shares(MixtureSettings(entries=entries, unit=unit), tables)

    assert shares("samples") == [0.5, 0.5]
    by_tokens = shares("tokens")
    tokens = [share * table.mean("tokens") for share, table in zip(by_tokens, tables, strict=True)]
    assert tokens[0] == pytest.approx(tokens[1])
    assert sum(by_tokens) == pytest.approx(1)
    assert shares("visits") == pytest.approx([2 / 3, 1 / 3])
    assert shares("visits", (1, 4)) == pytest.approx([1 / 3, 2 / 3])
    with pytest.raises(ConfigError, match="unit is tiles but the samples of short have none"):
        shares("tiles")


def test_an_entry_of_another_size_than_its_mixture_says_is_warned_of(make_table):
    table = make_table("a", 100, 0)
    for expected, quiet in ((100, True), (104, True), (96, True), (110, False), (80, False)):
        warning = unexpected_size(MixtureEntry(source="a", samples=expected), table)
        assert (warning is None) == quiet
    assert "a has 100 samples where the mixture expects 80" in warning
