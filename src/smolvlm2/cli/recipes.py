"""What ``smolvlm2 recipes`` prints."""

from pathlib import Path
from typing import Any

from smolvlm2.config import (
    ABSENT,
    diff_configs,
    find_recipe,
    load_raw,
    recipe_names,
    recipes_folder,
    to_yaml,
)

_REASONS = {
    "image_size": "published 256M and 500M use 512 px tiles; 384 belongs to the 2.2B model",
    "ratio": "3 divides the 24 patches a side of a 384 px tile, 4 the 32 of 512 px",
    "max_position_embeddings": "the small published models stay at 8k tokens",
    "rope_theta": "SmolLM2's own base where the context stays at 8k",
    "longest_edge": "four tiles of the recipe's own size",
    "upscale": "the published processor enlarges every image; `never` saves that compute",
    "max_frames fps": "published video training sees up to 64 frames, one a second",
    "freeze_vision_encoder unfreeze_vision_after_steps": "no published run unfreezes midway",
    "vision_encoder_learning_rate connector_learning_rate text_decoder_learning_rate": (
        "published video training has one rate for each part of the model"
    ),
    "max_steps": "published: three image runs one after the other, and one epoch of video",
    "learning_rate": "published video training has one rate for each part of the model",
    "training.adapters": "the published alignment run trains DoRA adapters beside the components",
    "neftune_alpha": "published instruction tuning adds noise to token embeddings",
    "random_tiles": "the published image runs draw how many tiles an image may have",
    "schedule.type schedule.warmup_steps schedule.warmup_fraction schedule.min_fraction": (
        "published image runs rise over a number of steps and fall linearly, the first two of them "
        "not to the end"
    ),
    "limits": "the published image runs pack to 7000 tokens, see two images a sample at most, and "
    "shuffle its questions to keep seven",
    "every_steps": "the published alignment run is saved every 250 steps",
    "mixture.unit": "the published factors say how often a sample comes, not which share it has",
    "mixture.epochs": "published video training ends after one epoch",
    "per_device_train_batch_size gradient_accumulation_steps reference_devices": (
        "samples a step: 256 in the specification; published 1024, 2048 and 8192 for the image "
        "runs and 512 for video"
    ),
    "mixture.entries": "the specification gives shares by group; the published file, or its public "
    "stand-in, lists every source",
}
WHY = {suffix: reason for suffixes, reason in _REASONS.items() for suffix in suffixes.split()}
"""Why the specification's recipe and the published one differ, by a part of the dotted key."""

COUNTERPARTS = {
    "model_256m": ["published/model_256m"],
    "train_vision_stage": [f"published/train_vision_stage{number}" for number in (1, 2, 3)],
    "train_video_stage": ["published/train_video_stage"],
}
"""What ``recipes diff`` compares when nothing is named."""


def list_recipes() -> str:
    """One line a recipe: its name, and what its first comment says."""
    names = recipe_names()
    if not names:
        return f"no recipes in {recipes_folder()}"
    width = max(map(len, names))
    lines = [f"{name:{width}}  {_headline(find_recipe(name))}".rstrip() for name in names]
    return "\n".join(lines)


def show_recipe(name: str) -> str:
    """A recipe as YAML, everything that it extends merged in.

    Raises:
        ConfigError: No such recipe, or it is no YAML.
    """
    path = find_recipe(name)
    return f"# {path}\n{to_yaml(load_raw(path))}"


def diff_recipes(a: str | None = None, b: str | None = None) -> str:
    """Where two recipes differ: one block a key, with both values and the reason where known.

    Args:
        a: A recipe's name or path; None compares all of ``COUNTERPARTS``.
        b: Another; None takes the published ones of the same purpose.

    Raises:
        ConfigError: No such recipe, or it is no YAML.
    """
    if a is None:
        return "\n\n".join(diff_recipes(name) for name in COUNTERPARTS)
    if b is None:
        others = COUNTERPARTS.get(Path(a).stem, [f"published/{Path(a).stem}"])
        return "\n\n".join(diff_recipes(a, other) for other in others)
    left, right = find_recipe(a), find_recipe(b)
    lines = [f"a: {left}", f"b: {right}"]
    for key, first, second in diff_configs(load_raw(left), load_raw(right)):
        lines += ["", key, f"  a: {_short(first)}", f"  b: {_short(second)}"]
        if reason := _reason(key):
            lines.append(f"  why: {reason}")
    return "\n".join(lines if len(lines) > 2 else [*lines, "", "no difference"])


def _reason(key: str) -> str | None:
    # A group of settings explains all that is in it.
    found = (reason for part, reason in WHY.items() if f".{part}." in f".{key}.")
    return next(found, None)


def _short(value: Any) -> str:
    if value == ABSENT:
        return "not set; the default holds"
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _headline(path: Path) -> str:
    with path.open(encoding="utf-8") as lines:
        first = next((line for line in lines if line.strip()), "")
    return first.strip("# \n") if first.startswith("#") else ""
