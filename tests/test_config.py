"""Configs: merging, types, and errors that name file, key and near miss."""

import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from smolvlm2 import config as configs
from smolvlm2.config import (
    ABSENT,
    diff_configs,
    find_recipe,
    load_config,
    load_raw,
    recipe_names,
    recipes_folder,
    save_config,
    to_dict,
    to_yaml,
)
from smolvlm2.errors import ConfigError


@dataclass(kw_only=True)
class Source:
    name: str
    weight: float = 1.0


@dataclass(kw_only=True)
class Training:
    learning_rate: float = 1e-4
    max_steps: int = 50_000
    schedule: Literal["cosine", "linear", "off"] = "cosine"
    shards: int | Literal["auto"] | None = None
    frozen: bool = True

    def __post_init__(self) -> None:
        if self.max_steps < 1:
            raise ConfigError(f"max_steps {self.max_steps} is not positive")


@dataclass(kw_only=True)
class Decoder:
    width: int = 1
    depth: int = 1


@dataclass(kw_only=True)
class Recipe:
    training: Training = field(default_factory=Training)
    decoder: Decoder = field(default_factory=lambda: Decoder(width=64, depth=8))
    teacher: Decoder | None = None
    sources: list[Source] = field(default_factory=list)
    weights: dict[str, float] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    betas: tuple[float, float] = (0.9, 0.95)
    output_dir: str = "runs/out"
    cache: Path | None = None
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True)
class Needy:
    size: int


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a YAML below the working folder, so that messages show short paths."""
    monkeypatch.chdir(tmp_path)

    def write_file(name: str, text: str) -> str:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return name

    return write_file


def test_defaults_then_files_then_overrides(write):
    first = write("a.yaml", "training: {learning_rate: 0.1, max_steps: 10}\ntags: [x, y]")
    second = write("b.yaml", "training: {max_steps: 20}\ntags: [z]")
    recipe = load_config(Recipe, first, second, overrides=["training.schedule=linear"])
    assert recipe == Recipe(
        training=Training(learning_rate=0.1, max_steps=20, schedule="linear"), tags=["z"]
    )


def test_no_files_give_the_defaults():
    assert load_config(Recipe) == Recipe()


def test_an_empty_file_changes_nothing(write):
    assert load_config(Recipe, write("empty.yaml", "# nothing\n")) == Recipe()


def test_a_section_given_in_part_keeps_the_owners_defaults(write):
    recipe = load_config(Recipe, write("a.yaml", "decoder: {width: 32}"))
    assert recipe.decoder == Decoder(width=32, depth=8)


def test_containers_and_optional_values(write):
    text = """
