"""Media for models that are not ours: plain pictures, a clip as its frames with their times."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from smolvlm2.evaluation.backends import MID_GREY
from smolvlm2.evaluation.clips import FrameRule, Frames
from smolvlm2.evaluation.questions import Medium
from smolvlm2.processing import prompt_strings as strings
from smolvlm2.processing.image_reading import open_image
from smolvlm2.processing.video import VideoSettings

FRAME_EDGE = 512
"""Longest edge of a frame, in pixels; what the small models see of it."""


@dataclass(frozen=True, eq=False)
class Pictures:
    """A medium as pictures. Compared by identity: questions share it."""

    images: tuple[Image.Image, ...]
    timestamps: tuple[float, ...] = ()
    """Seconds of the frames; empty for an image."""
    duration: float = 0.0
    """Seconds of the clip."""


def decode_pictures(
    medium: Medium, settings: VideoSettings, rule: FrameRule, *, blank: bool
) -> Pictures:
    """Read a medium.

    Raises:
        MediaError: It cannot be read.
    """
    if medium.kind == "image":
        found = Pictures((open_image(medium.open()),))
    else:
        frames = Frames(medium, settings, rule)
        images = []
        for picture in frames.pictures():
            picture.thumbnail((FRAME_EDGE, FRAME_EDGE), Image.Resampling.LANCZOS)
            images.append(picture)
        found = Pictures(tuple(images), tuple(frames.timestamps.tolist()), frames.duration)
    if not blank:
        return found
    grey = (MID_GREY,) * 3
    images = [Image.new("RGB", image.size, grey) for image in found.images]
    return Pictures(tuple(images), found.timestamps, found.duration)


def picture_messages(
    messages: Sequence[Mapping[str, Any]],
    media: Sequence[Pictures],
    item: Callable[[Image.Image], dict[str, Any]],
) -> list[dict[str, Any]]:
    """Put pictures in the places of media; a clip becomes its introduction and its frames.

    Args:
        messages: With bare ``{"type": "image"}`` and ``{"type": "video"}`` items.
        media: In order of appearance.
        item: Makes the content item of one picture.
    """
    waiting = iter(media)
    turns = []
    for message in messages:
        content: list[dict[str, Any]] = []
        for entry in message["content"]:
            if entry["type"] == "text":
                content.append(dict(entry))
            else:
                content += _items(next(waiting), item)
        turns.append({**message, "content": content})
    return turns


def _items(
    pictures: Pictures, item: Callable[[Image.Image], dict[str, Any]]
) -> list[dict[str, Any]]:
    if not pictures.timestamps:
        return [item(image) for image in pictures.images]
    content: list[dict[str, Any]] = []
    lead = strings.VIDEO_HEAD + strings.clip_lead(
        len(pictures.images), pictures.duration, pictures.timestamps[0]
    )
    stamps = [strings.FRAME_STAMP.format(stamp=strings.clock(t)) for t in pictures.timestamps]
    for text, image in zip([lead, *stamps[1:]], pictures.images, strict=True):
        content += [{"type": "text", "text": text}, item(image)]
    return [*content, {"type": "text", "text": strings.VIDEO_OUTRO}]
