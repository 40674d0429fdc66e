"""Checkpoints run by transformers: SmolVLMs on our pixels and ids, any other on its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from smolvlm2.errors import CheckpointError, MissingDependencyError, PromptError
from smolvlm2.evaluation.backends import Asked, Reply
from smolvlm2.evaluation.benchmark import Benchmark, PromptStyle
from smolvlm2.evaluation.clips import frame_rule
from smolvlm2.evaluation.pictures import Pictures, decode_pictures, picture_messages
from smolvlm2.evaluation.prompts import conversation
from smolvlm2.evaluation.questions import Medium, Question
from smolvlm2.processing.video import VideoSettings

SMOLVLM_TYPES = ("smolvlm", "idefics3")
"""Model types whose prompts and pixels our processor makes exactly."""


class TransformersGenerator:
    """transformers' SmolVLM behind the interface of ours: same ids and pixels, their code."""

    def __init__(self, model: Any) -> None:
        """Wrap a loaded model."""
        self.model = model
        self.dtype = model.dtype
        self.tokens = (
            model.config.vision_config.image_size
            // model.config.vision_config.patch_size
            // model.config.scale_factor
        ) ** 2

    def state_dict(self) -> Any:
        """The model's weights, for a digest."""
        return self.model.state_dict()

    def generate(
        self,
        input_ids: Any,
        *,
        attention_mask: Any,
        max_new_tokens: int,
        min_new_tokens: int = 0,
        pixel_values: Any = None,
        tile_index: Any = None,
    ) -> list[list[int]]:
        """New token ids of each row, without the stop token; arguments and limits as ours.

        Raises:
            PromptError: A prompt is as long as the model's context or longer.
        """
        import torch

        # transformers itself goes on past the context, to positions that were never trained.
        context = self.model.config.text_config.max_position_embeddings
        lengths = attention_mask.sum(dim=1).tolist()
        if max(lengths) >= context:
            raise PromptError(
                f"the longest prompt has {max(lengths)} tokens and the model's context is "
                f"{context}; shorten the text or use fewer tiles or frames"
            )
        device = self.model.device
        inputs = {"input_ids": input_ids.to(device), "attention_mask": attention_mask.to(device)}
        if pixel_values is not None:
            # To the device as bytes: a quarter of what they are once scaled.
            tiles = pixel_values.to(device)[tile_index.to(device)]
            tiles = (tiles.float() * (2 / 255) - 1).to(self.model.dtype)
            wanted = (input_ids == self.model.config.image_token_id).sum(dim=1) // self.tokens
            # Rows of equally many tiles, zeros behind: what their processor makes.
            padded = tiles.new_zeros(len(input_ids), max(1, int(wanted.max())), *tiles.shape[1:])
            for row, part in enumerate(tiles.split(wanted.tolist())):
                padded[row, : len(part)] = part
            inputs["pixel_values"] = padded
        with torch.no_grad():
            rows = self.model.generate(
                **inputs,
                do_sample=False,
                max_new_tokens=max_new_tokens,
                min_new_tokens=min_new_tokens or None,
            )
        stops = _stops(self.model)
        new = rows[:, input_ids.shape[1] :].tolist()
        return [
            _until(row[: context - length], stops) for row, length in zip(new, lengths, strict=True)
        ]


@dataclass(kw_only=True)
class TransformersBackend:
    """Any image-text-to-text checkpoint, prompted by its own chat template."""

    model: Any
    processor: Any
    name: str
    """Path or hub id."""
    weights: str = ""
    """Digest of the weights: answers of others that lay under the same name are not taken over."""
    benchmark: Benchmark
    style: PromptStyle = "native"
    blank_images: bool = False
    """Replace every picture by mid-grey."""
    video: VideoSettings
    """Which frames of a clip are shown, as pictures."""

    def describe(self) -> dict[str, Any]:
        """Settings that change an answer."""
        return {
            "backend": "transformers",
            "model": self.name,
            "weights": self.weights,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "max_frames": self.video.max_frames,
            "fps": self.video.fps,
        }

    def decode(self, medium: Medium) -> Pictures:
        """Pictures of a medium."""
        return decode_pictures(medium, self.video, frame_rule(self.style), blank=self.blank_images)

    def ask(self, question: Question, media: Sequence[Pictures]) -> Asked:
        """Messages with PIL images in them."""
        times = [t for found in media for t in found.timestamps]
        messages = picture_messages(
            conversation(question, self.benchmark, self.style, times),
            media,
            lambda image: {"type": "image", "image": image},
        )
        count = sum(len(found.images) for found in media)
        text = sum(len(str(item.get("text", ""))) for m in messages for item in m["content"])
        return Asked(question=question, prompt=messages, media=tuple(media), shape=(count, text))

    def answer(self, batch: Sequence[Asked]) -> list[Reply]:
        """Greedy answers."""
        import torch

        inputs = self.processor.apply_chat_template(
            [asked.prompt for asked in batch],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True, "padding_side": "left"},
        ).to(self.model.device, dtype=self.model.dtype)
        prompt = self.benchmark.prompt(self.style)
        with torch.no_grad():
            rows = self.model.generate(
                **inputs,
                do_sample=False,
                max_new_tokens=prompt.max_new_tokens or self.benchmark.max_new_tokens,
            )
        stops = _stops(self.model)
        new = [_until(row, stops) for row in rows[:, inputs["input_ids"].shape[1] :].tolist()]
        texts = self.processor.batch_decode(new, skip_special_tokens=True)
        return [
            Reply(text=text.strip(), tokens=len(ids)) for text, ids in zip(texts, new, strict=True)
        ]


def load_transformers(
    checkpoint: str, *, device: str = "cpu", dtype: str = "auto"
) -> tuple[Any, Any]:
    """Model and processor of a checkpoint: for a SmolVLM a ``TransformersGenerator`` and our
    ``Processor``, else transformers' own two.

    Raises:
        MissingDependencyError: transformers is not installed.
        CheckpointError: transformers cannot load it.
    """
    try:
        from safetensors import SafetensorError
        from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor
    except ImportError as error:
        raise MissingDependencyError(
            "--backend transformers needs transformers: pip install transformers"
        ) from error
    from smolvlm2.processing.processor import Processor

    try:
        kind = AutoConfig.from_pretrained(checkpoint).model_type
        model = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=dtype)
        model = model.eval().to(device)
        if kind in SMOLVLM_TYPES:
            return TransformersGenerator(model), Processor.from_pretrained(checkpoint)
        return model, AutoProcessor.from_pretrained(checkpoint)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        # Its message may go on with a list of every class that it knows.
        reason = str(error).strip().split("\n")[0]
        raise CheckpointError(f"{checkpoint}: transformers cannot load it ({reason})") from error


def _stops(model: Any) -> set[int]:
    found = model.generation_config.eos_token_id
    return set(found if isinstance(found, list) else [found])


def _until(row: list[int], stops: set[int]) -> list[int]:
    end = next((place for place, token in enumerate(row) if token in stops), len(row))
    return row[:end]
