"""Text to ids, with special tokens kept apart: text can never become a special token."""

import functools
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from smolvlm2.errors import CheckpointError, PromptError
from smolvlm2.model.hub import read_json, resolve_checkpoint, write_json
from smolvlm2.processing import prompt_strings as strings

GRID_NAMES = 6
"""The vocabulary names tiles up to row 6 and column 6."""
RESERVED = 88
"""Unused tokens that round the published vocabulary up to 49280."""


@dataclass(frozen=True)
class SpecialTokens:
    """Ids by role, looked up by string in the vocabulary."""

    bos: int
    end_of_utterance: int
    pad: int
    fake: int
    global_image: int
    image: int
    tiles: dict[tuple[int, int], int]

    def row_col(self, row: int, col: int) -> int | None:
        """Id of the tile's name, counted from 1; None beyond 6 x 6, where names are plain text."""
        return self.tiles.get((row, col))


class Tokenizer:
    """The SmolVLM tokenizer: one encoder for text, one table of special ids.

    Pickles to worker processes (fork or spawn) and is safe to share between threads.
    """

    def __init__(self, definition: str, *, model_max_length: int = 8192, where: str = "tokenizer"):
        """Build from the text of a ``tokenizer.json``.

        Args:
            definition: The JSON text.
            model_max_length: Context length written by ``save_pretrained``, in tokens.
            where: Name of the origin for error messages.

        Raises:
            CheckpointError: Not a tokenizer, or the image tokens are missing.
        """
        self._definition = definition
        self._where = where
        self.model_max_length = model_max_length
        self._full = _build(definition, where)
        self._text = _build(_without_specials(definition), where)
        self.special = self._find_specials()
        self.constants: dict[str, np.ndarray] = {}
        """Ids of strings that recur in prompts; filled by ``encode_constant``."""

    @classmethod
    def from_pretrained(cls, source: str | Path) -> "Tokenizer":
        """Load from a folder or a hub id.

        Raises:
            CheckpointNotFoundError: No ``tokenizer.json`` there.
            CheckpointError: It is not a SmolVLM tokenizer.
        """
        folder = resolve_checkpoint(source, needed="tokenizer.json")
        path = folder / "tokenizer.json"
        config = read_json(folder / "tokenizer_config.json", missing_ok=True)
        length = config.get("model_max_length", 8192)
        # Files written without a limit hold 1e30.
        length = int(length) if isinstance(length, int | float) and length < 2**31 else 8192
        return cls(path.read_text(encoding="utf-8"), model_max_length=length, where=str(path))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``tokenizer.json``, ``tokenizer_config.json`` and ``special_tokens_map.json``.

        transformers 4.5x and 5.x load them; truncation is to the left, as published.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tokenizer.json").write_text(self._full.to_str(pretty=True), encoding="utf-8")
        roles = {
            "bos_token": strings.BOS,
            "eos_token": strings.END_OF_UTTERANCE,
            "pad_token": strings.PAD,
            "unk_token": strings.UNKNOWN,
        }
        extra = {
            "end_of_utterance_token": strings.END_OF_UTTERANCE,
            "fake_image_token": strings.FAKE,
            "global_image_token": strings.GLOBAL_IMAGE,
            "image_token": strings.IMAGE,
        }
        added = {
            str(item["id"]): {key: value for key, value in item.items() if key != "id"}
            for item in json.loads(self._full.to_str())["added_tokens"]
        }
        config = {
            # GPT2Tokenizer, the published class, is rebuilt by transformers 5 without the split of
            # digits; this one takes tokenizer.json as it is.
            "tokenizer_class": "PreTrainedTokenizerFast",
            "processor_class": "SmolVLMProcessor",
            **roles,
            **extra,
            "extra_special_tokens": extra,
            "added_tokens_decoder": added,
            "add_prefix_space": False,
            "clean_up_tokenization_spaces": False,
            "model_max_length": self.model_max_length,
            "truncation_side": "left",
        }
        write_json(config, folder / "tokenizer_config.json")
        write_json(roles | extra, folder / "special_tokens_map.json")

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included."""
        return self._full.get_vocab_size(with_added_tokens=True)

    @property
    def key(self) -> str:
        """Hash of vocabulary, merges and template version: equal keys give equal ids."""
        canonical = json.dumps(json.loads(self._full.to_str()), sort_keys=True)
        text = f"template {strings.TEMPLATE_VERSION}\n{canonical}"
        return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]

    def encode_text(self, text: str) -> np.ndarray:
        """Ids of ordinary text, int32 ``(n,)``; special-token strings are plain characters.

        Raises:
            PromptError: The text holds half a surrogate pair, as JSON can write it.
        """
        return np.array(self._encode(text).ids, dtype=np.int32)

    def count_tokens(self, texts: list[str]) -> list[int]:
        """How many ids each text has: ``len(encode_text(text))``, for many texts at once.

        Raises:
            PromptError: As ``encode_text``.
        """
        # The fast form, of tokenizers 0.21 and later, leaves out where tokens stand in the text.
        try:
            encodings = self._text.encode_batch_fast(texts, add_special_tokens=False)
        except TypeError:
            for text in texts:
                self._encode(text)  # says which it is
            raise
        return [len(encoding) for encoding in encodings]

    def encode_with_starts(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """Ids and the index of the character where each token starts, both int32 ``(n,)``.

        Raises:
            PromptError: As ``encode_text``.
        """
        encoding = self._encode(text)
        starts = [start for start, _ in encoding.offsets]
        return np.array(encoding.ids, dtype=np.int32), np.array(starts, dtype=np.int32)

    def _encode(self, text: str) -> Any:
        try:
            return self._text.encode(text, add_special_tokens=False)
        except TypeError as error:
            raise PromptError(
                f"{text[:80]!a} is no Unicode text; remove what stands as \\ud800 to \\udfff"
            ) from error

    def encode_constant(self, text: str) -> np.ndarray:
        """``encode_text`` for the few strings that occur in every prompt, remembered."""
        ids = self.constants.get(text)
        if ids is None:
            ids = self.constants[text] = self.encode_text(text)
        return ids

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """Text of ids of any integer type, without the special tokens unless asked.

        Args:
            ids: ``(n,)`` ids; a tensor or array is fine.
            skip_special_tokens: Leave out ``<|im_start|>``, ``<image>`` and their like.
        """
        values = ids.tolist() if hasattr(ids, "tolist") else list(ids)
        return self._full.decode(values, skip_special_tokens=skip_special_tokens)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that one id stands for: ``decode`` cannot show half of a character.

        Raises:
            ValueError: The vocabulary has no such id.
        """
        token = self._full.id_to_token(int(token_id))
        if token is None:
            raise ValueError(f"id {token_id} is not in the vocabulary of {self.vocab_size} ids")
        if int(token_id) in self._full.get_added_tokens_decoder():
            return token.encode("utf-8")
        bytes_of = _byte_alphabet()
        return bytes(bytes_of[character] for character in token)

    def batch_decode(
        self, batch: Iterable[Sequence[int]], skip_special_tokens: bool = True
    ) -> list[str]:
        """``decode`` for each row."""
        return [self.decode(row, skip_special_tokens) for row in batch]

    def _find_specials(self) -> SpecialTokens:
        def find(token: str) -> int:
            found = self._full.token_to_id(token)
            if found is None:
                raise CheckpointError(
                    f"{self._where}: token {token} is missing; this is not a SmolVLM tokenizer. "
                    f"Make one from a SmolLM2 tokenizer with tokenizer.extend_for_images"
                )
            return found

        names = range(1, GRID_NAMES + 1)
        return SpecialTokens(
            bos=find(strings.BOS),
            end_of_utterance=find(strings.END_OF_UTTERANCE),
            pad=find(strings.PAD),
            fake=find(strings.FAKE),
            global_image=find(strings.GLOBAL_IMAGE),
            image=find(strings.IMAGE),
            tiles={(r, c): find(strings.row_col(r, c)) for r in names for c in names},
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self._definition, self.model_max_length, self._where)


