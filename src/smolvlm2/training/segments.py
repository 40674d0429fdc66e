"""The segments of a run: which recipe planned which steps, and where each source went on.

A recipe may declare several (a curriculum, a batch that grows); ``--replan`` appends one to a run
whose recipe or data changed. All are written to ``plan/segments.json`` with what made them, so that
a resume notices when they can no longer be planned alike, and an audit can plan them again.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from smolvlm2.config import load_config, save_config
from smolvlm2.data.manifest import Manifest
from smolvlm2.errors import ResumeError, SmolVLMError
from smolvlm2.model.config import SmolVLMConfig
from smolvlm2.model.hub import write_json
from smolvlm2.plan.order import Order, SourcePlace
from smolvlm2.plan.plan import Plan, Position, count_steps
from smolvlm2.plan.run_plan import RunPlan, Segment
from smolvlm2.processing.processor import Processor
from smolvlm2.training.planning import PlannedData, plan_data
from smolvlm2.training.recipe import Recipe
from smolvlm2.training.run_folder import RunFolder
from smolvlm2.training.segment_recipes import segment_recipes

logger = logging.getLogger(__name__)

SEGMENTS_FILE = "segments.json"
BOTH_WAYS_OUT = (
    "restore them, or go on with what is there now (--resume --replan: a new segment begins)"
)


@dataclass(kw_only=True)
class RecordedSource:
    """An entry of a segment's mixture, as it was."""

    name: str
    """Of the entry."""
    samples: int
    """Admitted."""
    hash: str
    """Of all its samples and their lengths."""
    share: float
    """Of the samples."""
    place: SourcePlace | None = None
    """Where it went on; None: the segment was not entered yet."""

    @property
    def excluded(self) -> dict[str, int]:
        """Not recorded."""
        return {}

    def __len__(self) -> int:
        return self.samples


@dataclass(kw_only=True)
class SegmentRecord:
    """One segment as written beside the run."""

    first_step: int
    """Optimiser step at which it begins."""
    digest: str
    """Of its plan."""
    recipe: str
    """File beside this one, with the merged recipe that planned it."""
    tokens: int
    """Capacity of a pack."""
    tiles: int
    """Likewise."""
    packs_per_step: int
    """K."""
    window: int
    """Samples that are packed together."""
    seed: int
    """Of the shuffles."""
    epochs: float | None
    """After which every source ends; None: never."""
    sources: list[RecordedSource]
    """Entries of its mixture, in order."""
    resting: dict[str, SourcePlace] = field(default_factory=dict)
    """As of `Segment`."""

    @property
    def places(self) -> list[SourcePlace] | None:
        """Where each source went on; None: the run has not got to it."""
        places = [source.place for source in self.sources if source.place is not None]
        return places if len(places) == len(self.sources) else None

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "SegmentRecord":
        """Inverse of ``dataclasses.asdict``."""
        sources = [
            RecordedSource(**each | {"place": each["place"] and SourcePlace(**each["place"])})
            for each in value["sources"]
        ]
        resting = {each: SourcePlace(**place) for each, place in value.get("resting", {}).items()}
        return cls(**value | {"sources": sources, "resting": resting})


@dataclass(kw_only=True)
class PlannedRun:
    """The data of a run, from the segment in progress on."""

    plan: RunPlan
    """Which packs make which step."""
    manifests: list[Manifest]
    """One for each table of the plan."""
    position: Position
    """Where the run begins or goes on."""
    facts: dict[str, Any]
    """What the segment in progress resolved to, for people."""
    samples_per_step: float
    """Mean samples of a step of that segment."""
    steps: int | None
    """Steps of the run after which every source has ended; None: sources repeat for ever."""
    records: list["SegmentRecord"]
    """Of all segments, earlier ones too."""
    recipes: dict[int, Recipe]
    """Recipes of the segments that are not written down yet, by number."""

    def enter(self, run: RunFolder, number: int) -> None:
        """Write down where each source goes on in a segment that the run has got to."""
        places = self.plan.places(number)
        for source, place in zip(self.records[number].sources, places, strict=True):
            source.place = place
        self.records[number].resting = self.plan.resting(number)
        self.save(run)

    def save(self, run: RunFolder) -> None:
        """Write all segments and what made them; ``segments.json`` last, whole or not at all."""
        folder = run.root / "plan"
        folder.mkdir(parents=True, exist_ok=True)
        for number, recipe in self.recipes.items():
            save_config(recipe, folder / self.records[number].recipe)
        self.recipes = {}
        write_json({"segments": [asdict(each) for each in self.records]}, folder / SEGMENTS_FILE)


