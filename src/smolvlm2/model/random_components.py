"""Components with random weights, written exactly as the published ones are.

For demos, tests and dry runs: what reads these files reads the real ones.
"""

from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from smolvlm2.model.config import SmolVLMConfig, TextConfig, VisionConfig
from smolvlm2.model.hub import write_json
from smolvlm2.model.initialisation import random_model
from smolvlm2.model.tensor_files import WEIGHTS, write_tensors

TEXT_TOWER_ROWS = 8
"""Vocabulary of SigLIP's text tower, which is written in order to be dropped again."""


def write_random_components(
    folder: str | Path, vision: VisionConfig, text: TextConfig, *, seed: int
) -> tuple[Path, Path]:
    """Write a SigLIP-shaped and a SmolLM2-shaped model.

    Args:
        folder: Gets the folders ``siglip`` and ``smollm2``; the tokenizer of the latter is the
            caller's.
        vision: Shapes of the vision encoder.
        text: Shapes of the text decoder, with its vocabulary before the image tokens.
        seed: Of the weights.

    Returns:
        The two folders.
    """
    folder = Path(folder)
    ratio = vision.patches_per_side
    config = SmolVLMConfig(vision=vision, text=text, scale_factor=ratio, tie_word_embeddings=True)
    model = random_model(config, seed=seed, dtype=torch.float32, device="cpu")
    siglip, smollm2 = folder / "siglip", folder / "smollm2"
    tensors = {
        f"vision_model.{name}": tensor for name, tensor in model.vision_encoder.named_parameters()
    }
    write_tensors(tensors | _dropped_tensors(vision), siglip / WEIGHTS)
    write_json(
        {
            "architectures": ["SiglipModel"],
            "model_type": "siglip",
            "vision_config": {"model_type": "siglip_vision_model", **asdict(vision)},
            "text_config": {"model_type": "siglip_text_model", "vocab_size": TEXT_TOWER_ROWS},
        },
        siglip / "config.json",
    )
    tensors = {f"model.{name}": tensor for name, tensor in model.text_decoder.named_parameters()}
    write_tensors(tensors, smollm2 / WEIGHTS)
    write_json(
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            **asdict(text),
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "tie_word_embeddings": True,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 2,
        },
        smollm2 / "config.json",
    )
    return siglip, smollm2


def _dropped_tensors(vision: VisionConfig) -> dict[str, Tensor]:
    """A pooling head, a text tower and the loss's scalars: present in the file, of no use here."""
    width = vision.hidden_size
    return {
        "vision_model.head.probe": torch.zeros(1, 1, width),
        "vision_model.head.layernorm.weight": torch.ones(width),
        "text_model.embeddings.token_embedding.weight": torch.zeros(TEXT_TOWER_ROWS, width),
        "logit_scale": torch.zeros(1),
        "logit_bias": torch.zeros(1),
    }
