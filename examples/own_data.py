"""What a data set of your own looks like: draws shapes, and writes questions about them.

    python examples/own_data.py runs/own/raw/shapes

makes `train.jsonl`, a conversation a line, and the images that its lines name, beside it.
"""

import json
import random
import sys
from pathlib import Path

from PIL import Image, ImageDraw

COLOURS = {"red": (200, 40, 40), "green": (40, 150, 60), "blue": (40, 70, 200)}
ROWS = 240


def row(folder: Path, number: int) -> dict:
    """Draw one picture; its line in the file."""
    draw = random.Random(number)
    colour, shape = draw.choice(list(COLOURS)), draw.choice(["disc", "square"])
    picture = Image.new("RGB", (64, 64), "white")
    left, top, side = draw.randrange(24), draw.randrange(24), draw.randrange(24, 40)
    box = (left, top, left + side, top + side)
    pen = ImageDraw.Draw(picture)
    (pen.ellipse if shape == "disc" else pen.rectangle)(box, fill=COLOURS[colour])
    name = f"images/{number:04d}.png"
    picture.save(folder / name)
    question = [{"type": "image", "path": name}, {"type": "text", "text": "What is this?"}]
    return {
        "id": number,
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": f"A {colour} {shape}."},
        ],
    }


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    (folder / "images").mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row(folder, number)) + "\n" for number in range(ROWS)]
    (folder / "train.jsonl").write_text("".join(lines), encoding="utf-8")
    print(f"{ROWS} rows in {folder / 'train.jsonl'}")
