"""What is found out about the model between steps: the held-out loss, and an evaluation."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from smolvlm2.model.smolvlm import SmolVLM
from smolvlm2.processing.processor import Processor
from smolvlm2.training.parallelize import gather_weights, precision_policy, whole_model
from smolvlm2.training.recipe import Recipe
from smolvlm2.training.run_log import RunLog
from smolvlm2.training.shared_work import SharedWork
from smolvlm2.training.update import Updater
from smolvlm2.training.validation import HeldOut, validate

logger = logging.getLogger(__name__)

Hook = Callable[[SmolVLM, int], dict[str, Any]]
"""Called on every rank with a whole copy of the model and the number of steps done; rank 0's
metrics go into the log."""
MakeHook = Callable[[Recipe, Processor, SharedWork], Hook | None]
"""Makes it before training starts, or says what is missing; None: the recipe asks for none."""


@dataclass(kw_only=True)
class Checkups:
    """Validation and evaluation, each at its own interval and after the last step."""

    recipe: Recipe
    """Of the run."""
    updater: Updater
    """The model."""
    log: RunLog
    """Where results go, in lines of their own."""
    held_out: HeldOut | None
    """What is validated on; None: nothing."""
    hook: Hook | None
    """Evaluation; None: there is none."""
    work: SharedWork
    """For the hook."""

    def catch_up(self, step: int) -> None:
        """Do what a run that was ended behind a step's checkpoint has not done. All ranks call it.

        Args:
            step: Steps done.
        """
        done = self.updater.world.lead(lambda: self._done(step), at=f"step {step}")
        if self.held_out is not None:
            known = self.updater.world.lead(
                lambda: self.log.run.known_skips("validation"), at="reading the skips"
            )
            self.held_out.reader.skipped_before = {skip.occurrence: skip for skip in known}
        if step:
            self.after(step, done=done)

    def _done(self, step: int) -> set[str]:
        return {name for line in self.log.run.log if line["step"] == step - 1 for name in line}

    def after(self, step: int, *, done: set[str] | None = None) -> None:
        """Look at the model if it is time. All ranks call it.

        Args:
            step: Steps done.
            done: What the log has of this step already.
        """
        due: dict[str, Any] = {
            "validation": self.recipe.validation,
            "metrics": self.recipe.evaluation,
        }
        last = step == self.recipe.training.max_steps
        kinds = {name for name, each in due.items() if last or step % each.every_steps == 0}
        kinds -= done or set()
        if self.held_out is not None and "validation" in kinds:
            self._validate(self.held_out, step)
        if self.hook is not None and "metrics" in kinds:
            self._evaluate(self.hook, step)

    def _validate(self, held_out: HeldOut, step: int) -> None:
        found = validate(held_out, self.updater, self.recipe, at=f"validation at step {step}")
        reader = held_out.reader
        # A sample that was lost once stays out, so that later losses are of the same samples.
        self.log.record_skips(found.skips, step - 1, reader.skipped_before, during="validation")
        reader.skipped_before |= {skip.occurrence: skip for skip in found.skips}
        self.log.append({"step": step - 1, "validation": found.line()})

    def _evaluate(self, hook: Hook, step: int) -> None:
        world, config = self.updater.world, self.updater.model.config
        weights = gather_weights(self.updater.model, world, everywhere=True)
        assert weights is not None
        policy = precision_policy(world.device, bf16=self.recipe.training.bf16)
        # As it computes in training: in fp32 CUDA would take other attention.
        dtype = policy.param_dtype or torch.float32

        def ask() -> dict[str, Any]:
            # Inside: a device without room for a second model costs the evaluation, not the run.
            return hook(whole_model(config, weights, world.device, dtype=dtype), step)

        metrics, failure = self.work.run(ask, at=f"evaluation at step {step}")
        if world.device.type == "cuda":
            # What evaluation took is not the training's: neither its memory nor its peak.
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        line: dict[str, Any] = {"step": step - 1, "metrics": metrics or {}}
        if failure is not None:
            logger.warning("evaluation at step %d failed, training goes on: %s", step, failure)
            line["evaluation_failure"] = failure
        self.log.append(line)
