"""A tiny model with its processor, an oracle that says what a test wants, and raw benchmarks."""

import io
import json
import zipfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from smolvlm2.evaluation.backends import NativeBackend, Reply
from smolvlm2.evaluation.benchmark import Benchmark
from smolvlm2.evaluation.questions import Question
from smolvlm2.model.config import SmolVLMConfig, TextConfig, VisionConfig
from smolvlm2.model.smolvlm import SmolVLM
from smolvlm2.processing.processor import Processor
from smolvlm2.processing.tiling import ImageSettings
from smolvlm2.processing.tokenizer import extend_for_images
from smolvlm2.processing.tokenizer_training import train_base_tokenizer
from smolvlm2.processing.video import VideoSettings

CORPUS = (
    "User: Assistant: System: Answer with the option's letter from the given choices directly.",
    "You are provided the following series of three frames from a 0:00:03 [H:MM:SS] video.\n",
    "\nFrame from 00:01:",
    "How bright? Which one? A. a red car\nB. a blue bus 0 1 2 3 4 5 6 7 8 9",
) * 4


@pytest.fixture(scope="session")
def processor(tmp_path_factory) -> Processor:
    """Tiles of 32 px, four visual tokens each; three frames of a clip at most."""
    folder = tmp_path_factory.mktemp("tokenizer")
    train_base_tokenizer(CORPUS, folder, vocab_size=420)
    return Processor(
        extend_for_images(folder),
        tile_size=32,
        tokens_per_tile=4,
        image=ImageSettings(longest_edge=64, upscale="never"),
        video=VideoSettings(max_frames=3, backend="pyav"),
    )


@pytest.fixture(scope="session")
def model(processor) -> SmolVLM:
    """Two layers of random weights, large enough that answers differ with what is shown."""
    special = processor.tokenizer.special
    config = SmolVLMConfig(
        vision=VisionConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=32,
            patch_size=8,
        ),
        text=TextConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            vocab_size=processor.tokenizer.vocab_size,
            max_position_embeddings=1024,
        ),
        scale_factor=2,
        image_token_id=special.image,
        eos_token_id=special.end_of_utterance,
        pad_token_id=special.pad,
        bos_token_id=special.bos,
    )
    return SmolVLM.from_random(config, seed=3)


class Oracle(NativeBackend):
    """Decodes and makes prompts as the real one does, then says what a function of the question
    gives; can be killed after some batches."""

    def __init__(
        self,
        processor: Processor,
        benchmark: Benchmark,
        say: Callable[[Question], str],
        die_after: int | None = None,
        **options,
    ) -> None:
        super().__init__(model=None, processor=processor, benchmark=benchmark, **options)
        self.say, self.die_after = say, die_after
        self.batches: list[list[str]] = []
        self.decoded: list[str] = []
        self.prompts: dict[str, str] = {}

    def decode(self, medium):
        self.decoded.append(str(medium))
        return super().decode(medium)

    def answer(self, batch):
        if self.die_after is not None and len(self.batches) >= self.die_after:
            raise KeyboardInterrupt
        self.batches.append([asked.question.question_id for asked in batch])
        for asked in batch:
            text = self.processor.decode(asked.prompt, skip_special_tokens=False)
            self.prompts[asked.question.question_id] = text
        return [Reply(text=self.say(asked.question), tokens=1) for asked in batch]


@pytest.fixture
def make_oracle(processor):
    """Builder: ``make_oracle(benchmark, say)``."""

    def make(benchmark, say, **options):
        return Oracle(processor, benchmark, say, **options)

    return make


def gold(question: Question) -> str:
    """The right answer, as a model would give it."""
    return question.letter or question.references[0]


@pytest.fixture(name="gold")
def gold_fixture():
    return gold


@pytest.fixture
def benchmark_() -> Benchmark:
    return Benchmark(name="shade", file="shade.jsonl", modality="image", prompt_suffix="In short.")


@pytest.fixture
def data_root(tmp_path) -> Path:
    """Seven questions in this package's own form; two pictures are shared by two each."""
    root = tmp_path / "held_out"
    (root / "media").mkdir(parents=True)
    lines = []
    for number in range(7):
        side = 24 if number % 2 else 48
        Image.new("RGB", (side, side), (40 * number,) * 3).save(root / f"media/{number}.png")
        lines.append(
            {
                "question_id": f"shade/{number}",
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "image"}, {"type": "text", "text": "How bright?"}],
                    }
                ],
                "media": [f"media/{number % 5}.png"],
                "answer": str(number) if number < 5 else "99",
                "choices": ["0", "1"] if number % 2 else ["0", "1", "2", "3"],
                "question_type": "odd" if number % 2 else "even",
            }
        )
    (root / "shade.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return root


def clip(seed: int = 0, seconds: int = 3, fps: int = 4) -> bytes:
    """An H.264 clip whose frame i is grey level 20 i + seed."""
    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        stream.time_base = Fraction(1, fps)
        for number in range(seconds * fps):
            level = (20 * number + 7 * seed) % 256
            picture = np.full((32, 48, 3), level, dtype=np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    return target.getvalue()


@pytest.fixture(scope="session")
def encode_clip():
    """Builder: ``encode_clip(seed, seconds, fps) -> bytes``."""
    return clip


def picture(seed: int = 0) -> bytes:
    """A PNG of one colour."""
    target = io.BytesIO()
    Image.new("RGB", (50, 40), ((37 * seed) % 256, 90, 200)).save(target, "PNG")
    return target.getvalue()


def write_parquet(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=3)


def write_zip(path: Path, members: dict[str, bytes], *, packed: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


@pytest.fixture
def write():
    """``write.parquet(path, rows)``, ``write.zip(path, members)``, ``write.json(path, rows)``."""

    class Write:
        parquet = staticmethod(write_parquet)
        zip = staticmethod(write_zip)
        picture = staticmethod(picture)

        @staticmethod
        def json(path: Path, value) -> None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(value))

        @staticmethod
        def file(path: Path, data: bytes) -> None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    return Write
