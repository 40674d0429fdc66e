"""Padded batches and their tiles: what fits together, and what is refused."""

import pytest
import torch

from smolvlm2.errors import PromptError


def test_tiles_that_do_not_match_the_image_tokens_are_rejected(make_model, make_batch):
    model = make_model()
    batch = make_batch(model.config, tiles=(2, 1))
    flat = batch | {"pixel_values": torch.zeros(2, 3, 32, 32)}
    with pytest.raises(PromptError, match="12 <image> tokens but 2 tiles"):
        model(**flat)
    with pytest.raises(PromptError, match="row 0 has 8 <image> tokens"):
        model(**(batch | {"pixel_values": batch["pixel_values"][:, :1]}))
    with pytest.raises(PromptError, match="12 <image> tokens but 0 tiles"):
        model(batch["input_ids"])


def test_the_mask_of_transformers_processors_is_taken_and_looked_through(make_model, make_batch):
    model = make_model()
    batch = make_batch(model.config, tiles=(2, 1))
    mask = torch.ones(2, 2, 32, 32, dtype=torch.int64)
    mask[1, 1] = 0
    with torch.no_grad():
        found = model(**batch, pixel_attention_mask=mask).logits
        assert torch.equal(found, model(**batch).logits)
    options = {"max_new_tokens": 4, "stop_token_ids": []}
    assert model.generate(**batch, **options, pixel_attention_mask=mask) == model.generate(
        **batch, **options
    )
    mask[0, 1, 20:] = 0
    for use in (model, model.generate):
        with pytest.raises(PromptError, match="masks a part of a tile; expected whole tiles"):
            use(**batch, pixel_attention_mask=mask)


def test_an_empty_row_is_rejected(make_model):
    with pytest.raises(PromptError, match="row 1 of the batch is empty"):
        make_model()(
            torch.zeros(2, 3, dtype=torch.long), attention_mask=torch.tensor([[1, 1, 1], [0, 0, 0]])
        )


def test_tiles_of_another_size_are_rejected(make_model, make_batch):
    model = make_model()
    batch = make_batch(model.config, tiles=(1,)) | {"pixel_values": torch.zeros(1, 3, 16, 16)}
    with pytest.raises(ValueError, match="this encoder reads tiles of 32 px"):
        model(**batch)
