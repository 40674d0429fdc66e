"""A SmolVLM from its two components: a SigLIP vision encoder and a SmolLM2 text decoder.

What is done and why: ``docs/decisions/004-components.md``.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from smolvlm2.errors import CheckpointError
from smolvlm2.model.component_shapes import (
    ADDED_TOKENS,
    ComponentSettings,
    component_folder,
    component_shapes,
)
from smolvlm2.model.initialisation import random_model
from smolvlm2.model.smolvlm import SmolVLM
from smolvlm2.model.tensor_files import TensorFiles


def load_components(settings: ComponentSettings, *, seed: int) -> SmolVLM:
    """Build a model from its components, in fp32.

    Taken over: the vision encoder without text tower and pooling head, its position embeddings
    interpolated to the tile size; the text decoder, its vocabulary grown by the image tokens, each
    new row the mean of the old ones; the head as a copy of the embedding. New: the connector.

    Args:
        settings: Names and shapes.
        seed: For the connector's weights.

    Raises:
        CheckpointNotFoundError: A component is neither a folder nor on the hub.
        CheckpointError: A tensor is missing, unexpected or misshapen; says which.
    """
    config = component_shapes(settings)
    # Every tensor but the connector is overwritten; a forgotten one would be caught by name.
    model = random_model(config, seed=seed, dtype=torch.float32, device="cpu")
    with torch.no_grad():
        left: dict[str, Tensor] = dict(model.named_parameters())
        _take_vision(TensorFiles(component_folder(settings.vision_encoder.name)), left)
        text = TensorFiles(component_folder(settings.text_decoder.name))
        base = config.text.vocab_size - ADDED_TOKENS
        embedding = _take_text(text, left, base)
        connector = left.pop("connector.proj.weight")
        # Encoder features leave a layer norm with unit variance; visual tokens start with the
        # magnitude of text embeddings (assumption: the original initialisation is not published).
        scale = embedding.square().mean().sqrt() / math.sqrt(connector.shape[1])
        generator = torch.Generator().manual_seed(seed)
        connector.normal_(std=float(scale), generator=generator)
    if left:
        raise CheckpointError(f"no component gave a value for {sorted(left)[0]!r}")
    return model.eval()


def _take_vision(files: TensorFiles, left: dict[str, Tensor]) -> None:
    """Move ``vision_model.*`` into the model; two-tower and vision-only files are both read."""
    prefix = "vision_model."
    allowed = ("text_model.", "logit_scale", "logit_bias", prefix + "head.")
    taken = set()
    for name in [name for name in left if name.startswith("vision_encoder.")]:
        source = prefix + name.removeprefix("vision_encoder.")
        target = left.pop(name)
        if name.endswith("position_embedding.weight"):
            value = resize_positions(files.read(source), len(target))
        else:
            value = files.read(source, target.shape)
        target.copy_(value)
        taken.add(source)
    _refuse_extra(files, taken, allowed)


def _take_text(files: TensorFiles, left: dict[str, Tensor], base: int) -> Tensor:
    """Move ``model.*`` into the model; returns the base embedding ``(base, D)``."""
    taken = {"lm_head.weight"}
    embedding = files.read("model.embed_tokens.weight")
    for name in [name for name in left if name.startswith("text_decoder.")]:
        source = "model." + name.removeprefix("text_decoder.")
        target = left.pop(name)
        if name == "text_decoder.embed_tokens.weight":
            target.copy_(grow_rows(files.read(source, (base, target.shape[1])), len(target)))
        else:
            target.copy_(files.read(source, target.shape))
        taken.add(source)
    head = left.pop("lm_head.weight", None)
    if head is not None:
        stored = "lm_head.weight" if "lm_head.weight" in files else "model.embed_tokens.weight"
        head.copy_(grow_rows(files.read(stored, (base, head.shape[1])), len(head)))
    _refuse_extra(files, taken, ())
    return embedding.float()


def _refuse_extra(files: TensorFiles, taken: set[str], allowed: tuple[str, ...]) -> None:
    for name in files.names():
        leftover = name.endswith(("position_ids", "rotary_emb.inv_freq"))
        if name not in taken and not leftover and not (allowed and name.startswith(allowed)):
            raise CheckpointError(
                f"{files.folder}: unexpected tensor {name!r}; the component is another "
                f"architecture or deeper than its config.json says"
            )


def resize_positions(table_ND: Tensor, patches: int) -> Tensor:
    """Interpolate a square grid of position embeddings (bicubic) to another tile size.

    Args:
        table_ND: ``(N, D)`` in row-major order.
        patches: Rows of the result, a square.

    Returns:
        ``(patches, D)``; the input itself when the sizes agree.
    """
    if len(table_ND) == patches:
        return table_ND
    old, new = math.isqrt(len(table_ND)), math.isqrt(patches)
    if old * old != len(table_ND):
        raise CheckpointError(f"{len(table_ND)} position embeddings do not form a square grid")
    grid = table_ND.float().T.reshape(1, -1, old, old)
    grid = F.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
    return grid.reshape(-1, patches).T


def grow_rows(table_VD: Tensor, rows: int) -> Tensor:
    """Append rows to a matrix, each the mean of its rows, as the released checkpoints were made."""
    mean = table_VD.float().mean(dim=0, keepdim=True)
    return torch.cat([table_VD.float(), mean.expand(rows - len(table_VD), -1)])
