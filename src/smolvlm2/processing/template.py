"""A conversation and the layout of its media -> ids and the mask of supervised tokens.

Structure comes from the messages, never from the text: text runs are encoded whole between special
tokens (so that merges such as ``"\\n\\n"`` happen), special ids are put in by role, and supervision
follows from who said what.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from smolvlm2.errors import PromptError
from smolvlm2.processing import prompt_strings as strings
from smolvlm2.processing.tokenizer import Tokenizer

Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class ImageLayout:
    """Grid of an image's tiles; 0 x 0 is a single tile without crops."""

    rows: int
    cols: int

    @property
    def tiles(self) -> int:
        """Tiles through the encoder: the crops and the whole image."""
        return self.rows * self.cols + 1


@dataclass(frozen=True)
class VideoLayout:
    """Times of a clip's frames, in seconds from its start, and its length in seconds."""

    timestamps: Sequence[float]
    duration: float

    @property
    def tiles(self) -> int:
        """Tiles through the encoder: one a frame."""
        return len(self.timestamps)


MediaLayout = ImageLayout | VideoLayout


@dataclass(frozen=True)
class EncodedConversation:
    """``input_ids`` int32 ``(L,)`` and ``supervised`` bool ``(L,)``."""

    input_ids: np.ndarray
    supervised: np.ndarray


@dataclass(frozen=True)
class Item:
    """A stretch of a turn: text, or the place of an image or video."""

    kind: Literal["text", "image", "video"]
    text: str = ""
    supervised: bool = False
    where: str = ""


def encode_conversation(
    messages: Messages,
    media: Sequence[MediaLayout],
    tokenizer: Tokenizer,
    tokens_per_tile: int,
    add_generation_prompt: bool = False,
) -> EncodedConversation:
    """Turn a conversation into ids as transformers does, with labels from structure.

    Args:
        messages: ``{"role", "content"}``; content is a string or a list of ``{"type": "text",
            "text"}``, ``{"type": "image"}``, ``{"type": "video"}``. Other keys are ignored.
        media: Layouts in order of appearance.
        tokenizer: A SmolVLM tokenizer.
        tokens_per_tile: Visual tokens of one tile.
        add_generation_prompt: End with ``Assistant:``, for the model to go on.

    Returns:
        Ids and mask. Supervised are exactly the assistant's answers, from the space after
        ``Assistant:``, and their ``<end_of_utterance>``.

    Raises:
        PromptError: Unknown role or content type, empty conversation, media and markers that do
            not match; the message names the position.
    """
    special = tokenizer.special
    run = TextRun(tokenizer)
    run.add_ids([special.bos])
    queue = _MediaQueue(media)
    for role, items in read_turns(messages):
        for item in items:
            if item.kind == "text":
                run.add_text(item.text, item.supervised)
                continue
            layout = queue.take(item)
            if isinstance(layout, ImageLayout):
                run.add_ids(image_block(layout, tokenizer, tokens_per_tile))
            else:
                _add_video(run, layout, tokenizer, tokens_per_tile)
        run.add_ids([special.end_of_utterance], supervised=role == "assistant")
        run.add_text("\n", False)
    queue.check_empty()
    if add_generation_prompt:
        run.add_text("Assistant:", False)
    return run.finish()


def render_text(
    messages: Messages,
    media: Sequence[MediaLayout] | None = None,
    tokens_per_tile: int = 1,
    add_generation_prompt: bool = False,
) -> str:
    """The prompt as a string, for display: what transformers would hand to its tokenizer.

    Args:
        messages: As in ``encode_conversation``.
        media: Layouts to expand; None leaves ``<image>`` and ``<video>`` in place.
        tokens_per_tile: How often ``<image>`` is repeated for a tile.
        add_generation_prompt: End with ``Assistant:``.

    Raises:
        PromptError: As ``encode_conversation``.
    """
    queue = _MediaQueue(media or [])
    parts = [strings.BOS]
    for _, items in read_turns(messages):
        for item in items:
            if item.kind == "text":
                parts.append(item.text)
            elif media is None:
                parts.append(f"<{item.kind}>")
            else:
                parts.append(_render_medium(queue.take(item), tokens_per_tile))
        parts.append(strings.END_OF_UTTERANCE + "\n")
    queue.check_empty()
    return "".join(parts) + ("Assistant:" if add_generation_prompt else "")


