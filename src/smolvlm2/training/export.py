"""Hugging Face files of any checkpoint or of an average, behind a comparison of logits.

An export counts when the files, read back, give the logits of the weights that they were written
from. Until then they lie in a folder of their own.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor

from smolvlm2.config import load_config
from smolvlm2.errors import CheckpointError, CheckpointNotFoundError
from smolvlm2.model.config import SmolVLMConfig
from smolvlm2.model.hf_format import load_model, save_model
from smolvlm2.model.hub import resolve_checkpoint
from smolvlm2.model.sharded_files import METADATA, STATE_FILE, load_sharded, verify_files
from smolvlm2.model.smolvlm import SmolVLM
from smolvlm2.processing.processor import Processor
from smolvlm2.training.adapters import are_adapters, merge_adapters
from smolvlm2.training.parallelize import whole_model
from smolvlm2.training.recipe import Recipe
from smolvlm2.training.run_folder import RunFolder

TOLERANCE = 1e-5
"""Largest difference of logits between weights and files, relative to the largest logit."""
UNFINISHED = ".export.partial"
CARD = "README.md"


def export_checkpoint(
    checkpoint: str | Path, out: str | Path, *, scores: str | None = None
) -> None:
    """Write a run, step folder or Hugging Face checkpoint in Hugging Face format.

    Adapters in a step folder are merged. What comes from a run gets a model card.

    Args:
        checkpoint: Where it is.
        out: Folder to write to.
        scores: Markdown for the model card.

    Raises:
        CheckpointNotFoundError: No checkpoint there.
        CheckpointError: It is broken, or the files do not give its logits.
    """
    folder = resolve_checkpoint(checkpoint, patterns=("*.json", "*.safetensors", "*.jinja"))
    config, weights = read_weights(folder)
    from smolvlm2.training.model_card import card_for  # reads the catalogue; a run needs neither

    card = card_for(Path(out), folder, config, scores=scores)
    write_export(config, weights, Processor.from_pretrained(folder), Path(out), card=card)


def average_checkpoints(run: str | Path, steps: Sequence[int], out: str | Path) -> None:
    """Write the mean of the weights of several steps of a run in Hugging Face format.

    Raises:
        CheckpointNotFoundError: The run has no checkpoint of one of the steps.
        CheckpointError: There is nothing to average, or the shapes differ.
    """
    if len(set(steps)) < 2:
        raise CheckpointError(f"{run}: an average needs two different steps, found {list(steps)}")
    there = {int(path.name.removeprefix("step-")): path for path in RunFolder(run).steps()}
    for step in steps:
        if step not in there:
            known = ", ".join(map(str, there)) or "none"
            raise CheckpointNotFoundError(f"{run}: no checkpoint of step {step}; it has {known}")
    folders = [resolve_checkpoint(there[step]) for step in set(steps)]
    config, total = read_weights(folders[0])
    total = {name: tensor.double() for name, tensor in total.items()}
    for folder in folders[1:]:
        other, weights = read_weights(folder)
        if other != config:
            raise CheckpointError(f"{folder}: has other shapes than {folders[0]}")
        for name, tensor in weights.items():
            total[name] += tensor
    mean = {name: (tensor / len(folders)).float() for name, tensor in total.items()}
    from smolvlm2.training.model_card import card_for

    card = card_for(Path(out), there[max(steps)], config, averaged=steps)
    write_export(config, mean, Processor.from_pretrained(folders[0]), Path(out), card=card)


def read_weights(folder: Path) -> tuple[SmolVLMConfig, dict[str, Tensor]]:
    """Shapes and whole weights of a checkpoint folder, under the model's own names.

    Raises:
        CheckpointError: A file is not as it was written; or it has adapters, and the run's recipe
            that says how to merge is missing.
    """
    config = SmolVLMConfig.from_folder(folder)
    if list(folder.glob("*.safetensors")) or not (folder / METADATA).is_file():
        model = load_model(folder)
        return config, {name: p.detach() for name, p in model.named_parameters()}
    verify_files(folder)
    stored = dcp.FileSystemReader(folder).read_metadata().state_dict_metadata
    weights = {
        name.removeprefix("model."): torch.empty(facts.size)  # type: ignore[union-attr]
        for name, facts in stored.items()
        if name.startswith("model.")
    }
    load_sharded({"model": weights}, folder)
    if not are_adapters(weights):
        return config, weights
    recipe = folder.resolve().parent.parent / "config.yaml"
    adapters = load_config(Recipe, recipe).training.adapters if recipe.is_file() else None
    if adapters is None:
        raise CheckpointError(
            f"{folder}: has adapters, and {recipe} does not say how they are scaled; export it "
            f"from inside its run folder"
        )
    return config, merge_adapters(weights, adapters.alpha / adapters.rank)


def write_export(
    config: SmolVLMConfig,
    weights: dict[str, Tensor],
    processor: Processor,
    out: Path,
    *,
    card: str | None = None,
) -> None:
    """Write files beside ``out``'s, compare their logits, and move them to their places.

    Args:
        config: Shapes.
        weights: Under the model's own names.
        processor: Whose files go with them.
        out: Folder to write to.
        card: Text of a ``README.md``; None writes none.

    Raises:
        CheckpointError: They cannot be written, or give other logits than the weights; or ``out``
            is a step folder.
    """
    if (out / STATE_FILE).is_file():
        raise CheckpointError(
            f"{out}: is a step folder, from which its run could not go on with other files in it; "
            f"choose another folder"
        )
    unfinished = out / UNFINISHED
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        model = whole_model(config, weights, torch.device("cpu"))
        save_model(model, unfinished, weights)
        processor.save_pretrained(unfinished)
        if card is not None:
            (unfinished / CARD).write_text(card, encoding="utf-8")
        check_export(model, unfinished)
        for path in sorted(unfinished.iterdir()):
            os.replace(path, out / path.name)
    except OSError as error:
        raise CheckpointError(
            f"{out}: the export could not be written ({error.strerror}); free space and start "
            f"again: the last checkpoint is whole"
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def check_export(model: SmolVLM, folder: Path) -> None:
    """Compare the logits of files with those of the weights they were written from.

    Raises:
        CheckpointError: They differ; says by how much.
    """
    expected = _logits(model)
    found = _logits(load_model(folder, dtype=model.dtype))
    apart = float((found - expected).abs().max() / expected.abs().max())
    if not apart <= TOLERANCE:
        raise CheckpointError(
            f"{folder.parent}: the exported files give logits {apart:.1e} apart from the weights' "
            f"(at most {TOLERANCE:.0e}); nothing was replaced. Export again; if it stays, the disk "
            f"is not to be trusted"
        )


@torch.no_grad()
def _logits(model: SmolVLM) -> Tensor:
    """Of a fixed conversation with one tile."""
    config, vision = model.config, model.config.vision
    ramp = torch.arange(vision.num_channels * vision.image_size**2) % 251
    tile = ramp.to(torch.uint8).view(1, vision.num_channels, vision.image_size, vision.image_size)
    text = torch.arange(32) * 97 % min(config.image_token_id, config.text.vocab_size)
    visual = torch.full((config.tokens_per_tile,), config.image_token_id)
    ids = torch.cat([torch.tensor([config.bos_token_id]), visual, text])[None]
    logits = model.eval()(ids, tile).logits
    assert logits is not None
    return logits.float()
