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
    "max_steps": "published: three image runs, of which this is the last, and one epoch of video",
    "per_device_train_batch_size gradient_accumulation_steps reference_devices": (
        "samples a step: 256 in the specification; published 512 for video, 8192 for the last "
        "image run"
    ),
    "mixture.entries": "the specification gives shares by group; the published file, or its public "
    "stand-in, lists every source",
}
WHY = {suffix: reason for suffixes, reason in _REASONS.items() for suffix in suffixes.split()}
"""Why the specification's recipe and the published one differ, by the end of the dotted key."""

COUNTERPARTS = ("model_256m", "train_vision_stage", "train_video_stage")
"""What ``recipes diff`` compares when nothing is named, each with ``published/`` of its name."""


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
        b: Another; None takes ``published/`` of the same name.

    Raises:
        ConfigError: No such recipe, or it is no YAML.
    """
    if a is None:
        return "\n\n".join(diff_recipes(name) for name in COUNTERPARTS)
    left = find_recipe(a)
    right = find_recipe(b or f"published/{Path(a).stem}")
    lines = [f"a: {left}", f"b: {right}"]
    for key, first, second in diff_configs(load_raw(left), load_raw(right)):
        lines += ["", key, f"  a: {_short(first)}", f"  b: {_short(second)}"]
        if reason := _reason(key):
            lines.append(f"  why: {reason}")
    return "\n".join(lines if len(lines) > 2 else [*lines, "", "no difference"])


def _reason(key: str) -> str | None:
    ends = (reason for suffix, reason in WHY.items() if f".{key}".endswith(f".{suffix}"))
    return next(ends, None)


def _short(value: Any) -> str:
    if value == ABSENT:
        return "not set; the default holds"
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _headline(path: Path) -> str:
    with path.open(encoding="utf-8") as lines:
        first = next((line for line in lines if line.strip()), "")
    return first.strip("# \n") if first.startswith("#") else ""
