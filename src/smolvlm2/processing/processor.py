"""The processor: conversations with their media in, what the model takes out."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from smolvlm2.errors import ConfigError, PromptError
from smolvlm2.model.config import SmolVLMConfig
from smolvlm2.model.hub import resolve_checkpoint
from smolvlm2.processing.images import image_tiles, open_image
from smolvlm2.processing.lengths import LengthModel
from smolvlm2.processing.processor_files import ProcessorSettings, read_settings, write_settings
from smolvlm2.processing.template import (
    EncodedConversation,
    ImageLayout,
    MediaLayout,
    Messages,
    VideoLayout,
    encode_conversation,
    read_turns,
)
from smolvlm2.processing.tiling import ImageSettings
from smolvlm2.processing.tokenizer import Tokenizer
from smolvlm2.processing.video import VideoSettings, read_video

IGNORED_LABEL = -100
"""Label of a position without supervision, as in Hugging Face."""


@dataclass(frozen=True)
class ProcessedSample:
    """A conversation ready for packing."""

    input_ids: np.ndarray
    """int32 ``(L,)``."""
    supervised: np.ndarray
    """bool ``(L,)``: the assistant's answers and their end tokens."""
    tiles: np.ndarray
    """uint8 ``(T, 3, S, S)``; T is 0 for text."""
    layouts: tuple[MediaLayout, ...] = ()
    """Grid or frame times of each medium, in order: which tiles are whose."""


@dataclass(frozen=True)
class ReadMedium:
    """An image or clip that was read."""

    layout: MediaLayout
    """What the prompt says of it."""
    tiles: np.ndarray
    """uint8 ``(T, 3, S, S)``."""


class Batch(dict[str, Any]):
    """The processor's output: a dictionary whose tensors move together."""

    def to(self, *args: Any, **kwargs: Any) -> "Batch":
        """Move tensors as ``torch.Tensor.to`` does; a dtype reaches floating tensors only."""
        dtype = kwargs.pop("dtype", None)
        moved = Batch()
        for key, value in self.items():
            value = value.to(*args, **kwargs) if args or kwargs else value
            moved[key] = value.to(dtype) if dtype and value.is_floating_point() else value
        return moved

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(f"batch has no {name!r}, only {', '.join(self)}") from error


