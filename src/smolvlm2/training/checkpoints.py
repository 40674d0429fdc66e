"""Saving and restoring a run: weights, optimiser state, step and place in the plan.

Every rank writes its shards. A step folder gets its name, and ``latest`` moves, when all files of
all ranks are on disk with their hashes written down: before that there is no checkpoint, after it
a whole one. There is no random state to save: all randomness is a function of counters.
"""

import json
import logging
import os
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.tensor import DTensor

from smolvlm2.errors import CheckpointError, ResumeError
from smolvlm2.model.hub import hash_file, read_json, write_json
from smolvlm2.model.sharded_files import STATE_FILE, verify_files
from smolvlm2.model.smolvlm import SmolVLM
from smolvlm2.plan.plan import Position
from smolvlm2.processing.processor import Processor
from smolvlm2.training.distributed import World
from smolvlm2.training.run_folder import RunFolder, sync_folder
from smolvlm2.training.update import Updater

logger = logging.getLogger(__name__)

FAILED_SAVES = 2
"""Checkpoints in a row that may fail before the run stops."""


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
    nonfinite: int
    """Steps left out because their loss was not finite."""
    chain: str
    """Chained digest of the ids of all samples seen."""


@dataclass(kw_only=True)
class Checkpointer:
    """Writes step folders, in the background where asked to."""

    run: RunFolder
    """Where."""
    world: World
    """Its ranks write together."""
    processor: Processor
    """Saved with the weights, so that a step folder is a checkpoint for every command."""
    keep: int
    """Newest step folders that stay."""
    background: bool
    """Whether training goes on while files are written."""
    _pending: "tuple[Path, dict[str, Any], int, Future[dict[str, Any]]] | None" = field(
        default=None, init=False
    )
    written: int | None = field(default=None, init=False)
    """Step of the newest checkpoint that is on disk."""
    _failures: int = field(default=0, init=False)
    _thread: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, "checkpoint"), init=False
    )

    @property
    def ready(self) -> bool:
        """Whether a begun checkpoint of this rank has been written and waits for `finish`."""
        return self._pending is not None and self._pending[3].done()

    def save(self, updater: Updater, state: TrainingState, *, last: bool = False) -> None:
        """Begin a checkpoint; the last one, or without ``background``, also finish it.

        All ranks call it.

        Raises:
            CheckpointError: As `finish`.
        """
        self.finish()
        at = f"checkpoint of step {state.step}"
        partial = self.run.root / "checkpoints" / f".step-{state.step:08d}.partial"
        try:
            self.world.lead(lambda: self._begin(partial, updater.model), at=at)
        except CheckpointError as error:
            self._failed(error, last=last)
            return
        moments = optimizer_state(updater)
        content = asdict(state) | {"optimizer_parameters": sorted(moments)}
        tensors = {"model": updater.model.state_dict(), "optimizer": moments}
        written: Future[Any]
        if self.background:
            # Returns when the tensors are copied to CPU memory: the next step may change them.
            written = dcp.async_save(
                tensors, checkpoint_id=partial, process_group=self.world.saving
            )  # type: ignore[assignment]
        else:
            written = Future()
            try:
                with self.world.watch(at):
                    dcp.save(tensors, checkpoint_id=partial, process_group=self.world.saving)
                written.set_result(None)
            except (CheckpointException, OSError) as error:
                written.set_exception(error)
        hashes = self._thread.submit(self._hash_own, written, partial)
        self._pending = (partial, content, state.step, hashes)
        if last or not self.background:
            self.finish(last=last)

    def finish(self, *, last: bool = False) -> None:
        """Wait for a begun checkpoint and give it its name. All ranks call it.

        A checkpoint that cannot be written costs a warning: the earlier ones are untouched, and
        the run goes on to the next one.

        Args:
            last: Whether none will follow.

        Raises:
            CheckpointError: It could not be written, and it is the last one or the one before
                could not be written either; says why.
        """
        if self._pending is None:
            return
        partial, content, step, hashes = self._pending
        self._pending = None
        at = f"checkpoint of step {step}"
        own: dict[str, Any] = {}
        failure: str | None = None
        try:
            with self.world.watch(at):
                own = hashes.result()
        except (CheckpointException, OSError) as error:
            failure = _reason(error)
        told = self.world.gather((own, failure), at=at)
        failures = [reason for _, reason in told if reason is not None]
        files = {name: facts for own, _ in told for name, facts in own.items()}
        try:
            self.world.lead(lambda: self._publish(partial, content, step, files, failures), at=at)
            self.written, self._failures = step, 0
        except CheckpointError as error:
            self._failed(error, last=last)

    def _failed(self, error: CheckpointError, *, last: bool) -> None:
        self._failures += 1
        if last or self._failures >= FAILED_SAVES:
            raise error
        logger.warning("%s; training goes on and saves at the next interval", error)

    def _begin(self, partial: Path, model: SmolVLM) -> None:
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            write_json(model.config.to_hf(), partial / "config.json")
            self.processor.save_pretrained(partial)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise _not_written(partial, _reason(error)) from error

    def _hash_own(self, written: "Future[Any]", partial: Path) -> dict[str, Any]:
        """Sizes and hashes of the files of this rank."""
        written.result()
        own = list(partial.glob(f"__{self.world.rank}_*"))
        if self.world.leads:
            own += [path for path in partial.iterdir() if not path.name.startswith("__")]
        return {path.name: [path.stat().st_size, hash_file(path)] for path in own}

    def _publish(
        self,
        partial: Path,
        content: dict[str, Any],
        step: int,
        files: dict[str, Any],
        failures: list[str],
    ) -> None:
        try:
            if failures:
                raise OSError(failures[0])
            _look_for(files, partial)
            with (partial / STATE_FILE).open("w", encoding="utf-8") as file:
                json.dump(content | {"files": dict(sorted(files.items()))}, file, indent=2)
                file.flush()
                os.fsync(file.fileno())
            sync_folder(partial)
            self.run.publish_step(partial, step, keep=self.keep)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise _not_written(partial, _reason(error)) from error


