"""The folder of a LoRA run: adapters as mlx-vlm reads them, checkpoints, settings, log.

``adapters.safetensors`` and ``adapter_config.json`` at the root are the newest; ``checkpoints/``
holds them with the optimiser's state. A checkpoint gets its name by one rename when it is complete.
"""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.optimizers as optim
from mlx.utils import tree_flatten, tree_unflatten

from smolvlm2.apple import adapters
from smolvlm2.apple.checkpoint import save_tensors
from smolvlm2.apple.lora_settings import LoraSettings
from smolvlm2.apple.model import SmolVLM
from smolvlm2.errors import ResumeError
from smolvlm2.model.hub import read_json, write_json

RUN_FILE, LOG_FILE, STATE_FILE = "run.json", "log.jsonl", "optimizer.safetensors"
MAY_CHANGE = ("iters", "save_every", "keep", "checkpointing")
"""Settings that leave the steps so far as they are."""


class LoraRun:
    """Opens or starts a run.

    Args:
        folder: Made if missing.
        settings: Of the run.
        facts: What else the steps depend on: model and its weights, quantisation, data.
        restart: Throw away what is there.

    Raises:
        ResumeError: The folder holds a run with other settings, or something else.
    """

    def __init__(
        self, folder: Path, settings: LoraSettings, facts: dict[str, Any], *, restart: bool = False
    ) -> None:
        self.folder = folder
        asked = {**facts, **asdict(settings)}
        if restart and (folder / RUN_FILE).is_file():
            shutil.rmtree(folder)
        if (folder / RUN_FILE).is_file():
            self._compare(read_json(folder / RUN_FILE), asked)
        elif folder.is_dir() and any(folder.iterdir()):
            raise ResumeError(
                f"{folder}: holds files but no {RUN_FILE}, so it is no LoRA run; choose another "
                f"folder with --output"
            )
        folder.mkdir(parents=True, exist_ok=True)
        write_json(asked, folder / RUN_FILE)

    @property
    def checkpoints(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        return sorted((self.folder / "checkpoints").glob("step-????????"))

    def restore(self, model: SmolVLM, optimizer: optim.Optimizer) -> int:
        """Load the newest checkpoint into adapters and optimiser, in place.

        Returns:
            Its step; 0 when there is none.
        """
        if not self.checkpoints:
            self._cut_log(0)
            return 0
        newest = self.checkpoints[-1]
        model.load_weights(str(newest / adapters.WEIGHTS), strict=False)
        state = mx.load(str(newest / STATE_FILE))
        optimizer.state = tree_unflatten(list(state.items()))
        mx.eval(model.parameters(), optimizer.state)
        step = int(newest.name.removeprefix("step-"))
        self._cut_log(step)
        return step

    def save(self, step: int, model: SmolVLM, optimizer: optim.Optimizer, *, keep: int) -> None:
        """Write a checkpoint and make it the newest.

        Args:
            step: Steps done.
            model: With adapters.
            optimizer: Its state is saved beside them.
            keep: Newest checkpoints that stay.
        """
        final = self.folder / "checkpoints" / f"step-{step:08d}"
        partial = final.with_name(final.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        adapters.save(model, partial)
        save_tensors(dict(tree_flatten(optimizer.state)), partial / STATE_FILE)
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        adapters.save(model, self.folder)
        for old in self.checkpoints[:-keep]:
            shutil.rmtree(old)

    def log(self, line: dict[str, Any]) -> None:
        """Append a line."""
        with (self.folder / LOG_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _cut_log(self, step: int) -> None:
        """Drop the lines of steps that will be done again."""
        path = self.folder / LOG_FILE
        if path.is_file():
            kept = [
                line
                for line in path.read_text(encoding="utf-8").splitlines(keepends=True)
                if line.endswith("\n") and json.loads(line)["step"] <= step
            ]
            unfinished = path.with_name(path.name + ".partial")
            unfinished.write_text("".join(kept), encoding="utf-8")
            unfinished.replace(path)

    def _compare(self, found: dict[str, Any], asked: dict[str, Any]) -> None:
        asked = json.loads(json.dumps(asked))
        changed = [
            f"{key} was {found[key]!r} and is {asked.get(key)!r}"
            for key in sorted(found)  # what an older version did not keep cannot be compared
            if key not in MAY_CHANGE and found[key] != asked.get(key)
        ]
        if changed:
            raise ResumeError(
                f"{self.folder}: holds a run with other settings: {'; '.join(changed)}; repeat "
                f"them to go on, or give --restart or another --output"
            )
