"""The published models that ``--model-size`` names."""

import sys
from dataclasses import dataclass

from smolvlm2.errors import ConfigError
from smolvlm2.model.config import SmolVLMConfig, TextConfig

MODEL_SIZES = ("256m", "500m")


@dataclass(frozen=True)
class PublishedModel:
    """A model on the hub."""

    repository: str
    config: SmolVLMConfig
    parameters: int
    """Of the file, head included."""


PUBLISHED = {
    "256m": PublishedModel(
        "HuggingFaceTB/SmolVLM2-256M-Video-Instruct", SmolVLMConfig(), 256_484_928
    ),
    "500m": PublishedModel(
        "HuggingFaceTB/SmolVLM2-500M-Video-Instruct",
        SmolVLMConfig(
            text=TextConfig(
                hidden_size=960,
                intermediate_size=2560,
                num_hidden_layers=32,
                num_attention_heads=15,
                num_key_value_heads=5,
            )
        ),
        507_482_304,
    ),
}
"""Source: docs/model.md."""


def choose_model(
    model: str | None, size: str | None, *, command: str, default: str | None = None
) -> str:
    """The folder or hub id that a command line names.

    Args:
        model: Of ``--model``.
        size: Of ``--model-size``.
        command: For the explanation, how to run on a local folder.
        default: Size where neither is given; what it fetches is said.

    Raises:
        ConfigError: There is nothing to choose from; the message says what would be fetched.
    """
    if model is not None:
        return model
    if size is not None:
        return PUBLISHED[size].repository
    if default is not None:
        name = PUBLISHED[default].repository
        print(
            f"no model named: taking {name} from the hub, fetched once; a folder of your own needs "
            f"no network: {command}",
            file=sys.stderr,
        )
        return name
    offers = "; ".join(
        f"--model-size {name} fetches {entry.repository} ({entry.parameters / 1e6:.0f} million "
        f"parameters) from the hub once"
        for name, entry in PUBLISHED.items()
    )
    raise ConfigError(f"no model named: {offers}; a folder of your own needs no network: {command}")
