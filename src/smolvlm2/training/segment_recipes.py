"""The segments that a recipe declares, each as a recipe of its own."""

from dataclasses import replace

from smolvlm2.errors import ConfigError
from smolvlm2.training.recipe import Recipe


def segment_recipes(recipe: Recipe, *, first_step: int = 0) -> list[tuple[int, Recipe]]:
    """The segments that a recipe declares, from a step on: first step, and a recipe without any.

    Args:
        recipe: Of the run.
        first_step: Earlier segments are merged into the one that begins here.

    Raises:
        ConfigError: A later segment's sources would end.
    """
    now = replace(recipe, segments=[])
    found = [(first_step, now)]
    for segment in recipe.segments:
        if segment.mixture is not None:
            now = replace(now, data=replace(now.data, mixture=segment.mixture))
        if segment.pack is not None:
            now = replace(now, pack=segment.pack)
        if segment.gradient_accumulation_steps is not None:
            steps = segment.gradient_accumulation_steps
            now = replace(now, training=replace(now.training, gradient_accumulation_steps=steps))
        if segment.first_step <= first_step:
            found[0] = first_step, now
        else:
            found.append((segment.first_step, now))
    if len(found) > 1:
        for step, each in found:
            if each.data.mixture is not None and each.data.mixture.epochs is not None:
                raise ConfigError(
                    f"segments: the mixture from step {step} ends after "
                    f"{each.data.mixture.epochs:g} epochs; expected data.mixture.epochs: null in a "
                    f"recipe with several segments, whose first steps say when each ends"
                )
    return found
