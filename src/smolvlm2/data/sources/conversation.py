"""Published turns -> messages: roles, empty answers, control characters, places of the media."""

import functools
import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from smolvlm2.data.ledger import LeftOutError

ROLE_NAMES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "system": "system",
}
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_MAY_BE_CONTROL = bytes([*range(0x09), *range(0x0B, 0x20), 0x7F, 0xC2])
"""Bytes of UTF-8 without which a text has no control characters: those from U+0080 on begin with
0xC2."""
_BREAK_BEFORE = re.compile(r"[ \t]*\n\s*$")
_BREAK_AFTER = re.compile(r"[ \t]*\n\s*")

Part = str | None
"""Text, or None where a medium stands."""


def build_messages(
    turns: Sequence[tuple[Any, Any]],
    *,
    media_kinds: Sequence[str],
    placeholders: tuple[str, ...],
    swap_roles: bool,
    repairs: Counter[str],
) -> tuple[list[dict[str, Any]], list[int], list[int]]:
    """Check and normalise one conversation.

    Args:
        turns: Role and text as published.
        media_kinds: ``image`` or ``video`` for each medium of the row.
        placeholders: What marks a medium's place in a user's text, whatever its kind; empty: text
            is only text.
        swap_roles: Exchange user and assistant when the assistant begins.
        repairs: Counts every change by kind.

    Returns:
        Messages; for every medium that stays its number in the row, in order of appearance; and
        the index of the message in which it stands.

    Raises:
        LeftOutError: The conversation cannot be used.
    """
    if not turns:
        raise LeftOutError("no_conversation", "the row has no turns; expected at least one pair")
    cleaned = [(_role(role), _clean(text, repairs)) for role, text in turns]
    if swap_roles and cleaned[0][0] == "assistant":
        other = {"user": "assistant", "assistant": "user", "system": "system"}
        cleaned = [(other[role], text) for role, text in cleaned]
        repairs["swapped_roles"] += 1
    system, pairs = _pair(cleaned, repairs)
    questions = [_split(question, placeholders) for question, _ in pairs]
    _place_media(questions, media_kinds, placeholders)
    kept, order = _drop_empty(pairs, questions, repairs)
    messages: list[dict[str, Any]] = []
    if system:
        messages.append({"role": "system", "content": [_text(system)]})
    where: list[int] = []
    for parts, answer in kept:
        content = []
        for part in parts:
            if part is None:
                content.append({"type": media_kinds[order[len(where)]]})
                where.append(len(messages))
            else:
                content.append(_text(part))
        messages.append({"role": "user", "content": content})
        messages.append({"role": "assistant", "content": [_text(answer)]})
    return messages, order, where


def to_json(messages: Any) -> str:
    """Messages as the manifest stores them; equal conversations give equal text."""
    return json.dumps(messages, ensure_ascii=False, separators=(",", ":"))


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def _role(role: Any) -> str:
    try:
        return ROLE_NAMES[role]
    except (KeyError, TypeError) as error:
        raise LeftOutError(
            "bad_role_order", f"role {role!r}; expected one of {sorted(ROLE_NAMES)}"
        ) from error


def _clean(text: Any, repairs: Counter[str]) -> str:
    """Text without control characters and without white space around it; None counts as empty."""
    if text is None:
        return ""
    if not isinstance(text, str):
        raise LeftOutError(
            "unreadable_record", f"a turn's text is of type {type(text).__name__}; expected text"
        )
    try:
        encoded = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise LeftOutError("bad_text", f"half a surrogate pair in the text ({error})") from error
    # Twenty times as fast as the pattern, which nearly no text needs.
    if len(encoded.translate(None, _MAY_BE_CONTROL)) == len(encoded):
        return text.strip()
    text = text.replace("\r\n", "\n")
    clean = _CONTROL.sub("", text)
    if clean != text:
        repairs["control_characters"] += 1
    return clean.strip()


