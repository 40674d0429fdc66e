"""A tiny world for this room: a tokenizer trained on the spot, and how its files are laid out."""

import importlib.util
import io
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import tokenizers
from PIL import Image
from tokenizers import decoders, models, pre_tokenizers, trainers

from smolvlm2.processing.images import ImageSettings
from smolvlm2.processing.processor import Processor
from smolvlm2.processing.tokenizer import Tokenizer, extend_for_images

CORPUS = [
    "User: What is in this image?\nAssistant: A cat sits on the mat, and it is 3 years old.",
    "System: You are a helpful language and vision assistant.\n\nThe answer is:\n\n- one\n- two",
    "You are provided the following series of three frames from a 0:00:03 [H:MM:SS] video.\n",
    "\nFrame from 00:01:\n\nFrame from 12:34: the row_1_col_1 is <b>bold</b>\n\n\n",
] * 4


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SmolLM2-shaped tokenizer of about 400 ids, with its first special tokens."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    folder = tmp_path_factory.mktemp("base_tokenizer")
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="session")
def tokenizer(base_folder: Path) -> Tokenizer:
    """The same, extended for images."""
    return extend_for_images(base_folder)


@pytest.fixture(scope="session")
def encode_video() -> Callable[..., bytes]:
    """Encodes H.264 on the spot: ``encode_video(n, fps, turn=..., times_ms=...) -> bytes``.

    Frame i is grey level ``4 * i`` with a red patch in its upper left corner, so that a test knows
    which frame it got and which way up it is.
    """

    def encode(
        frames: int = 30,
        fps: int = 10,
        *,
        width: int = 64,
        height: int = 48,
        turn: int | None = None,
        times_ms: list[int] | None = None,
        gop: int = 8,
        faststart: Path | None = None,
        kind: str = "mp4",
        b_frames: int = 2,
        open_gop: bool = False,
        moving: bool = False,
    ) -> bytes:
        target = io.BytesIO() if faststart is None else str(faststart)
        options = {} if faststart is None else {"movflags": "faststart"}
        with av.open(target, "w", format=kind, options=options) as container:
            stream = container.add_stream("libx264", rate=fps)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.options = {"g": str(gop), "bf": str(b_frames), "crf": "8"}
            if open_gop:
                stream.options |= {"x264-params": "open-gop=1"}
            coarse = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
            texture = np.asarray(Image.fromarray(coarse).resize((320, 320)))
            if turn is not None:
                stream.set_display_rotation(turn)
            if times_ms is not None:
                stream.codec_context.time_base = Fraction(1, 1000)
            for number in range(frames):
                pixels = np.full((height, width, 3), min(4 * number, 255), dtype=np.uint8)
                pixels[: height // 3, : width // 3] = (255, 0, 0)
                if moving:  # only then does the encoder find B frames worth their bits
                    pixels = np.ascontiguousarray(texture[number:, number:][:height, :width])
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                if times_ms is not None:
                    frame.time_base, frame.pts = Fraction(1, 1000), times_ms[number]
                else:
                    frame.pts = number
                for packet in stream.encode(frame):
                    container.mux(packet)
            for packet in stream.encode(None):
                container.mux(packet)
        return target.getvalue() if faststart is None else faststart.read_bytes()

    return encode


@pytest.fixture(scope="session")
def picture() -> Callable[..., Image.Image]:
    """Makes an RGB image with shapes and noise: ``picture(width, height)``."""

    def make(width: int, height: int) -> Image.Image:
        generator = np.random.default_rng(width * 10007 + height)
        coarse = generator.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
        shapes = coarse.repeat(8, axis=0).repeat(8, axis=1)[:height, :width].astype(np.int16)
        noise = generator.integers(-20, 21, (height, width, 3))
        return Image.fromarray((shapes + noise).clip(0, 255).astype(np.uint8))

    return make


@pytest.fixture(scope="session")
def processor(tokenizer: Tokenizer) -> Processor:
    """Ours, with tiles of 32 pixels and 4 tokens, and images of up to 4 x 4 tiles."""
    return Processor(
        tokenizer, tile_size=32, tokens_per_tile=4, image=ImageSettings(longest_edge=128)
    )


class StandIn(dict[str, Any]):
    """In place of transformers' video processor; a dictionary, because its owner prints it."""

    num_frames = 64
    fps = 1
    model_input_names: tuple[str, ...] = ()


@pytest.fixture(scope="session")
def their_processor(
    processor: Processor, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """transformers' processor, loaded by AutoProcessor from what ours saved.

    Its video processor needs torchvision; where that is missing a stand-in holds its two numbers.
    """
    from transformers import AutoProcessor
    from transformers.models.auto.video_processing_auto import AutoVideoProcessor
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil
    from transformers.processing_utils import ProcessorMixin

    folder = tmp_path_factory.mktemp("processor")
    processor.save_pretrained(folder)
    with pytest.MonkeyPatch.context() as patch:
        if importlib.util.find_spec("torchvision") is None:
            check = ProcessorMixin.check_argument_for_proper_class
            stand_in = StandIn(video_processor_type="SmolVLMVideoProcessor")
            patch.setattr(AutoVideoProcessor, "from_pretrained", lambda *_, **__: stand_in)
            patch.setattr(
                ProcessorMixin,
                "check_argument_for_proper_class",
                lambda self, name, value: value is stand_in or check(self, name, value),
            )
        loaded = AutoProcessor.from_pretrained(folder)
        # torchvision's Lanczos is another one; the class on PIL is the reference.
        loaded.image_processor = SmolVLMImageProcessorPil.from_pretrained(folder)
        yield loaded
