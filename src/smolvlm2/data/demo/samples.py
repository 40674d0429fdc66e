"""Questions and answers about drawn digits: what one demo sample shows, asks and expects."""

from dataclasses import dataclass

import numpy as np

from smolvlm2.data.demo.clips import DIRECTIONS, changing_clip, moving_clip
from smolvlm2.data.demo.pages import Style, draw_page, encode_page, random_glyph
from smolvlm2.data.demo.scans import Scans

DIGITS = tuple("0123456789")
NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ORDINALS = ("first", "second", "third")
CHANGE_SECONDS = 4
"""Length of a clip whose digit changes, in seconds: room for three changes."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question with its only right answer."""

    text: str
    answer: str
    question_type: str
    choices: tuple[str, ...] = ()
    """Allowed answers; empty when the answer is free."""


@dataclass(frozen=True, kw_only=True)
class DemoSample:
    """One drawn sample before it is written in some layout."""

    media: tuple[bytes, ...]
    """Encoded images, or one mp4; none for text."""
    suffix: str
    """``png``, ``jpg``, ``mp4`` or empty."""
    questions: tuple[Question, ...]
    """At least one; in order, they become the turns."""
    scans: tuple[int, ...] = ()
    """Indices of the scans that were drawn."""


WHICH_DIGIT = ("Which digit is this?", "Which digit is on the page?", "What is the digit?")


def which_digit(label: int, text: str) -> Question:
    """Ask for a digit; the answer is the digit itself."""
    return Question(text=text, answer=str(label), question_type="which_digit", choices=DIGITS)


