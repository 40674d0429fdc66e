"""A processor's settings in Hugging Face's files: read in every layout, written in one.

transformers 4.5x keeps ``preprocessor_config.json``, ``video_preprocessor_config.json`` and
``processor_config.json`` apart; 5.x nests the first two in the third and reads both layouts; the
published checkpoints keep the video's numbers in the image's file (``video_sampling``).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smolvlm2.errors import CheckpointError, ConfigError
from smolvlm2.model.config import SmolVLMConfig
from smolvlm2.model.hub import read_json, write_json
from smolvlm2.processing.prompt_strings import CHAT_TEMPLATE
from smolvlm2.processing.tiling import ImageSettings
from smolvlm2.processing.video_sampling import VideoSettings

OWN_KEY = "smolvlm2"
"""Holds what Hugging Face's keys cannot say; transformers carries it along."""
_OWN_IMAGE = ("upscale", "resample", "max_pixels", "max_aspect")
_OWN_VIDEO = ("backend", "timeout_s")
_LANCZOS = 1


@dataclass(frozen=True)
class ProcessorSettings:
    """What a processor is made of, beside its tokenizer."""

    tile_size: int
    tokens_per_tile: int
    image: ImageSettings
    video: VideoSettings


def read_settings(folder: Path) -> ProcessorSettings:
    """Read the settings of a checkpoint.

    Raises:
        CheckpointError: A file is malformed, a needed number is missing, or a value is impossible.
    """
    whole = read_json(folder / "processor_config.json", missing_ok=True)
    images = whole.get("image_processor") or read_json(
        folder / "preprocessor_config.json", missing_ok=True
    )
    videos = whole.get("video_processor") or read_json(
        folder / "video_preprocessor_config.json", missing_ok=True
    )
    own = images.get(OWN_KEY) or {}
    sampling = videos.get("video_sampling") or images.get("video_sampling") or {}
    try:
        tile_size = _edge(images, "max_image_size")
        image = ImageSettings(
            longest_edge=_edge(images, "size"),
            split=bool(images.get("do_image_splitting", True)),
            **{key: own[key] for key in _OWN_IMAGE if key in own},
        )
        video = VideoSettings(
            max_frames=int(sampling.get("max_frames") or videos.get("num_frames") or 64),
            fps=float(sampling.get("fps") or videos.get("fps") or 1),
            **{key: own[key] for key in _OWN_VIDEO if key in own},
        )
        tokens = whole.get("image_seq_len") or images.get("image_seq_len")
    except (KeyError, TypeError, ValueError) as error:
        what = f"key {error} is missing" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(
            f"{folder}: preprocessor_config.json or processor_config.json: {what}; expected the "
            f"files that SmolVLM's processor saves"
        ) from error
    if tokens is None:
        tokens = _tokens_from_model(folder)
    return ProcessorSettings(tile_size, int(tokens), image, video)


def write_settings(folder: Path, settings: ProcessorSettings) -> None:
    """Write the three files and ``chat_template.jinja``; transformers 4.54 and 5.x read them."""
    image, video, tile = settings.image, settings.video, settings.tile_size
    own = {key: getattr(image, key) for key in _OWN_IMAGE}
    own |= {key: getattr(video, key) for key in _OWN_VIDEO}
    sampling = {
        "fps": int(video.fps) if video.fps == int(video.fps) else video.fps,
        "max_frames": video.max_frames,
        "video_size": {"longest_edge": tile},
    }
    common: dict[str, Any] = {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_pad": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "max_image_size": {"longest_edge": tile},
        "processor_class": "SmolVLMProcessor",
        "resample": _LANCZOS,
        "rescale_factor": 1 / 255,
        "video_sampling": sampling,
    }
    write_json(
        {
            **common,
            "image_processor_type": "SmolVLMImageProcessor",
            "do_image_splitting": image.split,
            "size": {"longest_edge": image.longest_edge},
            OWN_KEY: own,
        },
        folder / "preprocessor_config.json",
    )
    write_json(
        {
            **common,
            "video_processor_type": "SmolVLMVideoProcessor",
            # Where both are given, transformers follows this one and not video_size.
            "size": {"longest_edge": tile},
            "num_frames": video.max_frames,
            "fps": sampling["fps"],
        },
        folder / "video_preprocessor_config.json",
    )
    write_json(
        {"processor_class": "SmolVLMProcessor", "image_seq_len": settings.tokens_per_tile},
        folder / "processor_config.json",
    )
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")


def _edge(config: dict[str, Any], key: str) -> int:
    return int(config[key]["longest_edge"])


def _tokens_from_model(folder: Path) -> int:
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(
            f"{folder}: neither image_seq_len in processor_config.json nor a config.json to "
            f"compute the tokens of a tile from; save the processor with its model"
        )
    try:
        return SmolVLMConfig.from_folder(folder).tokens_per_tile
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error
