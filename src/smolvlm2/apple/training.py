"""LoRA with MLX: a step is a function of its number, so a run that was cut goes on to the bit.

A step's loss is the sum over its supervised tokens, divided once by their number: batches of
unequal length weigh what they hold.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_flatten, tree_map

from smolvlm2.apple.batches import LoraBatch, collate
from smolvlm2.apple.checkpoint import Checkpoint
from smolvlm2.apple.lora_run import LoraRun
from smolvlm2.apple.lora_settings import LoraSettings
from smolvlm2.apple.model import SmolVLM
from smolvlm2.apple.samples import Samples, encode
from smolvlm2.errors import TrainingError

Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class StepShape:
    """What memory depends on, of the largest batch of a step."""

    batch: int
    """Rows B."""
    length: int
    """Tokens L of a row, filled up."""
    supervised: int
    """Supervised tokens P."""
    tiles: int
    """Tiles T."""


class LoraTrainer:
    """Trains the adapters of a model on samples, into a folder."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        samples: Samples,
        settings: LoraSettings,
        run: LoraRun,
        *,
        report: Report = lambda line: None,
    ) -> None:
        """Put the pieces together, and go to where the run stands.

        Args:
            checkpoint: With adapters attached to its model.
            samples: To train on.
            settings: Of the run.
            run: Its folder, opened with the same settings.
            report: Gets each line of the log.
        """
        self.model, self._checkpoint = checkpoint.model, checkpoint
        self._samples, self._settings, self._run, self._report = samples, settings, run, report
        self._optimizer = optim.AdamW(
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            bias_correction=True,
        )
        self._optimizer.init(self.model.trainable_parameters())
        self.step = run.restore(self.model, self._optimizer)

    def train(self) -> float:
        """Run to the last step and save.

        Returns:
            Loss of the last step, nats a token.

        Raises:
            DataError: A sample cannot be used.
            TrainingError: The loss is not finite.
        """
        settings, loss = self._settings, float("nan")
        while self.step < settings.iters:
            line = self.train_step()
            loss = line["loss"]
            self._run.log(line)
            self._report(line)
            if self.step % settings.save_every == 0 or self.step == settings.iters:
                self._run.save(self.step, self.model, self._optimizer, keep=settings.keep)
        return loss

    def train_step(self) -> dict[str, Any]:
        """One optimiser step; returns its line of the log."""
        started = time.perf_counter()
        batches = self.batches(self.step)
        ready = time.perf_counter()
        mx.reset_peak_memory()
        tokens = sum(batch.supervised for batch in batches)
        total, gradients = 0.0, None
        for batch in batches:
            value, part = loss_and_gradients(
                self.model, batch, checkpointing=self._settings.checkpointing
            )
            gradients = part if gradients is None else tree_map(mx.add, gradients, part)
            mx.eval(value, gradients)
            total += value.item()
        loss = total / tokens
        if not np.isfinite(loss):
            raise TrainingError(
                f"step {self.step}: the loss is {loss}; samples {', '.join(self.ids(self.step))}; "
                f"lower --learning-rate, or look at these samples"
            )
        gradients = tree_map(lambda gradient: gradient / tokens, gradients)
        gradients, norm = optim.clip_grad_norm(gradients, self._settings.clip)
        self._optimizer.learning_rate = self._learning_rate()
        self._optimizer.update(self.model, gradients)
        mx.eval(self.model.trainable_parameters(), self._optimizer.state, norm)
        self.step += 1
        return {
            "step": self.step,
            "loss": loss,
            "supervised": tokens,
            "gradient_norm": norm.item(),
            "seconds": time.perf_counter() - started,
            "load_seconds": ready - started,
            "peak_bytes": mx.get_peak_memory(),
            "shape": vars(largest(batches)),
        }

    def batches(self, step: int) -> list[LoraBatch]:
        """The batches of a step, encoded."""
        processor, config = self._checkpoint.processor, self._checkpoint.config
        indices = self._indices(step).reshape(self._settings.accumulate, -1)
        return [
            collate(
                [
                    encode(self._samples.read(int(index)), processor, folder=self._samples.folder)
                    for index in row
                ],
                image_token_id=config.image_token_id,
                pad=config.pad_token_id,
            )
            for row in indices
        ]

    def ids(self, step: int) -> list[str]:
        """Ids of a step's samples."""
        return [self._samples.read(int(index)).sample_id for index in self._indices(step)]

    def _indices(self, step: int) -> np.ndarray:
        """Rows of a step: each epoch is a permutation of its own, drawn from (seed, epoch)."""
        count = self._settings.batch_size * self._settings.accumulate
        epochs, places = np.divmod(step * count + np.arange(count), len(self._samples))
        orders = {
            int(epoch): np.random.default_rng([self._settings.seed, int(epoch)]).permutation(
                len(self._samples)
            )
            for epoch in np.unique(epochs)
        }
        return np.array([orders[int(e)][p] for e, p in zip(epochs, places, strict=True)])

    def _learning_rate(self) -> float:
        rise = min(1.0, (self.step + 1) / (self._settings.warmup + 1))
        return self._settings.learning_rate * rise


def loss_and_gradients(
    model: SmolVLM, batch: LoraBatch, *, checkpointing: bool = False
) -> tuple[mx.array, Any]:
    """Summed loss of a batch in nats, and its gradients by the trainable parameters.

    Args:
        model: With adapters.
        batch: Of ``collate``.
        checkpointing: See ``SmolVLM.hidden_states``.
    """
    visual = model.visual_tokens(batch.tiles) if len(batch.tiles) else None

    def loss(current: SmolVLM) -> mx.array:
        embedded = current.embed(batch.input_ids, visual, batch.slots)
        hidden = current.hidden_states(embedded, checkpointing=checkpointing)
        return current.loss_sum(hidden, batch.positions, batch.targets)

    return nn.value_and_grad(model, lambda: loss(model))()


def largest(batches: list[LoraBatch]) -> StepShape:
    """The shape that needs the most memory: most tokens, then most tiles."""
    batch = max(batches, key=lambda one: (one.input_ids.size, len(one.tiles)))
    rows, length = batch.input_ids.shape
    return StepShape(
        batch=rows,
        length=length,
        supervised=batch.supervised,
        tiles=max(len(one.tiles) for one in batches),
    )


def trainable_count(model: SmolVLM) -> int:
    """Number of trainable parameters."""
    return sum(value.size for _, value in tree_flatten(model.trainable_parameters()))