def plan_run(
    run: RunFolder,
    recipe: Recipe,
    processor: Processor,
    config: SmolVLMConfig,
    *,
    position: Position | None = None,
    replan: bool = False,
) -> PlannedRun:
    """Plan the segments of a run that are still to come, the one in progress among them.

    Args:
        run: Its folder; read, not written.
        recipe: Of the command line.
        processor: Decides lengths.
        config: Shapes of the model.
        position: Where the run goes on; None: it begins.
        replan: Begin a new segment there with ``recipe`` and the data as they are now.

    Raises:
        ResumeError: The run's segments can no longer be planned alike; says what changed.
        SmolVLMError: As ``plan_data``.
    """
    context = config.text.max_position_embeddings
    records = read_segments(run) if position is not None else []
    if position is not None and not replan:
        position = _begun(records, position)
        number = position.segment
        data, places = [], []
        for record in records[number:]:
            saved = _saved(run, record, recipe)
            now = _plan_again(saved, processor, config)
            alike = (saved.image, saved.video) == (recipe.image, recipe.video)
            _compare(run, record, now, alike=alike)
            data.append(now)
            # A segment that an earlier branch of the run got to is entered anew: data may be passed
            # over before it now.
            places.append(record.places if record is records[number] else None)
        firsts, resting = [each.first_step for each in records[number:]], records[number].resting
        recipes: dict[int, Recipe] = {}
    else:
        number, begun = 0, None
        if position is not None:
            record = records[position.segment]
            number = position.segment + (record.first_step < position.step)
            begun = _places_left(run, record, recipe, processor, config, position)
        step = 0 if position is None else position.step
        declared = segment_recipes(recipe, first_step=step)
        data = [plan_data(each, processor, context=context, config=config) for _, each in declared]
        firsts = [first for first, _ in declared]
        recipes = {number + place: each for place, (_, each) in enumerate(declared)}
        continued, resting = _continued(data[0].plan, begun or {})
        places = [continued, *[None for _ in data[1:]]]
        fresh = [
            _record(number + place, first, each.plan, each_places)
            for place, (first, each, each_places) in enumerate(
                zip(firsts, data, places, strict=True)
            )
        ]
        fresh[0].resting = resting
        records = [*records[:number], *fresh]
        position = Position(segment=number, step=step)
    plan = RunPlan(
        [
            Segment(first_step=first, plan=each.plan, places=each_places)
            for first, each, each_places in zip(firsts, data, places, strict=True)
        ],
        first=number,
    )
    plan.segments[0].resting = resting
    return PlannedRun(
        plan=plan,
        manifests=[manifest for each in data for manifest in each.manifests],
        position=position,
        facts=data[0].facts | {"segment": number, "first_step": records[number].first_step},
        samples_per_step=data[0].samples_per_step,
        steps=_steps_until_end(data[0], plan, number, records[number].first_step),
        records=records,
        recipes=recipes,
    )


def _steps_until_end(data: PlannedData, plan: RunPlan, number: int, first_step: int) -> int | None:
    """Steps of the run, the earlier segments' too, until all sources of a segment end."""
    if data.steps is None or not first_step:
        return data.steps
    rest = count_steps(plan.plan(number))
    assert rest is not None
    return first_step + rest


def _begun(records: Sequence[SegmentRecord], position: Position) -> Position:
    """The beginning of a segment that was appended where the run stands, before it took a step.

    A run that was planned anew and killed before its next checkpoint stands there.
    """
    following = position.segment + 1
    if following < len(records) and records[following].first_step == position.step:
        return Position(segment=following, step=position.step)
    return position


def read_segments(run: RunFolder) -> list[SegmentRecord]:
    """All segments of a run.

    Raises:
        ResumeError: They are not written down, or the file is damaged.
    """
    path = run.root / "plan" / SEGMENTS_FILE
    try:
        value = json.loads(path.read_text(encoding="utf-8"))["segments"]
        return [SegmentRecord.from_json(each) for each in value]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ResumeError(
            f"{path}: the run's segments cannot be read ({error!r}); restore the file, or start "
            f"over with --restart"
        ) from error


