"""Every value that the specification or a published run names, against the shipped recipes."""

from functools import reduce

import pytest
import yaml

from smolvlm2.config import find_recipe, load_config
from smolvlm2.training.recipe import Recipe

SIGLIP = "google/siglip-base-patch16-512"
SMOLLM2 = "HuggingFaceTB/SmolLM2-{}-Instruct"

SPECIFIED_MODEL = {
    "model.vision_encoder.name": SIGLIP,
    "model.vision_encoder.image_size": 384,
    "model.text_decoder.max_position_embeddings": 16384,
    "model.text_decoder.rope_theta": 273000,
    "model.connector.type": "pixel_shuffle",
    "model.connector.ratio": 3,
}
PUBLISHED_MODEL = {
    "model.vision_encoder.name": SIGLIP,
    "model.vision_encoder.image_size": 512,
    "model.text_decoder.max_position_embeddings": 8192,
    "model.text_decoder.rope_theta": 100000,
    "model.connector.ratio": 4,
    "model.tie_word_embeddings": False,
}
PUBLISHED_IMAGES = {
    "stage": "vision",
    "image.longest_edge": 2048,
    "image.upscale": "always",
    "image.random_tiles": True,
    "limits.max_tokens": 7000,
    "limits.max_turns": 7,
    "limits.turn_orders": 2,
    "training.reference_devices": 128,
    "training.learning_rate": 1e-4,
    "training.freeze_vision_encoder": False,
    "training.bf16": True,
    "training.gradient_checkpointing": True,
    "training.seed": 42,
    "optimizer.beta1": 0.9,
    "optimizer.beta2": 0.999,
    "optimizer.weight_decay": 0.1,
    "optimizer.max_grad_norm": 1.0,
    "schedule.type": "linear",
}
VALUES = {
    "model_256m": {**SPECIFIED_MODEL, "model.text_decoder.name": SMOLLM2.format("135M")},
    "model_500m": {**SPECIFIED_MODEL, "model.text_decoder.name": SMOLLM2.format("360M")},
    "train_vision_stage": {
        "stage": "vision",
        "training.per_device_train_batch_size": 8,
        "training.gradient_accumulation_steps": 4,
        "training.reference_devices": 8,
        "training.samples_per_step": 256,
        "training.learning_rate": 1e-4,
        "training.max_steps": 50000,
        "training.freeze_vision_encoder": True,
        "training.unfreeze_vision_after_steps": 10000,
        "training.bf16": True,
        "training.gradient_checkpointing": True,
        "schedule.type": "cosine",
    },
    "train_video_stage": {
        "stage": "video",
        "training.per_device_train_batch_size": 4,
        "training.gradient_accumulation_steps": 8,
        "training.reference_devices": 8,
        "training.samples_per_step": 256,
        "training.learning_rate": 2e-5,
        "training.max_steps": 30000,
        "training.freeze_vision_encoder": False,
        "video.max_frames": 32,
        "training.bf16": True,
        "training.gradient_checkpointing": True,
    },
    "published/model_256m": {**PUBLISHED_MODEL, "model.text_decoder.name": SMOLLM2.format("135M")},
    "published/model_500m": {**PUBLISHED_MODEL, "model.text_decoder.name": SMOLLM2.format("360M")},
    "published/train_vision_stage1": {
        **PUBLISHED_IMAGES,
        "training.per_device_train_batch_size": 2,
        "training.samples_per_step": 1024,
        "training.max_steps": 25750,
        "training.neftune_alpha": 0,
        "training.adapters.rank": 64,
        "training.adapters.alpha": 16,
        "training.adapters.dropout": 0.1,
        "training.adapters.trained_embeddings_from": 49152,
        "schedule.warmup_steps": 2000,
        "checkpoint.every_steps": 250,
    },
    "published/train_vision_stage2": {
        **PUBLISHED_IMAGES,
        "limits.max_images": 2,
        "training.per_device_train_batch_size": 4,
        "training.samples_per_step": 2048,
        "training.max_steps": 3000,
        "training.neftune_alpha": 5,
        "training.adapters": None,
        "schedule.warmup_steps": 100,
    },
    "published/train_vision_stage3": {
        **PUBLISHED_IMAGES,
        "limits.max_images": 2,
        "training.per_device_train_batch_size": 4,
        "training.samples_per_step": 8192,
        "training.max_steps": 2000,
        "training.neftune_alpha": 5,
        "training.adapters": None,
        "schedule.warmup_steps": 100,
        "schedule.min_fraction": 0,
    },
    "published/train_video_stage": {
        "stage": "video",
        "image.longest_edge": 2048,
        "image.upscale": "always",
        "image.random_tiles": False,
        "video.max_frames": 64,
        "video.fps": 1,
        "training.per_device_train_batch_size": 8,
        "training.gradient_accumulation_steps": 1,
        "training.samples_per_step": 512,
        "training.freeze_vision_encoder": False,
        "training.bf16": True,
        "training.gradient_checkpointing": True,
        "training.neftune_alpha": 0,
        "optimizer.vision_encoder_learning_rate": 5e-6,
        "optimizer.connector_learning_rate": 1e-4,
        "optimizer.text_decoder_learning_rate": 2e-5,
        "optimizer.weight_decay": 0,
        "optimizer.max_grad_norm": 1.0,
        "schedule.type": "cosine",
        "schedule.warmup_fraction": 0.03,
        "data.mixture.epochs": 1,
    },
}
"""By recipe. Source: the specification; docs/model.md and the published run's files."""