def _look_for(files: dict[str, Any], partial: Path) -> None:
    """Refuse a checkpoint whose files are not all where rank 0 is.

    Raises:
        OSError: One is not there; names it.
    """
    for name, (size, _) in files.items():
        path = partial / name
        if not path.is_file() or path.stat().st_size != size:
            raise OSError(
                f"{name}, which another rank wrote, is not there; the run folder must lie on a "
                f"file system that all machines share"
            )


def _not_written(partial: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{partial.parent}: the checkpoint {partial.name.strip('.').removesuffix('.partial')} "
        f"could not be written ({reason}); the earlier ones are as they were. Free space, or "
        f"make the folder writable"
    )


def _reason(error: BaseException) -> str:
    """The first failure behind a collective one."""
    first: BaseException | None = error
    if isinstance(error, CheckpointException) and error.failures:
        inner = next(iter(error.failures.values()))
        first = inner[0] if isinstance(inner, tuple) else inner
    said = str(first)
    # Torch's writer stumbles over its own position after the system's error, and hides it.
    while first is not None and not isinstance(first, OSError):
        first = first.__context__
    if first is None and "inline_container" in said:  # it came from another rank, without its cause
        return f"{said}: what torch says of a full disk"
    return said if first is None else str(first)


def read_state(folder: Path) -> TrainingState:
    """Read a step folder's state and compare its files' sizes, without reading them.

    Raises:
        CheckpointError: The folder is incomplete; says which file.
    """
    try:
        content = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
        for name, (size, _) in content["files"].items():
            found = (folder / name).stat().st_size
            if found != size:
                raise CheckpointError(f"{folder / name}: {found} bytes, expected {size}")
        names = TrainingState.__dataclass_fields__
        values = {name: content[name] for name in names} | {
            "position": Position(**content["position"])
        }
        return TrainingState(**values)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{folder}: incomplete checkpoint ({error})") from error


