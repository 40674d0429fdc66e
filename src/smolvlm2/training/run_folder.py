"""The folder of a run: what is in it, and how its files are written.

config.yaml    the merged recipe
log.jsonl      one line a step
skips.jsonl    one line for each sample that could not be read
plan/          what the plan resolved to
checkpoints/   step-00000500/ ..., latest -> the newest
config.json, model.safetensors, ...   the last export, in Hugging Face format
"""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from smolvlm2.config import diff_configs, load_config, save_config
from smolvlm2.errors import ResumeError
from smolvlm2.model.hub import LATEST
from smolvlm2.training.recipe import Recipe

FREE_KEYS = ("data.root", "data.workers", "checkpoint.", "training.threads")
"""Settings that may change when a run is resumed: they leave its result as it is."""


class RunFolder:
    """Paths and small files of one run.

    Args:
        root: The output directory.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.log = JsonLines(self.root / "log.jsonl")
        self.skips = JsonLines(self.root / "skips.jsonl")

    def steps(self) -> list[Path]:
        """Complete step folders, oldest first."""
        return sorted((self.root / "checkpoints").glob("step-????????"))

    def begin(self, recipe: Recipe, *, restart: bool) -> bool:
        """Make the folder for a run, or accept the one that is there.

        Args:
            recipe: Of the run.
            restart: Whether to throw an earlier run away.

        Returns:
            Whether an earlier run with checkpoints goes on.

        Raises:
            ResumeError: The folder holds a run with another recipe; names the differences.
        """
        if restart and (self.root / "config.yaml").is_file():
            self.clear()
        if (self.root / "config.yaml").is_file() and self.steps():
            self._compare(recipe)
            return True
        self.clear()
        self.root.mkdir(parents=True, exist_ok=True)
        save_config(recipe, self.root / "config.yaml")
        return False

    def clear(self) -> None:
        """Remove what a run writes, and nothing else."""
        for name in ("checkpoints", "plan"):
            shutil.rmtree(self.root / name, ignore_errors=True)
        for name in ("log.jsonl", "skips.jsonl", "config.yaml", "model.safetensors", "config.json"):
            (self.root / name).unlink(missing_ok=True)

    def _compare(self, recipe: Recipe) -> None:
        saved = load_config(Recipe, self.root / "config.yaml")
        differences = [
            f"{key}: {before} before, {after} now"
            for key, before, after in diff_configs(saved, recipe)
            if not key.startswith(FREE_KEYS)
        ]
        if differences:
            raise ResumeError(
                f"{self.root}: holds a run with another recipe ({'; '.join(differences)}); go on "
                f"with the saved settings, or choose another --output-dir, or start over with "
                f"--restart"
            )
        save_config(recipe, self.root / "config.yaml")

    def publish_step(self, partial: Path, step: int, *, keep: int) -> Path:
        """Give a completely written checkpoint its name, point ``latest`` at it, prune old ones."""
        final = self.root / "checkpoints" / f"step-{step:08d}"
        if final.exists():
            shutil.rmtree(final)
        os.rename(partial, final)
        link, new = self.root / LATEST, self.root / "checkpoints" / ".latest"
        new.unlink(missing_ok=True)
        new.symlink_to(final.name)
        os.replace(new, link)
        sync_folder(link.parent)
        for old in self.steps()[:-keep]:
            shutil.rmtree(old)
        return final


class JsonLines:
    """An append-only file of JSON lines that survives a kill in the middle of a line.

    Args:
        path: The file; made on first use.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, line: dict[str, Any]) -> None:
        """Write one line and hand it to the operating system."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """All complete lines."""
        if not self.path.is_file():
            return
        with self.path.open(encoding="utf-8") as file:
            for line in file:
                if line.endswith("\n"):
                    yield json.loads(line)

    def cut(self, step: int) -> None:
        """Drop lines of ``step`` and later ones: a resumed run writes them again."""
        lines = [line for line in self if line["step"] < step]
        temporary = self.path.with_name(self.path.name + ".partial")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        os.replace(temporary, self.path)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
