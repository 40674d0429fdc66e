"""Turns of a conversation in another order: a pure function of messages and a key.

Published image sub-stages shuffle the questions about a picture and keep the first few. The order
hangs on source, row and number of the order alone, so that plan, loader and ``inspect`` agree.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from smolvlm2.plan.permutation import derive_keys

TURN_KEY = 0x7475
"""Sets the order of turns apart from all other draws."""


def turn_keys(source: str, rows: ArrayLike, order: int) -> NDArray[np.uint64]:
    """Keys of the orders of rows' turns, the same for any seed of a run.

    Args:
        source: Name of the source.
        rows: Of its manifest, ``(n,)`` or one.
        order: Number of the order, from 0.

    Returns:
        ``(n,)``.
    """
    return derive_keys(TURN_KEY, *source.encode(), rows, order)


def turn_key(source: str, row: int, order: int | None) -> int | None:
    """The key of one row's order; None for the published one."""
    return None if order is None else int(turn_keys(source, row, order)[0])


def draw_order(pairs: int, key: int) -> list[int]:
    """Which pair comes first, second, ...: pairs are sorted by drawn numbers."""
    # Not `permute`, whose few bits favour some orders of three or four by up to a half.
    return np.argsort(derive_keys(key, np.arange(pairs)), kind="stable").tolist()


def movable_pairs(messages: Sequence[dict[str, Any]]) -> tuple[int, int]:
    """System messages in front, and pairs of question and answer that may change places.

    Only strictly alternating conversations change, and only where media are named by no place in
    the text: all of them stand in front of the first question's text. Others have 0 such pairs.
    """
    roles = [message["role"] for message in messages]
    system = next((n for n, role in enumerate(roles) if role != "system"), len(roles))
    pairs, rest = divmod(len(roles) - system, 2)
    if pairs < 2 or rest or roles[system:] != ["user", "assistant"] * pairs:
        return system, 0
    for number, message in enumerate(messages):
        media = any(part["type"] != "text" for part in message["content"])
        if media and not (number == system and leads_text(message["content"])):
            return system, 0
    return system, pairs


def leads_text(content: list[dict[str, Any]]) -> bool:
    """Whether a message's media stand in front of text, and there is some."""
    kinds = [part["type"] for part in content]
    return "text" in kinds and set(kinds[kinds.index("text") :]) == {"text"}


def reorder_turns(messages: list[dict[str, Any]], key: int | None) -> list[dict[str, Any]]:
    """The conversation with its questions and answers in another order; media stay in front.

    Args:
        messages: Of a manifest's row.
        key: One of `turn_keys`; None leaves the order as it is.

    Returns:
        System messages, then the pairs. A conversation that may not change comes back as it is.
    """
    if key is None:
        return messages
    system, pairs = movable_pairs(messages)
    if not pairs:
        return messages
    media = split_media(messages[system]["content"])[0]
    moved = messages[:system]
    for place, pair in enumerate(draw_order(pairs, key)):
        question, answer = messages[system + 2 * pair : system + 2 * pair + 2]
        text = split_media(question["content"])[1]
        moved += [{**question, "content": [*([] if place else media), *text]}, answer]
    return moved


def split_media(content: list[dict[str, Any]]) -> tuple[list[Any], list[Any]]:
    """A message's media, and its parts of text."""
    media = [part for part in content if part["type"] != "text"]
    return media, [part for part in content if part["type"] == "text"]
