"""A tiny world: demo data prepared, components with random weights, a recipe that trains in ms."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from smolvlm2.config import load_config, save_config, to_dict
from smolvlm2.data.demo_digits import write_demo_data
from smolvlm2.data.prepare import prepare_source
from smolvlm2.data.sources.catalogue import DEMO_SOURCES
from smolvlm2.model.config import TextConfig, VisionConfig
from smolvlm2.model.random_components import write_random_components
from smolvlm2.processing.processor import Processor
from smolvlm2.processing.tokenizer import extend_for_images
from smolvlm2.processing.tokenizer_training import train_base_tokenizer
from smolvlm2.training.distributed import World, connect
from smolvlm2.training.launch import Launch
from smolvlm2.training.planning import plan_data
from smolvlm2.training.recipe import Recipe
from smolvlm2.training.stage import build_trainer
from smolvlm2.training.starting_point import starting_config, starting_tokenizer


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Path:
    """Folder with ``data/`` (four prepared sources) and ``parts/`` (two components)."""
    root = tmp_path_factory.mktemp("world")
    write_demo_data(
        root / "data",
        one_digit_pages=24,
        several_digit_pages=12,
        image_comparisons=9,
        moving_clips=4,
        changing_clips=3,
        text_questions=12,
        held_out_questions=3,
        held_out_share=0.02,
    )
    words = ["Which digit is this? What are the digits? The digit moves left. User: Assistant:"]
    size = train_base_tokenizer(words, root / "parts" / "smollm2", vocab_size=290)
    write_random_components(
        root / "parts",
        VisionConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=32,
            patch_size=8,
        ),
        TextConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            vocab_size=size,
            max_position_embeddings=512,
        ),
        seed=0,
    )
    tokenizer = extend_for_images(root / "parts" / "smollm2", model_max_length=512)
    for name, source in DEMO_SOURCES.items():
        raw = root / "data" / "raw" / source.raw_folder
        prepare_source(source.adapter, raw, root / "data" / "prepared" / name, tokenizer)
    return root


@pytest.fixture(scope="session")
def make_recipe(world, tmp_path_factory):
    """Build the world's recipe: ``make_recipe("training.max_steps=3", ...)``."""
    parts = world / "parts"
    values = {
        "model": {
            "vision_encoder": {"name": str(parts / "siglip"), "image_size": 32},
            "text_decoder": {"name": str(parts / "smollm2"), "max_position_embeddings": 512},
            "connector": {"ratio": 2},
        },
        "image": {"longest_edge": 64, "upscale": "never"},
        "video": {"max_frames": 4},
        "data": {
            "root": str(world / "data"),
            "workers": 0,
            "mixture": {"entries": [{"source": name, "weight": 1.0} for name in DEMO_SOURCES]},
        },
        "pack": {"window": 64},
        "training": {
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 2,
            "reference_devices": 1,
            "learning_rate": 1e-3,
            "max_steps": 6,
            "freeze_vision_encoder": True,
            "unfreeze_vision_after_steps": 3,
            "vision_warmup_steps": 2,
            "bf16": False,
            "threads": 1,
        },
        "optimizer": {"weight_decay": 0.1},
        "checkpoint": {"every_steps": 2},
    }
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(json.dumps(values), encoding="utf-8")

    def make(*overrides: str) -> Recipe:
        return load_config(Recipe, path, overrides=overrides)

    return make


@pytest.fixture(scope="session")
def make_trainer(make_recipe):
    """Build a trainer: ``make_trainer(folder, "key=value", restart=False)``."""

    def make(folder: Path, *overrides: str, **options):
        return build_trainer(make_recipe(*overrides), folder, device="cpu", **options)

    return make


@pytest.fixture
def world_of_one() -> World:
    """This process as a world of one rank on the CPU."""
    return connect(Launch(), "cpu")


@pytest.fixture(scope="session")
def straight(make_trainer, tmp_path_factory) -> Path:
    """A finished run of six steps that was never interrupted; not to be written to."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    make_trainer(folder).train()
    return folder


@pytest.fixture
def run_copy(straight, tmp_path) -> Path:
    """A copy of the finished run, to break."""
    return Path(shutil.copytree(straight, tmp_path / "run", symlinks=True))


@pytest.fixture
def recipe_file(make_recipe, tmp_path):
    """Write a recipe to a file: ``recipe_file("key=value", ...)``."""

    def write(*overrides: str) -> Path:
        save_config(make_recipe(*overrides), tmp_path / "recipe.yaml")
        return tmp_path / "recipe.yaml"

    return write


@pytest.fixture(scope="session")
def log_lines():
    """A run's log without what depends on the clock."""
    clock = ("tokens_per_second", "tiles_per_second", "mfu")

    def read(folder: Path) -> list[dict]:
        lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        return [
            {k: v for k, v in line.items() if k not in clock and not k.endswith("seconds")}
            for line in lines
        ]

    return read


@pytest.fixture
def broken_world(world, make_recipe, tmp_path):
    """A recipe over a copy of the data in which one image of ``cauldron_digits`` is damaged.

    It is the one that comes first, whatever the seed. Gives the copy's overrides and the sample's
    id.
    """
    row = _first_row(make_recipe(), "cauldron_digits")
    shutil.copytree(world / "data" / "prepared", tmp_path / "data" / "prepared")
    shutil.copytree(world / "data" / "raw", tmp_path / "data" / "raw")
    folder = tmp_path / "data" / "prepared" / "cauldron_digits"
    table = pa.ipc.open_file(pa.memory_map(str(folder / "manifest.arrow"))).read_all()
    locator = json.loads(table["media"][row].as_py())[0]
    with (tmp_path / "data" / locator["path"]).open("r+b") as file:
        file.seek(locator.get("offset", 0))
        file.write(b"\0" * 64)
    return [f"data.root={tmp_path / 'data'}"], table["sample_id"][row].as_py()


def _first_row(recipe: Recipe, source: str) -> int:
    """The row of a source that comes first in the plan of a recipe."""
    config, tokenizer = starting_config(recipe, None), starting_tokenizer(recipe, None)
    processor = Processor.for_model(config, tokenizer, image=recipe.image, video=recipe.video)
    context = config.text.max_position_embeddings
    plan = plan_data(recipe, processor, context=context, config=config).plan
    number = [table.name for table in plan.tables].index(source)
    for pack in plan.packs_of_window(0):
        rows = pack.samples.column(plan.tables, "rows")[pack.samples.source == number]
        if len(rows):
            return int(rows[0])
    raise AssertionError(f"{source} is not in the first window")


@pytest.fixture(scope="session")
def as_dict():
    """A config as plain values."""
    return to_dict
