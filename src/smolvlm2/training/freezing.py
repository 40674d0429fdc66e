"""Which parts train at a step, and how fast: pure functions of the step."""

from typing import TYPE_CHECKING

from smolvlm2.training.adapters import is_adapted
from smolvlm2.training.optimizer import part_of
from smolvlm2.training.schedule import PARTS

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from smolvlm2.model.smolvlm import SmolVLM
    from smolvlm2.training.recipe import Recipe
    from smolvlm2.training.training_settings import TrainingSettings


def frozen_parts(step: int, settings: "TrainingSettings") -> frozenset[str]:
    """Parts that do not train at ``step``; asked by step, so a resumed run agrees."""
    if not settings.freeze_vision_encoder:
        return frozenset()
    after = settings.unfreeze_vision_after_steps
    if after is not None and step >= after:
        return frozenset()
    return frozenset({"vision_encoder"})


def phase_words(frozen: frozenset[str], *, compiled: bool) -> str:
    """What a phase is, for the log.

    Args:
        frozen: Parts that do not train.
        compiled: Whether blocks are compiled: each kind once a phase, and never again in it.
    """
    parts = ", ".join(sorted(frozen)).replace("_", " ")
    words = f"frozen: {parts}" if frozen else "all parts train"
    return f"{words}; blocks are compiled for it now" if compiled else words


def apply_freezing(model: "SmolVLM", frozen: frozenset[str]) -> None:
    """Set ``requires_grad`` of each part; a part that freezes loses its gradients.

    Layers that have an adapter stay frozen whatever their part does.
    """
    for part in PARTS:
        getattr(model, part).train(part not in frozen)
    model.lm_head.train("text_decoder" not in frozen)
    # A tied head's parameter comes under the embedding's name only.
    for name, parameter in model.named_parameters():
        trains = part_of(name) not in frozen and not is_adapted(name)
        parameter.requires_grad_(trains)
        if not trains:
            parameter.grad = None


def learning_rates(step: int, recipe: "Recipe") -> dict[str, float]:
    """Learning rate of each part at a step; 0 for frozen parts.

    After unfreezing, the vision encoder's rate rises again from 0: its optimiser state is new, and
    full updates would undo the pretraining.
    """
    training = recipe.training
    peak = training.learning_rate
    rates = {
        part: recipe.optimizer.peak(part, peak)
        * recipe.schedule.factor(step, training.max_steps, part)
        for part in PARTS
    }
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