ACCELERATE = {
    "distributed_type": "FSDP",
    "fsdp_config.fsdp_sharding_strategy": "FULL_SHARD",
    "fsdp_config.fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
    "mixed_precision": "bf16",
    "num_processes": 8,
}

ROWS = [(name, key, value) for name, values in VALUES.items() for key, value in values.items()]


@pytest.fixture(scope="module")
def recipes():
    return {name: load_config(Recipe, find_recipe(name)) for name in VALUES}


@pytest.mark.parametrize(("name", "key", "value"), ROWS)
def test_a_recipe_has_the_value_of_its_source(recipes, name, key, value):
    assert reduce(getattr, key.split("."), recipes[name]) == value


@pytest.mark.parametrize(("key", "value"), ACCELERATE.items())
def test_the_launchers_yaml_has_the_specifications_values(key, value):
    content = yaml.safe_load(find_recipe("accelerate_config").read_text(encoding="utf-8"))
    assert reduce(dict.__getitem__, key.split("."), content) == value


def test_the_specifications_image_mixture_has_its_shares(recipes):
    entries = recipes["train_vision_stage"].data.mixture.entries
    weights = {entry.source: entry.weight for entry in entries}
    assert weights == {"the_cauldron": 35, "docmatix": 41, "llava_onevision": 24}


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("published/train_vision_stage1", 500_000),
        ("published/train_vision_stage2", 6_000),
        ("published/train_vision_stage3", 2_000),
    ],
)
def test_rates_follow_the_published_schedule_although_the_run_ends_earlier(
    recipes, name, published
):
    schedule, steps = recipes[name].schedule, recipes[name].training.max_steps
    warmup = schedule.warmup_steps
    for step in (0, warmup - 1, warmup, (warmup + steps) // 2, steps - 1):
        expected = (
            (step + 1) / warmup if step < warmup else (published - step - 1) / (published - warmup)
        )
        assert schedule.factor(step, steps) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("number", "groups"), [(1, [(3, 0.6), (2, 0.4)]), (2, [(2, 0.3), (1, 0.7)])]
)
def test_stand_in_mixtures_keep_the_published_groups(recipes, number, groups):
    shares = recipes[f"published/train_vision_stage{number}"].data.mixture.shares
    for count, share in groups:
        assert sum(shares[:count]) == pytest.approx(share)
        shares = shares[count:]
    assert not shares
