"""The map of archives and loose files: every medium is probed, packed ones are repacked."""

import itertools
import json
from collections.abc import Generator
from contextlib import closing

from smolvlm2.data.inputs import Input, expect_unchanged
from smolvlm2.data.ledger import LedgerLine
from smolvlm2.data.media import MediaLocator
from smolvlm2.data.media_facts import (
    HOLDS_TEXT,
    MediaFacts,
    digest_of,
    finish_digest,
    is_text,
    measure,
    media_suffix,
    sniff,
    start_digest,
    unusable,
)
from smolvlm2.data.part_files import MEDIA_SCHEMA, Account, PartWriter
from smolvlm2.data.shards import ShardWriter
from smolvlm2.data.sources.archives import (
    BadMember,
    BrokenMemberError,
    Member,
    archive_members,
    is_hidden,
    loose_member,
)
from smolvlm2.data.stored_media import check, keep_frames
from smolvlm2.data.workplace import Workplace
from smolvlm2.processing.range_file import RangeFile

MAX_UNKNOWN_BYTES = 64 * 2**20
"""A file whose first bytes tell nothing is looked into as a whole, up to this size."""


def map_media(place: Workplace, item: Input, account: Account) -> None:
    """List the media of one input with their facts.

    Args:
        place: Folders and adapter.
        item: An archive or a chunk of loose files.
        account: Filled with what became of the members.
    """
    part = place.part(item.name)
    with (
        PartWriter(part, MEDIA_SCHEMA) as out,
        ShardWriter(place.shards, part.name) as shards,
        closing(_members(place, item)) as members,
    ):
        mapper = _MediaMapper(place, account, shards)
        for number, (path, member) in enumerate(members):
            if isinstance(member, Member) and is_hidden(member.name):
                account.not_media += 1
                continue
            facts = mapper.facts(number, path, member)
            if mapper.refused:
                # A loose file is a file, a member has one.
                file, name = (item.name, member.name) if item.kind == "archive" else (path, None)
                reason = facts.reason or "corrupt_media"
                line = LedgerLine(file=file, member=name, reason=reason, detail=facts.detail)
                (out.leave_out if member.name is not None else account.problems.append)(line)
            if member.name is not None:
                # Names may hold half surrogate pairs; no row can ask for those.
                name = member.name.encode("utf-8", "backslashreplace").decode("utf-8")
                text = json.dumps(facts.to_json(), separators=(",", ":"))
                out.add((name, text), len(name) + len(text))
        expect_unchanged(place.raw, item)
    account.shards = shards.checksums


def _members(
    place: Workplace, item: Input
) -> Generator[tuple[str, Member | BadMember], None, None]:
    """File below the raw folder, and member; of loose media both are the file."""
    if item.kind == "archive":
        with closing(archive_members(place.raw / item.name)) as members:
            for member in members:
                yield item.name, member
        return
    for file in item.files:
        yield file.file, loose_member(place.raw / file.file, file.file)


