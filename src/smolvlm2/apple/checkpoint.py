"""Checkpoints in Hugging Face's format, read into MLX and written back.

Read are the files of transformers 4 and 5, of this package and of ``mlx_vlm.convert``; written is
the one form that all of them load: RoPE base flat and nested, the head always present.
"""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from smolvlm2.apple.model import SmolVLM
from smolvlm2.errors import CheckpointError, CheckpointNotFoundError, ConfigError
from smolvlm2.model.config import SmolVLMConfig
from smolvlm2.model.hub import hash_file, read_json, resolve_checkpoint, write_json
from smolvlm2.processing.processor import Processor

WEIGHTS = "model.safetensors"
PREFIXES = (
    ("vision_model.", "model.vision_model."),
    ("connector.", "model.connector."),
    ("language_model.lm_head.", "lm_head."),
    ("language_model.", "model.text_model."),
)
"""Of a tensor in MLX and on disk; the first that fits."""
HEAD, EMBEDDING = "language_model.lm_head", "language_model.embed_tokens"
PATCHES = "vision_model.embeddings.patch_embedding.weight"
LEFTOVERS = ("position_ids", "rotary_emb.inv_freq")
GROUP_SIZES = (64, 32)
"""Weights that share a scale when quantised, tried in this order."""


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint folder holds, ready to use."""

    model: SmolVLM
    config: SmolVLMConfig
    processor: Processor
    folder: Path


def load(
    path_or_repo: str | Path, *, quantize: int | None = None, dtype: str | None = None
) -> Checkpoint:
    """Load a model and its processor.

    Args:
        path_or_repo: Run folder, Hugging Face folder, folder of ``mlx_vlm.convert``, or hub id.
        quantize: 4 or 8 quantises text decoder, head and connector after loading.
        dtype: Type of the weights by name (``"float32"``); None: as stored.

    Raises:
        CheckpointNotFoundError: No checkpoint there.
        CheckpointError: Another architecture; a tensor is missing, unexpected or misshapen.
        ConfigError: Quantisation does not fit the model.
    """
    patterns = ("*.json", "*.safetensors", "*.jinja")
    folder = resolve_checkpoint(path_or_repo, patterns=patterns)
    where = folder / "config.json"
    hf = read_json(where)
    config = SmolVLMConfig.from_folder(folder)
    _check_supported(config, where)
    processor = exact_processor(folder)
    weights = _read_weights(folder)
    if f"{HEAD}.weight" not in weights and config.tie_word_embeddings:
        # mlx-vlm's model has a head of its own; a tied one is written as a copy.
        copied = {n: w for n, w in weights.items() if n.startswith(EMBEDDING)}
        weights |= {n.replace(EMBEDDING, HEAD): w for n, w in copied.items()}
    model = SmolVLM(config)
    if (stored := hf.get("quantization")) is not None:
        nn.quantize(
            model,
            group_size=stored["group_size"],
            bits=stored["bits"],
            class_predicate=lambda name, _: f"{name}.scales" in weights,
        )
    _check_names(model, weights, folder)
    if dtype is not None:
        weights = {name: _cast(weight, dtype) for name, weight in weights.items()}
    model.load_weights(list(weights.items()))
    if quantize is not None:
        quantize_text(model, quantize)
    mx.eval(model.parameters())
    model.eval()
    return Checkpoint(model, replace(config, tie_word_embeddings=False), processor, folder)


def exact_processor(path_or_repo: str | Path) -> Processor:
    """A checkpoint's processor with ``resample: exact``; the fast one needs torch.

    Raises:
        CheckpointNotFoundError: No checkpoint there.
    """
    processor = Processor.from_pretrained(path_or_repo)
    processor.image = replace(processor.image, resample="exact")
    return processor


def save(model: SmolVLM, config: SmolVLMConfig, processor: Processor, folder: Path) -> None:
    """Write a checkpoint that transformers, vLLM, mlx-vlm and this package load.

    Args:
        model: Without adapters and not quantised (``adapters.fuse`` makes it so).
        config: Its shapes.
        processor: Saved beside it.
        folder: Made if missing; each file is replaced only when complete.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = {_disk_name(name): w for name, w in tree_flatten(model.parameters())}
    patches = _disk_name(PATCHES)
    weights[patches] = mx.contiguous(weights[patches].transpose(0, 3, 1, 2))
    save_tensors(weights, folder / WEIGHTS)
    dtype = str(weights["lm_head.weight"].dtype).removeprefix("mlx.core.")
    untied = replace(config, tie_word_embeddings=False)
    processor.save_pretrained(folder)
    # `torch_dtype` is what transformers 4 reads, `dtype` what 5 reads.
    write_json(untied.to_hf() | {"dtype": dtype, "torch_dtype": dtype}, folder / "config.json")
    ids = {
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "pad_token_id": config.pad_token_id,
    }
    write_json({"_from_model_config": True, **ids}, folder / "generation_config.json")


