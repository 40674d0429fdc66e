"""A run that is stopped, killed, laid out and planned anew still trains on what was planned.

Everything but the arithmetic is real: recipes, plan, loaders, what ranks tell each other, files.
This process is rank 0. Other ranks are simulated: they load, and say so, by the trainer's own code.
"""

import copy
import json
import shutil
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from smolvlm2.data.manifest import Manifest
from smolvlm2.data.sources.catalogue import DEMO_SOURCES
from smolvlm2.errors import ResumeError
from smolvlm2.loading.loader import Loader
from smolvlm2.loading.reader import PackReader
from smolvlm2.plan.run_plan import RunPlan
from smolvlm2.plan.samples import MODALITIES
from smolvlm2.training.audit import audit_run
from smolvlm2.training.exchange import Computed, Loaded, StepLoss
from smolvlm2.training.loop import Trainer
from smolvlm2.training.passed_over import ranges_of
from smolvlm2.training.rank_share import RankShare
from smolvlm2.training.run_folder import RunFolder
from smolvlm2.training.segments import read_segments
from smolvlm2.training.signals import StopRequest
from smolvlm2.training.update import Updater

PLACES = (
    *("after a skip", "before the line", "half a line", "after the line"),
    *("while saving", "after saving"),
)
"""Where a kill can hit between a step's last collective and the next step."""
MOST_DAMAGED = 3
"""Media that are damaged at one time; a sample of one stays left out in the epoch it was in."""
PATIENCE = 12
"""Steps after which a run is killed that did not get to the place meant."""


class Killed(BaseException):
    """What stands for ``kill -9``: nothing may catch it."""


class OtherRank:
    """A rank that loads its packs and tells the others; its words come from `Trainer._load`."""

    def __init__(self, trainer, position, rank, ranks):
        self.trainer = copy.copy(trainer)
        self.trainer.reader = replace(trainer.reader)
        self.trainer.stop = StopRequest()
        plan = RunPlan([replace(each) for each in trainer.plan.segments], first=trainer.plan._first)
        self.share, self.position = RankShare(plan, rank=rank, ranks=ranks), position
        workers, timeout = trainer.recipe.data.workers, trainer.recipe.data.sample_timeout_s
        self.loader = Loader(
            self.share, self.trainer.reader, position, workers=workers, timeout_s=timeout
        )
        self.batches = iter(self.loader)

    def load(self):
        batch, _, loaded = self.trainer._load(self.batches, self.share, self.position)
        if batch is not None:
            self.position = batch.position
        return loaded


class ManyRanks:
    """Stands in for a trainer's world of one rank."""

    def __init__(self, trainer, ranks):
        self._trainer, self._world = trainer, trainer.world
        self.rank, self.size, self.others = 0, ranks, []
        trainer.world, trainer._span = self, self._span

    def __getattr__(self, name):
        return getattr(self._world, name)

    def gather(self, value, *, at):
        if not isinstance(value, Loaded):
            return [value]
        return [value, *(other.load() for other in self.others)]

    def _span(self, position, end):
        with ExitStack() as stack:
            self.others = [
                OtherRank(self._trainer, position, rank, self.size) for rank in range(1, self.size)
            ]
            for other in self.others:
                stack.enter_context(other.share)
                stack.enter_context(other.loader)
            return Trainer._span(self._trainer, position, end)