def read_turns(messages: Messages) -> Iterator[tuple[str, list[Item]]]:
    """Check the messages and yield each one's role and items, its ``Role:`` header included.

    Raises:
        PromptError: Empty conversation, unknown role or content type, at a named position.
    """
    if not messages:
        raise PromptError("conversation is empty; expected at least one message")
    if isinstance(messages, str | Mapping):
        raise PromptError(
            f"conversation is a {type(messages).__name__}; expected a list of messages"
        )
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise PromptError(
                f"message {index} is a {type(message).__name__}; expected a mapping with 'role' "
                f"and 'content'"
            )
        role = message.get("role")
        if role not in strings.ROLES:
            raise PromptError(
                f"message {index} has role {role!r}; expected one of {', '.join(strings.ROLES)}"
            )
        answer = role == "assistant"
        content = _read_content(message.get("content"), answer, f"message {index} ({role})")
        first = content[0].kind
        header = [Item("text", f"{role.capitalize()}:")]
        if first != "image":
            # The space belongs to the answer: at generation the prompt ends with "Assistant:".
            header.append(Item("text", " ", answer and first == "text"))
        yield role, header + content


def _read_content(content: Any, answer: bool, where: str) -> list[Item]:
    if isinstance(content, str):
        return [Item("text", content, answer)]
    if not isinstance(content, Sequence) or not content:
        raise PromptError(
            f"{where} has content {content!r}; expected text or a non-empty list of items"
        )
    items = []
    for index, entry in enumerate(content):
        place = f"{where}, item {index}"
        kind = entry.get("type") if isinstance(entry, Mapping) else None
        if kind == "text":
            text = entry.get("text")
            if not isinstance(text, str):
                raise PromptError(f"{place} has text {text!r}; expected a string")
            items.append(Item("text", text, answer))
        elif kind in ("image", "video"):
            items.append(Item(kind, where=place))
        else:
            raise PromptError(f"{place} has type {kind!r}; expected 'text', 'image' or 'video'")
    return items


def image_block(layout: ImageLayout, tokenizer: Tokenizer, tokens_per_tile: int) -> np.ndarray:
    """Ids of an image, int32 ``(n,)``; begins and ends with a special token.

    Crops come row by row, each with its place, each row ended by a newline; then the whole image.
    """
    special = tokenizer.special
    visual = np.full(tokens_per_tile, special.image, dtype=np.int32)
    parts: list[Any] = []
    for row in range(1, layout.rows + 1):
        for col in range(1, layout.cols + 1):
            parts += [[special.fake], tile_name(row, col, tokenizer), visual]
        # The last row's newline and the one before the whole image are one run of text.
        parts.append(tokenizer.encode_constant("\n" if row < layout.rows else "\n\n"))
    parts += [[special.fake, special.global_image], visual, [special.fake]]
    return np.concatenate(parts).astype(np.int32, copy=False)


def tile_name(row: int, col: int, tokenizer: Tokenizer) -> np.ndarray:
    """Ids of a tile's place: one special token, or plain text beyond the vocabulary's 6 x 6."""
    known = tokenizer.special.row_col(row, col)
    if known is not None:
        return np.array([known], dtype=np.int32)
    return tokenizer.encode_constant(strings.row_col(row, col))


