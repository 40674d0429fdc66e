"""Token columns of rows whose turns stand in other orders: exact, with little read.

An answer has the same tokens wherever it stands. So has a question, but where media stand in front
of it: what they add is counted for the question that they leave and for the one that they come to.
"""

import re
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smolvlm2.data.geometry import ROLES, Geometry
from smolvlm2.data.manifest import Manifest
from smolvlm2.loading.turn_orders import leads_text, split_media, turn_keys
from smolvlm2.plan.permutation import derive_keys
from smolvlm2.processing.lengths import turn_tokens_of_many
from smolvlm2.processing.tokenizer import Tokenizer

BATCH_ROWS = 256
"""Rows read at once."""
_FIRST_WORD = re.compile("[A-Za-z]+(?= [A-Za-z])")


def geometry_in_orders(
    part: Geometry, manifest: Manifest, start: int, tokenizer: Tokenizer, orders: int
) -> list[Geometry]:
    """The columns of some rows, once for each order of their turns.

    Args:
        part: Of the rows, with token columns and offsets from 0.
        manifest: Of the source; messages of rows with media are read.
        start: First of the rows in the manifest.
        tokenizer: That the token columns are for.
        orders: Orders of each row's turns; 0: the published one alone.

    Returns:
        As `turn_orders.reorder_turns` orders the messages; only token columns differ.
    """
    if not orders or not len(part):
        return [part] * max(orders, 1)
    assert part.message_text_tokens is not None
    assert part.message_supervised is not None
    owner, opening, movable = _find_pairs(part)
    rows = np.arange(start, start + len(part))
    # Which message stands at each place, ``(M,)`` an order.
    taken = [
        _shuffle(owner, opening, movable, turn_keys(manifest.source, rows, order))
        for order in range(orders)
    ]
    shown = np.flatnonzero(movable & (np.diff(part.media_offsets) > 0))
    changes = _count_again(part, manifest, start, tokenizer, opening, shown, taken)
    begins = part.message_offsets[:-1]
    bare = part.message_text_tokens.astype(np.int32)  # a copy
    bare[begins] -= 1  # the conversation's first token belongs to no turn
    found = []
    for source, again in zip(taken, changes, strict=True):
        text = bare[source]
        text[list(again)] += np.fromiter(again.values(), dtype=np.int32)
        text[begins] += 1
        supervised = part.message_supervised[source]
        found.append(replace(part, message_text_tokens=text, message_supervised=supervised))
    return found


def _find_pairs(
    part: Geometry,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Row of each message; each row's first message behind system ones; and who may be shuffled.

    As `turn_orders.movable_pairs`, but for the place of media inside their message.
    """
    begins, counts = part.message_offsets[:-1], np.diff(part.message_offsets)
    owner = np.repeat(np.arange(len(part)), counts)
    is_system = part.message_role == ROLES.index("system")
    opening = begins + np.bincount(owner[is_system], minlength=len(part))
    behind = np.arange(len(owner)) - opening[owner]
    user, assistant = ROLES.index("user"), ROLES.index("assistant")
    expected = np.where(behind % 2 == 0, user, assistant)
    wrong = np.where(behind < 0, ~is_system, part.message_role != expected)
    movable = np.bincount(owner[wrong], minlength=len(part)) == 0
    pairs, rest = np.divmod(part.message_offsets[1:] - opening, 2)
    movable &= (pairs >= 2) & (rest == 0)
    media_owner = np.repeat(np.arange(len(part)), np.diff(part.media_offsets))
    elsewhere = part.media_message != (opening - begins)[media_owner]
    movable &= np.bincount(media_owner[elsewhere], minlength=len(part)) == 0
    return owner, opening, movable


def _shuffle(
    owner: NDArray[np.int64],
    opening: NDArray[np.int64],
    movable: NDArray[np.bool_],
    keys: NDArray[np.uint64],
) -> NDArray[np.int64]:
    """Which message stands at each place, ``(M,)``: `draw_order` of all rows at once."""
    behind = np.arange(len(owner)) - opening[owner]
    questions = np.flatnonzero(movable[owner] & (behind >= 0) & (behind % 2 == 0))
    row = owner[questions]
    drawn = derive_keys(keys[row], behind[questions] // 2)
    order = questions[np.lexsort((drawn, row))]
    source = np.arange(len(owner))
    source[questions], source[questions + 1] = order, order + 1
    return source


def _count_again(
    part: Geometry,
    manifest: Manifest,
    start: int,
    tokenizer: Tokenizer,
    opening: NDArray[np.int64],
    shown: NDArray[np.int64],
    taken: list[NDArray[np.int64]],
) -> list[dict[int, int]]:
    """What questions gain that media come to, and lose that they leave: by place, for each order.

    Rows whose media stand behind text get their order back in ``taken``.
    """
    found: list[dict[int, int]] = [{} for _ in taken]
    media_tokens = _MediaTokens(tokenizer)
    begins = part.message_offsets
    # Where the published first question goes, a list an order.
    moved_to = [np.argsort(source)[opening[shown]].tolist() for source in taken]
    for number in range(0, len(shown), BATCH_ROWS):
        rows = shown[number : number + BATCH_ROWS]
        for place, messages in enumerate(manifest.messages(rows + start), number):
            row = int(shown[place])
            begin, first = int(begins[row]), int(opening[row])
            content = messages[first - begin]["content"]
            if not leads_text(content):
                for source in taken:
                    source[begin : begins[row + 1]] = np.arange(begin, begins[row + 1])
                continue
            for order, source in enumerate(taken):
                leading = int(source[first])
                if leading == first:
                    continue
                media, text = split_media(content)
                question = split_media(messages[leading - begin]["content"])[1]
                found[order][first] = media_tokens.added(media, question)
                found[order][moved_to[order][place]] = -media_tokens.added(media, text)
    return found


@dataclass
class _MediaTokens:
    """How many more text tokens a question has behind media than without them.

    Its other words stay the same: the tokenizer cuts before a space in front of a word
    (`LengthModel` checks it), so that most questions are known by their first one.
    """

    tokenizer: Tokenizer
    known: dict[tuple[str, ...], int] = field(default_factory=dict)

    def added(self, media: list[Any], text: list[Any]) -> int:
        word = _FIRST_WORD.match(text[0]["text"])
        if word is None:
            return self._count(media, text)
        key = word[0], *(part["type"] for part in media)
        if key not in self.known:
            self.known[key] = self._count(media, [{"type": "text", "text": word[0]}])
        return self.known[key]

    def _count(self, media: list[Any], text: list[Any]) -> int:
        asked = [[{"role": "user", "content": content}] for content in ([*media, *text], text)]
        behind, alone = turn_tokens_of_many(asked, self.tokenizer)
        return int(behind.text[0] - alone.text[0])
