"""What the demo starts from: texts, a tokenizer, small components, prepared sources."""

import json
from collections.abc import Iterable
from pathlib import Path

import pyarrow.parquet as pq

from smolvlm2.data.prepare import prepare_source
from smolvlm2.data.sources.catalogue import DEMO_SOURCES
from smolvlm2.model.config import TextConfig, VisionConfig
from smolvlm2.model.random_components import write_random_components
from smolvlm2.processing.tokenizer import extend_for_images
from smolvlm2.processing.tokenizer_training import train_base_tokenizer

VOCABULARY = 512
"""Upper bound of the small tokenizer's size."""
PROMPT_TEXT = (
    "User: Assistant: System:",
    "You are provided the following series of three frames from a 0:00:03 [H:MM:SS] video.\n",
    "\nFrame from 00:01:",
)
"""Words of the prompt, so that they become whole tokens, as they are in SmolLM2."""
VISION = VisionConfig(
    hidden_size=96,
    intermediate_size=288,
    num_hidden_layers=4,
    num_attention_heads=3,
    image_size=32,
    patch_size=4,
)
TEXT = TextConfig(
    hidden_size=128,
    intermediate_size=320,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=32,
    max_position_embeddings=1024,
    rope_theta=10000.0,
)
"""Shapes of the small components; ``configs/tiny`` trains them."""


def read_texts(raw: Path) -> list[str]:
    """All questions and answers of the demo's training data."""
    texts = []
    for path in sorted(raw.rglob("*.parquet")):
        names = pq.read_schema(path).names
        column = "texts" if "texts" in names else "conversations"
        for row in pq.read_table(path, columns=[column]).column(0).to_pylist():
            for turn in row:
                texts += [value for key, value in turn.items() if key in TEXT_KEYS]
    for path in sorted(raw.rglob("*.json")):
        for row in json.loads(path.read_text(encoding="utf-8")):
            texts += [turn["value"].replace("<image>", "") for turn in row["conversations"]]
    # An answer follows "Assistant:" after a space.
    return [f" {text}" for text in texts]


TEXT_KEYS = ("user", "assistant", "value")
"""Where the two parquet layouts keep what was said."""


def make_components(folder: Path, texts: Iterable[str]) -> tuple[Path, Path]:
    """Write the small SigLIP and SmolLM2 with its tokenizer; finished ones are left alone."""
    siglip, smollm2 = folder / "siglip", folder / "smollm2"
    if not (smollm2 / "config.json").is_file():
        size = train_base_tokenizer([*texts, *PROMPT_TEXT * 50], smollm2, vocab_size=VOCABULARY)
        text = TextConfig(**vars(TEXT) | {"vocab_size": size})
        write_random_components(folder, VISION, text, seed=0)
    return siglip, smollm2


def prepare_demo(data: Path, smollm2: Path) -> None:
    """Prepare all sources of the demo; finished ones are left alone."""
    tokenizer = extend_for_images(smollm2, model_max_length=TEXT.max_position_embeddings)
    for name, source in DEMO_SOURCES.items():
        raw = data / "raw" / source.raw_folder
        prepare_source(source.adapter, raw, data / "prepared" / name, tokenizer)
