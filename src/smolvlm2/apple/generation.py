"""Answers, token by token: our prompt and frames, mlx-vlm's decoding loop."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
from mlx_vlm.generate import generate_step

from smolvlm2.apple.checkpoint import Checkpoint
from smolvlm2.errors import PromptError
from smolvlm2.processing.processor import find_media

UNFINISHED = "\ufffd"
"""What a piece of a character decodes to, until its other bytes are there."""


@dataclass
class Answer:
    """A conversation's answer; iterate over it for the text as it comes.

    Raises PromptError where the prompt leaves no room in the model's context.
    """

    checkpoint: Checkpoint
    messages: Sequence[dict[str, Any]]
    max_new_tokens: int = 256
    """Longest answer; the context bounds it too."""
    temperature: float = 0.0
    """0 takes the likeliest token."""
    top_p: float = 1.0
    """Sample among tokens of this joint probability."""
    seed: int = 0
    """Of sampling."""
    prompt_tokens: int = 0
    """Visual ones included; known after the first piece."""
    tiles: int = 0
    """Of images, or frames of clips."""
    tokens: list[int] = field(default_factory=list)
    """Ids of the answer so far, without its end."""
    seconds: float = 0.0
    """From the prompt to the end."""

    def __iter__(self) -> Iterator[str]:
        processor, started = self.checkpoint.processor, time.perf_counter()
        prompt = processor.encode_sample(
            self.messages, find_media(self.messages), add_generation_prompt=True
        )
        self.prompt_tokens, self.tiles = len(prompt.input_ids), len(prompt.tiles)
        context = self.checkpoint.config.text.max_position_embeddings
        if self.prompt_tokens >= context:
            # mlx-vlm would go on, at positions that the model has never seen.
            raise PromptError(
                f"the prompt has {self.prompt_tokens} tokens and the model's context is {context}; "
                f"shorten the text or use fewer images or frames"
            )
        ends = {self.checkpoint.config.eos_token_id, processor.tokenizer.special.end_of_utterance}
        shown = ""
        for token, _ in generate_step(
            mx.array(prompt.input_ids)[None],
            self.checkpoint.model,
            prompt.tiles if len(prompt.tiles) else None,
            None,
            max_tokens=min(self.max_new_tokens, context - self.prompt_tokens),
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed,
        ):
            if token in ends:
                break
            self.tokens.append(token)
            text = processor.decode(self.tokens)
            if not text.endswith(UNFINISHED):
                # The template's space belongs to the answer's first token.
                text = text.lstrip()
                yield text[len(shown) :]
                shown = text
        rest = processor.decode(self.tokens).lstrip()[len(shown) :]
        self.seconds = time.perf_counter() - started
        if rest:
            yield rest