def one_digit(scans: Scans, position: int, rng: np.random.Generator, tile: int) -> DemoSample:
    """One digit on a page of one tile, or now and then on a larger one.

    Args:
        scans: Where the digit comes from.
        position: Which scan.
        rng: Consumed for looks, wording and the further question.
        tile: Side of a tile in pixels.
    """
    label = int(scans.labels[position])
    width = height = tile
    if rng.random() < 0.15:
        width, height = (int(side) for side in rng.integers(tile, tile * 3 // 2 + 1, size=2))
    glyph = random_glyph(scans.pixels[position], rng, box=(0, 0, width, height), bend=scans.bend)
    page = draw_page([glyph], width=width, height=height, style=Style.random(rng), rng=rng)
    questions = [which_digit(label, WHICH_DIGIT[rng.integers(len(WHICH_DIGIT))])]
    bound = int(rng.integers(0, 9))
    more = [
        Question(
            text="Is the digit even or odd?",
            answer="odd" if label % 2 else "even",
            question_type="even_odd",
            choices=("even", "odd"),
        ),
        Question(
            text=f"Is the digit larger than {bound}?",
            answer="yes" if label > bound else "no",
            question_type="larger_than",
            choices=("yes", "no"),
        ),
    ][rng.integers(2)]
    questions.insert(int(rng.integers(2)), more)
    return DemoSample(
        media=(encode_page(page),),
        suffix="png",
        questions=tuple(questions),
        scans=(int(scans.indices[position]),),
    )


def several_digits(scans: Scans, rng: np.random.Generator, tile: int) -> DemoSample:
    """Two or three digits in a row, or two to four in the corners of a square of tiles."""
    in_row = rng.random() < 0.5
    if in_row:
        columns, rows = int(rng.integers(2, 4)), 1
        cells = list(range(columns))
    else:
        columns = rows = 2
        cells = sorted(rng.permutation(4)[: rng.integers(2, 5)].tolist())
    picked = rng.integers(len(scans), size=len(cells))
    labels = [int(scans.labels[position]) for position in picked]
    glyphs = [
        random_glyph(
            scans.pixels[position],
            rng,
            box=(cell % columns * tile, cell // columns * tile, tile, tile),
            scale=(0.75, 1.0),
            bend=scans.bend,
        )
        for cell, position in zip(cells, picked, strict=True)
    ]
    page = draw_page(
        glyphs, width=columns * tile, height=rows * tile, style=Style.random(rng), rng=rng
    )
    order = "from left to right" if in_row else "row by row"
    read = Question(
        text=f"Read the digits {order}.",
        answer=" ".join(map(str, labels)),
        question_type="read_digits",
    )
    count = Question(
        text="How many digits are there?",
        answer=str(len(labels)),
        question_type="how_many_digits",
        choices=("2", "3", "4"),
    )
    names = ("top left", "top right", "bottom left", "bottom right")
    one = int(rng.integers(len(cells)))
    place = ORDINALS[one] if in_row else names[cells[one]]
    text = f"Which digit is {place}?" if not in_row else f"Which digit is the {place}?"
    where = Question(
        text=text, answer=str(labels[one]), question_type="digit_at_place", choices=DIGITS
    )
    questions = [(read, where), (where, read), (count, read), (read, count)][rng.integers(4)]
    return DemoSample(
        media=(encode_page(page),),
        suffix="png",
        questions=questions,
        scans=tuple(int(scans.indices[position]) for position in picked),
    )


def compared_images(scans: Scans, rng: np.random.Generator, tile: int, count: int) -> DemoSample:
    """Two or three images, each with one digit, and a question that needs them all.

    The question holds one ``<image>`` a picture, as M4-Instruct has it.
    """
    kinds = ("which_shows", "which_larger", "same_digit") if count == 2 else ("which_shows",)
    kind = kinds[rng.integers(len(kinds))]
    labels = rng.permutation(10)[:count].tolist()
    if kind == "same_digit" and rng.random() < 0.5:
        labels[1] = labels[0]
    picked = [int(rng.choice(scans.positions_of(label))) for label in labels]
    media = []
    for position in picked:
        glyph = random_glyph(scans.pixels[position], rng, box=(0, 0, tile, tile), bend=scans.bend)
        page = draw_page([glyph], width=tile, height=tile, style=Style.random(rng), rng=rng)
        media.append(encode_page(page, "jpg"))
    images = " ".join(f"Image {number}: <image>" for number in range(1, count + 1))
    if kind == "same_digit":
        answer = "yes" if labels[0] == labels[1] else "no"
        choices: tuple[str, ...] = ("yes", "no")
        text = "Do both images show the same digit?"
    else:
        wanted = int(np.argmax(labels)) if kind == "which_larger" else int(rng.integers(count))
        answer, choices = ORDINALS[wanted], ORDINALS[:count]
        text = "Which image shows the larger digit?"
        if kind == "which_shows":
            text = f"Which image shows the digit {labels[wanted]}?"
    return DemoSample(
        media=tuple(media),
        suffix="jpg",
        questions=(
            Question(text=f"{images}\n{text}", answer=answer, question_type=kind, choices=choices),
        ),
        scans=tuple(int(scans.indices[position]) for position in picked),
    )


def moving_digit(scans: Scans, rng: np.random.Generator, tile: int) -> DemoSample:
    """A clip of one digit that crosses the frame: which way, and which digit."""
    position = int(rng.integers(len(scans)))
    direction = DIRECTIONS[rng.integers(4)]
    clip = moving_clip(
        scans.pixels[position],
        direction,
        rng,
        size=_frame_size(rng, tile),
        fps=int(rng.integers(4, 9)),
        seconds=float(rng.choice([2.0, 2.5, 3.0, 4.0])),
    )
    way = Question(
        text="Which way does the digit move?",
        answer=direction,
        question_type="which_way",
        choices=DIRECTIONS,
    )
    digit = Question(
        text="Which digit is in the video?",
        answer=str(scans.labels[position]),
        question_type="video_digit",
        choices=DIGITS,
    )
    return DemoSample(
        media=(clip,),
        suffix="mp4",
        questions=((way, digit), (digit, way))[rng.integers(2)],
        scans=(int(scans.indices[position]),),
    )


def changing_digit(scans: Scans, rng: np.random.Generator, tile: int) -> DemoSample:
    """A clip whose digit is replaced zero to three times: how many times."""
    changes = int(rng.integers(4))
    seconds = sorted(rng.permutation(np.arange(1, CHANGE_SECONDS))[:changes].tolist())
    labels = [int(rng.integers(10))]
    for _ in range(changes):
        labels.append((labels[-1] + int(rng.integers(1, 10))) % 10)
    picked = [int(rng.choice(scans.positions_of(label))) for label in labels]
    clip = changing_clip(
        [scans.pixels[position] for position in picked],
        seconds,
        rng,
        size=_frame_size(rng, tile),
        fps=int(rng.integers(4, 9)),
        seconds=CHANGE_SECONDS,
    )
    question = Question(
        text="How many times does the digit change?",
        answer=str(changes),
        question_type="how_many_changes",
        choices=("0", "1", "2", "3"),
    )
    return DemoSample(
        media=(clip,),
        suffix="mp4",
        questions=(question,),
        scans=tuple(int(scans.indices[position]) for position in picked),
    )


def about_numbers(rng: np.random.Generator, turns: int = 3) -> DemoSample:
    """Questions about digits that need no picture; several, so that few samples are equal."""
    return DemoSample(
        media=(), suffix="", questions=tuple(_number_question(rng) for _ in range(turns))
    )


def _number_question(rng: np.random.Generator) -> Question:
    kind = int(rng.integers(4))
    digit = int(rng.integers(0, 9))
    if kind == 0:
        question = (f"Which digit comes after {digit}?", str(digit + 1), "digit_after")
    elif kind == 1:
        question = (f"Spell the digit {digit}.", NUMBER_WORDS[digit], "spell_digit")
    elif kind == 2:
        other = int(rng.integers(0, 10 - digit))
        question = (f"What is {digit} plus {other}?", str(digit + other), "sum")
    else:
        other = (digit + int(rng.integers(1, 10))) % 10
        question = (f"Which is larger, {digit} or {other}?", str(max(digit, other)), "larger")
    text, answer, question_type = question
    return Question(text=text, answer=answer, question_type=question_type)


def _frame_size(rng: np.random.Generator, tile: int) -> tuple[int, int]:
    """Width and height between one tile and one and a half, even as H.264 needs them."""
    width, height = (int(side) // 2 * 2 for side in rng.integers(tile, tile * 3 // 2 + 1, size=2))
    return width, height
