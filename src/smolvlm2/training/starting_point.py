"""What a stage starts from without its weights: shapes and tokenizer. No torch in this file."""

from pathlib import Path

from smolvlm2.errors import ConfigError
from smolvlm2.model.component_shapes import component_shapes
from smolvlm2.model.config import SmolVLMConfig
from smolvlm2.model.hub import resolve_checkpoint
from smolvlm2.processing.tokenizer import Tokenizer, extend_for_images
from smolvlm2.training.recipe import Recipe


def starting_config(recipe: Recipe, checkpoint: str | Path | None) -> SmolVLMConfig:
    """Shapes of the model that a stage starts from; reads no weights.

    Raises:
        ConfigError: It cannot have the adapters that the recipe asks for.
    """
    if checkpoint is None:
        config = component_shapes(recipe.model)
    else:
        config = SmolVLMConfig.from_folder(resolve_checkpoint(checkpoint, patterns=("*.json",)))
    if recipe.training.adapters is not None and config.tie_word_embeddings:
        raise ConfigError(
            "training.adapters needs a head of its own, but the model's is tied to the embedding "
            "(tie_word_embeddings)"
        )
    return config


def default_folder(recipe: Recipe, checkpoint: str | Path | None, size: str | None) -> str:
    """The run folder of a stage where none is named, after its model.

    Args:
        recipe: Of the stage.
        checkpoint: What it starts from; None: the recipe's components.
        size: What ``--model-size`` says; None: the model's, by its width.
    """
    if size is None:
        width = starting_config(recipe, checkpoint).text.hidden_size
        size = {960: "500m"}.get(width, "256m")
    return f"checkpoints/{recipe.stage}_stage_{size}"


def model_facts(config: SmolVLMConfig) -> dict[str, int | float]:
    """What tells one model from another, by the words of its recipe."""
    return {
        "width": config.text.hidden_size,
        "layers": config.text.num_hidden_layers,
        "context": config.text.max_position_embeddings,
        "RoPE base": config.text.rope_theta,
        "tile": config.vision.image_size,
        "pixel shuffle": config.scale_factor,
    }


def starting_tokenizer(recipe: Recipe, checkpoint: str | Path | None) -> Tokenizer:
    """The tokenizer of a stage: the checkpoint's, or the text decoder's with the image tokens."""
    if checkpoint is not None:
        return Tokenizer.from_pretrained(checkpoint)
    return extend_for_images(
        recipe.model.text_decoder.name,
        model_max_length=recipe.model.text_decoder.max_position_embeddings,
    )
