"""A pack as arrays, and its loss through the real model."""

from dataclasses import fields

import numpy as np
import pytest
import torch

from smolvlm2.data.media import MediaStore
from smolvlm2.errors import DataError
from smolvlm2.loading.micro_batch import (
    BLANK,
    NO_SAMPLE,
    PackBuffers,
    PackSample,
    PackShape,
    assemble,
    sample_weights,
)
from smolvlm2.plan.packs import Capacity
from smolvlm2.plan.plan import Position
from smolvlm2.processing.processor import ProcessedSample

IMAGE, PAD, TILE, VISUAL = 90, 2, 8, 4
TENSORS = (
    *("input_ids", "positions", "document_ids", "cu_seqlens", "loss_positions"),
    *("loss_targets", "loss_weights", "pixel_values", "tile_slots"),
)


def sample(number, length, tiles, supervised, *, planned=None):
    ids = np.arange(length, dtype=np.int32) + 3 + 20 * number
    ids[1 : 1 + tiles * VISUAL] = IMAGE
    mask = np.zeros(length, dtype=bool)
    mask[list(supervised)] = True
    pixels = np.full((tiles, 3, TILE, TILE), number + 1, dtype=np.uint8)
    return PackSample(
        sample_id=f"s/{number}",
        sample=ProcessedSample(ids, mask, pixels),
        tokens=planned or length,
        tiles=tiles,
        modality=1 if tiles else 0,
    )


def lay(samples, loss_weight="token", *, buffers=None, **capacity):
    shape = PackShape(
        capacity=Capacity(**{"tokens": 32, "tiles": 4, "documents": 3} | capacity),
        tile_size=TILE,
        tokens_per_tile=VISUAL,
    )
    buffers = buffers or PackBuffers.allocate(shape)
    facts = assemble(
        samples, buffers, image_token_id=IMAGE, pad_token_id=PAD, loss_weight=loss_weight
    )
    return facts.batch(buffers)


def run(model, pack):
    model.zero_grad()
    tensors = {name: torch.from_numpy(getattr(pack, name)) for name in TENSORS}
    output = model(**tensors, max_length=512)
    output.loss_sum.backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return output.loss_sum.detach(), gradients


def test_samples_lie_one_behind_the_other_and_the_rest_is_filler():
    pack = lay([sample(0, 10, 1, [7, 8, 9]), sample(1, 6, 0, [4, 5])])
    assert pack.cu_seqlens.tolist() == [0, 10, 16, 16, 32]
    assert pack.positions.tolist() == [*range(10), *range(6), *range(16)]
    assert pack.document_ids.tolist() == [0] * 10 + [1] * 6 + [3] * 16
    assert pack.tile_slots.tolist() == [1, 2, 3, 4, *[32] * 12]
    assert (pack.input_ids[16:] == PAD).all()
    assert (pack.pixel_values[0] == 1).all()
    assert (pack.pixel_values[1:] == BLANK).all()
    assert (pack.tokens, pack.tiles, pack.sample_ids) == (16, 1, ["s/0", "s/1"])
    real = pack.loss_weights > 0
    assert pack.loss_positions[real].tolist() == [6, 7, 8, 13, 14]
    assert pack.loss_targets[real].tolist() == pack.input_ids[[7, 8, 9, 14, 15]].tolist()


def test_memory_is_used_for_one_pack_after_the_other():
    full = lay([sample(0, 20, 3, range(13, 20)), sample(1, 12, 1, [9])], tokens=1600)
    shape = PackShape(
        capacity=Capacity(tokens=1600, tiles=4, documents=3), tile_size=TILE, tokens_per_tile=VISUAL
    )
    buffers = PackBuffers.allocate(shape)
    many = [sample(0, 20, 3, range(13, 20)), sample(6, 1100, 1, range(6, 1000))]
    for samples in (many, [sample(2, 5, 0, [4])], many[:1], []):
        again, fresh = lay(samples, buffers=buffers), lay(samples, tokens=1600)
        for field in fields(fresh):
            np.testing.assert_array_equal(
                getattr(again, field.name), getattr(fresh, field.name), err_msg=field.name
            )
    assert full.pixel_values.shape == again.pixel_values.shape


def test_only_tiles_that_were_written_are_made_grey():
    buffers = PackBuffers.allocate(
        PackShape(
            capacity=Capacity(tokens=32, tiles=4, documents=3), tile_size=TILE, tokens_per_tile=4
        )
    )
    lay([sample(0, 10, 2, [9])], buffers=buffers)
    buffers.pixel_values[3] = 7  # never written to by a pack, so it is not looked after
    buffers.begin_sample(0, first_tile=0, tiles=1)
    number, seconds = buffers.reading()
    assert (number, 0 <= seconds < 60) == (0, True)
    assert (lay([], buffers=buffers).pixel_values[:3] == BLANK).all()
    assert (buffers.pixel_values[3] == 7).all()
    buffers.forget()
    assert buffers.reading()[0] == NO_SAMPLE
    assert (lay([], buffers=buffers).pixel_values == BLANK).all()


