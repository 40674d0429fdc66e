"""docs/training.md says what is there."""

import json
import re
from pathlib import Path

from smolvlm2.config import load_config
from smolvlm2.training.recipe import Recipe
from smolvlm2.training.run_folder import WRITTEN

GUIDE = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
ROOMS = (
    "training|parallel|data|encoder|checkpoint|schedule|validation|evaluation|logging|pack|limits"
)
SOMETIMES = {"nonfinite", "validation", "metrics", "evaluation_failure"}
"""Fields of the log that only some lines have."""


def section(title: str) -> str:
    return GUIDE.split(f"## {title}\n")[1].split("\n## ")[0]


def test_every_setting_that_is_named_is_one():
    settings = re.findall(rf"\b((?:{ROOMS})\.[a-z_]+)=(\{{.*?\}}|[^\s`,]+)", GUIDE)
    assert len(settings) >= 8
    for key, value in settings:
        if "..." not in value:
            load_config(Recipe, overrides=[f"{key}={value}"])


def test_every_field_of_the_log_is_explained(straight):
    table = [line.split("|")[1] for line in section("The log").splitlines() if "|" in line]
    named = {name for cell in table for name in re.findall(r"`(\w+)`", cell)}
    lines = [json.loads(line) for line in (straight / "log.jsonl").read_text().splitlines()]
    there = {name for line in lines for name in line} - SOMETIMES
    assert there <= named
    assert named - there == {"memory_gib"}  # on CUDA


def test_every_file_of_a_run_is_explained(straight):
    named = set(re.findall(r"`([\w.]+)/?[\w-]*/?`", section("The run folder")))
    assert {"checkpoints", "plan", "log.jsonl", "skips.jsonl", "exit_status", "profile"} <= named
    assert named & set(WRITTEN)
