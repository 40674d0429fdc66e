"""LoRA and DoRA on the text decoder: mlx-vlm's layers and file format, with our checks around them.

The files are those of ``mlx_vlm``: ``adapters.safetensors`` and ``adapter_config.json``, which name
the adapted layers and how the base was quantised.
"""

import zlib
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten
from mlx_vlm.trainer import load_adapters as attach_saved
from mlx_vlm.trainer import prepare_model_for_training

from smolvlm2.apple.checkpoint import save_tensors
from smolvlm2.apple.lora_settings import AdapterSettings
from smolvlm2.apple.model import SmolVLM
from smolvlm2.errors import CheckpointError, CheckpointNotFoundError
from smolvlm2.model.hub import read_json, write_json

WEIGHTS, SETTINGS = "adapters.safetensors", "adapter_config.json"


def add(model: SmolVLM, settings: AdapterSettings, *, seed: int) -> None:
    """Freeze the model and attach new adapters to its text decoder, in place.

    Args:
        model: Quantised or not.
        settings: Kind, rank and targets.
        seed: Of the first matrices; the second ones start at zero, so the model is unchanged.
    """
    prepare_model_for_training(
        model,
        train_type=settings.kind,
        lora_rank=settings.rank,
        lora_alpha=settings.alpha,
        target_modules=[
            name
            for name, _ in model.language_model.named_modules()
            if name.split(".")[-1] in settings.targets
        ],
        verbose=False,
    )
    # Drawn again by name: mlx's own draw comes from a generator that all of a process shares.
    drawn = []
    for name, value in tree_flatten(model.trainable_parameters()):
        if name.endswith(".lora_a"):
            generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
            bound = value.shape[0] ** -0.5
            drawn.append(
                (name, mx.array(generator.uniform(-bound, bound, value.shape), mx.float32))
            )
    model.update(tree_unflatten(drawn))
    mx.eval(model.parameters())


def save(model: SmolVLM, folder: Path) -> None:
    """Write the adapters; the folder loads in mlx-vlm with ``adapter_path``."""
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(dict(tree_flatten(model.trainable_parameters())), folder / WEIGHTS)
    write_json(model._vlm_adapter_config, folder / SETTINGS)


def attach(model: SmolVLM, folder: Path) -> None:
    """Load saved adapters onto their base, in place; a base is quantised as it was in training.

    Raises:
        CheckpointNotFoundError: The folder holds no adapters.
        CheckpointError: They belong to another model.
    """
    for name in (WEIGHTS, SETTINGS):
        if not (folder / name).is_file():
            raise CheckpointNotFoundError(
                f"{folder}: no {name}; expected the output folder of mlx/lora_finetune.py"
            )
    try:
        attach_saved(model, folder)
    except (RuntimeError, ValueError, KeyError, AttributeError, IndexError) as error:
        raise CheckpointError(
            f"{folder}: adapters do not fit this model ({error}); give the model that they were "
            f"trained on, quantised neither more nor less"
        ) from error
    # Attaching compares neither names nor shapes.
    rank = read_json(folder / SETTINGS)["lora_parameters"]["rank"]
    saved = set(mx.load(str(folder / WEIGHTS)))
    wanted = dict(tree_flatten(model.trainable_parameters()))
    for name in sorted(saved ^ set(wanted)):
        raise CheckpointError(
            f"{folder}: tensor {name!r} is {'missing' if name in wanted else 'unexpected'}; give "
            f"the model that the adapters were trained on"
        )
    for name, layer in model.named_modules():
        if "lora_a" not in layer:
            continue
        outputs, inputs = layer.linear.weight.shape
        inputs *= 32 // layer.linear.bits if isinstance(layer.linear, nn.QuantizedLinear) else 1
        found = (layer.lora_a.shape, layer.lora_b.shape)
        if found != ((inputs, rank), (rank, outputs)):
            raise CheckpointError(
                f"{folder}: adapter {name!r} has shapes {found[0]} and {found[1]}, expected "
                f"{(inputs, rank)} and {(rank, outputs)}; give the model that it was trained on"
            )
    model.eval()


def fuse(model: SmolVLM) -> None:
    """Merge adapters into the weights and undo quantisation, in place.

    The result computes what base and adapters computed together. From a quantised base it is the
    dequantised one, not the original: the adapters were trained on that.
    """
    adapted = [
        (name, layer.fuse(dequantize=True))
        for name, layer in model.named_modules()
        if "lora_a" in layer
    ]
    model.update_modules(tree_unflatten(adapted))
    plain = []
    for name, layer in model.named_modules():
        if not isinstance(layer, nn.QuantizedLinear | nn.QuantizedEmbedding):
            continue
        weight = mx.dequantize(
            layer.weight, layer.scales, layer.biases, group_size=layer.group_size, bits=layer.bits
        )
        linear = isinstance(layer, nn.QuantizedLinear)
        kind = nn.Linear(1, 1, bias=False) if linear else nn.Embedding(1, 1)
        kind.weight = weight
        plain.append((name, kind))
    model.update_modules(tree_unflatten(plain))
    mx.eval(model.parameters())
    model.freeze()
    model.eval()
