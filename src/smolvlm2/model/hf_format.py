"""Checkpoints as transformers, vLLM and mlx-vlm read them.

Names on disk differ from ours by a prefix for each part; nothing else is mapped. Source:
``docs/model.md`` and the published SmolVLM2 checkpoints' state dict.
"""

from pathlib import Path

import torch
from torch import Tensor

from smolvlm2.errors import CheckpointError
from smolvlm2.model.config import SmolVLMConfig
from smolvlm2.model.hub import resolve_checkpoint, write_json
from smolvlm2.model.initialisation import empty_model
from smolvlm2.model.smolvlm import SmolVLM
from smolvlm2.model.tensor_files import WEIGHTS, TensorFiles, write_tensors

PREFIXES = (
    ("vision_encoder.", "model.vision_model."),
    ("connector.proj.", "model.connector.modality_projection.proj."),
    ("text_decoder.", "model.text_model."),
    ("lm_head.", "lm_head."),
)
LEFTOVERS = ("position_ids", "rotary_emb.inv_freq")
"""Buffers that older transformers versions saved; they hold no information."""
ADAPTER = ".lora_A."
"""In the name of a tensor that stands beside a layer's weights."""


def hf_name(name: str) -> str:
    """The published name of one of our parameters."""
    for ours, theirs in PREFIXES:
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    raise ValueError(f"parameter {name!r} belongs to no part of the model")


def load_model(
    path_or_repo: str | Path,
    *,
    dtype: torch.dtype | str | None = None,
    device: str | torch.device = "cpu",
) -> SmolVLM:
    """Load a SmolVLM, SmolVLM2 or Idefics3-class SmolVLM checkpoint.

    Args:
        path_or_repo: Run folder, step folder, Hugging Face folder or hub id.
        dtype: Type of the parameters, also by name (``"bfloat16"``); None: as stored.
        device: Where to put them.

    Raises:
        CheckpointNotFoundError: No checkpoint there.
        CheckpointError: Another architecture; a tensor is missing, unexpected or misshapen.
    """
    folder = resolve_checkpoint(path_or_repo, patterns=("*.json", "*.safetensors", "*.jinja"))
    config = SmolVLMConfig.from_folder(folder)
    if not list(folder.glob("*.safetensors")) and (folder / ".metadata").is_file():
        return _load_step(folder, config, dtype=_dtype(dtype), device=device)
    files = TensorFiles(folder)
    stored = files.read(hf_name("text_decoder.embed_tokens.weight")).dtype
    model = empty_model(config, dtype=_dtype(dtype) or stored, device=device)
    parameters = {hf_name(name): tensor for name, tensor in model.named_parameters()}
    extra = [
        name
        for name in files.names()
        if name not in parameters
        and not name.endswith(LEFTOVERS)
        and not (config.tie_word_embeddings and name == "lm_head.weight")
    ]
    if extra:
        raise CheckpointError(
            f"{folder}: unexpected tensor {extra[0]!r}"
            + (f" and {len(extra) - 1} more" if extra[1:] else "")
            + "; the configuration describes another model than the weights"
        )
    with torch.no_grad():
        for name, tensor in parameters.items():
            tensor.copy_(files.read(name, tensor.shape))
    return model.eval()


def _load_step(
    folder: Path, config: SmolVLMConfig, *, dtype: torch.dtype | None, device: str | torch.device
) -> SmolVLM:
    """The weights of one of our own step folders (torch.distributed.checkpoint).

    Raises:
        CheckpointError: A file is not as it was written; or it has adapters beside the weights:
            names the command that merges them.
    """
    from smolvlm2.model.sharded_files import load_sharded, stored_names, verify_files

    verify_files(folder)
    if any(ADAPTER in name for name in stored_names(folder)):
        # How they are merged is the recipe's, of which this room knows nothing.
        raise CheckpointError(
            f"{folder}: holds adapters beside the weights; merge them (smolvlm2 export {folder} "
            f"OUT) and load OUT"
        )
    model = empty_model(config, dtype=torch.float32, device="cpu")
    load_sharded({"model": model.state_dict()}, folder)
    return model.to(dtype=dtype, device=device).eval()


def save_model(
    model: SmolVLM, folder: str | Path, tensors: dict[str, Tensor] | None = None
) -> None:
    """Write ``config.json``, ``generation_config.json`` and ``model.safetensors``.

    The head is written even when it is tied, for readers that do not tie.

    Args:
        model: For its configuration and, without ``tensors``, its weights.
        folder: Made if missing; each file is replaced only when complete.
        tensors: Weights under our names instead of the model's own (gathered or averaged ones).
    """
    folder = Path(folder)
    weights = dict(tensors if tensors is not None else model.state_dict())
    weights["lm_head.weight"] = weights.get(
        "lm_head.weight", weights["text_decoder.embed_tokens.weight"]
    ).clone()
    write_tensors({hf_name(name): tensor for name, tensor in weights.items()}, folder / WEIGHTS)
    dtype = str(weights["lm_head.weight"].dtype).removeprefix("torch.")
    # `torch_dtype` is what transformers 4 reads, `dtype` what 5 reads.
    write_json(
        model.config.to_hf() | {"dtype": dtype, "torch_dtype": dtype}, folder / "config.json"
    )
    write_json(
        {
            "_from_model_config": True,
            "bos_token_id": model.config.bos_token_id,
            "eos_token_id": model.config.eos_token_id,
            "pad_token_id": model.config.pad_token_id,
        },
        folder / "generation_config.json",
    )


def _dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    if not isinstance(dtype, str):
        return dtype
    value = getattr(torch, dtype, None)
    if not isinstance(value, torch.dtype) or not value.is_floating_point:
        raise CheckpointError(
            f"dtype {dtype!r} is unknown; expected 'float32', 'bfloat16' or 'float16'"
        )
    return value