class Processor:
    """Chat messages to ``input_ids``, ``attention_mask`` and ``pixel_values``, and ids to text."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        tile_size: int = 512,
        tokens_per_tile: int = 64,
        image: ImageSettings | None = None,
        video: VideoSettings | None = None,
    ) -> None:
        """Compose a processor; ``for_model`` takes the two numbers from a model's config.

        Args:
            tokenizer: A SmolVLM tokenizer.
            tile_size: Side S of a tile, in pixels.
            tokens_per_tile: Visual tokens that the model makes of a tile.
            image: How images become tiles.
            video: How clips become frames.
        """
        self.tokenizer = tokenizer
        self.tile_size = tile_size
        self.tokens_per_tile = tokens_per_tile
        self.image = image or ImageSettings()
        self.video = video or VideoSettings()

    @classmethod
    def for_model(
        cls,
        config: SmolVLMConfig,
        tokenizer: Tokenizer,
        *,
        image: ImageSettings | None = None,
        video: VideoSettings | None = None,
    ) -> "Processor":
        """The processor that fits a model's tiles and pixel shuffle."""
        return cls(
            tokenizer,
            tile_size=config.vision.image_size,
            tokens_per_tile=config.tokens_per_tile,
            image=image,
            video=video,
        )

    @classmethod
    def from_pretrained(cls, source: str | Path) -> "Processor":
        """Load from a checkpoint folder or hub id, saved by this package or by transformers.

        Raises:
            CheckpointNotFoundError: No checkpoint there.
            CheckpointError: Its files do not describe a SmolVLM processor.
        """
        folder = resolve_checkpoint(source, needed="tokenizer.json")
        read = read_settings(folder)
        return cls(
            Tokenizer.from_pretrained(folder),
            tile_size=read.tile_size,
            tokens_per_tile=read.tokens_per_tile,
            image=read.image,
            video=read.video,
        )

    def save_pretrained(self, folder: str | Path) -> None:
        """Write tokenizer, settings and chat template; AutoProcessor loads the folder."""
        folder = Path(folder)
        self.tokenizer.save_pretrained(folder)
        write_settings(
            folder,
            ProcessorSettings(self.tile_size, self.tokens_per_tile, self.image, self.video),
        )

    def length_model(self) -> LengthModel:
        """The planner's view of this processor."""
        return LengthModel(
            self.tokenizer, self.tokens_per_tile, self.image, self.video, tile_size=self.tile_size
        )

    def __call__(
        self,
        messages: Messages | Sequence[Messages],
        add_generation_prompt: bool = False,
        *,
        labels: bool = False,
        padding_side: Literal["left", "right"] | None = None,
        return_tensors: Literal["pt", "np"] = "pt",
        return_format: Literal["smolvlm2", "hf"] = "smolvlm2",
    ) -> Batch:
        """Process one conversation or a list of them.

        Args:
            messages: Chat messages. Media stand in their items: ``{"type": "image", "image": PIL,
                bytes or path}``, ``{"type": "video", "video": bytes, path or FrameSequence}``, or
                ``"path"`` for either.
            add_generation_prompt: End with ``Assistant:``.
            labels: Also return ``labels``.
            padding_side: Default: left for generation, else right.
            return_tensors: torch tensors or NumPy arrays.
            return_format: ``hf`` gives transformers' pixels.

        Returns:
            ``input_ids`` and ``attention_mask`` int64 ``(B, L)``; ``labels`` int64 ``(B, L)``, -100
            off supervision; ``pixel_values`` uint8 ``(T, 3, S, S)``, all tiles in order, absent
            without media. As ``hf``: float32 ``(B, N, 3, S, S)`` in -1..1, zero where a
            conversation has fewer than N tiles, and ``pixel_attention_mask`` ``(B, N, S, S)``.

        Raises:
            PromptError: A conversation is malformed or an item has no medium.
            MediaError: A medium cannot be read.
            ConfigError: An unknown option.
        """
        side = padding_side or ("left" if add_generation_prompt else "right")
        for name, value, allowed in (
            ("padding_side", side, ("left", "right")),
            ("return_tensors", return_tensors, ("pt", "np")),
            ("return_format", return_format, ("smolvlm2", "hf")),
        ):
            if value not in allowed:
                raise ConfigError(f"{name} is {value!r}; expected {' or '.join(allowed)}")
        samples = [
            self.encode_sample(
                conversation, find_media(conversation), add_generation_prompt=add_generation_prompt
            )
            for conversation in _as_list(messages)
        ]
        batch = self._pad(samples, side, labels)
        tiles = [sample.tiles for sample in samples]
        if sum(map(len, tiles)):
            if return_format == "hf":
                batch |= _hf_pixels(tiles)
            else:
                batch["pixel_values"] = np.concatenate(tiles)
        if return_tensors == "np":
            return Batch(batch)
        import torch

        return Batch({key: torch.from_numpy(value) for key, value in batch.items()})

    def encode_sample(
        self,
        messages: Messages,
        media: Sequence[Any],
        limits: Sequence[int | None] | None = None,
        *,
        add_generation_prompt: bool = False,
    ) -> ProcessedSample:
        """Process one conversation whose media are given apart: what the loader calls.

        Args:
            messages: Chat messages.
            media: Bytes, paths, PIL images or frame sequences, in order of appearance.
            limits: For each medium its own longest edge (image, pixels) or frame count (video);
                None keeps the setting.
            add_generation_prompt: End with ``Assistant:``.

        Raises:
            PromptError: Malformed conversation, or media and markers do not match.
            MediaError: A medium cannot be read.
        """
        kinds = [
            item.kind for _, items in read_turns(messages) for item in items if item.kind != "text"
        ]
        limits = limits if limits is not None else [None] * len(media)
        if not len(kinds) == len(media) == len(limits):
            raise PromptError(
                f"conversation has {len(kinds)} image and video markers but {len(media)} media "
                f"and {len(limits)} limits; give one of each"
            )
        read = [self.read_medium(*each) for each in zip(kinds, media, limits, strict=True)]
        encoded = self.encode_text(
            messages, [medium.layout for medium in read], add_generation_prompt
        )
        layouts = tuple(medium.layout for medium in read)
        return ProcessedSample(
            encoded.input_ids, encoded.supervised, self.join_tiles(read), layouts
        )

    def read_medium(
        self, kind: str, source: Any, limit: int | None = None, out: np.ndarray | None = None
    ) -> ReadMedium:
        """Read one image or clip.

        Args:
            kind: ``image`` or ``video``.
            source: As in ``encode_sample``.
            limit: Its own longest edge (pixels) or frame count.
            out: Where tiles go if it has room for them, uint8 ``(n, 3, S, S)``.

        Raises:
            MediaError: It cannot be read.
        """
        if kind == "video":
            clip = read_video(
                source, self.tile_size, self.video, limit, resample=self.image.resample, out=out
            )
            return ReadMedium(VideoLayout(clip.timestamps.tolist(), clip.duration), clip.tiles)
        image = open_image(source, self.image)
        tiles, rows, cols = image_tiles(image, self.tile_size, self.image, limit, out)
        return ReadMedium(ImageLayout(rows, cols), tiles)

    def encode_text(
        self,
        messages: Messages,
        layouts: Sequence[MediaLayout],
        add_generation_prompt: bool = False,
    ) -> EncodedConversation:
        """Ids and mask of a conversation whose media were read before.

        Raises:
            PromptError: Malformed conversation, or media and markers do not match.
        """
        return encode_conversation(
            messages, layouts, self.tokenizer, self.tokens_per_tile, add_generation_prompt
        )

    def join_tiles(self, read: Sequence[ReadMedium]) -> np.ndarray:
        """Tiles of several media in one array ``(T, 3, S, S)``; those of one are not copied."""
        if len(read) == 1:
            return read[0].tiles
        none = np.empty((0, 3, self.tile_size, self.tile_size), dtype=np.uint8)
        return np.concatenate([none, *(medium.tiles for medium in read)])

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """Text of one row of ids."""
        return self.tokenizer.decode(ids, skip_special_tokens)

    def batch_decode(
        self, batch: Iterable[Sequence[int]], skip_special_tokens: bool = True
    ) -> list[str]:
        """Text of each row of ids."""
        return self.tokenizer.batch_decode(batch, skip_special_tokens)

    def _pad(self, samples: list[ProcessedSample], side: str, labels: bool) -> dict[str, Any]:
        shape = (len(samples), max(len(sample.input_ids) for sample in samples))
        ids = np.full(shape, self.tokenizer.special.pad, dtype=np.int64)
        mask = np.zeros(shape, dtype=np.int64)
        targets = np.full(shape, IGNORED_LABEL, dtype=np.int64)
        for row, sample in enumerate(samples):
            length = len(sample.input_ids)
            place = slice(shape[1] - length, None) if side == "left" else slice(0, length)
            ids[row, place] = sample.input_ids
            mask[row, place] = 1
            targets[row, place] = np.where(sample.supervised, sample.input_ids, IGNORED_LABEL)
        batch = {"input_ids": ids, "attention_mask": mask}
        return batch | {"labels": targets} if labels else batch


