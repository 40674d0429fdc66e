"""The training loop: one optimiser step at a time, a function of step and plan."""

import hashlib
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.optim import Optimizer

from smolvlm2.errors import ResumeError, TrainingError
from smolvlm2.loading.loader import Loader, StepBatch
from smolvlm2.loading.micro_batch import MicroBatch
from smolvlm2.loading.reader import PackReader, Skip
from smolvlm2.model.smolvlm import SmolVLM
from smolvlm2.plan.plan import Plan, Position
from smolvlm2.plan.samples import MODALITIES
from smolvlm2.training.checkpoints import (
    TrainingState,
    load_checkpoint,
    newest_state,
    save_checkpoint,
)
from smolvlm2.training.freezing import (
    apply_freezing,
    frozen_parts,
    learning_rates,
    set_learning_rates,
)
from smolvlm2.training.optimizer import build_optimizer
from smolvlm2.training.parallelize import precision
from smolvlm2.training.recipe import Recipe
from smolvlm2.training.run_folder import RunFolder

logger = logging.getLogger(__name__)

SKIP_BASIS = 10_000
"""Samples that `max_skip_fraction` is taken of while fewer have been seen."""

Hook = Callable[[SmolVLM, int], dict[str, Any]]
"""Called after a checkpoint with model and step; its metrics go into the log."""