def _saved(run: RunFolder, record: SegmentRecord, recipe: Recipe) -> Recipe:
    """The recipe that planned a segment, with where the data lie now."""
    saved = load_config(Recipe, run.root / "plan" / record.recipe)
    return replace(saved, data=replace(saved.data, root=recipe.data.root))


def _plan_again(saved: Recipe, processor: Processor, config: SmolVLMConfig) -> PlannedData:
    context = config.text.max_position_embeddings
    return plan_data(saved, processor, context=context, config=config)


def _compare(run: RunFolder, record: SegmentRecord, data: PlannedData, *, alike: bool) -> None:
    """Refuse a segment that comes out otherwise than it was planned.

    Args:
        run: The run.
        record: Of the segment.
        data: As they are planned now.
        alike: Whether images and clips are made into tiles as they were.

    Raises:
        ResumeError: Names the sources that changed.
    """
    if data.plan.digest() == record.digest:
        return
    if not alike:
        raise ResumeError(
            f"{run.root}: from step {record.first_step} the run had other image or video settings, "
            f"which --replan changed later; to go back there give --replan too: a new segment "
            f"begins, with the settings of this start"
        )
    now = {table.name: table for table in data.plan.tables}
    changed = [
        f"{source.name} had {source.samples:,} samples and has {len(now[source.name]):,} now"
        if source.samples != len(now[source.name])
        else f"{source.name} has other samples or lengths"
        for source in record.sources
        if source.name in now and source.hash != now[source.name].hash()
    ]
    what = "; ".join(changed) or "they are packed otherwise by this version"
    raise ResumeError(
        f"{run.root}: the data that the run was planned on from step {record.first_step} changed "
        f"({what}); {BOTH_WAYS_OUT}, or start over with --restart"
    )


def _places_left(
    run: RunFolder,
    record: SegmentRecord,
    recipe: Recipe,
    processor: Processor,
    config: SmolVLMConfig,
    position: Position,
) -> dict[str, SourcePlace]:
    """Where each source of a segment stands at a position, by the hash of the source's samples."""
    hashes = [source.hash for source in record.sources]
    assert record.places is not None
    saved = _saved(run, record, recipe)
    # Its steps had the lengths of its own settings, which the new segment may change.
    own = Processor.for_model(config, processor.tokenizer, image=saved.image, video=saved.video)
    try:
        plan = _plan_again(saved, own, config).plan
    except SmolVLMError as error:
        logger.info("segment of step %d cannot be planned again: %s", record.first_step, error)
    else:
        if plan.digest() == record.digest:
            places = plan.starting_at(record.places).places_at(position)
            return record.resting | dict(zip(hashes, places, strict=True))
    # Which samples the packs of this window held is not known any more; that of whole windows is.
    shares = [source.share for source in record.sources]
    order = Order(record.sources, shares, seed=record.seed, epochs=record.epochs)
    order = order.starting_at(record.places)
    end = (position.window + (position.pack > 0)) * record.window
    if position.pack:
        logger.warning(
            "the data of the run's earlier steps changed: what was left of a window of %d samples "
            "is passed over",
            record.window,
        )
    places = order.places_after(end, end, order.samples(end, end))
    return record.resting | dict(zip(hashes, places, strict=True))


def _continued(
    plan: Plan, left: dict[str, SourcePlace]
) -> tuple[list[SourcePlace], dict[str, SourcePlace]]:
    """Where each source goes on, and where those would that the plan does without."""
    for table in plan.tables:
        if left and table.hash() not in left:
            logger.info("%s is new to the run, or changed: it begins anew", table.name)
    segment = Segment(first_step=0, plan=plan)
    segment.go_on(left)
    assert segment.places is not None
    return segment.places, segment.resting


def _record(
    number: int, first_step: int, plan: Plan, places: Sequence[SourcePlace] | None
) -> SegmentRecord:
    return SegmentRecord(
        first_step=first_step,
        digest=plan.digest(),
        recipe=f"segment-{number:03d}.yaml",
        tokens=plan.capacity.tokens,
        tiles=plan.capacity.tiles,
        packs_per_step=plan.packs_per_step,
        window=plan.window,
        seed=plan.seed,
        epochs=plan.order.epochs,
        sources=[
            RecordedSource(
                name=table.name,
                samples=len(table),
                hash=table.hash(),
                share=share,
                place=None if places is None else places[place],
            )
            for place, (table, share) in enumerate(
                zip(plan.tables, plan.order.shares.tolist(), strict=True)
            )
        ],
    )