@dataclass
class LongRun:
    """Starts of one run, each with what the generator has in store for it."""

    folder: RunFolder
    """Of the run."""
    make: Callable
    """Makes a trainer in a folder from overrides and options."""
    draw: np.random.Generator
    """Decides everything."""
    steps: int
    """Of the whole run."""
    most_steps: int
    """Steps of one start."""
    eventful: float
    """By how much more goes on than in a long run."""
    most_workers: int
    """Loader processes of a rank; only some starts have any."""
    media: list[tuple[Path, int]]
    """Files and offsets of what may be damaged and mended."""
    settings: list[str] = field(default_factory=list)
    """Overrides of the recipe as it is now."""
    damaged: list[tuple[Path, int]] = field(default_factory=list)
    """Those of the media that cannot be read now."""
    tally: Counter = field(default_factory=Counter)
    """What happened."""

    def chance(self, share):
        return self.draw.random() < share

    def number(self, low, high):
        return int(self.draw.integers(low, high + 1))

    def mixture(self):
        names = self.draw.choice(list(DEMO_SOURCES), size=self.number(2, 4), replace=False)
        entries = [f"{{source: {name}, weight: {self.number(1, 4)}}}" for name in names.tolist()]
        return f"{{entries: [{', '.join(entries)}]}}"

    def change_settings(self):
        """Another mixture, batch and sizes, and perhaps a segment that is declared beforehand."""
        later = f"[{{first_step: {self.number(1, self.steps)}, mixture: {self.mixture()}}}]"
        self.settings = [
            f"data.mixture={self.mixture()}",
            f"segments={later if self.chance(0.5) else '[]'}",
            f"training.per_device_train_batch_size={self.number(2, 3)}",
            f"training.gradient_accumulation_steps={self.number(3, 4)}",
            # With other lengths a source begins anew.
            f"image.longest_edge={self.draw.choice([32, 64])}",
        ]

    def damage(self):
        """Damage one medium, and mend the one that was damaged first where there are several."""
        whole = [each for each in self.media if each not in self.damaged]
        self.damaged.append(whole[self.number(0, len(whole) - 1)])
        flip(*self.damaged[-1])
        if len(self.damaged) > MOST_DAMAGED:
            flip(*self.damaged.pop(0))

    def options(self):
        """What a start is asked for beyond going on."""
        found = {}
        steps = [int(path.name.removeprefix("step-")) for path in self.folder.resumable()]
        if not steps:
            return found
        at = steps[0]
        if self.chance(0.15 * self.eventful):
            found["resume"] = at = int(self.draw.choice(steps))
            self.tally["goes back"] += 1
        if self.chance(0.2 * self.eventful):
            self.change_settings()
            found["replan"] = True
            self.tally["replans"] += 1
        first = at + self.number(0, 5)
        if self.chance(0.25 * self.eventful) and first not in dict(ranges_of(self.folder)):
            found["skip_steps"] = (first, first + self.number(1, 3))
            self.tally["ranges passed over"] += 1
        return found

    def make_trainer(self):
        """A trainer where the run stands, planned anew where it has to be."""
        options = self.options()
        workers = self.number(1, self.most_workers) if self.chance(0.1) and self.most_workers else 0
        settings = [*self.settings, f"data.workers={workers}"]
        self.tally["starts with workers"] += workers > 0
        try:
            return self.make(self.folder.root, *settings, **options)
        except ResumeError as error:
            if "--resume --replan" not in str(error):
                raise
            self.tally["refused without a new plan"] += 1  # back in a segment with other sizes
            return self.make(self.folder.root, *settings, **options | {"replan": True})

    def start(self):
        """One start of the run, up to a stop, a kill or its end; says whether it has ended."""
        self.damage()
        trainer = self.make_trainer()
        packs = min(segment.plan.packs_per_step for segment in trainer.plan.segments)
        world = ManyRanks(trainer, self.number(1, min(3, packs)))
        first = trainer.state.step
        end = first + self.number(1, self.most_steps)
        if self.chance(0.5):
            self.stop(trainer, world, end)
        else:
            self.kill(trainer, end)
        self.tally[f"starts on {world.size} ranks"] += 1
        try:
            ending = trainer.train()
        except Killed as killed:
            ending = f"killed {killed}"
        self.tally[ending] += 1
        self.tally["steps taken"] += trainer.state.step - first
        return ending == "finished"

    def stop(self, trainer, world, end):
        """Send one of the ranks a signal after a step."""
        number = self.number(0, world.size - 1)

        def progress(line):
            if line["step"] >= end:
                ranks = [trainer, *(other.trainer for other in world.others)]
                ranks[number].stop.signal = "SIGTERM"

        trainer.progress = progress

    def kill(self, trainer, end):
        """End a start at or after a step, in the middle of its work."""
        run, place = trainer.run, PLACES[self.number(0, len(PLACES) - 1)]
        log, skip, publish = run.log.append, run.skips.append, run.publish_step

        def record_skip(line):
            skip(line)
            if line["step"] >= end and place == "after a skip":
                raise Killed(place)

        def write(line):
            late = line["step"] >= end + PATIENCE
            if line["step"] < end or not (late or "line" in place):
                log(line)
            elif place == "half a line":
                text = json.dumps(line)
                with run.log.path.open("a") as file:
                    file.write(text[: len(text) // 2])
                raise Killed(place)
            else:
                if place == "after the line":
                    log(line)
                raise Killed("late" if late else place)

        def save(partial, step, **options):
            if step > end and place == "while saving":
                raise Killed(place)
            folder = publish(partial, step, **options)
            if step > end and place == "after saving":
                raise Killed(place)
            return folder

        run.log.append, run.skips.append, run.publish_step = write, record_skip, save


def flip(path, offset):
    """Damage a medium, or mend it."""
    with path.open("r+b") as file:
        file.seek(offset)
        flipped = bytes(byte ^ 0xFF for byte in file.read(64))
        file.seek(offset)
        file.write(flipped)


def compute_nothing(self, batch, numbers, divisor, *, at):
    for place in range(len(batch.packs)):
        batch.release(place)
    losses = {number: 1.0 for number in numbers if number is not None}
    nothing = np.zeros((len(MODALITIES), 2))
    return StepLoss.of([Computed(losses=losses, by_modality=nothing)]), 1.0


@pytest.fixture
def go_through(make_trainer, world, tmp_path, monkeypatch):
    """Go through a long run to its end: ``go_through(seed, steps, most_steps=8)``."""
    monkeypatch.setattr(Updater, "gradients", compute_nothing)
    monkeypatch.setattr(Updater, "apply", lambda self: None)

    def run(seed, steps, *, most_steps, eventful=1.0, most_workers=0):
        root = tmp_path / "data"
        shutil.copytree(world / "data", root)
        media = set()
        for name in DEMO_SOURCES:
            manifest = Manifest.open(root / "prepared" / name)
            for row in map(manifest.row, range(len(manifest))):
                media |= {(root / one.path, one.offset or 0) for one in row.media}
        fixed = (
            f"data.root={root}",
            f"training.max_steps={steps}",
            "training.max_skip_fraction=1",
            "checkpoint.every_steps=4",
            "checkpoint.keep=5",
            "data.sample_timeout_s=60",
        )
        long = LongRun(
            folder=RunFolder(tmp_path / "run"),
            make=lambda folder, *own, **options: make_trainer(folder, *fixed, *own, **options),
            draw=np.random.default_rng(seed),
            steps=steps,
            most_steps=most_steps,
            eventful=eventful,
            most_workers=most_workers,
            media=sorted(media),
        )
        long.change_settings()
        while not long.start():
            pass
        return long

    return run


def assert_the_audit_passes(long):
    report = audit_run(long.folder.root)
    assert (report.problems, report.unplanned) == ([], [])
    assert report.checked == report.steps == long.steps
    assert sum(count for name, count in long.tally.items() if name.startswith("killed")) > 0
    assert long.tally["signal"] > 0
    assert long.tally["replans"] > 0
    assert long.tally["ranges passed over"] > 0
    assert report.skipped > 0
    return report


def rewrite(path, change):
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    change(lines)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def swap_chains(lines):
    lines[10]["chain"], lines[11]["chain"] = lines[11]["chain"], lines[10]["chain"]


def count_one_more(lines):
    lines[10]["samples"] += 1


def test_a_run_of_many_starts_passes_its_audit_and_nothing_else_does(go_through, monkeypatch):
    long = go_through(0, 24, most_steps=8, eventful=2.0)
    assert_the_audit_passes(long)
    root = long.folder.root
    log, skips = root / "log.jsonl", root / "skips.jsonl"
    for path, change in ((log, swap_chains), (log, count_one_more), (skips, list.clear)):
        kept = path.read_bytes()
        rewrite(path, change)
        assert audit_run(root).problems
        path.write_bytes(kept)
    plain = PackReader.planned

    def swapped(self, pack):
        found = plain(self, pack)
        return [*found[1::-1], *found[2:]]

    monkeypatch.setattr(PackReader, "planned", swapped)
    long.make(root, *long.settings, resume=20).train()
    assert any("are not those of the plan" in problem for problem in audit_run(root).problems)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_run_of_two_thousand_steps_passes_its_audit(go_through):
    long = go_through(0, 2000, most_steps=60, most_workers=2)
    report = assert_the_audit_passes(long)
    assert {f"starts on {ranks} ranks" for ranks in (1, 2, 3)} <= set(long.tally)
    figures = dict(long.tally) | {
        "segments": len(read_segments(long.folder)),
        "samples": report.samples,
        "skipped": report.skipped,
        "left out by --skip-steps": sum(end - first for first, end in ranges_of(long.folder)),
    }
    print(json.dumps(figures))  # pytest -s shows it
