"""Which parts train at a step, and how fast: pure functions of the step."""

from typing import TYPE_CHECKING

from smolvlm2.training.optimizer import PARTS
from smolvlm2.training.recipe import Recipe, TrainingSettings

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from smolvlm2.model.smolvlm import SmolVLM


def frozen_parts(step: int, settings: TrainingSettings) -> frozenset[str]:
    """Parts that do not train at ``step``; asked by step, so a resumed run agrees."""
    if not settings.freeze_vision_encoder:
        return frozenset()
    after = settings.unfreeze_vision_after_steps
    if after is not None and step >= after:
        return frozenset()
    return frozenset({"vision_encoder"})


def apply_freezing(model: "SmolVLM", frozen: frozenset[str]) -> None:
    """Set ``requires_grad`` of each part; a part that freezes loses its gradients."""
    for part in PARTS:
        module = getattr(model, part)
        module.train(part not in frozen)
        for parameter in module.parameters():
            parameter.requires_grad_(part not in frozen)
            if part in frozen:
                parameter.grad = None
    # A tied head shares the embedding's parameter, which the decoder has set.
    if not model.config.tie_word_embeddings:
        model.lm_head.weight.requires_grad_("text_decoder" not in frozen)


def learning_rates(step: int, recipe: Recipe) -> dict[str, float]:
    """Learning rate of each part at a step; 0 for frozen parts.

    After unfreezing, the vision encoder's rate rises again from 0: its optimiser state is new, and
    full updates would undo the pretraining.
    """
    training = recipe.training
    factor = recipe.schedule.factor(step, training.max_steps)
    peak = training.learning_rate
    rates = {part: recipe.optimizer.peak(part, peak) * factor for part in PARTS}
    for part in frozen_parts(step, training):
        rates[part] = 0.0
    start = training.unfreeze_vision_after_steps
    if training.freeze_vision_encoder and start is not None and step >= start:
        rise = (step - start + 1) / max(1, training.vision_warmup_steps)
        rates["vision_encoder"] *= min(1.0, rise)
    return rates


def set_learning_rates(optimizer: "Optimizer", rates: dict[str, float]) -> None:
    """Give each group of the optimiser its part's rate."""
    for group in optimizer.param_groups:
        group["lr"] = rates[group["part"]]
