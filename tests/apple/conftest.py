"""A tiny model with its tokenizer, drawn samples, and the same model in torch."""

import importlib.util

import numpy as np
import pytest
from PIL import Image

from smolvlm2.apple.drawn_samples import write_drawn_samples
from smolvlm2.model.config import SmolVLMConfig, TextConfig, VisionConfig
from smolvlm2.processing.processor import Processor
from smolvlm2.processing.tiling import ImageSettings
from smolvlm2.processing.tokenizer import extend_for_images
from smolvlm2.processing.tokenizer_training import train_base_tokenizer

CORPUS = (
    "User: Assistant: System: Which shape is this? What colour is it? A red circle. A blue square.",
    "You are provided the following series of three frames from a 0:00:03 [H:MM:SS] video.\n",
    "\nFrame from 00:01:",
)


def pytest_collection_modifyitems(items):
    """Skip by ``mlx.core``: the folder mlx/ of the clone can pass for the package mlx."""
    spec = importlib.util.find_spec
    missing = spec("mlx") is None or spec("mlx.core") is None or spec("mlx_vlm") is None
    for item in items:
        if missing and item.get_closest_marker("mlx"):
            item.add_marker(pytest.mark.skip(reason="needs mlx and mlx-vlm"))


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    train_base_tokenizer(CORPUS * 4, folder, vocab_size=400)
    return extend_for_images(folder, model_max_length=512)


@pytest.fixture(scope="session")
def config(tokenizer):
    """Twelve patches a side: not a power of two, where float32 positions would go wrong."""
    special = tokenizer.special
    return SmolVLMConfig(
        vision=VisionConfig(
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=48,
            patch_size=4,
        ),
        text=TextConfig(
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            vocab_size=tokenizer.vocab_size,
            max_position_embeddings=512,
            rope_theta=273000.0,
        ),
        scale_factor=3,
        image_token_id=special.image,
        eos_token_id=special.end_of_utterance,
        pad_token_id=special.pad,
        bos_token_id=special.bos,
    )


@pytest.fixture(scope="session")
def processor(config, tokenizer):
    return Processor.for_model(config, tokenizer, image=ImageSettings(longest_edge=96))


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory, config, processor):
    """Random weights, large enough for outputs to differ; saved by the torch side."""
    torch = pytest.importorskip("torch")
    from smolvlm2.model.smolvlm import SmolVLM

    model = SmolVLM.from_random(config, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    folder = tmp_path_factory.mktemp("checkpoint")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def drawn(tmp_path_factory):
    """A folder with train.jsonl, images and a clip."""
    folder = tmp_path_factory.mktemp("drawn")
    write_drawn_samples(folder, rows=12, size=64)
    return folder


@pytest.fixture
def picture():
    """``picture(width, height)``: an RGB image with shapes."""

    def make(width, height):
        generator = np.random.default_rng(width * 1009 + height)
        coarse = generator.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
        return Image.fromarray(coarse.repeat(8, axis=0).repeat(8, axis=1)[:height, :width].copy())

    return make


@pytest.fixture
def conversation(picture):
    """``conversation(sizes, turns)``: images of these sizes, then turns of question and answer."""

    def make(sizes, turns=1):
        content = [{"type": "image", "image": picture(*size)} for size in sizes]
        messages = []
        for turn in range(turns):
            question = {"type": "text", "text": f"Which shape is number {turn}?"}
            content = [*content, question] if turn == 0 else [question]
            answer = [{"type": "text", "text": f"A red circle, {turn} of {len(sizes)}."}]
            messages += [
                {"role": "user", "content": content},
                {"role": "assistant", "content": answer},
            ]
        return messages

    return make
