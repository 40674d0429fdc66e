"""Prepare per core: rows a second, tokens a second, memory, and random access to what comes out.

    OMP_NUM_THREADS=1 python benchmarks/prepare.py [--folder FOLDER] [--image-gb 1] [--json-gb 5]

Data are generated: a file in The Cauldron's shape (JPEG photographs in parquet), a LLaVA JSON of
texts, and a large LLaVA JSON whose rows name images in a stored zip. Speeds are rows or tokens by
CPU time of one process; beside the token counts stands the bare tokenizer on the same texts, in
turns with them. Peak memory is that of a child process of its own. "cold" means that the pages of
all files were dropped before each access.
"""

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from smolvlm2.data import prepare as prepare_module
from smolvlm2.data.demo.layouts import CAULDRON_SCHEMA
from smolvlm2.data.manifest import Manifest
from smolvlm2.data.media import MediaStore
from smolvlm2.data.prepare import prepare_source
from smolvlm2.data.sources.cauldron import ImagesAndTexts
from smolvlm2.data.sources.llava import M4Instruct
from smolvlm2.data.token_columns import count_tokens
from smolvlm2.processing.tokenizer import Tokenizer, extend_for_images
from smolvlm2.processing.tokenizer_training import train_base_tokenizer

TEXT_ROWS = 40_000
IMAGE_ROWS_PER_GROUP = 100
ACCESSES = 400
ROUNDS = 5
RESULT = Path(__file__).parent / "results" / "prepare.json"
CAULDRON = ImagesAndTexts(source="images", licence="none")
TEXTS = M4Instruct(source="texts", licence="none")
LARGE = M4Instruct(source="large", licence="none")


def main() -> None:
    """Generate, measure, print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="where to generate; default: a temporary one")
    parser.add_argument("--image-gb", type=float, default=1.0)
    parser.add_argument("--json-gb", type=float, default=5.0)
    parser.add_argument("--child", choices=["images", "large", "texts"])
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(prepare_once(arguments.folder, arguments.child)))
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        payload = measure(Path(folder), arguments.image_gb, arguments.json_gb)
    for name, value in payload.items():
        print(f"{name:36s} {value}")
    from results_file import record

    print(json.dumps(record(RESULT.stem, payload)))


def measure(root: Path, image_gb: float, json_gb: float) -> dict[str, Any]:
    """All figures."""
    generator = np.random.default_rng(0)
    words = make_words(generator)
    sentences = [make_text(generator, words) for _ in range(2000)]
    train_base_tokenizer(sentences, root / "tokenizer", vocab_size=8192)
    tokenizer = extend_for_images(root / "tokenizer")
    length = len(tokenizer.encode_text(" ".join(sentences))) / len(sentences)
    write_texts(root / "raw" / "texts", sentences, TEXT_ROWS)
    write_images(root / "raw" / "images", sentences, image_gb)
    write_large(root / "raw" / "large", sentences, json_gb)
    payload: dict[str, Any] = {"row_tokens": round(2 * length), "image_gb": image_gb}
    payload |= {"json_gb": json_gb}
    for name, kind in (("texts", "text"), ("images", "image"), ("large", "large_json")):
        found = run_child(root, name)
        payload[f"{kind}_rows"] = found["rows"]
        payload[f"{kind}_rows_per_s"] = round(found["rows"] / found["cpu_s"])
        payload[f"{kind}_peak_mb"] = found["peak_mb"]
        payload["imports_mb"] = found["begun_with_mb"]
        payload[f"{kind}_bytes"] = found["bytes"]
    payload |= measure_tokens(root, tokenizer)
    payload |= measure_access(root)
    return payload


def make_words(generator: np.random.Generator) -> list[str]:
    """Invented words of 2 to 10 letters; the frequent ones are short, as in a language."""
    letters = np.array(list("etaoinshrdlucmfwypvbgkqjxz"))
    shares = 1 / np.arange(2, 28)
    shares /= shares.sum()
    lengths = np.sort(generator.integers(2, 11, 5000))
    return ["".join(generator.choice(letters, size, p=shares)) for size in lengths]


def make_text(generator: np.random.Generator, words: list[str]) -> str:
    """About half a row of text."""
    ranks = np.minimum(generator.zipf(1.3, 92), len(words)) - 1
    text = " ".join(words[rank] for rank in ranks.tolist())
    return f"{text.capitalize()} {generator.integers(1000)}."


def m4_row(number: int, question: str, answer: str, images: list[str]) -> str:
    """A row as JSON."""
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    metadata = {"dataset": "Src", "split": "train", "question_type": "open-ended"}
    row = {"sample_id": number, "conversations": turns, "image": images, "metadata": metadata}
    return json.dumps(row)


def write_texts(folder: Path, sentences: list[str], rows: int) -> None:
    """A LLaVA JSON without images."""
    folder.mkdir(parents=True)
    with (folder / "m4_instruct_annotations.json").open("w") as file:
        file.write("[")
        for number in range(rows):
            question = f"{number} {sentences[number % len(sentences)]}"
            answer = sentences[number * 7 % len(sentences)]
            file.write(("," if number else "") + m4_row(number, question, answer, []))
        file.write("]")


def write_images(folder: Path, sentences: list[str], gigabytes: float) -> None:
    """A parquet file in The Cauldron's shape, in row groups as the hub has them."""
    (folder / "config").mkdir(parents=True)
    generator = np.random.default_rng(1)
    target = folder / "config" / "train-00000-of-00001.parquet"
    photographs = [photograph(generator) for _ in range(64)]
    number = 0
    with pq.ParquetWriter(target, CAULDRON_SCHEMA) as writer:
        while not number or target.stat().st_size < gigabytes * 1e9:
            rows = []
            for _ in range(IMAGE_ROWS_PER_GROUP):
                # A comment at the end makes every file another one.
                data = photographs[number % len(photographs)] + str(number).encode()
                question = f"{number} {sentences[number % len(sentences)]}"
                answer = sentences[number * 7 % len(sentences)]
                texts = [{"user": question, "assistant": answer, "source": "s"}]
                rows.append({"images": [{"bytes": data, "path": None}], "texts": texts})
                number += 1
            writer.write_table(pa.Table.from_pylist(rows, CAULDRON_SCHEMA))


