"""The estimate: sizes, choices, constants that two files share, and one measured step."""

from dataclasses import replace

import pytest

from smolvlm2.apple import memory
from smolvlm2.apple.lora_settings import AdapterSettings
from smolvlm2.apple.memory import MemoryCase, describe, estimate, fit_in, parse_size
from smolvlm2.apple.published import PUBLISHED
from smolvlm2.errors import ConfigError

SPLIT = {"length": 17 * 64 + 128, "supervised": 128, "tiles": 34, "batch": 2}
"""Two samples of one split image each."""


def case(size="256m", **options):
    return MemoryCase(config=PUBLISHED[size].config, **(SPLIT | options))


@pytest.mark.parametrize(("size", "parameters"), [("256m", 2_442_240), ("500m", 4_341_760)])
def test_adapters_are_counted_as_mlx_counts_them(size, parameters):
    adapters = AdapterSettings(rank=8)
    assert memory.adapter_parameters(PUBLISHED[size].config, adapters) == parameters


def test_dora_adds_a_length_a_row():
    config = PUBLISHED["256m"].config
    plain = memory.adapter_parameters(config, AdapterSettings(targets=["q_proj"]))
    dora = memory.adapter_parameters(config, AdapterSettings(kind="dora", targets=["q_proj"]))
    assert dora - plain == 30 * 576


@pytest.mark.parametrize("size", ["256m", "500m"])
def test_weights_are_the_published_counts_times_their_bytes(size):
    published = PUBLISHED[size]
    found = estimate(case(size, bytes_per_weight=4)).weights
    assert found == 4 * published.parameters


@pytest.mark.parametrize(("size", "limit"), [("256m", 4e9), ("500m", 6e9)])
def test_batch_2_with_split_images_at_4_bit_fits_the_specifications_figures(size, limit):
    fitting = estimate(case(size, bits=4, checkpointing=True)).total
    assert fitting < limit
    # Without checkpointing the decoder alone is over it.
    assert estimate(case(size, bits=4)).total > limit


def test_fit_in_prefers_checkpointing_to_quantising_to_a_smaller_batch():
    asked = case("500m")
    assert fit_in(int(64e9), asked) == asked
    first = fit_in(int(2.5e9), asked)
    assert (first.batch, first.bits, first.checkpointing) == (2, None, True)
    tight = fit_in(int(1.8e9), asked)
    assert (tight.batch, tight.checkpointing) == (2, True)
    assert tight.bits in (4, 8)
    least = fit_in(int(1.3e9), asked)
    assert (least.batch, least.tiles, least.supervised) == (1, 17, 64)
    for limit in (2.5e9, 1.8e9, 1.3e9):
        assert estimate(fit_in(int(limit), asked)).total <= limit
    with pytest.raises(ConfigError, match=r"--fit-in 0\.2 GB: one sample of 1216 tokens .* need"):
        fit_in(int(2e8), asked)


def test_a_quantised_base_stays_as_it_was_asked():
    assert fit_in(int(1.6e9), case("500m", bits=4)).bits == 4


@pytest.mark.parametrize(
    ("text", "size"), [("16GB", 16 * 10**9), ("1.5 gb", 15 * 10**8), ("2GiB", 2 * 2**30)]
)
def test_sizes_are_read(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["16", "much", "-1GB", "GB"])
def test_other_sizes_are_refused(text):
    with pytest.raises(ConfigError, match="is not understood; expected something like 16GB"):
        parse_size(text)


def test_the_description_holds_every_part_and_the_formula():
    text = describe(case(bits=4))
    for name in ("weights", "adapters", "vision", "activations", "logits", "peak = weights"):
        assert name in text
    assert "not measured on Apple hardware" in text


def test_more_of_anything_needs_no_less():
    base = estimate(case()).total
    for name in ("batch", "length", "supervised", "tiles"):
        assert estimate(replace(case(), **{name: 2 * SPLIT[name]})).total >= base


@pytest.mark.mlx
def test_constants_are_those_of_the_model():
    from smolvlm2.apple import model

    assert (memory.TILE_CHUNK, memory.LOSS_CHUNK) == (model.TILE_CHUNK, model.LOSS_CHUNK)


@pytest.mark.mlx
def test_the_estimate_is_near_what_mlx_measures():
    """Widths of 256M, two layers, a small vocabulary; more in ``benchmarks/apple_memory.py``."""
    import mlx.core as mx
    import mlx.optimizers as optim
    import numpy as np

    from smolvlm2.apple import adapters
    from smolvlm2.apple.batches import LoraBatch
    from smolvlm2.apple.model import SmolVLM
    from smolvlm2.apple.training import loss_and_gradients

    full = PUBLISHED["256m"].config
    config = replace(
        full,
        text=replace(full.text, num_hidden_layers=2, vocab_size=2048),
        vision=replace(full.vision, num_hidden_layers=1),
        image_token_id=3,
    )
    step = MemoryCase(config=config, length=160, supervised=32, tiles=0, bytes_per_weight=4)
    others = mx.get_active_memory()
    model = SmolVLM(config)
    mx.eval(model.parameters())
    adapters.add(model, step.adapters, seed=0)
    optimizer = optim.AdamW(learning_rate=1e-4)
    optimizer.init(model.trainable_parameters())
    places = mx.arange(step.supervised)
    batch = LoraBatch(
        input_ids=mx.arange(step.length)[None] + 4,
        tiles=np.zeros((0, 3, 512, 512), np.uint8),
        slots=mx.array([], mx.int32),
        positions=places,
        targets=places + 4,
    )
    mx.clear_cache()
    mx.reset_peak_memory()
    value, gradients = loss_and_gradients(model, batch)
    mx.eval(value, gradients)
    optimizer.update(model, gradients)
    mx.eval(model.trainable_parameters(), optimizer.state)
    # Beyond the base: its weights would hide an error in the rest.
    found = mx.get_peak_memory() - others - estimate(step).weights
    assert estimate(step).total - estimate(step).weights == pytest.approx(found, rel=0.1)
