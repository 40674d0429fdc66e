"""How long a conversation will be, from integers alone: what the planner computes with.

The sum of ``turn_tokens`` and of ``LengthModel``'s media tokens is the exact length of
``template.encode_conversation``. It adds up because SmolLM2's pre-tokenizer always cuts before a
newline's next letter, before a space in front of a word, and around every digit; ``LengthModel``
verifies this for the tokenizer at hand.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from smolvlm2.errors import CheckpointError
from smolvlm2.processing import prompt_strings as strings
from smolvlm2.processing.template import Item, Messages, TextRun, read_turns, tile_name
from smolvlm2.processing.tile_budgets import TileBudgets, tile_budgets
from smolvlm2.processing.tiling import ImageSettings, tile_grid
from smolvlm2.processing.tokenizer import Tokenizer
from smolvlm2.processing.video_sampling import VideoSettings, count_frames, sample_frames


@dataclass(frozen=True)
class TurnTokens:
    """Per message, both int32 ``(messages,)``: tokens without media blocks, and supervised ones.

    The first message carries the conversation's ``<|im_start|>``. Turns may be dropped or
    reordered: counts stay exact, except that a selection without message 0 needs one more token.
    """

    text: np.ndarray
    supervised: np.ndarray


def turn_tokens(messages: Messages, tokenizer: Tokenizer) -> TurnTokens:
    """Count each message's tokens, with the text that belongs to its media left out.

    What is constant around a video (its first words, the blank line after it) is counted here,
    because it merges with the text beside it.

    Args:
        messages: As in ``template.encode_conversation``; media are not needed.
        tokenizer: A SmolVLM tokenizer.

    Raises:
        PromptError: As ``encode_conversation``.
    """
    return turn_tokens_of_many([messages], tokenizer)[0]


def turn_tokens_of_many(
    conversations: Sequence[Messages], tokenizer: Tokenizer
) -> list[TurnTokens]:
    """``turn_tokens`` of many conversations: their texts go through the tokenizer together.

    Args:
        conversations: As in ``turn_tokens``.
        tokenizer: A SmolVLM tokenizer.

    Raises:
        PromptError: As ``encode_conversation``.
    """
    runs = _TextRuns(cuts=_cuts_before_answers(tokenizer))
    turns = [[_add_turn(runs, role, items) for role, items in read_turns(messages)]
             for messages in conversations]  # fmt: skip
    total, supervised = runs.count(tokenizer)
    results = []
    for spans in turns:
        text, loss = [], []
        for begin, end, answered in spans:
            # The end of the utterance is one more token.
            text.append(sum(total[begin:end]) + 1)
            loss.append(sum(supervised[begin:end]) + answered)
        text[0] += 1
        results.append(TurnTokens(np.array(text, dtype=np.int32), np.array(loss, dtype=np.int32)))
    return results


def _add_turn(runs: "_TextRuns", role: str, items: list[Item]) -> tuple[int, int, bool]:
    """Collect the runs of text of a message: first and last (exclusive), and if it is an answer."""
    begin = len(runs.texts)
    # Stands for the newline that ends a message; it opens the next message's run of text.
    pieces = [("\n", False)]
    for item in items:
        if item.kind == "text":
            pieces.append((item.text, item.supervised))
            continue
        if item.kind == "video":
            pieces.append((strings.VIDEO_HEAD, False))
        runs.add(pieces)
        pieces = [(strings.VIDEO_OUTRO, False)] if item.kind == "video" else []
    runs.add(pieces)
    return begin, len(runs.texts), role == "assistant"


@dataclass
class _TextRuns:
    """Texts between special tokens, and which part of each is supervised."""

    cuts: bool
    """Whether the tokenizer always cuts where an answer begins."""
    texts: list[str] = field(default_factory=list)
    has_lead: list[bool] = field(default_factory=list)
    """Whether the run begins with words that are not supervised."""
    answers: list[bool] = field(default_factory=list)
    """Whether anything in the run is supervised."""
    mixed: dict[int, list[tuple[str, bool]]] = field(default_factory=dict)
    """Runs, by number, that only the places of their tokens can divide."""

    def add(self, pieces: list[tuple[str, bool]]) -> None:
        pieces = [piece for piece in pieces if piece[0]]
        if not pieces:
            return
        flags = [flag for _, flag in pieces]
        text = "".join(text for text, _ in pieces)
        answer = flags.index(True) if any(flags) else len(pieces)
        lead = "".join(text for text, _ in pieces[:answer])
        if not all(flags[answer:]) or (lead and lead != text and not self._divides(lead)):
            self.mixed[len(self.texts)] = pieces
        self.texts.append(text)
        self.has_lead.append(bool(lead))
        self.answers.append(any(flags))

    def _divides(self, lead: str) -> bool:
        """Whether the tokens of a lead can be counted apart from those of the answer behind."""
        return self.cuts and lead == _ANSWER_LEAD

    def count(self, tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
        """Tokens of each run, and how many of them are supervised."""
        total = tokenizer.count_tokens(self.texts)
        before = len(tokenizer.encode_constant(_ANSWER_LEAD))
        supervised = [
            0 if not answer else count - before if lead else count
            for count, lead, answer in zip(total, self.has_lead, self.answers, strict=True)
        ]
        for number, pieces in self.mixed.items():
            run = TextRun(tokenizer)
            for text, flag in pieces:
                run.add_text(text, flag)
            supervised[number] = int(run.finish().supervised.sum())
        return total, supervised


_ANSWER_LEAD = "\nAssistant:"


def _cuts_before_answers(tokenizer: Tokenizer) -> bool:
    """Whether no token spans the colon and the space after it, whatever the answer begins with."""
    lead = len(tokenizer.encode_constant(_ANSWER_LEAD))
    return all(
        len(tokenizer.encode_constant(_ANSWER_LEAD + start))
        == lead + len(tokenizer.encode_constant(start))
        for start in (" a", " 1", " .", " \n", "  a", " \u00e9", " \u6f22", " ")
    )


class LengthModel:
    """Tiles and tokens of media from their sizes, vectorised."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        tokens_per_tile: int,
        image: ImageSettings,
        video: VideoSettings,
        *,
        tile_size: int,
    ) -> None:
        """Measure the prompt strings with this tokenizer.

        Args:
            tokenizer: A SmolVLM tokenizer.
            tokens_per_tile: Visual tokens of one tile.
            image: How images are tiled.
            video: How clips are sampled.
            tile_size: Side of a tile, in pixels.

        Raises:
            CheckpointError: The tokenizer merges across words or digits, so lengths do not add up.
        """
        self.tokenizer = tokenizer
        self.tokens_per_tile = tokens_per_tile
        self.image = image
        self.video = video
        self.tile_size = tile_size
        self._newline = len(tokenizer.encode_constant("\n"))
        self._blank_line = len(tokenizer.encode_constant("\n\n"))
        self._stamp = self._count(strings.FRAME_STAMP.format(stamp="00:00"))
        self._lead: dict[int, int] = {}
        self._names = np.zeros((1, 1), dtype=np.int64)
        self._check_additive()

    @property
    def budgets(self) -> TileBudgets:
        """The longest edges that images of training may be given."""
        return tile_budgets(self.image, self.tile_size)

    @property
    def tokens_per_frame(self) -> int:
        """Ids of a single tile: its visual tokens and three markers."""
        return self.tokens_per_tile + 3

    def images(
        self, widths: ArrayLike, heights: ArrayLike, longest_edge: ArrayLike | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Tiles and tokens of images.

        Args:
            widths: Upright widths, in pixels, ``(n,)``.
            heights: Upright heights, in pixels, ``(n,)``.
            longest_edge: Overrides the setting, in pixels; one value or ``(n,)``.

        Returns:
            Tiles and tokens, both int64 ``(n,)``.
        """
        rows, cols = tile_grid(widths, heights, self.tile_size, self.image, longest_edge)
        rows, cols = np.atleast_1d(rows).astype(np.int64), np.atleast_1d(cols).astype(np.int64)
        crops = rows * cols
        breaks = np.where(crops > 0, (rows - 1) * self._newline + self._blank_line, 0)
        names = self._name_tokens(int(rows.max(initial=0)), int(cols.max(initial=0)))[rows, cols]
        tokens = crops * (1 + self.tokens_per_tile) + names + breaks + self.tokens_per_frame
        return crops + 1, tokens

    def videos(
        self,
        durations: ArrayLike,
        fps: ArrayLike,
        num_frames: ArrayLike,
        max_frames: ArrayLike | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Frames (each one tile) and tokens of clips, as ``video.probe_video`` describes them.

        Exact for every clip of constant frame rate, and for all clips under 100 minutes; beyond,
        a frame of a clip of variable rate may be stamped with a digit more or less.

        Args:
            durations: In seconds, float64, ``(n,)``.
            fps: Frames a second, float64, ``(n,)``.
            num_frames: Frames in the file, ``(n,)``.
            max_frames: Overrides the setting; one value or ``(n,)``.

        Returns:
            Frames and tokens, both int64 ``(n,)``.
        """
        durations = np.atleast_1d(np.asarray(durations, dtype=np.float64))
        fps = np.broadcast_to(np.asarray(fps, dtype=np.float64), durations.shape)
        totals = np.broadcast_to(np.asarray(num_frames, dtype=np.int64), durations.shape)
        frames = count_frames(totals, fps, durations, self.video, max_frames)
        tokens = frames * self.tokens_per_frame + (frames - 1) * self._stamp
        tokens += self._lead_tokens(frames) + self._duration_extra(durations)
        most = np.broadcast_to(
            self.video.max_frames if max_frames is None else max_frames, durations.shape
        )
        for clip in np.flatnonzero(totals > 6000 * fps):
            chosen = sample_frames(
                int(totals[clip]), fps[clip], durations[clip], self.video, int(most[clip])
            )
            minutes = (chosen / fps[clip] // 60).astype(np.int64)
            tokens[clip] += sum(len(str(minute)) - 2 for minute in minutes[minutes >= 100].tolist())
        return frames, tokens

    def _count(self, text: str) -> int:
        return len(self.tokenizer.encode_text(text))

    def _name_tokens(self, rows: int, cols: int) -> np.ndarray:
        """Table ``(>= rows + 1, >= cols + 1)``: ids of all tile names of a rows x cols grid."""
        if rows >= self._names.shape[0] or cols >= self._names.shape[1]:
            rows, cols = max(rows, self._names.shape[0]), max(cols, self._names.shape[1])
            single = np.zeros((rows + 1, cols + 1), dtype=np.int64)
            for row in range(1, rows + 1):
                for col in range(1, cols + 1):
                    single[row, col] = len(tile_name(row, col, self.tokenizer))
            self._names = single.cumsum(axis=0).cumsum(axis=1)
        return self._names

    def _lead_tokens(self, frames: np.ndarray) -> np.ndarray:
        """Ids of ``clip_lead`` for each frame count, at 0:00:00 and 00:00."""
        values, places = np.unique(frames, return_inverse=True)
        for value in values.tolist():
            if value not in self._lead:
                self._lead[value] = self._count(strings.clip_lead(value, 0, 0))
        return np.array([self._lead[value] for value in values.tolist()], dtype=np.int64)[places]

    def _duration_extra(self, durations: np.ndarray) -> np.ndarray:
        """Ids that a duration needs beyond those of 0:00:00: more digits, days."""
        hours, places = np.unique((durations // 3600).astype(np.int64), return_inverse=True)
        zero = self._count(strings.clip_lead(1, 0, 0))
        extra = [
            self._count(strings.clip_lead(1, hour * 3600, 0)) - zero for hour in hours.tolist()
        ]
        return np.array(extra, dtype=np.int64)[places]

    def _check_additive(self) -> None:
        lead = strings.clip_lead(3, 5025, 6000)
        stamp = strings.FRAME_STAMP.format(stamp="00:00")
        wholes = {
            **{
                f"\n{role.capitalize()}: a": ("\n", f"{role.capitalize()}: a")
                for role in strings.ROLES
            },
            strings.VIDEO_HEAD + lead: (strings.VIDEO_HEAD, lead),
        }
        cut = all(
            self._count(whole) == sum(self._count(part) for part in parts)
            for whole, parts in wholes.items()
        )
        digits = all(
            self._count(stamp.replace("00", f"{number:02d}")) == self._count(stamp)
            for number in range(100)
        )
        if not cut or not digits:
            what = "digits" if cut else "words"
            raise CheckpointError(
                f"the tokenizer merges across {what}, so that lengths do not add up; expected "
                f"SmolLM2's pre-tokenizer (Digits, then ByteLevel)"
            )