@dataclass(kw_only=True)
class Trainer:
    """One stage of training on one device."""

    recipe: Recipe
    """The whole of it."""
    run: RunFolder
    """Where everything is written."""
    model: SmolVLM
    """On its device, in fp32."""
    plan: Plan
    """Which packs make which step."""
    reader: PackReader
    """Turns packs into arrays."""
    hook: Hook | None = None
    """Evaluation, given by the caller."""
    progress: Callable[[dict[str, Any]], None] | None = None
    """Called with every line of the log."""
    optimizer: Optimizer = field(init=False)
    """Over all parameters."""
    state: TrainingState = field(init=False)
    """Where the run stands."""

    def __post_init__(self) -> None:
        self.optimizer = build_optimizer(self.model.named_parameters(), self.recipe.optimizer)
        self.state = TrainingState(
            step=0,
            position=Position(),
            plan=self.plan.digest(),
            samples=0,
            skipped=0,
            chain="",
        )
        self._saved: int | None = None

    def resume(self) -> None:
        """Go on from the newest complete checkpoint of the run.

        Raises:
            ResumeError: There is none, or the data behind the plan have changed.
        """
        folder, state = newest_state(self.run)
        if state.plan != self.state.plan:
            raise ResumeError(
                f"{folder}: the plan behind this run was {state.plan} and is {self.state.plan} "
                f"now: the prepared data, their lengths or the mixture changed; restore them, or "
                f"start over with --restart"
            )
        # Freezing comes before optimiser state, which frozen parameters do not have.
        apply_freezing(self.model, frozen_parts(state.step, self.recipe.training))
        load_checkpoint(folder, self.model, self.optimizer)
        self.state, self._saved = state, state.step
        self.run.log.cut(state.step)
        self.run.skips.mend()
        logger.info("resuming at step %d from %s", state.step, folder)

    def train(self) -> None:
        """Run to the last step; checkpoints on the way, export at the end.

        Raises:
            TrainingError: The loss is not finite, or too many samples could not be read.
        """
        training = self.recipe.training
        self.reader.skip_ids = frozenset(self.recipe.data.skip_ids)
        skips = [Skip(**{k: v for k, v in line.items() if k != "step"}) for line in self.run.skips]
        self.reader.skipped_before = {skip.occurrence: skip for skip in skips}
        frozen: frozenset[str] | None = None
        with Loader(
            self.plan,
            self.reader,
            self.state.position,
            workers=self.recipe.data.workers,
            timeout_s=self.recipe.data.sample_timeout_s,
            pin=self.model.device.type == "cuda",
        ) as loader:
            batches = iter(loader)
            while self.state.step < training.max_steps:
                now = frozen_parts(self.state.step, training)
                if now != frozen:
                    apply_freezing(self.model, now)
                    frozen = now
                started = time.perf_counter()
                batch = next(batches)
                line = self._step(batch, loaded=time.perf_counter() - started)
                line["seconds"] = round(time.perf_counter() - started, 4)
                self._finish_step(batch, line)
        if self._saved != self.state.step:
            self._save()
        self.model.eval()
        self.model.save_pretrained(self.run.root)
        self.reader.processor.save_pretrained(self.run.root)

    def _step(self, batch: StepBatch, *, loaded: float) -> dict[str, Any]:
        """One optimiser step; returns its line of the log."""
        step, recipe = self.state.step, self.recipe
        rates = learning_rates(step, recipe)
        set_learning_rates(self.optimizer, rates)
        # The divisor is known before the first backward pass: it is a sum over the loaded packs.
        divisor = float(sum(pack.loss_weights.sum(dtype=np.float64) for pack in batch.packs))
        loss_sum, parts = 0.0, np.zeros((len(MODALITIES), 2))
        for number, pack in enumerate(batch.packs):
            loss_sum += self._backward(pack, divisor, parts)
            batch.release(number)
        norm = 0.0
        if divisor > 0:
            parameters = [p for p in self.model.parameters() if p.grad is not None]
            norm = float(torch.nn.utils.clip_grad_norm_(parameters, recipe.optimizer.max_grad_norm))
            if not math.isfinite(loss_sum) or not math.isfinite(norm):
                self._stop_not_finite(batch, loss_sum, norm)
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        tiles, tokens = (sum(getattr(p, name) for p in batch.packs) for name in ("tiles", "tokens"))
        capacity, packs = self.plan.capacity, len(batch.packs)
        return {
            "step": step,
            "loss": loss_sum / divisor if divisor else None,
            "learning_rate": rates["text_decoder"],
            "vision_learning_rate": rates["vision_encoder"],
            "gradient_norm": norm,
            "samples": sum(len(pack.sample_ids) for pack in batch.packs),
            "tokens": tokens,
            "tiles": tiles,
            "supervised": int(parts[:, 1].sum()),
            "loss_by_modality": {
                name: total / count
                for name, (total, count) in zip(MODALITIES, parts, strict=True)
                if count
            },
            "fill_tokens": round(tokens / (capacity.tokens * packs), 4),
            "fill_tiles": round(tiles / (capacity.tiles * packs), 4),
            "load_seconds": round(loaded, 4),
        }

    def _backward(self, pack: MicroBatch, divisor: float, parts: np.ndarray) -> float:
        """Add a pack's gradients; adds sums and counts by modality to ``parts``."""
        device = self.model.device
        if device.type == "cpu":
            pack = pack.trimmed()
        inputs = {
            name: torch.from_numpy(getattr(pack, name)).to(device, non_blocking=True)
            for name in (
                "input_ids",
                "positions",
                "document_ids",
                "cu_seqlens",
                "loss_positions",
                "loss_targets",
                "loss_weights",
                "pixel_values",
                "tile_slots",
            )
        }
        with precision(device, bf16=self.recipe.training.bf16):
            output = self.model(**inputs, max_length=self.plan.capacity.tokens)
        assert output.loss_sum is not None
        assert output.token_losses is not None
        if divisor > 0:
            (output.loss_sum / divisor).backward()
        real = pack.loss_weights > 0
        losses = output.token_losses.cpu().numpy()[real]
        modality = pack.modalities[pack.document_ids[pack.loss_positions[real]]]
        parts[:, 0] += np.bincount(modality, weights=losses, minlength=len(MODALITIES))
        parts[:, 1] += np.bincount(modality, minlength=len(MODALITIES))
        return output.loss_sum.item()

    def _finish_step(self, batch: StepBatch, line: dict[str, Any]) -> None:
        state = self.state
        ids = ",".join(id for pack in batch.packs for id in pack.sample_ids)
        state.chain = hashlib.sha256(f"{state.chain}|{ids}".encode()).hexdigest()[:16]
        state.step += 1
        state.position = batch.position
        state.samples += line["samples"]
        # Before the log's line and the checkpoint, so that a replay knows of it.
        self._record_skips(batch.skips, line["step"])
        line |= {
            "tokens_per_second": round(line["tokens"] / line["seconds"]),
            "tiles_per_second": round(line["tiles"] / line["seconds"], 1),
            "chain": state.chain,
        }
        # The line comes before the checkpoint: a run killed between them writes it again.
        self.run.log.append(line)
        if self.progress:
            self.progress(line)
        if state.step % self.recipe.checkpoint.every_steps == 0:
            self._save()
            if self.hook:
                metrics = self.hook(self.model, state.step)
                self.run.log.append({"step": line["step"], "metrics": metrics})

    def _record_skips(self, skips: list[Skip], step: int) -> None:
        for skip in skips:
            if skip.occurrence not in self.reader.skipped_before:
                self.run.skips.append({"step": step, **vars(skip)})
            logger.warning("step %d: skipped %s: %s", step, skip.sample_id, skip.detail)
        self.state.skipped += len(skips)
        limit = self.recipe.training.max_skip_fraction
        if self.state.skipped > limit * max(self.state.samples, SKIP_BASIS):
            raise TrainingError(
                f"{self.state.skipped} of {self.state.samples} samples could not be read, more "
                f"than training.max_skip_fraction={limit} allows (see {self.run.skips.path}); "
                f"prepare the data again, or raise the limit"
            )

    def _stop_not_finite(self, batch: StepBatch, loss: float, norm: float) -> None:
        ids = [id for pack in batch.packs for id in pack.sample_ids]
        shown = ", ".join(ids[:8]) + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")
        raise TrainingError(
            f"step {self.state.step}: loss {loss} and gradient norm {norm} are not both finite; "
            f"weights are as before the step. Samples: {shown}. List bad ones under "
            f"data.skip_ids and start again, or lower training.learning_rate and start over "
            f"with --restart"
        )

    def _save(self) -> None:
        save_checkpoint(
            self.run,
            self.model,
            self.reader.processor,
            self.optimizer,
            self.state,
            keep=self.recipe.checkpoint.keep,
        )
        self._saved = self.state.step
