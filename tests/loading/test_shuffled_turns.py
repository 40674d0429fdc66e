"""Planner and loader give a sample's turns the same order, and cap them alike."""

import io
import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from smolvlm2.data.demo.layouts import CAULDRON_SCHEMA
from smolvlm2.data.grouping import open_grouped
from smolvlm2.data.manifest import Manifest
from smolvlm2.data.mixture import MixtureEntry
from smolvlm2.data.prepare import prepare_source
from smolvlm2.data.sources.cauldron import ImagesAndTexts
from smolvlm2.data.sources.own_rows import OwnRows
from smolvlm2.errors import DataError
from smolvlm2.loading.sample_table import LimitSettings, admit
from smolvlm2.loading.turn_orders import reorder_turns, turn_key
from smolvlm2.plan.packs import Pack
from smolvlm2.plan.samples import Samples

ROWS, CAP, ORDERS = 40, 4, 3
WORDS = ("which", "digit", "is", "7", "\n", "User:", "<image>", "larger?", "at the left")
LIMITS = (f"limits.max_turns={CAP}", f"limits.turn_orders={ORDERS}")
BUDGETS = ("image.random_tiles=true", "image.longest_edge=96", "image.upscale=always")


def png(draw):
    shape = (int(draw.integers(20, 120)), int(draw.integers(20, 120)), 3)
    file = io.BytesIO()
    Image.fromarray(draw.integers(0, 255, shape, dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def drawn_row(draw, number):
    """A row of the Cauldron: up to two images, up to eleven questions."""
    texts = [
        {
            "user": " ".join(draw.choice(WORDS, draw.integers(1, 6))) + f" {turn}?",
            "assistant": f"{number} {turn} " + " ".join(draw.choice(WORDS, draw.integers(0, 4))),
            "source": "drawn",
        }
        for turn in range(int(draw.integers(1, 12)))
    ]
    images = [{"bytes": png(draw), "path": None} for _ in range(number % 3)]
    return {"images": images, "texts": texts}


@pytest.fixture(scope="module")
def root(tmp_path_factory, make_reader):
    """A data root with one prepared source of many turns, ``asked``."""
    root = tmp_path_factory.mktemp("turns") / "data"
    folder = root / "raw" / "asked" / "pages"
    folder.mkdir(parents=True)
    draw = np.random.default_rng(3)
    rows = [drawn_row(draw, number) for number in range(ROWS)]
    table = pa.Table.from_pylist(rows, CAULDRON_SCHEMA)
    pq.write_table(table, folder / "train-00000-of-00001.parquet")
    tokenizer = make_reader()[1].processor.tokenizer
    adapter = ImagesAndTexts(source="asked", licence="none")
    prepare_source(adapter, folder.parent, root / "prepared" / "asked", tokenizer)
    return root


@pytest.fixture(scope="module")
def open_asked(root, make_reader):
    """Plan and reader of the source: ``open_asked("key=value")``."""

    def make(*overrides):
        own = (f"data.root={root}", "data.mixture.entries=[{source: asked}]")
        return make_reader(*own, *overrides)

    return make


def pack_of(table, index, epoch):
    """A pack of one sample, as `PackReader` takes it."""
    samples = Samples(
        source=np.zeros(1, np.int32),
        index=np.array([index]),
        epoch=np.array([epoch], dtype=np.int32),
    )
    facts = samples.columns([table], ("tokens", "tiles", "supervised"))
    return Pack(samples=samples, squared=0, **{name: int(v[0]) for name, v in facts.items()})


def read_ids(reader, table, index, epoch):
    """The ids of a sample, which is refused if it is not as long as planned."""
    pack = pack_of(table, index, epoch)
    batch, skips = reader.read(pack)
    assert not skips
    assert batch.tiles == pack.tiles
    assert int((np.asarray(batch.loss_weights) > 0).sum()) == pack.supervised
    return np.asarray(batch.input_ids)[: pack.tokens].tolist()


@pytest.mark.parametrize("overrides", [LIMITS, LIMITS + BUDGETS, ("limits.turn_orders=1",)])
def test_what_is_loaded_is_what_was_planned_in_every_epoch(open_asked, overrides):
    data, reader = open_asked(*overrides)
    table = data.tables[0]
    assert len(table) > 0.9 * ROWS
    for index in range(len(table)):
        for epoch in range(ORDERS + 1):
            read_ids(reader, table, index, epoch)


def test_a_reader_that_forgets_the_order_is_caught(open_asked):
    data, reader = open_asked(*LIMITS)
    forgetful = replace(reader)
    forgetful.planned = lambda pack: [
        plan._replace(turn_order=None) for plan in reader.planned(pack)
    ]
    longest = int(np.argmax(data.tables[0].column("messages")))
    with pytest.raises(DataError):
        forgetful.read(pack_of(data.tables[0], longest, 0))


def test_orders_differ_from_epoch_to_epoch_and_come_back(open_asked):
    data, reader = open_asked(*LIMITS)
    table = data.tables[0]
    differing = 0
    for index in range(len(table)):
        ids = [read_ids(reader, table, index, epoch) for epoch in range(ORDERS + 1)]
        assert ids[0] == ids[ORDERS]
        differing += ids[0] != ids[1] != ids[2]
    assert differing > 0.7 * ROWS


def test_the_cap_keeps_whole_pairs_and_is_counted(open_asked):
    data, _ = open_asked(*LIMITS)
    table, manifest = data.tables[0], data.manifests[0]
    pairs = np.diff(manifest.geometry.message_offsets)[table.column("rows")] // 2
    assert table.column("messages").tolist() == (2 * np.minimum(pairs, CAP)).tolist()
    assert table.cut == int((pairs > CAP).sum()) > 0
    assert data.facts["sources"]["asked"]["cut"] == table.cut


def test_a_cap_alone_keeps_the_first_turns(open_asked):
    data, reader = open_asked(f"limits.max_turns={CAP}")
    (plan,) = reader.planned(pack_of(data.tables[0], 0, 5))
    assert plan.turn_order is None
    assert max(data.tables[0].column("messages")) == 2 * CAP
    read_ids(reader, data.tables[0], 0, 5)


def test_means_and_maxima_are_those_of_all_orders(open_asked):
    table = open_asked(*LIMITS)[0].tables[0]
    tokens = np.asarray(table.tokens).reshape(-1, ORDERS)
    assert table.total("tokens") == pytest.approx(tokens.mean(axis=1).sum(), abs=1)
    assert table.total("max_tokens") == tokens.max()
    assert len(np.unique(tokens.sum(axis=0))) > 1
    table = open_asked(*LIMITS, *BUDGETS)[0].tables[0]
    chances = np.array(table.chances) / sum(table.chances)
    tiles = np.asarray(table.tiles).reshape(-1, ORDERS, len(chances))
    assert table.total("tiles") == pytest.approx((tiles.mean(axis=1) @ chances).sum(), abs=1)


def test_a_row_is_left_out_where_an_orders_first_pair_does_not_fit(open_asked):
    limit = 45
    data, reader = open_asked("limits.turn_orders=2", f"limits.max_tokens={limit}")
    table, manifest = data.tables[0], data.manifests[0]
    admitted = set(table.column("rows").tolist())
    assert table.excluded["too_long"] == ROWS - len(admitted) > 0
    mixed = 0
    for row in range(ROWS):
        fits = []
        for order in range(2):
            messages = reorder_turns(manifest.row(row).messages, turn_key("asked", row, order))
            images = [part for part in messages[0]["content"] if part["type"] == "image"]
            if images:
                break
            fits.append(len(reader.processor.encode_sample(messages[:2], []).input_ids) <= limit)
        else:
            assert (row in admitted) == all(fits)
            mixed += len(set(fits)) == 2
    assert mixed


def test_an_entry_may_have_its_own_cap_and_orders(open_asked):
    data, reader = open_asked()
    sources = {"asked": data.manifests[0]}
    recipe = LimitSettings(max_turns=CAP, turn_orders=ORDERS)

    def table(limits, **entry):
        chosen, lengths = MixtureEntry(source="asked", **entry), reader.processor.length_model()
        return admit([chosen], sources, lengths, limits, max_tokens=512)[0]

    assert (table(recipe).turn_orders, max(table(recipe).column("messages"))) == (ORDERS, 2 * CAP)
    fixed = table(recipe, turn_orders=0, max_turns=2)
    assert (fixed.turn_orders, max(fixed.column("messages"))) == (0, 4)
    assert len(fixed.tokens) == len(fixed)
    own = table(LimitSettings(), turn_orders=1)
    assert own.turn_order(7) == 0
    assert len({table(each).hash() for each in (recipe, LimitSettings())} | {own.hash()}) == 3


def test_the_plans_digest_covers_cap_and_orders(open_asked):
    settings = ((), LIMITS, LIMITS[:1], LIMITS[1:], (*LIMITS[:1], "limits.turn_orders=2"))
    assert len({open_asked(*each)[0].plan.digest() for each in settings}) == len(settings)


def test_the_digest_tells_orders_of_equal_length_apart(make_reader):
    entries = "data.mixture.entries=[{source: text_digits}]"
    before, after = (make_reader(entries, f"limits.turn_orders={n}")[0] for n in (0, 1))
    assert np.array_equal(before.tables[0].column("tokens"), after.tables[0].column("tokens"))
    assert before.plan.digest() != after.plan.digest()


def test_joined_rows_are_reordered_too(tmp_path, open_asked):
    _, reader = open_asked()
    tokenizer = reader.processor.tokenizer
    raw = tmp_path / "data" / "raw" / "own"
    raw.mkdir(parents=True)
    draw = np.random.default_rng(4)
    (raw / "a.png").write_bytes(png(draw))
    lines = [
        {
            "image": "a.png",
            "messages": [
                {"role": "user", "content": " ".join(draw.choice(WORDS[:5], 3)) + f" {number}?"},
                {"role": "assistant", "content": f"{number}"},
            ],
        }
        for number in range(6)
    ]
    (raw / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    folder = tmp_path / "data" / "prepared" / "own"
    prepare_source(OwnRows(source="own", licence="none"), raw, folder, tokenizer)
    manifest = open_grouped(Manifest.open(folder, tokenizer.key), 6, tokenizer)
    limits, lengths = LimitSettings(turn_orders=ORDERS), reader.processor.length_model()
    entry = MixtureEntry(source="own")
    table = admit([entry], {"own": manifest}, lengths, limits, max_tokens=512)[0]
    assert table.column("messages").tolist() == [12]
    joined = replace(reader, tables=[table], manifests=[manifest])
    ids = {tuple(read_ids(joined, table, 0, epoch)) for epoch in range(ORDERS)}
    assert len(ids) == ORDERS
