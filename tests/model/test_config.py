"""Shapes: derived numbers, both directions of config.json, and what is refused."""

import pytest

from smolvlm2.errors import CheckpointError, ConfigError
from smolvlm2.model.config import SmolVLMConfig, TextConfig, VisionConfig


@pytest.mark.parametrize(
    ("side", "ratio", "tokens"), [(512, 4, 64), (384, 3, 64), (384, 4, 36), (512, 2, 256)]
)
def test_tokens_per_tile_follow_from_tile_patch_and_ratio(side, ratio, tokens):
    config = SmolVLMConfig(vision=VisionConfig(image_size=side), scale_factor=ratio)
    assert config.tokens_per_tile == tokens


def test_to_hf_and_back_keeps_every_field(make_config):
    config = make_config(rope_theta=273000.0, tied=True)
    assert SmolVLMConfig.from_hf(config.to_hf()) == config


def test_rope_base_and_tying_are_written_where_every_reader_looks(make_config):
    written = make_config(rope_theta=273000.0, tied=True).to_hf()
    assert written["text_config"]["rope_theta"] == 273000.0
    assert written["text_config"]["rope_parameters"]["rope_theta"] == 273000.0
    assert written["tie_word_embeddings"] is written["text_config"]["tie_word_embeddings"] is True


def test_the_published_500m_layout_is_read():
    """Keys as the hub's file has them: sparse, legacy RoPE key, a pad id outside the vocabulary."""
    config = SmolVLMConfig.from_hf(
        {
            "model_type": "smolvlm",
            "image_token_id": 49190,
            "scale_factor": 4,
            "pad_token_id": 128002,
            "tie_word_embeddings": False,
            "text_config": {
                "hidden_size": 960,
                "intermediate_size": 2560,
                "num_attention_heads": 15,
                "num_hidden_layers": 32,
                "num_key_value_heads": 5,
                "head_dim": 64,
                "max_position_embeddings": 8192,
                "rms_norm_eps": 1e-05,
                "rope_theta": 100000,
                "vocab_size": 49280,
                "pad_token_id": 2,
            },
            "vision_config": {
                "hidden_size": 768,
                "image_size": 512,
                "num_attention_heads": 12,
                "patch_size": 16,
                "model_type": "smolvlm_vision",
            },
        }
    )
    assert config.text == TextConfig(
        hidden_size=960,
        intermediate_size=2560,
        num_hidden_layers=32,
        num_attention_heads=15,
        num_key_value_heads=5,
    )
    assert config.vision == VisionConfig()
    assert config.pad_token_id == 2


def test_keys_left_out_mean_the_class_defaults_of_transformers():
    """transformers 4.47, which wrote the published files, leaves out what equals a class default:
    the 500M's 32 layers are not in a file that it writes."""
    shapes = pytest.importorskip("transformers").SmolVLMConfig(
        text_config={"model_type": "llama"}, vision_config={}
    )
    config = SmolVLMConfig.from_hf(
        {
            "model_type": "smolvlm",
            "image_token_id": 49190,
            "scale_factor": 7,
            "text_config": {"hidden_size": 4096},
            "vision_config": {},
        }
    )
    assert config.text.num_hidden_layers == 32
    for ours, theirs in (
        (config.text, shapes.text_config),
        (config.vision, shapes.vision_config),
    ):
        for name, value in vars(ours).items():
            if name != "rope_theta":
                assert value == getattr(theirs, name), name
    assert config.text.rope_theta == shapes.text_config.rope_parameters["rope_theta"]


@pytest.mark.parametrize(
    ("text", "top", "generation", "expected"),
    [
        ({"eos_token_id": 2}, {}, {"eos_token_id": 95}, 95),  # as transformers 5 saves it
        ({"eos_token_id": 2}, {}, {"eos_token_id": [2, 95]}, 95),
        ({"eos_token_id": 2}, {}, {"eos_token_id": 2}, 95),  # ... without its generation settings
        ({"eos_token_id": 2}, {"eos_token_id": 90}, None, 90),
        ({}, {}, {"eos_token_id": 91}, 91),
        ({"eos_token_id": 92}, {}, None, 92),
        ({}, {}, None, 95),
    ],
)
def test_an_answer_never_ends_with_the_padding(make_config, text, top, generation, expected):
    """Llama's own end token, which transformers 5 writes for one that is not named, is padding."""
    values = make_config().to_hf()
    values["text_config"] |= {"vocab_size": 96, "pad_token_id": 2, "eos_token_id": None} | text
    values |= {"eos_token_id": None} | top
    assert SmolVLMConfig.from_hf(values, generation=generation).eos_token_id == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "llava"}, "model_type is 'llava', expected 'smolvlm'"),
        ({"scale_factor": None}, "scale_factor"),
        ({"vision_config": None}, "vision_config"),
    ],
)
def test_another_config_json_is_rejected(make_config, change, message):
    values = make_config().to_hf() | change
    values = {key: value for key, value in values.items() if value is not None}
    with pytest.raises(CheckpointError, match=message):
        SmolVLMConfig.from_hf(values)


def test_scaled_rope_is_rejected(make_config):
    values = make_config().to_hf()
    values["text_config"]["rope_parameters"] = {"rope_type": "linear", "factor": 2.0}
    with pytest.raises(CheckpointError, match="scaled RoPE"):
        SmolVLMConfig.from_hf(values)


def test_shapes_that_contradict_each_other_are_rejected():
    with pytest.raises(ConfigError, match="not a multiple of patch_size"):
        VisionConfig(image_size=500)
    with pytest.raises(ConfigError, match="not a multiple of num_attention_heads"):
        VisionConfig(num_attention_heads=7)
    with pytest.raises(ConfigError, match="num_key_value_heads"):
        TextConfig(num_key_value_heads=2)
    with pytest.raises(ConfigError, match="ratio 3 does not divide"):
        SmolVLMConfig(scale_factor=3)
