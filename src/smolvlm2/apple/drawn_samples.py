"""A handful of drawn pictures and a clip with questions: data for trying things out."""

import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from smolvlm2.data.demo.clips import encode_clip

COLOURS = {"red": (200, 40, 40), "green": (40, 150, 60), "blue": (40, 70, 200)}
SHAPES = ("circle", "square", "triangle")
CLIP_FPS = 4


def write_drawn_samples(folder: Path, *, rows: int = 24, size: int = 256) -> Path:
    """Write ``train.jsonl``, ``images/`` and ``clips/``; the shape that training data have.

    Every sixth row is a clip, every fourth of the others has two images and two turns.

    Args:
        folder: Made if missing.
        rows: Number of samples.
        size: Side of a picture, in pixels, even.

    Returns:
        The folder.
    """
    for name in ("images", "clips"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(rows):
        rng = np.random.default_rng([7, number])
        if number % 6 == 5:
            lines.append(_clip_row(folder, number, rng, size))
        else:
            lines.append(_image_row(folder, number, rng, size, images=2 if number % 4 == 3 else 1))
    unfinished = folder / "train.jsonl.partial"
    unfinished.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    unfinished.replace(folder / "train.jsonl")
    return folder


def draw_shape(shape: str, colour: str, rng: np.random.Generator, size: int) -> Image.Image:
    """One filled shape on white, somewhere.

    Args:
        shape: One of ``SHAPES``.
        colour: One of ``COLOURS``.
        rng: Consumed for its place and size.
        size: Side of the picture, in pixels.
    """
    picture = Image.new("RGB", (size, size), "white")
    side = int(size * rng.uniform(0.35, 0.6))
    left, top = (int(rng.integers(0, size - side)) for _ in range(2))
    box = (left, top, left + side, top + side)
    pen = ImageDraw.Draw(picture)
    if shape == "circle":
        pen.ellipse(box, fill=COLOURS[colour])
    elif shape == "square":
        pen.rectangle(box, fill=COLOURS[colour])
    else:
        corners = [(left + side / 2, top), (left, top + side), (left + side, top + side)]
        pen.polygon(corners, fill=COLOURS[colour])
    return picture


def _image_row(
    folder: Path, number: int, rng: np.random.Generator, size: int, *, images: int
) -> dict[str, object]:
    messages, names = [], []
    for index in range(images):
        shape, colour = str(rng.choice(SHAPES)), str(rng.choice(list(COLOURS)))
        name = f"images/{number:04d}_{index}.png"
        draw_shape(shape, colour, rng, size).save(folder / name)
        names.append(name)
        question = [{"type": "image"}, {"type": "text", "text": "Which shape is this?"}]
        messages += [_turn("user", question), _turn("assistant", f"A {colour} {shape}.")]
    return {"id": f"drawn/{number:04d}", "images": names, "messages": messages}


def _clip_row(folder: Path, number: int, rng: np.random.Generator, size: int) -> dict[str, object]:
    words = ["left to right", "right to left"]
    way = int(rng.integers(2))
    side = size // 4
    frames = np.full((3 * CLIP_FPS, size, size), 235, dtype=np.uint8)
    for index, frame in enumerate(frames):
        along = index / (len(frames) - 1)
        left = int((size - side) * (along if way == 0 else 1 - along))
        frame[size // 2 - side // 2 : size // 2 + side // 2, left : left + side] = 40
    name = f"clips/{number:04d}.mp4"
    (folder / name).write_bytes(encode_clip(frames, fps=CLIP_FPS))
    question = [{"type": "video"}, {"type": "text", "text": "Which way does it move?"}]
    messages = [_turn("user", question), _turn("assistant", f"From {words[way]}.")]
    return {"id": f"drawn/{number:04d}", "videos": [name], "messages": messages}


def _turn(role: str, content: object) -> dict[str, object]:
    return {"role": role, "content": content}
