"""What the data tests share: a few dozen scans drawn, written and prepared once."""

import io
import json
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tokenizers
from tokenizers import decoders, pre_tokenizers

from smolvlm2.data.demo.clips import encode_clip
from smolvlm2.data.demo.layouts import CAULDRON_SCHEMA
from smolvlm2.data.demo.pages import Style, draw_page, encode_page
from smolvlm2.data.demo_digits import write_demo_data
from smolvlm2.data.prepare import PrepareSettings, prepare_source
from smolvlm2.data.sources.catalogue import DEMO_SOURCES
from smolvlm2.processing.tokenizer import Tokenizer, extend_for_images

TINY = {
    "one_digit_pages": 14,
    "several_digit_pages": 8,
    "image_comparisons": 9,
    "moving_clips": 4,
    "changing_clips": 3,
    "text_questions": 10,
    "held_out_questions": 3,
    "held_out_share": 0.02,
}
"""Settings of the smallest demo data that hold every layout."""


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory) -> Tokenizer:
    """A byte-level tokenizer shaped like SmolLM2's, trained on the spot."""
    return build_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def build_tokenizer(folder: Path, words: str = "Which digit is this? even odd larger") -> Tokenizer:
    """Train 300 ids on a few words and add SmolVLM's tokens."""
    built = tokenizers.Tokenizer(tokenizers.models.BPE())
    built.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    built.decoder = decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    built.train_from_iterator([words] * 3, trainer)
    built.save(str(folder / "tokenizer.json"))
    return extend_for_images(folder)


@pytest.fixture(scope="session")
def tiny() -> dict[str, float]:
    """Settings of the smallest demo data."""
    return TINY


@pytest.fixture(scope="session")
def demo_root(tmp_path_factory) -> Path:
    """A data root with tiny demo data."""
    root = tmp_path_factory.mktemp("demo") / "data"
    write_demo_data(root, **TINY)
    return root


@pytest.fixture(scope="session")
def prepared_root(demo_root, tokenizer) -> Path:
    """The same root with all four demo sources prepared."""
    for name, source in DEMO_SOURCES.items():
        raw = demo_root / "raw" / source.raw_folder
        prepare_source(source.adapter, raw, demo_root / "prepared" / name, tokenizer)
    return demo_root


@pytest.fixture
def png():
    """Make PNG bytes: ``png(number)`` differs by number, ``png(n, width, height)`` in size."""

    def make(number: int = 0, width: int = 32, height: int = 32) -> bytes:
        style = Style(paper=200, ink=0, noise=5)
        rng = np.random.default_rng(number)
        return encode_page(draw_page([], width=width, height=height, style=style, rng=rng))

    return make


@pytest.fixture(scope="session")
def read_ledger():
    """Lines of a prepared source's ledger: ``read_ledger(folder)``."""

    def read(folder: Path) -> list[dict]:
        return [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]

    return read


@pytest.fixture(scope="session")
def tree_bytes():
    """Every file below a folder by relative path, except those named."""

    def read(folder: Path, skip: tuple[str, ...] = ()) -> dict[str, bytes]:
        return {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name not in skip
        }

    return read


@pytest.fixture
def raw(tmp_path) -> Path:
    """An empty raw folder inside a data root."""
    folder = tmp_path / "data" / "raw" / "owner__name"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def prepare(raw, tokenizer):
    """Prepare the raw folder: ``prepare(adapter, consume=True)`` gives folder and summary."""

    def run(adapter, progress=None, **options):
        out = raw.parent.parent / "prepared" / adapter.source
        settings = PrepareSettings(**options)
        return out, prepare_source(adapter, raw, out, tokenizer, settings, progress)

    return run


@pytest.fixture(scope="session")
def mp4() -> bytes:
    """A clip of half a second."""
    return encode_clip(np.full((4, 32, 48), 90, dtype=np.uint8), fps=8)


@pytest.fixture(scope="session")
def cauldron_row():
    """A row of images and texts: ``cauldron_row([bytes], (question, answer), ...)``."""

    def make(images, *pairs):
        return {
            "images": [{"bytes": data, "path": "lost.png"} for data in images],
            "texts": [{"user": q, "assistant": a, "source": "s"} for q, a in pairs],
        }

    return make


@pytest.fixture(scope="session")
def write_rows():
    """Write rows to a parquet file: ``write_rows(path, rows, schema)``."""

    def write(path: Path, rows: list[dict], schema: pa.Schema = CAULDRON_SCHEMA) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows, schema), path)

    return write


@pytest.fixture(scope="session")
def reasons():
    """Row and reason of ledger lines."""
    return lambda lines: [(line["row"], line["reason"]) for line in lines]


@pytest.fixture(scope="session")
def write_tar():
    """Write a tar: ``write_tar(path, {name: bytes}, mode="w:gz", odd=[TarInfo, ...])``."""

    def write(path: Path, members: dict[str, bytes], mode: str = "w", odd=()) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, mode) as archive:
            for name, data in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
            for info in odd:
                archive.addfile(info)

    return write


@pytest.fixture(scope="session")
def write_split_zip():
    """Write ``x.z01``, ..., ``x.zip`` as ``zip -s`` does: ``write(path, members, part_size)``."""

    def write(path: Path, members: dict[str, bytes], part_size: int, method: int = 0) -> list[Path]:
        stream, directory = bytearray(b"PK\7\x08"), b""
        for name, data in members.items():
            squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
            packed = squeeze.compress(data) + squeeze.flush() if method else data
            label = name.encode()
            part, offset = divmod(len(stream), part_size)
            fields = (method, 0, 33, zlib.crc32(data), len(packed), len(data), len(label))
            stream += struct.pack("<4s2H3H3L2H", b"PK\3\4", 20, 0, *fields, 0) + label + packed
            directory += struct.pack(
                "<4s6H3L5H2L", b"PK\1\2", 3 << 8 | 20, 20, 0, *fields, 0, 0, part, 0,
                0o100644 << 16, offset,
            ) + label  # fmt: skip
        part, offset = divmod(len(stream), part_size)
        stream += directory
        # The record at the end lies in one part.
        last = len(stream) // part_size
        stream += struct.pack(
            "<4s4H2LH", b"PK\5\6", last, part, len(members), len(members), len(directory), offset, 0
        )
        names = [path.with_suffix(f".z{number + 1:02d}") for number in range(last)] + [path]
        for number, name in enumerate(names):
            end = (number + 1) * part_size if name != path else len(stream)
            name.write_bytes(stream[number * part_size : end])
        return names

    return write


@pytest.fixture(scope="session")
def clip():
    """Encode a clip: ``clip(frames, fps)``; frame i is as grey as i says."""

    def make(frames: int, fps: int = 8, size: tuple[int, int] = (32, 48)) -> bytes:
        grey = np.arange(frames, dtype=np.uint8)[:, None, None] * 3 % 250
        return encode_clip(np.broadcast_to(grey, (frames, *size)), fps=fps)

    return make
