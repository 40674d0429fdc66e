"""A small data root for the commands that look at data: the demo's four layouts, and odd pages."""

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from smolvlm2.cli.demo_parts import make_components, prepare_demo, read_texts
from smolvlm2.data.demo.layouts import CAULDRON_SCHEMA
from smolvlm2.data.demo.pages import Style, draw_page, encode_page
from smolvlm2.data.demo_digits import write_demo_data
from smolvlm2.data.prepare import prepare_source
from smolvlm2.data.sources.cauldron import ImagesAndTexts
from smolvlm2.processing.tokenizer import extend_for_images

# Test folders are no packages, so the other conftest is loaded by its path.
_spec = importlib.util.spec_from_file_location(
    "data_world", Path(__file__).parents[1] / "data" / "conftest.py"
)
_data = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_data)

HOSTILE = "</script><script>alert(1)</script> <image> & 'naïve' 🦜"
LONG = "many words " * 300


def page(number: int, width: int, height: int) -> bytes:
    """A PNG that differs by number."""
    style = Style(paper=200, ink=0, noise=5)
    rng = np.random.default_rng(number)
    return encode_page(draw_page([], width=width, height=height, style=style, rng=rng))


def odd_rows() -> list[dict]:
    """Hostile text under 2 x 3 tiles; a single tile; a long answer; two rows for the ledger."""
    said = [
        ([page(1, 96, 64)], [(HOSTILE, f"{HOSTILE}\n\nfine"), ("And?", "No.")]),
        ([page(2, 20, 30)], [("Short?", "Yes.")]),
        ([page(3, 20, 30)], [("First?", "Yes."), ("Long?", LONG)]),
        ([page(4, 20, 30)], [("Too long at once?", LONG)]),
        ([b"no image"], [("What?", "Nothing.")]),
        ([page(5, 20, 30)], [("Unanswered?", "")]),
    ]
    return [
        {
            "images": [{"bytes": data, "path": None} for data in images],
            "texts": [{"user": q, "assistant": a, "source": "s"} for q, a in turns],
        }
        for images, turns in said
    ]


@pytest.fixture(scope="session")
def looked_at(tmp_path_factory) -> Path:
    """A folder with ``data``, prepared, and ``recipe.yaml``, which mixes all five sources."""
    root = tmp_path_factory.mktemp("looked_at")
    data = root / "data"
    write_demo_data(data, **_data.TINY)
    siglip, smollm2 = make_components(root / "components", read_texts(data / "raw"))
    prepare_demo(data, smollm2)
    raw = data / "raw" / "odd" / "diagrams"
    raw.mkdir(parents=True)
    table = pa.Table.from_pylist(odd_rows(), CAULDRON_SCHEMA)
    pq.write_table(table, raw / "train-00000-of-00001.parquet")
    tokenizer = extend_for_images(smollm2)
    odd = ImagesAndTexts(source="odd_pages", licence="none")
    prepare_source(odd, raw.parent, data / "prepared" / "odd_pages", tokenizer)
    entries = [
        {"source": "cauldron_digits", "subset": "digits_one", "weight": 30},
        {"source": "m4_digits", "weight": 20},
        {"source": "video_digits", "weight": 20},
        {"source": "text_digits", "weight": 20},
        {"source": "odd_pages", "weight": 10},
    ]
    text_decoder = {"name": str(smollm2), "max_position_embeddings": 600, "rope_theta": 10000}
    recipe = {
        "model": {
            "vision_encoder": {"name": str(siglip), "image_size": 32},
            "text_decoder": text_decoder,
            "connector": {"ratio": 4},
        },
        "image": {"longest_edge": 96, "upscale": "never", "resample": "fast"},
        "video": {"max_frames": 4, "fps": 2.0},
        "data": {"root": str(data), "mixture": {"entries": entries}},
        "training": {"max_steps": 10, "reference_devices": 1},
    }
    (root / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return root


@pytest.fixture(scope="session")
def recipe_file(looked_at) -> str:
    """The recipe of ``looked_at``."""
    return str(looked_at / "recipe.yaml")


@pytest.fixture(scope="session")
def lost_media(looked_at, tmp_path_factory) -> Path:
    """The same data root after somebody cleaned up: the archives of m4_digits are gone."""
    root = tmp_path_factory.mktemp("lost") / "data"
    shutil.copytree(looked_at / "data" / "prepared" / "m4_digits", root / "prepared" / "m4_digits")
    shutil.rmtree(root / "prepared" / "m4_digits" / "shards", ignore_errors=True)
    return root


@pytest.fixture(scope="session")
def empty_source(looked_at, tmp_path_factory) -> Path:
    """A data root with one source, ``nothing``, all of whose rows are left out."""
    root = tmp_path_factory.mktemp("empty") / "data"
    raw = root / "raw" / "set" / "all"
    raw.mkdir(parents=True)
    table = pa.Table.from_pylist(odd_rows()[-1:], CAULDRON_SCHEMA)
    pq.write_table(table, raw / "train-00000-of-00001.parquet")
    prepare_source(
        ImagesAndTexts(source="nothing", licence="none"),
        raw.parent,
        root / "prepared" / "nothing",
        extend_for_images(looked_at / "components" / "smollm2"),
    )
    return root
