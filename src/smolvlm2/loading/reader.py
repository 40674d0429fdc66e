"""One pack of the plan, from locators to arrays."""

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from smolvlm2.data.manifest import Manifest, ManifestRow
from smolvlm2.data.media import MediaLocator, MediaStore
from smolvlm2.data.media_facts import measure
from smolvlm2.errors import MediaError, PromptError
from smolvlm2.loading.micro_batch import (
    LossWeight,
    MicroBatch,
    PackBuffers,
    PackFacts,
    PackSample,
    PackShape,
    assemble,
)
from smolvlm2.loading.turn_orders import reorder_turns, turn_key
from smolvlm2.plan.packs import Capacity, Pack
from smolvlm2.plan.samples import SourceTable
from smolvlm2.processing.processor import ProcessedSample, Processor, ReadMedium
from smolvlm2.processing.range_file import RangeFile
from smolvlm2.processing.tile_budgets import tile_budgets


@dataclass(kw_only=True)
class Skip:
    """A sample that could not be read when its turn came."""

    sample_id: str
    """Stable id."""
    reason: str
    """One of the ledger's reasons."""
    detail: str
    """For a human."""
    epoch: int = 0
    """Of its source: with the id it names one occurrence, which stays skipped on replay."""

    @property
    def occurrence(self) -> tuple[str, int]:
        """Which sample, at which of its turns."""
        return self.sample_id, self.epoch


class PlannedSample(NamedTuple):
    """What a worker is told of a sample."""

    source: int
    """Index of the source."""
    row: int
    """In the source's manifest."""
    messages: int
    """Messages kept."""
    tokens: int
    """Planned length."""
    tiles: int
    """Planned tiles."""
    modality: int
    """Index into ``plan.samples.MODALITIES``."""
    epoch: int
    """Of its source."""
    longest_edge: int | None = None
    """Of its images, pixels; None: as the processor's setting has it."""
    turn_order: int | None = None
    """Number of the order of its turns; None: as published."""


Decoded = dict[str, ReadMedium]
"""Media of a pack that lie in its buffers already, by kind and place."""