def find_checkpoint(
    run: RunFolder, world: World, step: int | None = None
) -> tuple[Path, TrainingState]:
    """The step folder to resume from, verified; the ranks share the reading.

    Args:
        run: The run.
        world: All its ranks call this.
        step: The one asked for; None: the newest whole one, with a warning for each broken one.

    Raises:
        ResumeError: There is no such step, or none is whole.
        CheckpointError: The one asked for is broken.
    """
    folders = world.lead(lambda: _candidates(run, step), at="looking for a checkpoint")
    for folder in folders:
        try:
            state = _verified(folder, world)
        except CheckpointError as error:
            if step is not None:
                raise CheckpointError(
                    f"{error}; --resume auto takes the newest whole checkpoint instead"
                ) from error
            logger.warning("%s; trying the one before", error)
            continue
        return folder, state
    raise ResumeError(
        f"{run.root}: no complete checkpoint to resume from; start over with --restart"
    )


def _verified(folder: Path, world: World) -> TrainingState:
    state = world.lead(lambda: read_state(folder), at=str(folder))
    world.together(lambda: verify_files(folder, part=world.rank, parts=world.size), at=str(folder))
    return state


def _candidates(run: RunFolder, step: int | None) -> list[Path]:
    if step is None:
        return run.resumable()
    wanted = run.root / "checkpoints" / f"step-{step:08d}"
    if not wanted.is_dir():
        there = ", ".join(str(int(folder.name[5:])) for folder in run.steps()) or "none"
        raise ResumeError(f"{run.root}: no checkpoint of step {step}; there are: {there}")
    return [wanted]


def load_checkpoint(folder: Path, world: World, updater: Updater) -> None:
    """Restore weights and optimiser state in place, whatever number of ranks wrote them.

    Raises:
        CheckpointError: The checkpoint belongs to another model.
    """
    content = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
    model = updater.model
    if read_json(folder / "config.json") != json.loads(json.dumps(model.config.to_hf())):
        raise CheckpointError(
            f"{folder}: the run's model has other shapes than the one it is started with now; "
            f"start it from the same components or checkpoint as before"
        )
    parameters = dict(model.named_parameters())
    unknown = [name for name in content["optimizer_parameters"] if name not in parameters]
    if unknown:
        raise CheckpointError(f"{folder}: optimiser state for unknown parameter {unknown[0]!r}")
    for name in content["optimizer_parameters"]:
        shard = updater.shards[name]
        updater.optimizer.state[shard] = {
            "step": torch.zeros((), dtype=torch.float32, device=shard.device),
            "exp_avg": torch.zeros_like(shard),
            "exp_avg_sq": torch.zeros_like(shard),
        }
    # Read into tensors that share the memory of weights and moments.
    tensors = {"model": model.state_dict(), "optimizer": optimizer_state(updater)}
    with world.watch(str(folder)):
        dcp.load(tensors, checkpoint_id=folder, process_group=world.saving)


def optimizer_state(updater: Updater) -> dict[str, dict[str, Tensor]]:
    """The optimiser's tensors by parameter name; frozen parameters have none."""
    shards, state = updater.shards, updater.optimizer.state
    return {
        name: {
            key: _like(value, parameter) if key != "step" else value
            for key, value in state[shards[name]].items()
        }
        for name, parameter in updater.model.named_parameters()
        if state.get(shards[name])
    }


def _like(value: Tensor, parameter: Tensor) -> Tensor:
    """A rank's part of a tensor that is laid out like a parameter, as the whole it belongs to."""
    if not isinstance(parameter, DTensor):
        return value
    # Not by from_local, which copies what is offloaded to the mesh's device: a checkpoint would be
    # read into the copies, and the optimiser go on with zeros.
    return DTensor(value, parameter._spec, requires_grad=False)
