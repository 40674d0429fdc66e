"""What ``smolvlm2 estimate`` prints: a stage on a named GPU, on paper, and beside a run's log."""

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from smolvlm2.cli.plan import RUNTIME_GIB, read_arguments
from smolvlm2.config import load_config
from smolvlm2.errors import CheckpointNotFoundError, ConfigError
from smolvlm2.plan.packs import Capacity
from smolvlm2.training.dry_run import TYPICAL_TILES, TYPICAL_TOKENS, phases
from smolvlm2.training.estimate import (
    GPUS,
    Gpu,
    PackLoad,
    checkpoint_bytes,
    estimate_step,
    typical_load,
)
from smolvlm2.training.freezing import frozen_parts
from smolvlm2.training.memory import (
    ADAPTERS_NOTE,
    GIB,
    Checkpointing,
    choose_checkpointing,
    estimate_memory,
)
from smolvlm2.training.model_cost import cost_of
from smolvlm2.training.recipe import Recipe
from smolvlm2.training.run_folder import RunFolder
from smolvlm2.training.starting_point import starting_config

WARM_UP = 3
"""First steps of each phase of a run that are not compared."""


def describe_estimate(
    arguments: Sequence[str],
    *,
    gpu: str,
    gpus: int | None = None,
    run: Path | None = None,
    checkpoint: str | None = None,
) -> str:
    """Memory by setting, time, GPU-hours and disk of a stage.

    Args:
        arguments: Recipes and overrides; with ``run`` there may be none: the run's own.
        gpu: A name of `GPUS`.
        gpus: Devices; None: the recipe's.
        run: A run folder whose log is compared.
        checkpoint: What the stage starts from, for its shapes; None: the recipe's components.

    Raises:
        ConfigError: No such GPU, or a wrong recipe.
        CheckpointNotFoundError: ``run`` is no run folder.
    """
    if gpu not in GPUS:
        raise ConfigError(f"--gpu {gpu}: unknown; expected one of {', '.join(GPUS)}")
    if run is not None and not (run / "config.yaml").is_file():
        raise CheckpointNotFoundError(f"{run}: no config.yaml in it; expected a run folder")
    own = run is not None and not arguments
    recipe = load_config(Recipe, run / "config.yaml") if own and run else read_arguments(arguments)
    source = str(run) if run is not None and checkpoint is None else checkpoint
    config = starting_config(recipe, source)
    device, devices = GPUS[gpu], gpus or recipe.training.reference_devices
    capacity, load, packs, origin = _load(recipe, run)
    recipe, unknown_end = _until_sources_end(recipe, run)
    lines = [
        f"{device.name}: {device.bandwidth} TB/s, {device.matmul} TFLOP/s matmul, {device.peak} on "
        f"paper ({device.source})",
        f"pack of {capacity.tokens} tokens and {capacity.tiles} tiles, {packs} a step ({origin})",
        "",
        *_memory_table(recipe, config, capacity, device),
        "",
        *(() if recipe.training.compile else ("times assume training.compile=true",)),
        f"{'phase':24} {'ms a pack':>10} {'s a step':>9} {'MFU':>6} {'of ceiling':>11} "
        f"{'GPU-hours':>10}",
    ]
    hours, trains = 0.0, False
    estimates: dict[bool, tuple[float, float]] = {}
    for name, first, end in phases(recipe):
        frozen = "vision_encoder" in frozen_parts(first, recipe.training)
        trains |= not frozen
        mode, memory = _memory(recipe, config, capacity, device, vision_trains=not frozen)
        found = estimate_step(
            config,
            cost_of(config),
            load,
            device,
            frozen=frozen,
            checkpointing=mode,
            packs_per_device=-(-packs // devices),
        )
        spent = found.step_seconds * (end - first) * devices / 3600
        hours += spent
        estimates[frozen] = found.step_seconds, memory
        lines.append(
            f"{name:24} {1000 * found.pack_seconds:10.0f} {found.step_seconds:9.2f} "
            f"{found.mfu_peak:6.1%} {found.mfu_ceiling:11.1%} {spent:10.1f}"
        )
    adapters = recipe.training.adapters
    folder = checkpoint_bytes(config, vision_trains=trains, adapters=adapters) / 1e9
    lines += [
        f"in all {hours:.0f} GPU-hours on {devices} devices, {hours / devices:.1f} hours",
        *unknown_end,
        *(() if adapters is None else (ADAPTERS_NOTE,)),
        f"disk: {folder:.1f} GB a checkpoint, {folder * (recipe.checkpoint.keep + 1):.1f} GB with "
        f"{recipe.checkpoint.keep} kept and one being written",
    ]
    if run is not None:
        lines += ["", *_beside(run, estimates)]
    return "\n".join(lines)


def _until_sources_end(recipe: Recipe, run: Path | None) -> tuple[Recipe, list[str]]:
    """The recipe with the steps that a run counted, and a line where nobody counted them."""
    mixture = recipe.data.mixture
    if mixture is None or mixture.epochs is None:
        return recipe, []
    path = run / "plan" / "plan.json" if run is not None else None
    if path is not None and path.is_file():
        facts = json.loads(path.read_text(encoding="utf-8"))
        steps = min(recipe.training.max_steps, facts.get("steps_until_sources_end") or math.inf)
        return replace(recipe, training=replace(recipe.training, max_steps=int(steps))), []
    return recipe, [
        f"at most: the run ends when its sources have come {mixture.epochs:g} times; "
        "`smolvlm2 plan` counts the steps, give them here as training.max_steps=N"
    ]


def _load(recipe: Recipe, run: Path | None) -> tuple[Capacity, PackLoad, int, str]:
    """Capacity, mean content and number of packs; from a run's plan or assumed."""
    training = recipe.training
    path = run / "plan" / "plan.json" if run is not None else None
    if path is not None and path.is_file():
        facts = json.loads(path.read_text(encoding="utf-8"))
        capacity = Capacity(**facts["pack"], documents=recipe.pack.documents)
        return capacity, typical_load(capacity), facts["packs_per_step"], "the run's plan"
    batch = training.per_device_train_batch_size
    capacity = Capacity(
        tokens=recipe.pack.tokens or round(batch * TYPICAL_TOKENS),
        tiles=recipe.pack.tiles or round(batch * TYPICAL_TILES),
        documents=recipe.pack.documents,
    )
    origin = f"assumed: {TYPICAL_TOKENS} tokens and {TYPICAL_TILES} tiles a sample"
    return capacity, typical_load(capacity), -(-training.samples_per_step // batch), origin


def _room(gpu: Gpu) -> float:
    return gpu.memory * 1e9 - RUNTIME_GIB * GIB


def _memory(
    recipe: Recipe, config: Any, capacity: Capacity, gpu: Gpu, *, vision_trains: bool
) -> tuple[Checkpointing, float]:
    """What a phase recomputes on a GPU, and the GiB that it takes there, unsharded."""
    mode = choose_checkpointing(
        config,
        capacity,
        recipe.training,
        vision_trains=vision_trains,
        memory=_room(gpu),
        tile_chunk=recipe.encoder.tile_chunk,
    )
    found = estimate_memory(
        config,
        capacity,
        recipe.training,
        vision_trains=vision_trains,
        checkpointing=mode,
        tile_chunk=recipe.encoder.tile_chunk,
    )
    return mode, found.total / GIB


def _memory_table(recipe: Recipe, config: Any, capacity: Capacity, gpu: Gpu) -> list[str]:
    """GiB by what is recomputed, by chunk of tiles and by sharding, encoder training."""
    lines = [f"{'GiB, encoder training':24} {'all tiles':>10} {'chunk 16':>9} {'of 8 shards':>12}"]
    modes: tuple[Checkpointing, ...] = ("none", "encoder", "all")
    for mode in modes:
        cells = []
        for chunk, shards in ((None, 1), (16, 1), (None, 8)):
            found = estimate_memory(
                config,
                capacity,
                recipe.training,
                vision_trains=True,
                checkpointing=mode,
                tile_chunk=chunk,
            )
            total = found.states / shards + found.activations
            cells.append(f"{total / GIB:.1f}{' ' if total <= _room(gpu) else '!'}")
        lines.append(f"recompute {mode:14} {cells[0]:>10} {cells[1]:>9} {cells[2]:>12}")
    return [*lines, f"! does not fit with {RUNTIME_GIB:g} GiB left to the runtime"]


def _beside(run: Path, estimates: dict[bool, tuple[float, float]]) -> list[str]:
    """Seconds of a step and memory as estimated and as the run's log has them."""
    steps: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
    for line in RunFolder(run).log:
        if "seconds" in line:
            steps[line["vision_learning_rate"] == 0].append(line)
    lines = [f"{'encoder':24} {'estimated s':>12} {'measured s':>11} {'ratio':>6}"]
    for frozen, (expected, memory) in estimates.items():
        taken = steps[frozen][WARM_UP:] or steps[frozen]
        name = "frozen" if frozen else "training"
        if not taken:
            lines.append(f"{name:24} {expected:12.3f} {'no steps':>11}")
            continue
        found = statistics.median(line["seconds"] for line in taken)
        lines.append(f"{name:24} {expected:12.3f} {found:11.3f} {found / expected:6.2f}")
        if "memory_gib" in taken[-1]:
            peak = taken[-1]["memory_gib"]
            label = f"{name}, GiB unsharded"
            lines.append(f"{label:24} {memory:12.2f} {peak:11.2f} {peak / memory:6.2f}")
    return lines
