"""The training commands, with what lies outside the training room: evaluation and report."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from smolvlm2.errors import SmolVLMError
from smolvlm2.training.command_line import Stage, run_stage
from smolvlm2.training.leaving import exit_on_error

if TYPE_CHECKING:
    from smolvlm2.processing.processor import Processor
    from smolvlm2.training.checkups import Hook
    from smolvlm2.training.recipe import Recipe
    from smolvlm2.training.shared_work import SharedWork

logger = logging.getLogger(__name__)


def train(stage: Stage, arguments: Sequence[str] | None = None) -> None:
    """Train a stage, evaluating on the way where the recipe asks for it."""
    run_stage(stage, arguments, make_hook=evaluation_hook, at_end=_report)


def main(stage: Stage) -> None:
    """Entry point of a stage's command."""
    exit_on_error(lambda: train(stage))


def _report(run: Path) -> None:
    """Write the run's page; a run that has ended in order stays one without it."""
    from smolvlm2.cli.run_report import write_run_report

    try:
        write_run_report(run)
    except (OSError, SmolVLMError) as error:
        logger.warning("no report (%s); smolvlm2 report %s makes it", error, run)


def evaluation_hook(recipe: "Recipe", processor: "Processor", work: "SharedWork") -> "Hook | None":
    """The evaluation that a recipe asks for; all ranks share its questions.

    Raises:
        ConfigError: A benchmark is unknown.
        DataNotFoundError: Its questions are missing.
    """
    settings = recipe.evaluation
    if not settings.benchmarks:
        return None
    from smolvlm2.evaluation.hook import make_hook
    from smolvlm2.evaluation.ranks import Ranks
    from smolvlm2.training.planning import data_root

    return make_hook(
        processor,
        settings.benchmarks,
        settings.data_root or data_root(recipe),
        limit=settings.limit,
        batch_size=settings.batch_size,
        ranks=Ranks(work.rank, work.size, work.gather),
    )
