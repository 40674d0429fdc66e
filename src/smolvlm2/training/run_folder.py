"""The folder of a run: what is in it, and how its files are written.

config.yaml    the merged recipe
log.jsonl      one line a step
exit_status    how the last start ended, when it ended in order; for scripts behind a launcher
writers.json, tensorboard/   what other places were told of the log
skips.jsonl    one line for each sample that could not be read; "during": "validation" marks those
               that were not lost to training
report.html    all of it as a page
profile/       traces of steps, where training.profile asks for them
plan/          what the plan resolved to, on what it ran, what it began from; passed_over.jsonl:
               data left out by --skip-steps
checkpoints/   step-00000500/ ..., latest -> the newest
config.json, model.safetensors, ...   the last export, in Hugging Face format
"""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from smolvlm2.config import diff_configs, load_config, load_raw, save_config
from smolvlm2.errors import ConfigError, ResumeError
from smolvlm2.loading.reader import Skip
from smolvlm2.model.hub import LATEST
from smolvlm2.training.recipe import Recipe

During = Literal["training", "validation"]
NOT_OF_SKIPS = ("step", "during", "too_many")
"""Keys that a line of `skips.jsonl` has beside those of a skip."""
FREE_KEYS = (
    "data.root",
    "data.workers",
    "parallel.",
    "checkpoint.",
    "validation.",
    "evaluation.",
    "logging.",
    "encoder.",
    "training.activation_checkpointing",
    "training.gradient_checkpointing",
    "training.compile",
    "training.threads",
    "training.profile",
    "data.sample_timeout_s",
    "data.skip_ids",
    "training.max_skip_fraction",
    "training.on_nonfinite",
    "training.max_nonfinite_steps",
)
"""Settings that may change when a run is resumed. All but the last four leave its result as it is;
those are the ways out that errors name."""
PLAN_KEYS = (
    "data.mixture",
    "limits.",
    "pack.",
    "segments",
    "image.",
    "video.",
    "training.per_device_train_batch_size",
    "training.gradient_accumulation_steps",
    "training.reference_devices",
)
"""Settings that decide which data make which step; ``--replan`` lets them change from there on."""
SHOWN_ITEMS = 3
"""Of a list of settings in a message."""
WRITTEN = (
    "checkpoints",
    "plan",
    "log.jsonl",
    "skips.jsonl",
    "exit_status",
    "report.html",
    "profile",
    "writers.json",
    "tensorboard",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
)
"""What a run writes beside ``config.yaml``; small files of the processor are merely overwritten."""


