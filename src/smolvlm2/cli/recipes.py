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
    "ratio scale_factor": "3 divides the 24 patches a side of a 384 px tile, 4 the 32 of 512 px",
    "max_position_embeddings max_length": "the small published models stay at 8k tokens",
    "rope_theta": "SmolLM2's own base where the context stays at 8k",
    "longest_edge": "four tiles of the recipe's own size",
    "upscale": "the published processor enlarges every image; `never` saves that compute",
    "max_frames": "published video training sees 64 frames, one a second",
    "freeze_vision_encoder unfreeze_vision_after_steps": "no published run unfreezes midway",
    "learning_rate vision_learning_rate connector_learning_rate text_learning_rate": (
        "published video training has one rate for each part of the model"
    ),
    "max_steps": "the published vision stage is three runs; its video stage is one epoch",
    "per_device_train_batch_size gradient_accumulation_steps": (
        "published global batches are 512 to 8192 samples"
    ),
    "lr_scheduler_type schedule": "the published first stage decays linearly",
    "mixture": "the published mixture has 107 entries; the specification gives shares",
}
WHY = {name: reason for names, reason in _REASONS.items() for name in names.split()}
"""Why the specification's recipe and the published one differ, by the last part of the key."""


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


def diff_recipes(a: str, b: str | None = None) -> str:
    """Where two recipes differ: one block a key, with both values and the reason where known.

    Args:
        a: A recipe's name or path.
        b: Another; None takes ``published/`` of the same name.

    Raises:
        ConfigError: No such recipe, or it is no YAML.
    """
    left = find_recipe(a)
    right = find_recipe(b or f"published/{Path(a).stem}")
    lines = [f"a: {left}", f"b: {right}"]
    for key, first, second in diff_configs(load_raw(left), load_raw(right)):
        lines += ["", key, f"  a: {_short(first)}", f"  b: {_short(second)}"]
        if reason := _reason(key):
            lines.append(f"  why: {reason}")
    return "\n".join(lines if len(lines) > 2 else [*lines, "", "no difference"])


def _reason(key: str) -> str | None:
    return next((WHY[part] for part in reversed(key.split(".")) if part in WHY), None)


def _short(value: Any) -> str:
    if value == ABSENT:
        return "not set; the default holds"
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _headline(path: Path) -> str:
    with path.open(encoding="utf-8") as lines:
        first = next((line for line in lines if line.strip()), "")
    return first.strip("# \n") if first.startswith("#") else ""