def _pair(turns: list[tuple[str, str]], repairs: Counter[str]) -> tuple[str, list[tuple[str, str]]]:
    """Split into the system text and pairs of question and answer; the last answer may be ''."""
    system = ""
    if turns[0][0] == "system":
        system, turns = turns[0][1], turns[1:]
        if not system:
            repairs["empty_system_turn"] += 1
    start = 0
    while start < len(turns) and turns[start][0] == "assistant":
        start += 1
    if start:
        repairs["leading_assistant_turn"] += start
        turns = turns[start:]
    if not turns:
        found = "only assistant turns" if start else "only a system turn"
        raise LeftOutError("bad_role_order", f"{found}; expected user and assistant in turn")
    for number, (role, _) in enumerate(turns):
        expected = "assistant" if number % 2 else "user"
        if role != expected:
            raise LeftOutError(
                "bad_role_order", f"turn {number + start} is the {role}'s; expected the {expected}"
            )
    if len(turns) % 2:
        # A trailing question: without an answer it goes the way of the empty ones.
        turns = [*turns, ("assistant", "")]
    texts = [text for _, text in turns]
    return system, list(zip(texts[::2], texts[1::2], strict=True))


def _split(text: str, placeholders: tuple[str, ...]) -> list[Part]:
    """Cut a question at its placeholders.

    A line break next to a placeholder is how the LLaVA layout sets images apart, not something the
    user says: it goes. So does white space at either end. Spaces inside a line stay.
    """
    if not placeholders:
        return [text] if text else []
    pieces = _marker(placeholders).split(text)
    parts: list[Part] = []
    for number, piece in enumerate(pieces):
        if number:
            parts.append(None)
            if found := _BREAK_AFTER.match(piece):
                piece = piece[found.end() :]
        if number < len(pieces) - 1:
            piece = _BREAK_BEFORE.sub("", piece)
        if not any(part is not None for part in parts):
            piece = piece.lstrip()
        if piece:
            parts.append(piece)
    return parts


@functools.cache
def _marker(placeholders: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, placeholders)))


def _place_media(
    questions: list[list[Part]], media_kinds: Sequence[str], placeholders: tuple[str, ...]
) -> None:
    """Give every medium a place, or refuse the row.

    Raises:
        LeftOutError: Placeholders and media do not match.
    """
    marked = sum(parts.count(None) for parts in questions)
    if marked == 0:
        questions[0][:0] = [None] * len(media_kinds)
    elif marked != len(media_kinds):
        raise LeftOutError(
            "placeholder_mismatch",
            f"{len(media_kinds)} media but {marked} placeholders ({' or '.join(placeholders)}) in "
            "the user's text; expected equal numbers, or no placeholder",
        )


def _drop_empty(
    pairs: list[tuple[str, str]], questions: list[list[Part]], repairs: Counter[str]
) -> tuple[list[tuple[list[Part], str]], list[int]]:
    """Drop pairs without an answer; their media move to the next question that stays.

    Returns:
        Parts and answer of each pair that stays, and the numbers of the media that stay. Only
        media first shown after the last answer are lost: nothing refers to them.
    """
    kept: list[tuple[list[Part], str]] = []
    order: list[int] = []
    waiting: list[int] = []
    medium = 0
    for parts, (_, answer) in zip(questions, pairs, strict=True):
        count = parts.count(None)
        waiting += range(medium, medium + count)
        medium += count
        if not answer:
            repairs["unanswered_question"] += 1
            continue
        if not parts and not waiting:
            repairs["empty_question"] += 1
            continue
        moved: list[Part] = [None] * (len(waiting) - count)
        kept.append((moved + parts, answer))
        order += waiting
        waiting = []
    if not kept:
        raise LeftOutError("empty_answer", f"none of {len(pairs)} turn pairs is complete")
    if waiting:
        repairs["medium_of_unanswered_question"] += len(waiting)
    return kept, order
