"""Data that a run leaves out on purpose: ``--skip-steps a:b``.

When the run gets to step a, the data of b - a steps are passed over; step a then trains on what
step b would have had. The number of steps stays. It is written down in the run's folder, so that a
later resume leaves out the same.
"""

import re

from smolvlm2.errors import ConfigError, ResumeError
from smolvlm2.plan.plan import Position
from smolvlm2.plan.run_plan import RunPlan
from smolvlm2.training.run_folder import RunFolder

Range = tuple[int, int]
"""First step whose data are passed over, and the first one after."""


def parse_range(text: str) -> Range:
    """Read ``a:b``.

    Raises:
        ConfigError: Not of this form, or empty.
    """
    found = re.fullmatch(r"(\d+):(\d+)", text)
    if not found or int(found[1]) >= int(found[2]):
        raise ConfigError(
            f"--skip-steps {text}: expected FIRST:END with FIRST below END, such as 1200:1210"
        )
    return int(found[1]), int(found[2])


def ranges_of(run: RunFolder) -> list[Range]:
    """What is passed over in a run, by first step."""
    return sorted((line["step"], line["end"]) for line in run.passed_over)


def record_range(run: RunFolder, wanted: Range, *, step: int, steps: int | None = None) -> None:
    """Write a range down; one that is already there is left alone, for commands that are repeated.

    Args:
        run: The run.
        wanted: What to pass over.
        step: Where the run stands.
        steps: That the run would have in all; None: its data repeat for ever.

    Raises:
        ResumeError: The run is past it, it begins inside another range, or the data end before it
            does.
    """
    known = ranges_of(run)
    if wanted in known:
        return
    first, end = wanted
    if first < step:
        raise ResumeError(
            f"--skip-steps {first}:{end}: the run goes on from step {step}, past these data; "
            f"resume from a checkpoint at or before step {first} (--resume STEP)"
        )
    if first in dict(known):
        raise ResumeError(
            f"--skip-steps {first}:{end}: the run passes over {first}:{dict(known)[first]} "
            f"already; to pass over more, start from the step after it"
        )
    if steps is not None and steps <= first:
        raise ResumeError(
            f"--skip-steps {first}:{end}: leaves no data for step {first}; pass over at most "
            f"{max(0, steps + end - 2 * first - 1)} steps there"
        )
    run.passed_over.append({"step": first, "end": end})


def pass_over(plan: RunPlan, ranges: list[Range], step: int, position: Position) -> Position:
    """Where the data of ``step`` begin, given where they would without ranges."""
    for first, end in ranges:
        if first == step:
            position = plan.pass_over(position, end - first)
    return position