def _add_video(run: "TextRun", layout: VideoLayout, tokenizer: Tokenizer, tokens: int) -> None:
    frame = image_block(ImageLayout(0, 0), tokenizer, tokens)
    run.add_text(strings.VIDEO_HEAD, False)
    for index, seconds in enumerate(layout.timestamps):
        if index == 0:
            run.add_text(strings.clip_lead(layout.tiles, layout.duration, seconds), False)
        else:
            run.add_text(strings.FRAME_STAMP.format(stamp=strings.clock(seconds)), False)
        run.add_ids(frame)
    run.add_text(strings.VIDEO_OUTRO, False)


def _render_medium(layout: MediaLayout, tokens_per_tile: int) -> str:
    visual = strings.IMAGE * tokens_per_tile
    whole = strings.FAKE + strings.GLOBAL_IMAGE + visual + strings.FAKE
    if isinstance(layout, VideoLayout):
        lead = strings.clip_lead(layout.tiles, layout.duration, layout.timestamps[0])
        stamps = [strings.FRAME_STAMP.format(stamp=strings.clock(t)) for t in layout.timestamps]
        frames = "".join(text + whole for text in [strings.VIDEO_HEAD + lead, *stamps[1:]])
        return frames + strings.VIDEO_OUTRO
    if not layout.rows:
        return whole
    rows = [
        "".join(
            strings.FAKE + strings.row_col(row + 1, col + 1) + visual for col in range(layout.cols)
        )
        for row in range(layout.rows)
    ]
    return "\n".join(rows) + "\n\n" + whole


@dataclass
class _MediaQueue:
    """Hands out layouts in order and names the place where the count goes wrong."""

    media: Sequence[MediaLayout]
    used: int = 0

    def take(self, item: Item) -> MediaLayout:
        if self.used == len(self.media):
            raise PromptError(
                f"{item.where} is {item.kind} number {self.used + 1} but the conversation has "
                f"{len(self.media)} media; give one medium for each marker"
            )
        layout = self.media[self.used]
        self.used += 1
        kind = "image" if isinstance(layout, ImageLayout) else "video"
        if kind != item.kind:
            raise PromptError(
                f"{item.where} is of type {item.kind} but medium {self.used} is of type {kind}; "
                f"give the media in order of appearance"
            )
        if not layout.tiles:
            raise PromptError(f"{item.where}: the video has no frames; expected at least one")
        return layout

    def check_empty(self) -> None:
        if self.used < len(self.media):
            raise PromptError(
                f"conversation has {self.used} image and video markers but {len(self.media)} "
                f"media; give one marker for each medium"
            )


@dataclass
class TextRun:
    """Collects ids; text waits until the next special token and is then encoded as a whole."""

    tokenizer: Tokenizer
    ids: list[np.ndarray] = field(default_factory=list)
    flags: list[np.ndarray] = field(default_factory=list)
    pending: list[tuple[str, bool]] = field(default_factory=list)

    def add_text(self, text: str, supervised: bool) -> None:
        if text:
            self.pending.append((text, supervised))

    def add_ids(self, ids: Any, supervised: bool = False) -> None:
        self._flush()
        self._append(np.asarray(ids, dtype=np.int32), supervised)

    def finish(self) -> EncodedConversation:
        self._flush()
        return EncodedConversation(np.concatenate(self.ids), np.concatenate(self.flags))

    def _append(self, ids: np.ndarray, supervised: bool | np.ndarray) -> None:
        self.ids.append(ids)
        self.flags.append(np.broadcast_to(np.asarray(supervised, dtype=bool), ids.shape))

    def _flush(self) -> None:
        if not self.pending:
            return
        text = "".join(part for part, _ in self.pending)
        flags = {flag for _, flag in self.pending}
        if len(flags) == 1:
            self._append(self.tokenizer.encode_text(text), flags.pop())
        else:
            # A token belongs to the part in which its first character lies.
            ids, starts = self.tokenizer.encode_with_starts(text)
            ends = np.cumsum([len(part) for part, _ in self.pending])
            owner = np.searchsorted(ends, starts, side="right")
            self._append(ids, np.array([flag for _, flag in self.pending])[owner])
        self.pending.clear()