def test_the_first_token_of_a_document_is_never_a_target():
    pack = lay([sample(0, 5, 0, [4]), sample(1, 5, 0, [0, 4])])
    assert pack.loss_positions[pack.loss_weights > 0].tolist() == [3, 8]


@pytest.mark.parametrize(
    ("kind", "weights"),
    [("token", [1] * 5), ("sample", [1 / 4] * 4 + [1]), ("sqrt", [1 / 2] * 4 + [1])],
)
def test_loss_weights_follow_the_recipe(kind, weights):
    pack = lay([sample(0, 10, 1, [6, 7, 8, 9]), sample(1, 6, 0, [5])], kind)
    np.testing.assert_allclose(pack.loss_weights[pack.loss_weights > 0], weights, rtol=1e-6)
    assert sample_weights(kind, np.array([4, 1])).sum() == pytest.approx(sum(weights))
    assert sample_weights(kind, np.array([0])) == 0


def test_more_targets_than_a_chunk_make_another_chunk():
    pack = lay([sample(0, 700, 0, range(100, 700))], tokens=800)
    assert pack.loss_targets.shape == (2, 512)
    assert pack.loss_weights.sum() == 600


def test_stale_geometry_is_an_error():
    with pytest.raises(DataError, match=r"'s/0' has 10 tokens and 1 tiles, but .* run: smolvlm2"):
        lay([sample(0, 10, 1, [9], planned=11)])


@pytest.mark.parametrize("samples", [0, 2])
def test_an_empty_pack_and_one_without_tiles_keep_a_tile_when_trimmed(samples):
    pack = lay([sample(number, 5, 0, [4]) for number in range(samples)]).trimmed()
    assert pack.pixel_values.shape == (1, 3, TILE, TILE)
    length = max(1, 5 * samples)
    assert pack.input_ids.shape == (length,)
    assert pack.tile_slots.tolist() == [length] * VISUAL
    assert pack.cu_seqlens[-1] == length


def test_trimming_spreads_supervised_positions_over_their_chunks():
    pack = lay([sample(0, 700, 0, range(99, 700))], tokens=800)
    trimmed = pack.trimmed()
    assert trimmed.loss_targets.shape == (2, 301)
    for name in ("loss_positions", "loss_targets", "loss_weights"):
        values = getattr(trimmed, name).reshape(-1)
        np.testing.assert_array_equal(values, getattr(pack, name).reshape(-1)[: len(values)])
    assert trimmed.loss_weights.sum() == pack.loss_weights.sum() == 601
    assert lay([]).trimmed().loss_weights.tolist() == [[0]]


@pytest.mark.parametrize("number", range(4))
def test_trimming_changes_neither_loss_nor_gradients(model, make_reader, number):
    data, reader = make_reader()
    pack = data.plan.packs_of_window(0)[number]
    batch, _ = reader.read(pack)
    loss, gradients = run(model, batch)
    short, trimmed = run(model, batch.trimmed())
    assert len(batch.trimmed().input_ids) == batch.tokens <= len(batch.input_ids)
    torch.testing.assert_close(short, loss)
    assert gradients.keys() == trimmed.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(trimmed[name], gradient, atol=2e-5, rtol=1e-4)


def test_a_packs_loss_is_the_sum_of_its_samples_through_the_public_interface(model, make_reader):
    data, reader = make_reader()
    packs, _ = data.plan.step(Position())
    assert len(packs) > 1
    total, gradients = 0.0, {}
    conversations = []
    for pack in packs:
        loss, part = run(model, reader.read(pack)[0].trimmed())
        total += loss
        gradients = {name: gradients.get(name, 0) + value for name, value in part.items()}
        rows = pack.samples.column(data.tables, "rows")
        for source, row in zip(pack.samples.source.tolist(), rows.tolist(), strict=True):
            item = data.manifests[source].row(row)
            media = iter(MediaStore(data.manifests[source].data_root).read(m) for m in item.media)
            conversations.append(
                [
                    {
                        "role": message["role"],
                        "content": [
                            part
                            if part["type"] == "text"
                            else {"type": part["type"], part["type"]: next(media)}
                            for part in message["content"]
                        ],
                    }
                    for message in item.messages
                ]
            )
    processor = reader.processor
    with torch.no_grad():
        each = [model(**processor(one, labels=True)).loss_sum for one in conversations]
    torch.testing.assert_close(total, torch.stack(each).sum(), rtol=1e-5, atol=1e-5)
    # One big padded batch: its mean has the gradient of the step divided by the global count.
    model.zero_grad()
    output = model(**processor(conversations, labels=True))
    output.loss.backward()
    for name, parameter in model.named_parameters():
        step = gradients[name] / output.num_tokens
        torch.testing.assert_close(step, parameter.grad, atol=2e-6, rtol=1e-4)
