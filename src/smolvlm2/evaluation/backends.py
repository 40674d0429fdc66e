"""What answers: one of our models here; transformers and endpoints have files of their own.

A backend decodes a medium (once, however many questions show it, in worker threads), turns a
question into a prompt, and answers a batch of prompts.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from smolvlm2.errors import ConfigError
from smolvlm2.evaluation.benchmark import Benchmark, PromptStyle
from smolvlm2.evaluation.clips import Frames, frame_rule
from smolvlm2.evaluation.prompts import conversation, encode_prompt
from smolvlm2.evaluation.questions import Medium, Question
from smolvlm2.processing.images import ImageSettings, image_tiles, open_image
from smolvlm2.processing.processor import Processor
from smolvlm2.processing.template import ImageLayout, MediaLayout, VideoLayout

logger = logging.getLogger(__name__)

MID_GREY = 128
"""Value of every pixel of a blank picture."""


@dataclass(frozen=True, eq=False)
class Decoded:
    """A medium ready for the model. Compared by identity: questions share it."""

    layout: MediaLayout
    tiles: np.ndarray
    """uint8 ``(T, 3, S, S)``."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question as a backend wants it."""

    question: Question
    prompt: Any
    """The backend's own: ids, messages, ..."""
    media: tuple[Any, ...]
    """What ``decode`` gave, in order."""
    shape: tuple[int, int]
    """Tiles or frames, and tokens or characters: prompts of like shape go together."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a backend said."""

    text: str
    """Without white space around it."""
    tokens: int
    """Tokens of the answer."""
    problem: str | None = None
    """Why there is no answer."""


class Backend(Protocol):
    """Anything that answers questions."""

    def describe(self) -> dict[str, Any]:
        """What identifies it, for the result and for taking up a killed run; JSON values."""
        ...

    def decode(self, medium: Medium) -> Any:
        """Read a medium; called from several threads. Raises MediaError."""
        ...

    def ask(self, question: Question, media: Sequence[Any]) -> Asked:
        """Make the prompt; called from several threads."""
        ...

    def answer(self, batch: Sequence[Asked]) -> list[Reply]:
        """Answer greedily, in order."""
        ...


class Generator(Protocol):
    """The part of ``SmolVLM`` that evaluation uses."""

    def generate(self, input_ids: Any, **options: Any) -> list[list[int]]:
        """New token ids of each row, without the stop token."""
        ...