def extend_for_images(source: str | Path, *, model_max_length: int = 8192) -> Tokenizer:
    """Turn a SmolLM2 tokenizer into SmolVLM's by adding its 128 tokens in the published order.

    Args:
        source: Folder or hub id of a SmolLM2-shaped tokenizer with any base vocabulary size V.
        model_max_length: Context length to record, in tokens.

    Returns:
        A tokenizer of V + 128 ids; the new ones are V (``<global-img>``) to V + 127
        (``<end_of_utterance>``). One that has the tokens already is returned unchanged.

    Raises:
        CheckpointNotFoundError: No ``tokenizer.json`` there.
        CheckpointError: Some of the tokens exist already, or the vocabulary has holes.

    Source:
        docs/model.md, vocabulary; the m4 training code's order.
    """
    path = resolve_checkpoint(source, needed="tokenizer.json") / "tokenizer.json"
    base = _build(path.read_text(encoding="utf-8"), str(path))
    names = _added_names()
    present = [name for name in names if base.token_to_id(name) is not None]
    size = base.get_vocab_size(with_added_tokens=True)
    if present and len(present) < len(names):
        raise CheckpointError(
            f"{path}: holds {len(present)} of SmolVLM's {len(names)} added tokens (first: "
            f"{present[0]}), expected none or all; start from the SmolLM2 tokenizer"
        )
    if not present:
        if max(base.get_vocab(with_added_tokens=True).values()) != size - 1:
            raise CheckpointError(
                f"{path}: {size} tokens do not fill the ids 0 to {size - 1}; the new tokens would "
                f"collide with old ones; start from the SmolLM2 tokenizer"
            )
        base.add_special_tokens(
            [
                tokenizers.AddedToken(name, rstrip=False, lstrip=False, normalized=False)
                for name in names
            ]
        )
    return Tokenizer(base.to_str(), model_max_length=model_max_length, where=str(path))


def _added_names() -> list[str]:
    names = range(1, GRID_NAMES + 1)
    return [
        strings.GLOBAL_IMAGE,
        *(strings.row_col(row, col) for row in names for col in names),
        strings.FAKE,
        strings.IMAGE,
        *(f"<|reserved_special_token_{index}|>" for index in range(RESERVED)),
        strings.END_OF_UTTERANCE,
    ]


@functools.cache
def _byte_alphabet() -> dict[str, int]:
    """Which byte each character of a byte-level token stands for.

    Printable Latin-1 stands for itself; the other bytes, in order, for the characters from 256 on.

    Source:
        GPT-2's byte-level BPE; equal to tokenizers' alphabet (tests/processing).
    """
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    alphabet = {chr(byte): byte for byte in shown}
    return alphabet | {chr(256 + place): byte for place, byte in enumerate(hidden)}


def _build(definition: str, where: str) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_str(definition)
    except Exception as error:  # the Rust binding raises bare Exception
        raise CheckpointError(
            f"{where}: tokenizers {tokenizers.__version__} cannot read it ({error}); expected a "
            f"tokenizer.json"
        ) from error


def _without_specials(definition: str) -> str:
    """The same vocabulary as an encoder that knows no special token, truncation or padding."""
    parsed = json.loads(definition)
    parsed.update(added_tokens=[], post_processor=None, truncation=None, padding=None)
    return json.dumps(parsed)


def _rebuild(definition: str, model_max_length: int, where: str) -> Tokenizer:
    return Tokenizer(definition, model_max_length=model_max_length, where=where)
