"""Tiny models, and transformers' model with the same weights."""

import pytest
import torch

from smolvlm2.model.config import SmolVLMConfig, TextConfig, VisionConfig
from smolvlm2.model.smolvlm import SmolVLM


@pytest.fixture
def make_config():
    """Builder of a two-layer configuration: 16 patches of 8 px a side ``ratio * 2``."""

    def make(*, ratio=2, tied=False, image_token_id=90, **text):
        return SmolVLMConfig(
            vision=VisionConfig(
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=4,
                image_size=ratio * 2 * 8,
                patch_size=8,
            ),
            text=TextConfig(
                **{
                    "hidden_size": 32,
                    "intermediate_size": 64,
                    "num_hidden_layers": 2,
                    "num_attention_heads": 4,
                    "num_key_value_heads": 2,
                    "head_dim": 8,
                    "vocab_size": 96,
                    "max_position_embeddings": 256,
                }
                | text
            ),
            scale_factor=ratio,
            tie_word_embeddings=tied,
            image_token_id=image_token_id,
            eos_token_id=95,
        )

    return make


@pytest.fixture
def make_model(make_config):
    """Builder of a random model whose weights are large enough for outputs to differ."""

    def make(*, seed=0, **options):
        model = SmolVLM.from_random(make_config(**options), seed=seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(
                    torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed + 1))
                    * 0.05
                )
        return model

    return make


@pytest.fixture
def to_transformers(tmp_path_factory):
    """Export a model and load it in transformers."""

    def convert(model):
        from transformers import AutoModelForImageTextToText

        folder = tmp_path_factory.mktemp("export")
        model.save_pretrained(folder)
        theirs, report = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True
        )
        assert not report["missing_keys"]
        assert not report["mismatched_keys"]
        return theirs.eval()

    return convert


@pytest.fixture
def make_batch():
    """Builder of a padded batch: row ``i`` has ``tiles[i]`` tiles; both padding sides."""

    def make(config, tiles=(2, 0, 3), *, side="right", seed=0):
        generator = torch.Generator().manual_seed(seed)
        tokens = config.tokens_per_tile
        rows = []
        for index, count in enumerate(tiles):
            text = torch.randint(3, 80, (7 + 3 * index,), generator=generator)
            image = torch.full((count * tokens,), config.image_token_id)
            rows.append(torch.cat([text[:3], image, text[3:]]))
        length = max(len(row) for row in rows)
        ids = torch.full((len(rows), length), config.pad_token_id)
        mask = torch.zeros_like(ids)
        for index, row in enumerate(rows):
            span = slice(length - len(row), length) if side == "left" else slice(len(row))
            ids[index, span], mask[index, span] = row, 1
        side_px = config.vision.image_size
        shape = (len(tiles), max(1, *tiles), 3, side_px, side_px)
        pixels = torch.rand(shape, generator=generator) * 2 - 1
        for index, count in enumerate(tiles):
            pixels[index, count:] = 0
        return {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels}

    return make