def photograph(generator: np.random.Generator) -> bytes:
    """A JPEG of 640 x 480 with shapes and grain, about 90 kB."""
    shapes = generator.integers(0, 255, (31, 41, 3), dtype=np.uint8)
    smooth = Image.fromarray(shapes).resize((640, 480), Image.Resampling.BICUBIC)
    grain = generator.integers(-8, 9, (480, 640, 1))
    pixels = (np.asarray(smooth).astype(np.int16) + grain).clip(0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def write_large(folder: Path, sentences: list[str], gigabytes: float) -> None:
    """A LLaVA JSON of many gigabytes, long answers, whose rows name images in a stored zip."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(2)
    image = photograph(generator)
    with zipfile.ZipFile(folder / "Src.zip", "w") as archive:
        for number in range(1000):
            archive.writestr(f"Src/images/{number}.jpg", image + str(number).encode())
    path = folder / "m4_instruct_annotations.json"
    answer = " ".join(sentences[:24])
    number = 0
    with path.open("w") as file:
        file.write("[")
        while file.tell() < gigabytes * 1e9:
            lines = []
            for _ in range(1000):
                images = [f"Src/images/{number % 1000}.jpg"]
                question = f"<image>\n{number} {sentences[number % len(sentences)]}"
                lines.append(("," if number else "") + m4_row(number, question, answer, images))
                number += 1
            file.write("".join(lines))
        file.write("]")


def run_child(root: Path, name: str) -> dict[str, Any]:
    """Prepare one source in a process of its own."""
    command = [sys.executable, __file__, "--folder", str(root), "--child", name]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def prepare_once(root: Path, name: str) -> dict[str, Any]:
    """Prepare a source without its token counts, and say what it took."""
    adapter = {"images": CAULDRON, "texts": TEXTS, "large": LARGE}[name]
    tokenizer = extend_for_images(root / "tokenizer")
    prepare_module._Job.add_tokens = lambda *_: None  # type: ignore[method-assign, assignment]
    raw = root / "raw" / name
    begun_with = peak_mb()
    start = time.process_time()
    summary = prepare_source(adapter, raw, root / "prepared" / name, tokenizer)
    assert summary.rows_kept == summary.rows_read, summary
    return {
        "rows": summary.rows_kept,
        "cpu_s": time.process_time() - start,
        "peak_mb": peak_mb(),
        "begun_with_mb": begun_with,
        "bytes": sum(path.stat().st_size for path in raw.rglob("*") if path.is_file()),
    }


def peak_mb() -> int:
    """Highest resident memory of this process so far."""
    # Not from getrusage: a child starts with its parent's peak there.
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) // 1024


def measure_tokens(root: Path, tokenizer: Tokenizer) -> dict[str, Any]:
    """Token counts against the tokenizer alone, on the same texts, in turns."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    folder = root / "prepared" / "texts"
    rows = 8192
    texts = [
        part["text"]
        for messages in Manifest.open(folder).messages(0, rows)
        for message in messages
        for part in message["content"]
    ]
    bare, ours = [], []
    tokens = counted = 0
    for _ in range(ROUNDS):
        start = time.process_time()
        tokens = sum(
            len(encoding)
            for first in range(0, len(texts), 512)
            for encoding in tokenizer._text.encode_batch_fast(
                texts[first : first + 512], add_special_tokens=False
            )
        )
        bare.append(tokens / (time.process_time() - start))
        start = time.process_time()
        counted = int(count_tokens(folder, tokenizer, 0, rows)[0].sum())
        ours.append(counted / (time.process_time() - start))
    return {
        "bare_tokens_per_s": round(statistics.median(bare)),
        "count_tokens_per_s": round(statistics.median(ours)),
        "count_of_bare": round(
            statistics.median(a / b for a, b in zip(ours, bare, strict=True)), 3
        ),
    }


def measure_access(root: Path) -> dict[str, Any]:
    """Milliseconds to a random sample with its images."""
    figures: dict[str, Any] = {}
    for name in ("images", "large"):
        folder = root / "prepared" / name
        places = (*folder.rglob("*"), *(root / "raw" / name).rglob("*"))
        files = [path for path in places if path.is_file()]
        for state in ("cold", "warm"):
            manifest = Manifest.open(folder)
            store = MediaStore(root)
            numbers = np.random.default_rng(3).integers(0, len(manifest), ACCESSES).tolist()
            times = []
            for number in [*numbers, *numbers] if state == "warm" else numbers:
                if state == "cold":
                    for path in files:
                        drop_pages(path)
                start = time.perf_counter()
                for locator in manifest.row(number).media:
                    store.read(locator)
                times.append((time.perf_counter() - start) * 1000)
            times = times[-ACCESSES:]
            figures[f"{name}_{state}_median_ms"] = round(statistics.median(times), 3)
            figures[f"{name}_{state}_p99_ms"] = round(float(np.percentile(times, 99)), 3)
    return figures | measure_disk(root / "prepared" / "large" / "manifest.arrow")


def measure_disk(path: Path) -> dict[str, Any]:
    """What one cold read of 4 kB costs on this disk at this time: the unit of the cold figures."""
    times = []
    size = path.stat().st_size
    with path.open("rb", buffering=0) as file:
        for place in np.random.default_rng(4).integers(0, size - 4096, ACCESSES).tolist():
            drop_pages(path)
            start = time.perf_counter()
            os.pread(file.fileno(), 4096, place)
            times.append((time.perf_counter() - start) * 1000)
    p99 = round(float(np.percentile(times, 99)), 3)
    return {
        "one_cold_read_median_ms": round(statistics.median(times), 3),
        "one_cold_read_p99_ms": p99,
    }


def drop_pages(path: Path) -> None:
    """Make the system forget a file; pages that are mapped stay until they are unmapped."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    main()
