"""The training loop: one optimiser step at a time, a function of step and plan.

Every rank runs it. What they have to agree on they exchange twice a step (`exchange`): after
loading, and after the backward passes. Only rank 0 writes files.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.profiler import record_function

from smolvlm2.errors import SmolVLMError, TrainingError
from smolvlm2.loading.loader import Loader
from smolvlm2.loading.reader import PackReader, Skip
from smolvlm2.loading.step_batch import StepBatch
from smolvlm2.model.smolvlm import SmolVLM
from smolvlm2.plan.plan import Position
from smolvlm2.plan.run_plan import RunPlan
from smolvlm2.training.checkpoints import (
    Checkpointer,
    TrainingState,
    load_checkpoint,
)
from smolvlm2.training.checkups import Checkups, Hook
from smolvlm2.training.distributed import World, shared
from smolvlm2.training.estimate import peak_flops
from smolvlm2.training.exchange import (
    Loaded,
    LoadedPack,
    StepFacts,
    StepLoss,
    name_samples,
    suspects,
)
from smolvlm2.training.export import write_export
from smolvlm2.training.freezing import (
    apply_freezing,
    frozen_parts,
    learning_rates,
    phase_words,
    set_learning_rates,
)
from smolvlm2.training.memory import GIB
from smolvlm2.training.parallelize import gather_weights
from smolvlm2.training.passed_over import pass_over, ranges_of
from smolvlm2.training.profiling import StepProfiler
from smolvlm2.training.randomness import PackRandomness
from smolvlm2.training.rank_share import RankShare
from smolvlm2.training.recipe import Recipe
from smolvlm2.training.run_folder import RunFolder
from smolvlm2.training.run_log import RunLog
from smolvlm2.training.segments import PlannedRun
from smolvlm2.training.shared_work import SharedWork
from smolvlm2.training.signals import Ending, StopRequest
from smolvlm2.training.step_line import StepLine
from smolvlm2.training.update import Updater
from smolvlm2.training.validation import HeldOut

logger = logging.getLogger(__name__)

SKIP_BASIS = 10_000
"""Samples that `max_skip_fraction` is taken of while fewer have been seen."""


@dataclass(kw_only=True)
class Trainer:
    """One stage of training, as one rank runs it."""

    recipe: Recipe
    """The whole of it."""
    run: RunFolder
    """Where everything is written."""
    world: World
    """All ranks."""
    model: SmolVLM
    """On its device, in fp32, sharded."""
    mesh: DeviceMesh | None
    """How it is sharded; None: not at all."""
    planned: PlannedRun
    """Which packs make which step."""
    reader: PackReader
    """Turns packs into arrays."""
    randomness: PackRandomness = field(default_factory=PackRandomness)
    """What noise and dropout draw from."""
    held_out: HeldOut | None = None
    """What is validated on; None: nothing."""
    hook: Hook | None = None
    """Evaluation, given by the caller."""
    work: SharedWork | None = None
    """What the hook exchanges words through, where it shares the work."""
    progress: Callable[[dict[str, Any]], None] | None = None
    """Called on rank 0 with every line of the log."""
    stop: StopRequest = field(default_factory=StopRequest)
    """Asked before every step."""
    updater: Updater = field(init=False)
    """The model with its optimiser."""
    state: TrainingState = field(init=False)
    """Where the run stands."""

    @property
    def plan(self) -> RunPlan:
        """Which packs make which step."""
        return self.planned.plan

    def __post_init__(self) -> None:
        self.updater = Updater(
            model=self.model,
            mesh=self.mesh,
            world=self.world,
            settings=self.recipe.optimizer,
            max_length=self.plan.capacity.tokens,
            randomness=self.randomness,
        )
        self.state = TrainingState(
            step=0,
            position=self.planned.position,
            plan=self.planned.records[self.planned.position.segment].digest,
            samples=0,
            skipped=0,
            nonfinite=0,
            chain="",
        )
        background = self.recipe.checkpoint.background
        self.checkpointer = Checkpointer(
            run=self.run,
            world=self.world,
            processor=self.reader.processor,
            keep=self.recipe.checkpoint.keep,
            background=self.world.device.type == "cuda" if background is None else background,
        )
        self.log = RunLog(run=self.run, world=self.world)
        self._line = StepLine(
            capacity=self.plan.capacity, cost=self.plan.cost, peak=self._peak_flops()
        )

    def _peak_flops(self) -> float | None:
        """Of all ranks; None where the device is not known, or does not compute in bf16."""
        if not self.recipe.training.bf16:
            return None
        peak = peak_flops(self.world.device_name)
        return None if peak is None else peak * self.world.size

    def resume(self, folder: Path, state: TrainingState) -> None:
        """Go on from a checkpoint of the run, whatever number of ranks wrote it.

        Args:
            folder: Of the checkpoint, verified.
            state: What it says of the run.

        Raises:
            CheckpointError: It belongs to another model.
        """
        # Freezing comes before optimiser state, which frozen parameters do not have.
        apply_freezing(self.model, frozen_parts(state.step, self.recipe.training))
        self.world.together(
            lambda: load_checkpoint(folder, self.world, self.updater), at=str(folder)
        )
        state = replace(state, position=self.planned.position, plan=self.state.plan)
        self.state, self.checkpointer.written = state, state.step
        self.world.lead(lambda: self._rewind(folder, state.step), at=str(folder))
        logger.info("resuming at step %d from %s", state.step, folder)

    def _rewind(self, folder: Any, step: int) -> None:
        self.run.point_at(folder)
        self.log.rewind(step)

    def train(self) -> Ending:
        """Run to the last step or until asked to stop; checkpoints on the way, export at the end.

        Returns:
            Why it ended.

        Raises:
            TrainingError: The loss is not finite, too many samples could not be read, or a rank
                is missing.
        """
        self.reader.skip_ids = frozenset(self.recipe.data.skip_ids)
        skips = self.world.lead(self.run.known_skips, at="reading the skips")
        self.reader.skipped_before = {skip.occurrence: skip for skip in skips}
        passed = self.world.lead(lambda: ranges_of(self.run), at="reading what is passed over")
        self._profiler = StepProfiler(
            self.recipe.training.profile,
            self.run.root / "profile",
            self.world,
            last_step=self.recipe.training.max_steps,
        )
        with self.stop, self.log.writing(self.recipe, self.state.step), self._profiler:
            self._checkups = self._make_checkups()
            self._checkups.catch_up(self.state.step)
            ending: Ending = "finished"
            while ending == "finished" and self.state.step < self.recipe.training.max_steps:
                step, last = self.state.step, self.recipe.training.max_steps
                # The state moves with the first step behind the gap: stopped in front of it, the
                # run passes the same data over when it goes on.
                position = pass_over(self.plan, passed, step, self.state.position)
                end = min([last, *(first for first, _ in passed if first > step)])
                ending = self._span(position, end)
            self.checkpointer.finish()
            if self.checkpointer.written != self.state.step:
                self.checkpointer.save(self.updater, self.state, last=True)
            self.world.agree(self.log.trouble, at=f"step {self.state.step}")
            if ending == "finished":
                self._export()
        return ending

    def _span(self, position: Position, end: int) -> Ending:
        """Train on consecutive data from a position up to a step."""
        training = self.recipe.training
        frozen: frozenset[str] | None = None
        share = RankShare(self.plan, rank=self.world.rank, ranks=self.world.size)
        loader = Loader(
            share,  # type: ignore[arg-type]
            self.reader,
            position,
            workers=self.recipe.data.workers,
            timeout_s=self.recipe.data.sample_timeout_s,
            pin=self.world.device.type == "cuda",
        )
        with share, loader:
            batches = iter(loader)
            while self.state.step < end:
                now = frozen_parts(self.state.step, training)
                if now != frozen:
                    apply_freezing(self.model, now)
                    words = phase_words(now, compiled=training.compile)
                    logger.info("%s: %s", self._here, words)
                    frozen = now
                self._profiler.begin(self.state.step)
                started = time.perf_counter()
                with record_function("load"):
                    batch, numbers, loaded = self._load(batches, share, position)
                read = time.perf_counter()
                facts = StepFacts.of(self.world.gather(loaded, at=self._here))
                if facts.failure is not None:
                    raise shared(facts.failure)
                if facts.written:
                    self.checkpointer.finish()
                if facts.stop is not None:
                    return facts.stop
                assert batch is not None
                met = time.perf_counter()
                line = self._step(batch, numbers, facts)
                seconds, clock = time.perf_counter() - started, self.updater.clock
                line |= {
                    "seconds": round(seconds, 4),
                    "load_seconds": round(read - started, 4),
                    "wait_seconds": round(met - read + clock.waited, 4),
                }
                line |= clock.take()
                line |= self._line.rates(facts, seconds, frozen="vision_encoder" in now)
                if self.world.device.type == "cuda":
                    line["memory_gib"] = round(torch.cuda.max_memory_allocated() / GIB, 2)
                self._finish_step(batch, facts, line)
                self._profiler.end(line["step"])
                position = self.state.position
        return "finished"

    @property
    def _here(self) -> str:
        return f"step {self.state.step}"

    def _load(
        self, batches: Iterator[StepBatch], share: RankShare, position: Position
    ) -> tuple[StepBatch | None, list[int | None], Loaded]:
        """The next packs of this rank, their places in the step, and what the others must know."""
        loaded = Loaded(
            stop=self.stop.pending(), written=self.checkpointer.ready, failure=self.log.trouble
        )
        if loaded.failure is not None or loaded.stop is not None:
            return None, [], loaded
        try:
            batch = next(batches)
        except SmolVLMError as error:
            loaded.failure = error
            return None, [], loaded
        numbers = share.numbers(position)
        loaded.packs = {
            number: LoadedPack.of(pack)
            for number, pack in zip(numbers, batch.packs, strict=True)
            if number is not None
        }
        loaded.skips = batch.skips
        return batch, numbers, loaded

    def _step(
        self, batch: StepBatch, numbers: list[int | None], facts: StepFacts
    ) -> dict[str, Any]:
        """One optimiser step; returns its line of the log, without times."""
        step = self.state.step
        self.randomness.step = step
        rates = learning_rates(step, self.recipe)
        set_learning_rates(self.updater.optimizer, rates)
        loss, norm, updated = None, 0.0, False
        # Without supervised tokens nothing is computed: all ranks know, from the same sum.
        if facts.divisor > 0:
            loss, norm = self.updater.gradients(batch, numbers, facts.divisor, at=self._here)
            if math.isfinite(loss.total) and math.isfinite(norm):
                with self.world.watch(self._here):
                    self.updater.apply()
                updated = True
            else:
                self.updater.discard()
                self._not_finite(facts, loss, norm)
        frozen = "vision_encoder" in frozen_parts(step, self.recipe.training)
        return {
            "step": step,
            "learning_rate": rates["text_decoder"],
            "connector_learning_rate": rates["connector"],
            "vision_learning_rate": rates["vision_encoder"],
        } | self._line.numbers(facts, loss, norm, frozen=frozen, updated=updated)

    def _not_finite(self, facts: StepFacts, loss: StepLoss, norm: float) -> None:
        """Stop, or count and go on; all ranks come to the same conclusion."""
        training, ids = self.recipe.training, suspects(facts, loss)
        what = (
            f"{self._here}: loss {loss.total} and gradient norm {norm} are not both finite; "
            f"weights are as before the step. Samples: {name_samples(ids)}"
        )
        if training.on_nonfinite == "stop":
            raise shared(
                TrainingError(
                    f"{what}. List bad ones under data.skip_ids and start again, or pass the data "
                    f"over with --skip-steps {self.state.step}:{self.state.step + 1}, or lower "
                    f"training.learning_rate and start over with --restart"
                )
            )
        self.state.nonfinite += 1
        if self.state.nonfinite > training.max_nonfinite_steps:
            raise shared(
                TrainingError(
                    f"{what}. This is step number {self.state.nonfinite} left out, more than "
                    f"training.max_nonfinite_steps={training.max_nonfinite_steps} allows"
                )
            )
        logger.warning("%s; step left out", what)

    def _finish_step(self, batch: StepBatch, facts: StepFacts, line: dict[str, Any]) -> None:
        state = self.state
        state.chain = facts.chain(state.chain)
        state.step += 1
        if batch.position.segment != state.position.segment:
            number = batch.position.segment
            self.log.write(lambda: self.planned.enter(self.run, number))
            state.plan = self.planned.records[number].digest
            logger.info("segment %d begins with step %d", number, state.step)
        state.position = batch.position
        state.samples += line["samples"]
        # Before the log's line and the checkpoint, so that a replay knows of it.
        self._record_skips(facts.skips, line["step"])
        line["chain"] = state.chain
        # The line comes before the checkpoint: a run killed between them writes it again.
        self.log.append(line)
        if self.progress and self.world.leads:
            self.progress(line)
        if state.step % self.recipe.checkpoint.every_steps == 0:
            self.checkpointer.save(self.updater, state)
        self._checkups.after(state.step)

    def _make_checkups(self) -> Checkups:
        return Checkups(
            recipe=self.recipe,
            updater=self.updater,
            log=self.log,
            held_out=self.held_out,
            hook=self.hook,
            work=self.work or SharedWork(world=self.world),
        )

    def _record_skips(self, skips: list[Skip], step: int) -> None:
        self.log.record_skips(skips, step, self.reader.skipped_before)
        self.state.skipped += len(skips)
        limit = self.recipe.training.max_skip_fraction
        if self.state.skipped > limit * max(self.state.samples, SKIP_BASIS):
            self.log.mark_fatal_skips()
            raise shared(
                TrainingError(
                    f"{self.state.skipped} of {self.state.samples} samples could not be read, "
                    f"more than training.max_skip_fraction={limit} allows (see "
                    f"{self.run.skips.path}); bring the files back, or prepare them again, and "
                    f"start again: they are tried anew. Or raise the limit"
                )
            )

    def _export(self) -> None:
        """Write the last weights in Hugging Face format, whole, by rank 0."""
        weights = gather_weights(self.model, self.world)
        self.model.eval()

        def write() -> None:
            assert weights is not None
            write_export(self.model.config, weights, self.reader.processor, self.run.root)

        self.world.lead(write, at="export")