sources: [{name: a}, {name: b, weight: 2}]
weights: {a/x.y: 1, b: 0.5}
betas: [0.8, 1]
teacher: {width: 3}
training: {shards: auto}
cache: some/folder
extra: {any: [1, {thing: null}]}
"""
    recipe = load_config(Recipe, write("a.yaml", text))
    assert recipe.sources == [Source(name="a"), Source(name="b", weight=2.0)]
    assert recipe.weights == {"a/x.y": 1.0, "b": 0.5}
    assert recipe.betas == (0.8, 1.0)
    assert recipe.teacher == Decoder(width=3)
    assert recipe.training.shards == "auto"
    assert recipe.cache == Path("some/folder")
    assert recipe.extra == {"any": [1, {"thing": None}]}


@pytest.mark.parametrize("text", ["1e-4", "'1e-4'", "1.0e-4", "0.0001"])
def test_exponents_become_floats(write, text):
    recipe = load_config(Recipe, write("a.yaml", f"training: {{learning_rate: {text}}}"))
    assert recipe.training.learning_rate == 1e-4


def test_a_round_float_is_a_step_count(write):
    steps = load_config(Recipe, write("a.yaml", "training: {max_steps: 5e4}")).training.max_steps
    assert (steps, type(steps)) == (50_000, int)


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("output_dir=256", "output_dir", "256"),
        ("training.schedule=off", "training.schedule", "off"),
        ("training.shards=4", "training.shards", 4),
        ("training.shards=null", "training.shards", None),
        ("weights.a.b/c=2", "weights.a.b/c", 2.0),
        ("tags=[p,q]", "tags", ["p", "q"]),
        ("teacher.width=7", "teacher.width", 7),
        ("output_dir=a=b", "output_dir", "a=b"),
    ],
)
def test_overrides_follow_the_type_of_their_key(override, key, value):
    recipe = load_config(Recipe, overrides=[override])
    assert configs.flatten(to_dict(recipe))[key] == value


def test_extends_reads_other_files_first(write):
    write("base/model.yaml", "decoder: {width: 16, depth: 2}")
    write("base/data.yaml", "weights: {a: 1}")
    top = write(
        "top/tiny.yaml",
        "extends: [../base/model.yaml, ../base/data.yaml]\ndecoder: {depth: 3}\nweights: {b: 2}",
    )
    recipe = load_config(Recipe, top)
    assert recipe.decoder == Decoder(width=16, depth=3)
    assert recipe.weights == {"a": 1.0, "b": 2.0}
    assert load_raw(top)["decoder"] == {"width": 16, "depth": 3}


def test_values_may_refer_to_others(write):
    text = "training: {max_steps: 30}\ndecoder: {depth: '${training.max_steps}'}"
    assert load_config(Recipe, write("a.yaml", text)).decoder.depth == 30


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "training: {learning_rte: 1}",
            r"^configs/typo\.yaml: training\.learning_rte: no such key; "
            r"did you mean 'learning_rate'\?$",
        ),
        (
            "learning_rate: 1",
            "learning_rate: no such key; did you mean 'training.learning_rate'\\?$",
        ),
        ("decoder: {zzz: 1}", "decoder.zzz: no such key; known here: width, depth$"),
        (
            "training: {max_steps: many}",
            "^configs/typo.yaml: training.max_steps: found str 'many', expected int$",
        ),
        ("training: {max_steps: 1.5}", "training.max_steps: found float 1.5, expected int$"),
        ("training: {frozen: 1}", "training.frozen: found int 1, expected bool$"),
        ("training: {learning_rate: fast}", "found str 'fast', expected float$"),
        (
            "training: {schedule: cosin}",
            "schedule: found str 'cosin', expected one of 'cosine', 'linear', 'off'$",
        ),
        ("training: {shards: x}", "found str 'x', expected int or one of 'auto' or null$"),
        ("training: {max_steps: null}", "found null, expected int$"),
        ("training: 3", "training: found int 3, expected a section \\(Training\\)$"),
        ("output_dir: 3", "output_dir: found int 3, expected str$"),
        ("tags: [a, 2]", "tags\\[1\\]: found int 2, expected str$"),
        ("tags: word", "tags: found str 'word', expected list\\[str\\]$"),
        ("betas: [1]", "betas: found list \\[1\\], expected tuple\\[float, float\\]$"),
        ("weights: {a: heavy}", "weights.a: found str 'heavy', expected float$"),
        ("sources: [{nam: a}]", "sources\\[0\\].nam: no such key; did you mean 'name'\\?$"),
        ("sources: [{weight: 1}]", "typo.yaml: sources\\[0\\].name: missing; expected str$"),
        ("training: {max_steps: 0}", "^configs/typo.yaml: training: max_steps 0 is not positive$"),
        ("a: b: c", "^configs/typo.yaml:1: not YAML: mapping values are not allowed"),
        ("tags: [a]\ntags: [b]", "^configs/typo.yaml:2: not YAML: found duplicate key tags$"),
        ("- a\n- b", "found list \\['a', 'b'\\], expected sections as `key: value`$"),
        ("decoder: {width: '${nothing.here}'}", "typo.yaml: .*nothing.here"),
        ("extends: 3", "extends: found int 3, expected a file or a list$"),
        ("extends: typo.yaml", "typo.yaml: extends itself"),
        ("extends: gone.yaml", "^configs/gone.yaml: no such file$"),
    ],
)
def test_errors_name_file_and_key(write, text, message):
    with pytest.raises(ConfigError, match=message):
        load_config(Recipe, write("configs/typo.yaml", text))


def test_the_file_with_the_mistake_is_named_among_several(write):
    good = write("good.yaml", "training: {max_steps: 10}")
    bad = write("bad.yaml", "extends: good.yaml\ntraining: {max_steps: ten}")
    with pytest.raises(ConfigError, match=r"^bad\.yaml: training\.max_steps"):
        load_config(Recipe, good, bad)


def test_a_refused_combination_names_every_file_that_set_it(write):
    first = write("a.yaml", "training: {max_steps: 10, frozen: false}")
    other = write("b.yaml", "tags: [x]")
    with pytest.raises(ConfigError, match=r"^a\.yaml \+ command line: training: max_steps -1 is"):
        load_config(Recipe, first, other, overrides=["training.max_steps=-1"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "training.learning_rte=1",
            "^command line: training.learning_rte: no such key; did you mean",
        ),
        (
            "training.max_steps",
            "^command line: 'training.max_steps': expected `section.key=value`$",
        ),
        ("=3", "^command line: '=3': expected `section.key=value`$"),
        ("tags=[a", "^command line: tags: not YAML: "),
        ("training.max_steps=x", "^command line: training.max_steps: found str 'x', expected int$"),
    ],
)
def test_bad_overrides_are_refused(override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(Recipe, overrides=[override])


def test_a_missing_required_key_is_named(write):
    with pytest.raises(ConfigError, match=r"^a\.yaml: size: missing; expected int$"):
        load_config(Needy, write("a.yaml", ""))


def test_a_file_that_is_not_text_is_refused(tmp_path):
    path = tmp_path / "image.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read as text"):
        load_config(Recipe, path)


def test_saved_config_loads_equal(tmp_path):
    recipe = Recipe(
        training=Training(learning_rate=1e-5, shards="auto"),
        sources=[Source(name="a")],
        weights={"a/b.c": 0.25},
        cache=Path("x"),
        tags=["on", "1e-4", "null"],
    )
    path = tmp_path / "run" / "config.yaml"
    save_config(recipe, path)
    assert load_config(Recipe, path) == recipe
    assert path.read_text() == to_yaml(recipe)
    assert [entry.name for entry in path.parent.iterdir()] == ["config.yaml"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "config.yaml"
    save_config(Recipe(), path)
    before = path.read_text()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(configs.os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        save_config(Recipe(tags=["new"]), path)
    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]


def test_diff_lists_dotted_keys_with_both_values():
    a = Recipe(training=Training(max_steps=5), weights={"x": 1.0})
    b = Recipe(weights={"y": 1.0})
    assert diff_configs(a, b) == [
        ("training.max_steps", 5, 50_000),
        ("weights.x", 1.0, ABSENT),
        ("weights.y", ABSENT, 1.0),
    ]
    assert diff_configs(a, a) == []


@pytest.fixture
def recipes(write, monkeypatch):
    for name in ("train_vision_stage", "tiny/train_vision"):
        write(f"shipped/{name}.yaml", "{}")
    monkeypatch.setattr(configs, "recipes_folder", lambda: Path("shipped"))


@pytest.mark.parametrize(
    "name", ["tiny/train_vision", "tiny/train_vision.yaml", "configs/tiny/train_vision.yaml"]
)
@pytest.mark.usefixtures("recipes")
def test_a_recipe_is_found_by_name(name):
    assert find_recipe(name) == Path("shipped/tiny/train_vision.yaml")
    assert recipe_names() == ["tiny/train_vision", "train_vision_stage"]


def test_a_recipe_is_found_by_path(write):
    assert find_recipe(write("mine.yaml", "{}")) == Path("mine.yaml")


@pytest.mark.parametrize("name", ["train_vison_stage", "configs/train_vison_stage.yaml"])
@pytest.mark.usefixtures("recipes")
def test_an_unknown_recipe_names_the_near_miss(name):
    message = "no such file or recipe; did you mean 'train_vision_stage'\\?$"
    with pytest.raises(ConfigError, match=message):
        find_recipe(name)
    with pytest.raises(ConfigError, match=r"recipes are tiny/train_vision, train_vision_stage$"):
        find_recipe("zzz")


def test_the_clones_recipes_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert recipes_folder().is_absolute()
    assert recipes_folder().name == "configs"