@dataclass(kw_only=True)
class NativeBackend:
    """A ``SmolVLM`` and its processor, in this process."""

    model: Generator
    processor: Processor
    benchmark: Benchmark
    style: PromptStyle = "native"
    blank_images: bool = False
    """Replace every pixel by mid-grey after decoding: prompts keep their layout."""
    identity: Mapping[str, Any] | None = None
    """What ``describe`` adds: digest of the weights, where they came from."""

    def describe(self) -> dict[str, Any]:
        """Settings that change an answer."""
        video, image = self.processor.video, self.processor.image
        return {
            **(self.identity or {}),
            "backend": "smolvlm2",
            "tokenizer": self.processor.tokenizer.key,
            "tile_size": self.processor.tile_size,
            "tokens_per_tile": self.processor.tokens_per_tile,
            "split": image.split,
            "longest_edge": image.longest_edge,
            "upscale": image.upscale,
            "resample": image.resample,
            "max_frames": video.max_frames,
            "fps": video.fps,
        }

    def decode(self, medium: Medium) -> Decoded:
        """Tiles and layout of a medium."""
        side = self.processor.tile_size
        if medium.kind == "image":
            picture = open_image(medium.open(), self.processor.image)
            tiles, rows, cols = image_tiles(picture, side, self.processor.image)
            layout: MediaLayout = ImageLayout(rows, cols)
        else:
            frames = Frames(medium, self.processor.video, frame_rule(self.style))
            tiles = np.empty((len(frames), 3, side, side), dtype=np.uint8)
            whole = ImageSettings(longest_edge=side, split=False)
            for number, picture in enumerate(frames.pictures()):
                tiles[number] = image_tiles(picture, side, whole)[0][0]
            layout = VideoLayout(frames.timestamps.tolist(), frames.duration)
        if self.blank_images:
            tiles.fill(MID_GREY)
        return Decoded(layout, tiles)

    def ask(self, question: Question, media: Sequence[Decoded]) -> Asked:
        """Ids of the prompt."""
        layouts = [medium.layout for medium in media]
        times = [t for x in layouts if isinstance(x, VideoLayout) for t in x.timestamps]
        ids = encode_prompt(
            conversation(question, self.benchmark, self.style, times),
            layouts,
            self.processor.tokenizer,
            self.processor.tokens_per_tile,
            self.benchmark.prompt(self.style).wrapper,
        )
        tiles = sum(len(medium.tiles) for medium in media)
        return Asked(question=question, prompt=ids, media=tuple(media), shape=(tiles, len(ids)))

    def answer(self, batch: Sequence[Asked]) -> list[Reply]:
        """Greedy answers; a batch that the device has no room for goes in halves.

        Raises:
            ConfigError: There is no room for a single question.
        """
        import torch

        try:
            return self._answer(batch)
        except torch.OutOfMemoryError as error:
            # Only its text: its frames would hold the memory that the halves need.
            reason = str(error).split("\n")[0]
        tiles, tokens = (sum(asked.shape[axis] for asked in batch) for axis in (0, 1))
        if len(batch) == 1:
            raise ConfigError(
                f"question {batch[0].question.question_id!r} with {tiles} tiles and {tokens} "
                f"tokens does not fit into the device's memory ({reason}); use fewer frames "
                f"(--max-frames) or tiles (--longest-edge), --dtype bfloat16, or a device that "
                f"nobody else uses"
            )
        logger.warning(
            "%d questions with %d tiles and %d tokens are too many for the device's memory, asked "
            "again in two halves; a smaller --batch-size saves the attempt",
            *(len(batch), tiles, tokens),
        )
        half = len(batch) // 2
        return self.answer(batch[:half]) + self.answer(batch[half:])

    def _answer(self, batch: Sequence[Asked]) -> list[Reply]:
        """A tile that several prompts show is encoded once."""
        import torch

        inputs = {
            name: torch.from_numpy(array)
            for name, array in batch_arrays(batch, self.processor.tokenizer.special.pad).items()
        }
        prompt = self.benchmark.prompt(self.style)
        rows = self.model.generate(
            inputs.pop("input_ids"),
            **inputs,
            max_new_tokens=prompt.max_new_tokens or self.benchmark.max_new_tokens,
            # House rule: a question is always answered. A model that has never seen a blank
            # picture may stop at once, and the control would measure that, not what it guesses.
            min_new_tokens=int(self.style == "native"),
        )
        return [Reply(text=self.processor.decode(ids).strip(), tokens=len(ids)) for ids in rows]


def batch_arrays(batch: Sequence[Asked], pad: int) -> dict[str, np.ndarray]:
    """Prompts as a batch padded on the left, with each shared medium's tiles only once.

    Returns:
        ``input_ids`` and ``attention_mask`` int64 ``(B, M)``; where anything is shown,
        ``pixel_values`` uint8 ``(T, 3, S, S)`` and ``tile_index`` int64, the tiles of all prompts
        in order.
    """
    shape = (len(batch), max(len(asked.prompt) for asked in batch))
    ids = np.full(shape, pad, dtype=np.int64)
    mask = np.zeros(shape, dtype=np.int64)
    first: dict[int, int] = {}
    tiles: list[np.ndarray] = []
    index: list[np.ndarray] = []
    for row, asked in enumerate(batch):
        ids[row, shape[1] - len(asked.prompt) :] = asked.prompt
        mask[row, shape[1] - len(asked.prompt) :] = 1
        for medium in asked.media:
            if id(medium) not in first:
                first[id(medium)] = sum(map(len, tiles))
                tiles.append(medium.tiles)
            start = first[id(medium)]
            index.append(np.arange(start, start + len(medium.tiles), dtype=np.int64))
    arrays = {"input_ids": ids, "attention_mask": mask}
    if tiles:
        arrays |= {"pixel_values": np.concatenate(tiles), "tile_index": np.concatenate(index)}
    return arrays
