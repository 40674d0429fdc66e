"""What a name on the command line stands for: a source, a mixture, a recipe."""

import subprocess
import sys
from dataclasses import replace

import pytest

from smolvlm2.cli.opened_mixture import open_mixture
from smolvlm2.errors import ConfigError, DataNotFoundError
from smolvlm2.model.component_shapes import component_shapes
from smolvlm2.model.hub import write_json


def test_a_recipe_brings_its_mixture_sizes_and_data(recipe_file):
    opened = open_mixture(recipe_file)
    assert [entry.name for entry in opened.entries][:2] == [
        "cauldron_digits:digits_one",
        "m4_digits",
    ]
    assert sum(entry.weight for entry in opened.entries) == pytest.approx(1)
    assert opened.processor.tile_size == 32
    assert opened.processor.tokens_per_tile == 4
    assert opened.processor.video.max_frames == 4


def test_images_are_resized_without_torch_unless_asked(recipe_file):
    assert open_mixture(recipe_file).processor.image.resample == "exact"
    assert open_mixture(recipe_file, resample="fast").processor.image.resample == "fast"


def test_looking_at_data_loads_no_torch(recipe_file, tmp_path):
    code = (
        "import sys; from smolvlm2.cli.inspect import inspect; from pathlib import Path;"
        f"inspect({recipe_file!r}, output=Path({str(tmp_path / 'page.html')!r}));"
        "from smolvlm2.cli.data_stats import data_stats;"
        f"data_stats({recipe_file!r}); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_a_source_is_a_mixture_of_one(looked_at, recipe_file):
    opened = open_mixture("m4_digits", recipes=[recipe_file])
    assert [(entry.name, entry.weight) for entry in opened.entries] == [("m4_digits", 1.0)]
    part = open_mixture("cauldron_digits:digits_page", recipes=[recipe_file]).entries[0]
    manifest = part.manifest
    names = {manifest.subsets[n] for n in manifest.geometry.row_subset[part.rows].tolist()}
    assert names == {"digits_page"}
    folder = str(looked_at / "data" / "prepared" / "m4_digits")
    assert open_mixture(folder, recipes=[recipe_file]).name == "m4_digits"


def test_a_source_alone_is_seen_under_the_recipe_of_the_256m_model(looked_at):
    opened = open_mixture(
        "m4_digits",
        data=looked_at / "data",
        tokenizer=str(looked_at / "components" / "smollm2"),
    )
    assert opened.recipe_names == ["model_256m", "train_vision_stage"]
    assert (opened.processor.tile_size, opened.processor.tokens_per_tile) == (384, 64)


def test_a_checkpoint_brings_its_tiles_tokens_and_context(looked_at, recipe_file, tmp_path):
    plain = open_mixture("m4_digits", recipes=[recipe_file])
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    config = component_shapes(plain.recipe.model)
    config = replace(config, vision=replace(config.vision, image_size=16), scale_factor=2)
    write_json(config.to_hf(), folder / "config.json")
    plain.processor.tokenizer.save_pretrained(folder)
    opened = open_mixture("m4_digits", recipes=[recipe_file], checkpoint=str(folder))
    assert (opened.processor.tile_size, plain.processor.tile_size) == (16, 32)
    assert opened.entries[0].tiles.sum() > plain.entries[0].tiles.sum()


def test_a_recipe_without_a_model_takes_the_one_beside_it(looked_at):
    smollm2 = str(looked_at / "components" / "smollm2")
    for name in ("train_video_stage", "published/train_video_stage"):
        with pytest.raises(DataNotFoundError, match="smolvlm2 prepare"):
            open_mixture(name, data=looked_at / "data", tokenizer=smollm2)
    opened = open_mixture(
        "m4_digits",
        recipes=["published/train_vision_stage3"],
        data=looked_at / "data",
        tokenizer=smollm2,
    )
    assert opened.recipe_names == ["published/model_256m", "published/train_vision_stage3"]
    assert opened.processor.tile_size == 512


def test_a_bare_mixture_is_found_by_its_name(looked_at, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("data: {mixture: {entries: [{source: text_digits}]}}")
    opened = open_mixture("mine.yaml", recipes=[str(looked_at / "recipe.yaml")])
    assert [entry.name for entry in opened.entries] == ["text_digits"]
    with pytest.raises(DataNotFoundError, match="the_cauldron"):
        open_mixture("vision_stage", recipes=[str(looked_at / "recipe.yaml")])


def test_an_unknown_name_suggests_a_near_one(recipe_file):
    with pytest.raises(ConfigError, match=r"m5_digits: no prepared source .* mean 'm4_digits'"):
        open_mixture("m5_digits", recipes=[recipe_file])
    with pytest.raises(ConfigError, match="prepared are cauldron_digits, m4_digits"):
        open_mixture("qqqqqqqqqqqq", recipes=[recipe_file])


def test_a_recipe_without_a_mixture_says_what_to_give(recipe_file):
    with pytest.raises(ConfigError, match=r"model_256m.yaml: sets no data.mixture"):
        open_mixture("model_256m", recipes=[recipe_file])


def test_data_dir_replaces_the_default_root_only(looked_at, recipe_file, monkeypatch):
    monkeypatch.setenv("DATA_DIR", str(looked_at / "data"))
    tokenizer = str(looked_at / "components" / "smollm2")
    assert open_mixture("text_digits", tokenizer=tokenizer).entries[0].name == "text_digits"
    monkeypatch.setenv("DATA_DIR", str(looked_at / "nowhere"))
    assert open_mixture("text_digits", recipes=[recipe_file]).entries