class RunFolder:
    """Paths and small files of one run.

    Args:
        root: The output directory.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.log = JsonLines(self.root / "log.jsonl")
        self.skips = JsonLines(self.root / "skips.jsonl")
        self.passed_over = JsonLines(self.root / "plan" / "passed_over.jsonl")
        self.left_out = JsonLines(self.root / "plan" / "left_out.jsonl")

    def known_skips(self, during: During = "training") -> list[Skip]:
        """Samples that could not be read so far."""
        return [
            Skip(**{key: value for key, value in line.items() if key not in NOT_OF_SKIPS})
            for line in self.skips
            if line.get("during", "training") == during
        ]

    def mark_fatal_skips(self) -> None:
        """Say in the last skip that the run ends because there are too many."""
        lines = list(self.skips)
        self.skips.replace([*lines[:-1], *(line | {"too_many": True} for line in lines[-1:])])

    def forget_fatal_skips(self, step: int) -> None:
        """Drop the skips from ``step`` on, where they were too many and ended the run.

        A run repeats its skips, so that it ends as if it had never stopped. After these it would
        only stop again, whatever was repaired.
        """
        lines = list(self.skips)
        if lines and lines[-1].get("too_many"):
            self.skips.cut(step)

    def steps(self) -> list[Path]:
        """Complete step folders, oldest first."""
        return sorted((self.root / "checkpoints").glob("step-????????"))

    def resumable(self) -> list[Path]:
        """Step folders to try, likeliest first: what `latest` names, then older ones.

        Newer ones than that belong to a branch that ``--resume STEP`` has left.
        """
        steps, latest = self.steps(), self.root / LATEST
        if latest.is_symlink():
            steps = [step for step in steps if step.name <= os.readlink(latest)]
        return steps[::-1]

    def point_at(self, step: Path) -> None:
        """Let `latest` name a step folder."""
        link, new = self.root / LATEST, self.root / "checkpoints" / ".latest"
        new.unlink(missing_ok=True)
        new.symlink_to(step.name)
        if link.is_dir() and not link.is_symlink():
            shutil.rmtree(link)  # the run was copied by something that follows links
        os.replace(new, link)
        sync_folder(link.parent)

    def check(self, recipe: Recipe, *, restart: bool, replan: bool = False) -> bool:
        """Look at what lies in the folder before anything is changed.

        Args:
            recipe: Of the run.
            restart: Whether an earlier run would be thrown away.
            replan: Whether what decides the data may differ.

        Returns:
            Whether an earlier run with checkpoints goes on.

        Raises:
            ResumeError: Not a folder, not a run's folder, or a run with another recipe; names the
                differences.
        """
        if self.root.exists() and not self.root.is_dir():
            raise ResumeError(f"{self.root}: is a file; choose another --output-dir")
        if not self._is_run():
            foreign = [name for name in WRITTEN if os.path.lexists(self.root / name)]
            if foreign:
                raise ResumeError(
                    f"{self.root}: holds {foreign[0]} but is not the folder of a run (no "
                    f"config.yaml), and is left as it is; restore that, or choose another "
                    f"--output-dir"
                )
            return False
        if restart:
            return False
        if not self.steps():
            if (self.root / "config.json").is_file():
                raise ResumeError(
                    f"{self.root}: holds the export of a run without its checkpoints; choose "
                    f"another --output-dir, or start over with --restart"
                )
            return False
        self._compare(recipe, FREE_KEYS + PLAN_KEYS if replan else FREE_KEYS)
        return True

    def begin(self, recipe: Recipe, *, resumed: bool) -> None:
        """Make the folder after `check`; without ``resumed`` an earlier run in it goes.

        Raises:
            ResumeError: The folder cannot be written to.
        """
        try:
            if not resumed:
                self.clear()
            self.root.mkdir(parents=True, exist_ok=True)
            for left in (self.root / "checkpoints").glob(".step-*.partial"):
                shutil.rmtree(left)
            (self.root / "exit_status").unlink(missing_ok=True)
            save_config(recipe, self.root / "config.yaml")
        except OSError as error:
            raise ResumeError(
                f"{self.root}: cannot be written to ({error.strerror}); choose another "
                f"--output-dir, or make it writable"
            ) from error

    def end(self, code: int) -> None:
        """Leave the exit status where a script finds it that only sees its launcher's."""
        (self.root / "exit_status").write_text(f"{code}\n", encoding="utf-8")

    def clear(self) -> None:
        """Remove what a run writes, and nothing else; ``config.yaml``, which marks it, last."""
        for name in (*WRITTEN, "config.yaml"):
            path = self.root / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def _is_run(self) -> bool:
        """Whether ``config.yaml`` is one of ours; an unreadable one is taken for a stranger's."""
        if not (self.root / "config.yaml").is_file():
            return False
        try:
            return {"stage", "training", "checkpoint"} <= set(load_raw(self.root / "config.yaml"))
        except ConfigError:
            return False

    def _compare(self, recipe: Recipe, free: tuple[str, ...]) -> None:
        try:
            saved = load_config(Recipe, self.root / "config.yaml")
        except ConfigError as error:
            raise ResumeError(
                f"{self.root}: the saved recipe is not valid here ({error}); choose another "
                f"--output-dir, or start over with --restart"
            ) from error
        differences = {
            key: f"{key}: {_short(before, after)} before, {_short(after, before)} now"
            for key, before, after in diff_configs(saved, recipe)
            if not key.startswith(free)
        }
        if not differences:
            return
        replan = ""
        if all(key.startswith(PLAN_KEYS) for key in differences):
            replan = "or with these from here on (--resume --replan: a new segment begins), "
        raise ResumeError(
            f"{self.root}: holds a run with another recipe ({'; '.join(differences.values())}); go "
            f"on with the saved settings, {replan}or choose another --output-dir, or start over "
            f"with --restart"
        )

    def publish_step(self, partial: Path, step: int, *, keep: int) -> Path:
        """Give a completely written checkpoint its name, point ``latest`` at it, prune old ones."""
        final = self.root / "checkpoints" / f"step-{step:08d}"
        if final.exists():
            shutil.rmtree(final)
        os.rename(partial, final)
        self.point_at(final)
        # Broken newer ones, passed over on resume, must not push out this one; they are replaced
        # when the run gets there.
        for old in [step for step in self.steps() if step.name <= final.name][:-keep]:
            shutil.rmtree(old)
        return final


def _short(value: Any, other: Any) -> str:
    """A value for a message; of a long list what the other one has not."""
    if not (isinstance(value, list) and isinstance(other, list)):
        return str(value)
    own = [item for item in value if item not in other]
    words = [
        str({key: part for key, part in item.items() if part is not None})
        if isinstance(item, dict)
        else str(item)
        for item in own[:SHOWN_ITEMS]
    ]
    more = f" and {len(own) - SHOWN_ITEMS} more" if own[SHOWN_ITEMS:] else ""
    return f"{len(value)} in all" + (f", among them {', '.join(words)}{more}" if own else "")


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
        self.replace([line for line in self if line["step"] < step])

    def mend(self) -> None:
        """Drop half a line at the end, which the next one would be joined to."""
        if self.path.is_file():
            self.replace(list(self))

    def replace(self, lines: list[dict[str, Any]]) -> None:
        """Write the file anew, whole or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(self.path.name + ".partial")
        with temporary.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self.path)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