class _MediaMapper:
    """Looks at the members of one input, one after the other."""

    def __init__(self, place: Workplace, account: Account, shards: ShardWriter) -> None:
        self._place = place
        self._account = account
        self._shards = shards
        self.refused = False
        """Whether the last member deserves a line of its own: it was not read, or not to its end.
        Of one that was read and is no good, the row that names it tells."""

    def facts(self, number: int, file: str, member: Member | BadMember) -> MediaFacts:
        """Facts of one member, which is stored where it cannot be read in place."""
        self.refused = isinstance(member, BadMember)
        if isinstance(member, BadMember):
            return unusable(member.problem.reason, member.problem.detail)
        try:
            head = next(member.pieces, b"")
            kind = sniff(head)
            if kind is None:
                return self._unknown(number, file, member, head)
            if kind not in ("image", "video"):
                detail = f"holds {kind}; expected an image or a video"
                return unusable("unsupported_media", detail)
            if member.offset is None:
                return self._packed(number, kind, member, head)
            return self._in_place(number, kind, file, member, head)
        except BrokenMemberError as error:
            self.refused = self._account.damaged = True
            return unusable("corrupt_media", str(error))

    def _in_place(
        self, number: int, kind: str, file: str, member: Member, head: bytes
    ) -> MediaFacts:
        digest = start_digest(head)
        size = len(head)
        for piece in member.pieces:
            digest.update(piece)
            size += len(piece)
        if size == len(head) and kind == "image":
            facts = measure(kind, head, finish_digest(digest))
        else:
            with RangeFile(self._place.raw / file, member.offset or 0, size) as source:
                facts = measure(kind, source, finish_digest(digest))
        return self._placed(number, kind, facts, file, member.offset or 0, size)

    def _placed(
        self, number: int, kind: str, facts: MediaFacts, file: str, offset: int, size: int
    ) -> MediaFacts:
        """Facts with the place in the raw file, or with that of the frames made of it."""
        if facts.reason is not None:
            return facts
        if kind == "video" and self._place.frames is not None:
            with RangeFile(self._place.raw / file, offset, size) as source:
                facts, clip = keep_frames(source, facts, self._place.frames)
            if clip is None:
                return facts
            return clip.store(f"{number:08d}", self._shards, self._place.shard_prefix, facts.digest)
        self._account.read_in_place = True
        # In an archive nothing begins at its first byte: that is a loose file, read whole.
        place = (offset, size) if offset else ()
        return facts.at(MediaLocator(kind, f"{self._place.raw_prefix}/{file}", *place))

    def _packed(self, number: int, kind: str, member: Member, head: bytes) -> MediaFacts:
        """Stream a packed member into a shard, look at it there, cut it off if it is no good."""
        digest = start_digest()
        name = f"{number:08d}"
        with self._shards.begin(f"{name}.{media_suffix(head)}", member.size) as slot:
            for piece in itertools.chain([head], member.pieces):
                digest.update(piece)
                slot.write(piece)
            if len(head) == member.size and kind == "image":
                facts = measure(kind, head, finish_digest(digest))
                clip = None
            else:
                slot.flush()
                with RangeFile(slot.path, slot.offset, member.size) as source:
                    facts = measure(kind, source, finish_digest(digest))
                    clip = None
                    if kind == "video" and self._place.frames and facts.reason is None:
                        facts, clip = keep_frames(source, facts, self._place.frames)
            if facts.reason is None and clip is None:
                slot.keep()
        if clip is not None:
            return clip.store(name, self._shards, self._place.shard_prefix, facts.digest)
        if facts.reason is not None:
            return facts
        path = f"{self._place.shard_prefix}/{slot.shard}"
        return facts.at(MediaLocator(kind, path, slot.offset, member.size))

    def _unknown(self, number: int, file: str, member: Member, head: bytes) -> MediaFacts:
        """Open what the first bytes do not tell: as an image, as text, then as a clip."""
        if member.size > MAX_UNKNOWN_BYTES:
            self.refused = True
            detail = f"{member.size} bytes of no known kind; expected an image or a video"
            return unusable("unsupported_media", detail)
        data = head + b"".join(member.pieces)
        kind, frames = "image", self._place.frames
        facts = measure(kind, data, digest_of(data))
        if facts.reason == "corrupt_media" and is_text(data):
            self._account.not_media += 1
            return unusable("unsupported_media", HOLDS_TEXT)
        if facts.reason == "corrupt_media":
            clip = measure("video", data, facts.digest)
            kind, facts = ("image", facts) if clip.reason is not None else ("video", clip)
        if facts.reason is not None:
            return facts
        if member.offset is not None:
            return self._placed(number, kind, facts, file, member.offset, len(data))
        checked = check(kind, data, frames)
        if checked.facts.reason is not None:
            return checked.facts
        return checked.store(f"{number:08d}", self._shards, self._place.shard_prefix)
