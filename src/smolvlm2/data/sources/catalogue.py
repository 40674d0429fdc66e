"""Which sources there are: name, adapter, licence, folder below ``data/raw``."""

from dataclasses import dataclass

from smolvlm2.data.sources.cauldron import ImagesAndTexts
from smolvlm2.data.sources.llava import LlavaOneVision, LlavaVideo, M4Instruct
from smolvlm2.data.sources.record import Adapter
from smolvlm2.errors import ConfigError


@dataclass(frozen=True)
class Source:
    """One data set that can be prepared."""

    adapter: Adapter
    raw_folder: str
    """``<owner>__<name>`` below ``data/raw``."""


_DEMO_LICENCE = "CC-BY-4.0 (scans: UCI optical recognition of handwritten digits)"
_ENTRIES = (
    Source(
        ImagesAndTexts(source="cauldron_digits", licence=_DEMO_LICENCE), "demo__cauldron_digits"
    ),
    Source(M4Instruct(source="m4_digits", licence=_DEMO_LICENCE), "demo__m4_digits"),
    Source(LlavaVideo(source="video_digits", licence=_DEMO_LICENCE), "demo__video_digits"),
    Source(LlavaOneVision(source="text_digits", licence=_DEMO_LICENCE), "demo__text_digits"),
)
SOURCES: dict[str, Source] = {entry.adapter.source: entry for entry in _ENTRIES}
"""By name."""


def find_source(name: str) -> Source:
    """Look a source up.

    Raises:
        ConfigError: No such source; lists those there are.
    """
    try:
        return SOURCES[name]
    except KeyError as error:
        raise ConfigError(
            f"source {name!r} is unknown; expected one of {', '.join(sorted(SOURCES))}"
        ) from error