def find_media(messages: Messages) -> list[Any]:
    """The media that stand in a conversation's items, in order.

    Raises:
        PromptError: An item of type image or video holds none.
    """
    found = []
    for index, message in enumerate(messages if not isinstance(messages, str) else []):
        content = message.get("content") if isinstance(message, Mapping) else None
        for place, item in enumerate(content if isinstance(content, list | tuple) else []):
            kind = item.get("type") if isinstance(item, Mapping) else None
            if kind not in ("image", "video"):
                continue
            source = item.get(kind, item.get("path"))
            if source is None:
                raise PromptError(
                    f"message {index}, item {place} is of type {kind} without a medium; expected "
                    f"'{kind}' or 'path' (addresses on the web are not fetched)"
                )
            found.append(source)
    return found


def _as_list(messages: Any) -> list[Messages]:
    if messages is not None and not isinstance(messages, Sequence):
        raise PromptError(
            f"conversation is a {type(messages).__name__}; expected a list of messages"
        )
    if not messages:
        raise PromptError("no conversation given; expected messages or a list of conversations")
    return list(messages) if isinstance(messages[0], list | tuple) else [messages]


def _hf_pixels(tiles: list[np.ndarray]) -> dict[str, np.ndarray]:
    """transformers' layout: one row of tiles a conversation, filled up with zeros."""
    most = max(map(len, tiles))
    side = next(block.shape[-1] for block in tiles)
    # 256 levels: a table gives each the value that float32 arithmetic gives it, once.
    levels = np.arange(256, dtype=np.uint8).astype(np.float64) * (1 / 255)
    table = ((levels.astype(np.float32) - np.float32(0.5)) / np.float32(0.5)).astype(np.float32)
    pixels = np.zeros((len(tiles), most, 3, side, side), dtype=np.float32)
    mask = np.zeros((len(tiles), most, side, side), dtype=np.int64)
    for row, block in enumerate(tiles):
        pixels[row, : len(block)] = table[block]
        mask[row, : len(block)] = 1
    return {"pixel_values": pixels, "pixel_attention_mask": mask}
