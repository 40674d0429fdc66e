"""Did a run train on what was planned: its log against its plan, minus what it skipped.

Every step's line holds a digest of the ids that were really loaded, chained to all steps before.
The audit plans each segment again, takes away what the run says that it skipped, and compares.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from smolvlm2.config import load_config
from smolvlm2.data.manifest import Manifest
from smolvlm2.errors import AuditError, ResumeError, SmolVLMError
from smolvlm2.model.config import SmolVLMConfig
from smolvlm2.model.hub import resolve_checkpoint
from smolvlm2.plan.packs import Pack
from smolvlm2.plan.plan import Position
from smolvlm2.plan.run_plan import RunPlan, Segment
from smolvlm2.processing.processor import Processor
from smolvlm2.training.exchange import chain_ids
from smolvlm2.training.passed_over import ranges_of
from smolvlm2.training.planning import plan_data
from smolvlm2.training.recipe import Recipe
from smolvlm2.training.run_folder import RunFolder
from smolvlm2.training.segments import SegmentRecord, read_segments

MOST_PROBLEMS = 20
"""Problems after which an audit stops: the rest would repeat them."""


@dataclass(kw_only=True)
class AuditReport:
    """What an audit found."""

    steps: int = 0
    """Steps of the log."""
    checked: int = 0
    """Steps compared with the plan."""
    samples: int = 0
    """Samples of those, without the skipped ones."""
    skipped: int = 0
    """Samples that the plan has and the run skipped."""
    problems: list[str] = field(default_factory=list)
    """What does not fit; empty when all is well."""
    unplanned: list[str] = field(default_factory=list)
    """Steps whose data are no longer there as they were: they could not be checked."""


def audit_run(folder: str | Path, *, data_root: str | None = None) -> AuditReport:
    """Compare a run with its plan.

    Args:
        folder: Of the run, finished or not.
        data_root: Where the data lie now; None: where the run read them.

    Raises:
        AuditError: The folder is not that of a run, or has no log.
    """
    run = RunFolder(folder)
    lines = [line for line in run.log if "chain" in line]
    if not lines:
        raise AuditError(f"{run.root}: no log.jsonl with steps; expected the folder of a run")
    try:
        records = read_segments(run)
        recipe = load_config(Recipe, run.root / "config.yaml")
        checkpoint = resolve_checkpoint(run.root, patterns=("*.json",))
        config = SmolVLMConfig.from_folder(checkpoint)
        processor = Processor.from_pretrained(checkpoint)
    except ResumeError as error:
        raise AuditError(str(error)) from error
    root = recipe.data.root if data_root is None else data_root
    report = AuditReport(steps=len(lines))
    _check_numbers(lines, report)
    before = ""
    for number, record in enumerate(records):
        end = records[number + 1].first_step if number + 1 < len(records) else None
        here = [
            line
            for line in lines
            if line["step"] >= record.first_step and (end is None or line["step"] < end)
        ]
        if not here or len(report.problems) > MOST_PROBLEMS:
            continue
        try:
            steps = _planned(run, record, number, processor, config, root)
        except SmolVLMError as error:
            report.unplanned.append(f"steps {here[0]['step']} to {here[-1]['step']}: {error}")
            before = here[-1]["chain"]
            continue
        before = _check_segment(run, here, steps, before, report)
    return report


def _check_numbers(lines: list[dict], report: AuditReport) -> None:
    for place, line in enumerate(lines):
        if line["step"] != place:
            report.problems.append(
                f"line {place + 1} of the log is of step {line['step']}; expected step {place}: "
                f"steps are missing or doubled"
            )
            return


class _Steps:
    """The ids that the plan has for each step of a segment."""

    def __init__(self, plan: RunPlan, manifests: list[Manifest], position: Position) -> None:
        self._plan, self._manifests, self._position = plan, manifests, position

    def walk(self, passed: dict[int, int]) -> Iterator[tuple[int, list[tuple[str, int]]]]:
        """Step, and id and epoch of each sample, in the order of the plan."""
        while True:
            step = self._position.step
            if step in passed:
                self._position = self._plan.pass_over(self._position, passed[step] - step)
            packs, self._position = self._plan.step(self._position)
            yield step, [each for pack in packs for each in self._ids(pack)]

    def _ids(self, pack: Pack) -> Iterator[tuple[str, int]]:
        rows = pack.samples.column(self._plan.tables, "rows").tolist()
        sources, epochs = pack.samples.source.tolist(), pack.samples.epoch.tolist()
        for source, row, epoch in zip(sources, rows, epochs, strict=True):
            yield self._manifests[source].sample_id(row), epoch


def _planned(
    run: RunFolder,
    record: SegmentRecord,
    number: int,
    processor: Processor,
    config: SmolVLMConfig,
    root: str,
) -> _Steps:
    saved = load_config(Recipe, run.root / "plan" / record.recipe)
    saved = replace(saved, data=replace(saved.data, root=root))
    # Lengths follow from the segment's own settings, not from those that the run ended with.
    reader = Processor.for_model(config, processor.tokenizer, image=saved.image, video=saved.video)
    context = config.text.max_position_embeddings
    data = plan_data(saved, reader, context=context, config=config)
    if data.plan.digest() != record.digest:
        raise AuditError(
            f"its data were planned as {record.digest} and give {data.plan.digest()} now"
        )
    segment = Segment(first_step=record.first_step, plan=data.plan, places=record.places)
    plan = RunPlan([segment], first=number, ahead=False)
    position = Position(segment=number, step=record.first_step)
    return _Steps(plan, data.manifests, position)


def _check_segment(
    run: RunFolder, lines: list[dict], steps: _Steps, before: str, report: AuditReport
) -> str:
    """Compare the steps of one segment; returns the chain at its end."""
    skipped = _skips(run)
    left_out = [(line["step"], frozenset(line["ids"])) for line in run.left_out]
    passed = dict(ranges_of(run))
    for line, (step, planned) in zip(lines, steps.walk(passed), strict=False):
        if len(report.problems) > MOST_PROBLEMS:
            break
        unwanted: frozenset[str] = next(
            (ids for first, ids in reversed(left_out) if first <= step), frozenset()
        )
        wanted = [each for each in planned if each[0] not in unwanted]
        outcomes = list(_outcomes(wanted, skipped, step))
        fitting = [ids for ids in outcomes if line["samples"] == len(ids)]
        expected = (fitting or outcomes)[0]
        report.checked += 1
        report.samples += len(expected)
        report.skipped += len(wanted) - len(expected)
        if not fitting:
            report.problems.append(
                f"step {step}: {line['samples']} samples were loaded; the plan has {len(planned)}, "
                f"of which {len(planned) - len(expected)} were left out on record"
            )
        elif line["chain"] not in [chain_ids(before, ids) for ids in fitting]:
            report.problems.append(
                f"step {step}: the samples that were loaded are not those of the plan"
            )
        before = line["chain"]
    return before


def _skips(run: RunFolder) -> dict[tuple[str, int], int]:
    """Sample and epoch of each recorded skip, in the order of their records: its step."""
    skipped: dict[tuple[str, int], int] = {}
    for line in run.skips:
        if line.get("during", "training") != "training":
            continue
        occurrence = line["sample_id"], line["epoch"]
        skipped[occurrence] = min(line["step"], skipped.get(occurrence, line["step"]))
    return skipped


def _outcomes(
    wanted: list[tuple[str, int]], skipped: dict[tuple[str, int], int], step: int
) -> Iterator[list[str]]:
    """The ids that a step may have loaded under the recorded skips.

    A skip holds from its record on. A sample may have been read before that, at an earlier step,
    where a source began anew; or have been left out there, when the run went back and was planned
    anew. Which of both, the log's digest tells. Records were made one after another.
    """
    sure = {each for each in wanted if skipped.get(each, step + 1) <= step}
    later = [each for each in skipped if each in set(wanted) - sure]
    for known in range(len(later) + 1):
        absent = sure.union(later[:known])
        yield [name for name, epoch in wanted if (name, epoch) not in absent]
