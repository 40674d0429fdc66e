"""A medium that prepare holds in its hands: checked, then written to a shard."""

from dataclasses import dataclass

from smolvlm2.data.kept_frames import FrameSettings, KeptClip, decode_clip
from smolvlm2.data.media import MediaLocator
from smolvlm2.data.media_facts import MediaFacts, media_suffix, probe, unusable
from smolvlm2.data.shards import ShardWriter
from smolvlm2.errors import MediaError
from smolvlm2.processing.range_file import RangeFile


@dataclass(frozen=True, kw_only=True)
class CheckedMedium:
    """A medium and what is to be stored of it."""

    facts: MediaFacts
    """Without a locator."""
    data: bytes
    """The file."""
    clip: KeptClip | None = None
    """Its frames, where these are kept instead of the file."""

    def store(self, name: str, shards: ShardWriter, prefix: str) -> MediaFacts:
        """Write it to a shard.

        Args:
            name: Of the member, without an ending.
            shards: Where to.
            prefix: Folder of the shards, relative to the data root.
        """
        if self.clip is not None:
            return self.clip.store(name, shards, prefix, self.facts.digest)
        shard, offset = shards.add(f"{name}.{media_suffix(self.data)}", self.data)
        kind = "video" if self.facts.duration else "image"
        return self.facts.at(MediaLocator(kind, f"{prefix}/{shard}", offset, len(self.data)))


def check(kind: str, data: bytes, frames: FrameSettings | None) -> CheckedMedium:
    """Look at a medium that is in memory, and decode a clip where its frames are to be kept.

    Args:
        kind: ``image`` or ``video``: what its row says.
        data: The file.
        frames: How clips are kept as frames; None keeps the files.
    """
    facts = probe(kind, data)
    if frames is None or kind == "image" or facts.reason is not None:
        return CheckedMedium(facts=facts, data=data)
    facts, clip = keep_frames(data, facts, frames)
    return CheckedMedium(facts=facts, data=data, clip=clip)


def keep_frames(
    source: bytes | RangeFile, facts: MediaFacts, frames: FrameSettings
) -> tuple[MediaFacts, KeptClip | None]:
    """Decode a clip; facts with a reason where a wanted frame does not decode."""
    try:
        return facts, decode_clip(source, frames)
    except MediaError as error:
        return unusable(error.reason, str(error), facts.digest), None