def save_tensors(tensors: dict[str, mx.array], path: Path) -> None:
    """Write a safetensors file; the old one stays until the new one is complete."""
    # mlx appends .safetensors to any other ending.
    temporary = path.with_name(f"{path.name}.partial.safetensors")
    mx.save_safetensors(str(temporary), tensors, metadata={"format": "pt"})
    os.replace(temporary, path)


def quantize_text(model: SmolVLM, bits: int) -> None:
    """Quantise text decoder, head and connector in place; the vision encoder stays as it is.

    Args:
        model: Not quantised.
        bits: 4 or 8.

    Raises:
        ConfigError: Other bits, quantised already, or widths that no group size divides.
    """
    if bits not in (4, 8):
        raise ConfigError(f"quantize is {bits}; expected 4 or 8")
    layers = dict(_quantizable(model))
    if any(isinstance(layer, nn.QuantizedLinear) for layer in layers.values()):
        raise ConfigError("the checkpoint is quantised already; leave --quantize out")
    widths = sorted({layer.weight.shape[-1] for layer in layers.values()})
    group = next((g for g in GROUP_SIZES if not any(width % g for width in widths)), None)
    if group is None:
        raise ConfigError(
            f"widths {widths} are not all multiples of {GROUP_SIZES[-1]}, so this model cannot be "
            f"quantised; leave --quantize out"
        )
    nn.quantize(model, group_size=group, bits=bits, class_predicate=lambda name, _: name in layers)


def _quantizable(model: SmolVLM) -> Iterator[tuple[str, Any]]:
    kinds = (nn.Linear, nn.Embedding, nn.QuantizedLinear, nn.QuantizedEmbedding)
    for name, layer in model.named_modules():
        if name.startswith(("language_model.", "connector.")) and isinstance(layer, kinds):
            yield name, layer


def _check_supported(config: SmolVLMConfig, where: Path) -> None:
    text = config.text
    if text.head_dim * text.num_attention_heads != text.hidden_size:
        raise CheckpointError(
            f"{where}: {text.num_attention_heads} heads of {text.head_dim} are not the width "
            f"{text.hidden_size}, which mlx-vlm expects; use torch: smolvlm2 generate"
        )


def weights_digest(folder: Path) -> str:
    """A short digest of a checkpoint's weights: a run's folder keeps its name and changes them."""
    hashes = "".join(map(hash_file, _weight_files(folder)))
    return hashlib.sha256(hashes.encode()).hexdigest()[:16]


def _weight_files(folder: Path) -> list[Path]:
    index = folder / f"{WEIGHTS}.index.json"
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if index.is_file():
        return [folder / name for name in sorted(set(read_json(index)["weight_map"].values()))]
    raise CheckpointNotFoundError(
        f"{folder}: no {WEIGHTS}; MLX reads exports, not step folders: load it with torch, "
        f"SmolVLM.from_pretrained('{folder}').save_pretrained('export')"
    )


def _read_weights(folder: Path) -> dict[str, mx.array]:
    """All tensors by their name in MLX."""
    weights: dict[str, mx.array] = {}
    for path in _weight_files(folder):
        try:
            found = mx.load(str(path))
        except (RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"{path}: not a complete safetensors file ({error}); copy or download it again"
            ) from error
        for key, tensor in found.items():
            if key.endswith(LEFTOVERS):
                continue
            ours = _mlx_name(key)
            # Files of mlx_vlm.convert have MLX's names and MLX's order of axes.
            from_disk = ours != key and ours == PATCHES
            weights[ours] = tensor.transpose(0, 2, 3, 1) if from_disk else tensor
    return weights


def _mlx_name(name: str) -> str:
    for ours, theirs in PREFIXES:
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name


def _disk_name(name: str) -> str:
    for ours, theirs in PREFIXES:
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    raise ValueError(f"parameter {name!r} belongs to no part of the model")


def _check_names(model: SmolVLM, weights: dict[str, mx.array], folder: Path) -> None:
    wanted = {name: w.shape for name, w in tree_flatten(model.parameters())}
    for what, names in (
        ("missing", sorted(set(wanted) - set(weights))),
        ("unexpected", sorted(set(weights) - set(wanted))),
    ):
        if names:
            raise CheckpointError(
                f"{folder}: {what} tensor {names[0]!r}"
                + (f" and {len(names) - 1} more" if names[1:] else "")
                + "; the configuration describes another model than the weights"
            )
    for name, shape in wanted.items():
        if weights[name].shape != shape:
            raise CheckpointError(
                f"{folder}: tensor {name!r} is {weights[name].shape}, expected {shape}"
            )


def _cast(weight: mx.array, dtype: str) -> mx.array:
    target = getattr(mx, dtype, None) if dtype in ("float32", "float16", "bfloat16") else None
    if target is None:
        raise CheckpointError(
            f"dtype {dtype!r} is unknown; expected 'float32', 'bfloat16' or 'float16'"
        )
    return weight.astype(target) if mx.issubdtype(weight.dtype, mx.floating) else weight