@dataclass(kw_only=True)
class PackReader:
    """Turns one pack into arrays; each worker has one, without the tables."""

    tables: list[SourceTable]
    """Of the plan."""
    manifests: list[Manifest]
    """One for each table."""
    processor: Processor
    """Reads media and text."""
    capacity: Capacity
    """Of a pack."""
    image_token_id: int
    """Id of ``<image>``."""
    pad_token_id: int
    """Id of the filler."""
    loss_weight: LossWeight = "token"
    """See `assemble`."""
    skip_ids: frozenset[str] = frozenset()
    """Samples left out by the user."""
    skipped_before: dict[tuple[str, int], Skip] = field(default_factory=dict)
    """Skips of this run by occurrence: on replay they are reported again without a try."""

    @property
    def shape(self) -> PackShape:
        """Of the packs it makes."""
        return PackShape(
            capacity=self.capacity,
            tile_size=self.processor.tile_size,
            tokens_per_tile=self.processor.tokens_per_tile,
        )

    def without_tables(self) -> "PackReader":
        """What a worker needs; planned samples are resolved before they are sent to it."""
        return replace(self, tables=[])

    def planned(self, pack: Pack) -> list[PlannedSample]:
        """Resolve a pack against the tables: all that reading it takes, in its order."""
        names = ("rows", "messages", "tokens", "tiles", "modality")
        columns = [pack.samples.column(self.tables, name).tolist() for name in names]
        sources, epochs = pack.samples.source.tolist(), pack.samples.epoch.tolist()
        budgets = tile_budgets(self.processor.image, self.processor.tile_size).edges
        edges: list[int | None] = [None] * len(sources)
        if len(budgets) > 1:
            edges = [budgets[number] for number in pack.samples.budgets(self.tables).tolist()]
        orders = [
            self.tables[source].turn_order(epoch)
            for source, epoch in zip(sources, epochs, strict=True)
        ]
        resolved = zip(sources, *columns, epochs, edges, orders, strict=True)
        return [PlannedSample(*values) for values in resolved]

    def read(self, pack: Pack) -> tuple[MicroBatch, list[Skip]]:
        """Read and process a pack's samples; unreadable ones are left out and reported.

        Raises:
            DataError: A sample has another length than planned; its geometry is stale.
        """
        buffers = PackBuffers.allocate(self.shape)
        facts, skips = self.read_into(buffers, self.planned(pack))
        return facts.batch(buffers), skips

    def read_into(
        self,
        buffers: PackBuffers,
        planned: list[PlannedSample],
        lost: dict[int, Skip] | None = None,
    ) -> tuple[PackFacts, list[Skip]]:
        """As `read`, into memory that is there.

        Args:
            buffers: Where the pack goes; they tell which sample is being read.
            planned: The samples.
            lost: Skips by place in ``planned``, of samples that ended the process reading them.
        """
        lost = lost or {}
        samples: list[PackSample] = []
        skips: list[Skip] = []
        decoded: Decoded = {}
        tile = 0
        for number, plan in enumerate(planned):
            buffers.begin_sample(number, first_tile=tile, tiles=plan.tiles)
            manifest = self.manifests[plan.source]
            row = manifest.row(plan.row)
            if row.sample_id in self.skip_ids:
                continue
            occurrence = (row.sample_id, plan.epoch)
            known = lost.get(number) or self.skipped_before.get(occurrence)
            if known:
                skips.append(known)
                continue
            try:
                room = buffers.pixel_values[tile : tile + plan.tiles]
                sample = self._read_sample(row, plan, room, decoded)
            except (MediaError, PromptError) as error:
                reason = error.reason if isinstance(error, MediaError) else "placeholder_mismatch"
                name, epoch = occurrence
                skips.append(Skip(sample_id=name, reason=reason, detail=str(error), epoch=epoch))
                continue
            tile += len(sample.tiles)
            samples.append(
                PackSample(
                    sample_id=row.sample_id,
                    sample=sample,
                    tokens=plan.tokens,
                    tiles=plan.tiles,
                    modality=plan.modality,
                )
            )
        buffers.end_samples()
        facts = assemble(
            samples,
            buffers,
            image_token_id=self.image_token_id,
            pad_token_id=self.pad_token_id,
            loss_weight=self.loss_weight,
        )
        return facts, skips

    def _read_sample(
        self, row: ManifestRow, plan: PlannedSample, room: np.ndarray, decoded: Decoded
    ) -> ProcessedSample:
        """Process a sample; its tiles go to ``room`` if they fit, its media to ``decoded``."""
        order = turn_key(row.source, plan.row, plan.turn_order)
        messages = reorder_turns(row.messages, order)[: plan.messages]
        kinds = [
            part["type"]
            for message in messages
            for part in message["content"]
            if part["type"] != "text"
        ]
        store = MediaStore(self.manifests[plan.source].data_root)
        read: list[ReadMedium] = []
        new: Decoded = {}
        used = 0
        for kind, locator in zip(kinds, row.media, strict=False):
            limit = plan.longest_edge if kind == "image" else None
            key = f"{store.root} {kind} {limit} {locator!r}"
            known = decoded.get(key) or new.get(key)
            if known is None:
                medium = self._read_medium(kind, store, locator, limit, room[used:])
            else:
                medium = _copy_to(room[used:], known)
            used += len(medium.tiles)
            new[key] = medium
            read.append(medium)
        encoded = self.processor.encode_text(messages, [medium.layout for medium in read])
        fits = used == len(room)
        if read and not (fits and len(encoded.input_ids) == plan.tokens):
            self._expect_prepared(row, plan, store, len(read))
        tiles = room if fits else self.processor.join_tiles(read)
        if fits:  # else they lie elsewhere, or the next sample is written over them
            decoded.update(new)
        return ProcessedSample(encoded.input_ids, encoded.supervised, tiles)

    def _read_medium(
        self,
        kind: str,
        store: MediaStore,
        locator: MediaLocator,
        limit: int | None,
        room: np.ndarray,
    ) -> ReadMedium:
        # Few bytes of a clip are needed: they are read where they lie.
        source = store.open(locator) if kind == "video" else store.read(locator)
        try:
            return self.processor.read_medium(kind, source, limit, out=room)
        except MediaError as error:
            if isinstance(source, RangeFile):
                raise  # which names its place
            raise MediaError(f"{locator}: {error}", reason=error.reason) from error
        except (OSError, MemoryError) as error:  # the disk's, within a decoder; or a huge picture
            raise MediaError(f"{locator}: cannot be read ({error!r})") from error
        finally:
            if isinstance(source, RangeFile):
                source.close()

    def _expect_prepared(
        self, row: ManifestRow, plan: PlannedSample, store: MediaStore, shown: int
    ) -> None:
        """Tell a file that was replaced, which costs its sample, from a geometry that is stale.

        Raises:
            MediaError: One of the first ``shown`` files is another than was prepared.
        """
        geometry = self.manifests[plan.source].geometry
        for number, locator in enumerate(row.media[:shown], int(geometry.media_offsets[plan.row])):
            source = store.open(locator) if locator.kind == "video" else store.read(locator)
            facts = measure(locator.kind, source, "")
            if isinstance(source, RangeFile):
                source.close()
            found = facts.width, facts.height, facts.frames, facts.duration
            names = ("width", "height", "frames", "duration")
            prepared = tuple(getattr(geometry, f"media_{name}")[number].item() for name in names)
            if found != prepared:
                raise MediaError(
                    f"{locator}: is another file than was prepared: {_spell(*found)}, expected "
                    f"{_spell(*prepared)}; bring it back, or prepare the source again for a new run"
                )


def _spell(width: int, height: int, frames: int, duration: float) -> str:
    clip = f", {frames} frames in {duration:g} s" if duration else ""
    return f"{width} x {height} pixels{clip}"


def _copy_to(room: np.ndarray, medium: ReadMedium) -> ReadMedium:
    """A medium that was decoded before, once more; its tiles are copied if there is room."""
    count = len(medium.tiles)
    if count > len(room):
        return medium
    room[:count] = medium.tiles
    return ReadMedium(medium.layout, room[:count])
