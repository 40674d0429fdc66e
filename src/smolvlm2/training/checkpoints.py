"""Saving and restoring a run: weights, optimiser state, step and place in the plan.

There is no random state to save: all randomness is a function of counters.
"""

import json
import logging
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.optim import Optimizer

from smolvlm2.errors import CheckpointError, ResumeError
from smolvlm2.model.hub import read_json, write_json
from smolvlm2.model.sharded_files import load_sharded, save_sharded
from smolvlm2.model.smolvlm import SmolVLM
from smolvlm2.plan.plan import Position
from smolvlm2.processing.processor import Processor
from smolvlm2.training.run_folder import RunFolder, sync_folder

logger = logging.getLogger(__name__)

STATE_FILE = "training_state.json"


@dataclass(kw_only=True)
class TrainingState:
    """Where a run stands, beside weights and optimiser state."""

    step: int
    """Optimiser steps done."""
    position: Position
    """Where the next step's data begin."""
    plan: str
    """Digest of the plan."""
    samples: int
    """Samples seen."""
    skipped: int
    """Samples that could not be read."""
    chain: str
    """Chained digest of the ids of all samples seen."""


def save_checkpoint(
    run: RunFolder,
    model: SmolVLM,
    processor: Processor,
    optimizer: Optimizer,
    state: TrainingState,
    *,
    keep: int,
) -> Path:
    """Write a step folder; it gets its name, and ``latest`` moves, only when it is durable.

    Returns:
        The step folder. It holds our sharded format and is read by every command.
    """
    partial = run.root / "checkpoints" / f".step-{state.step:08d}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    moments = optimizer_state(model, optimizer)
    save_sharded({"model": model.state_dict(), "optimizer": moments}, partial)
    write_json(model.config.to_hf(), partial / "config.json")
    processor.save_pretrained(partial)
    sizes = {path.name: path.stat().st_size for path in sorted(partial.iterdir())}
    content = asdict(state) | {"optimizer_parameters": sorted(moments), "files": sizes}
    with (partial / STATE_FILE).open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(partial)
    return run.publish_step(partial, state.step, keep=keep)


def read_state(folder: Path) -> TrainingState:
    """Read and verify a step folder without loading its tensors.

    Raises:
        CheckpointError: The folder is incomplete; says which file.
    """
    try:
        content = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
        for name, size in content["files"].items():
            found = (folder / name).stat().st_size
            if found != size:
                raise CheckpointError(f"{folder / name}: {found} bytes, expected {size}")
        names = TrainingState.__dataclass_fields__
        values = {name: content[name] for name in names} | {
            "position": Position(**content["position"])
        }
        return TrainingState(**values)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder}: incomplete checkpoint ({error})") from error


def newest_state(run: RunFolder) -> tuple[Path, TrainingState]:
    """The newest complete step folder; broken ones are passed over with a warning.

    Raises:
        ResumeError: None is complete.
    """
    for folder in reversed(run.steps()):
        try:
            return folder, read_state(folder)
        except CheckpointError as error:
            logger.warning("%s; trying the one before", error)
    raise ResumeError(
        f"{run.root}: no complete checkpoint to resume from; start over with --restart"
    )


def load_checkpoint(folder: Path, model: SmolVLM, optimizer: Optimizer) -> None:
    """Restore weights and optimiser state in place.

    Raises:
        CheckpointError: The checkpoint belongs to another model.
    """
    content = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
    if read_json(folder / "config.json") != json.loads(json.dumps(model.config.to_hf())):
        raise CheckpointError(
            f"{folder}: the run's model has other shapes than the one it is started with now; "
            f"start it from the same components or checkpoint as before"
        )
    parameters = dict(model.named_parameters())
    unknown = [name for name in content["optimizer_parameters"] if name not in parameters]
    if unknown:
        raise CheckpointError(f"{folder}: optimiser state for unknown parameter {unknown[0]!r}")
    moments = {name: _empty_moments(parameters[name]) for name in content["optimizer_parameters"]}
    load_sharded({"model": model.state_dict(), "optimizer": moments}, folder)
    for name, values in moments.items():
        optimizer.state[parameters[name]] = values


def optimizer_state(model: SmolVLM, optimizer: Optimizer) -> dict[str, dict[str, Tensor]]:
    """The optimiser's tensors by parameter name; frozen parameters have none."""
    return {
        name: dict(optimizer.state[parameter])
        for name, parameter in model.named_parameters()
        if optimizer.state.get(parameter)
    }


def _empty_moments(parameter: Tensor) -> dict[str, Tensor]:
    return {
        "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
        "exp_avg": torch.zeros_like(parameter),
        "exp_avg_sq": torch.zeros_like(parameter),
    }
