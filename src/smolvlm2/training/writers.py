"""The numbers of the log in TensorBoard, trackio and W&B, for those who look at runs there.

``log.jsonl`` stays what counts. A writer gets the same numbers under the same names, is imported
only when a recipe asks for it, and can never stop a run.
"""

import importlib.util
import logging
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from smolvlm2.config import to_dict
from smolvlm2.errors import ConfigError, MissingDependencyError
from smolvlm2.model.hub import read_json, write_json

logger = logging.getLogger(__name__)

WriterName = Literal["tensorboard", "trackio", "wandb"]
WRITERS: tuple[WriterName, ...] = ("tensorboard", "trackio", "wandb")
STATE_FILE = "writers.json"
"""In the run folder: under which id the run is known elsewhere, and which steps it has sent."""


@dataclass(kw_only=True)
class LoggingSettings:
    """Where else the numbers of ``log.jsonl`` go."""

    writers: list[WriterName] = field(default_factory=list)
    """Of these, any: ``tensorboard`` (files in the run folder), ``trackio``, ``wandb``."""
    project: str = "smolvlm2"
    """Project in trackio and W&B; what else they need they read from their own environment."""
    name: str | None = None
    """Of the run there; null: the run folder's name."""

    def __post_init__(self) -> None:
        if len(set(self.writers)) < len(self.writers):
            raise ConfigError(f"logging.writers names one twice: {', '.join(self.writers)}")


class Writer(Protocol):
    """What a run needs of a library."""

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Take the numbers of a step."""

    def close(self) -> None:
        """Send what is left."""


def check_writers(names: Sequence[WriterName]) -> None:
    """Look for the packages before a run starts.

    Raises:
        MissingDependencyError: One is not installed; names the command.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise MissingDependencyError(
                f"logging.writers: {name} is not installed: pip install {name}, or leave it out"
            )


class Writers:
    """All writers of a run; each is turned off by its first failure.

    Args:
        settings: Of the recipe.
        root: The run folder.
        recipe: For the libraries that keep settings beside a run.
        step: First step that will be written.
        sent: Last step of the log before the run went back to ``step``; None: none.
    """

    def __init__(
        self, settings: LoggingSettings, root: Path, recipe: Any, *, step: int, sent: int | None
    ) -> None:
        self._open: dict[str, Writer] = {}
        if not settings.writers:
            return
        state = read_json(root / STATE_FILE, missing_ok=True)
        run_id = state.get("id") or uuid.uuid4().hex[:8]
        sent = max(-1 if sent is None else sent, state.get("sent", -1))
        write_json({"id": run_id, "sent": sent}, root / STATE_FILE)
        name = settings.name or root.resolve().name
        openers: dict[str, Callable[[], Writer]] = {
            "tensorboard": lambda: TensorBoard(root / "tensorboard", step),
            "trackio": lambda: Trackio(
                settings.project, f"{name}-{run_id}", to_dict(recipe), sent=sent
            ),
            "wandb": lambda: Wandb(
                settings.project, name, run_id, to_dict(recipe), root, sent=sent
            ),
        }
        for chosen in settings.writers:
            with self._off_on_failure(chosen):
                self._open[chosen] = openers[chosen]()

    def write(self, line: Mapping[str, Any]) -> None:
        """Give every writer the numbers of a line of the log."""
        if not self._open:
            return
        numbers = dict(numbers_of(line))
        for name, writer in list(self._open.items()):
            with self._off_on_failure(name):
                writer.write(line["step"], numbers)

    def close(self) -> None:
        """Send what is left."""
        for name, writer in list(self._open.items()):
            with self._off_on_failure(name):
                writer.close()
        self._open = {}

    def _off_on_failure(self, name: str) -> "_Guard":
        return _Guard(name, self._open)


class _Guard:
    """Whatever a library raises costs a warning and the writer, not the run."""

    def __init__(self, name: str, writers: dict[str, Writer]) -> None:
        self._name, self._writers = name, writers

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        # Anything may come out of libraries that talk to servers; interrupts are not theirs.
        if not isinstance(error, Exception):
            return False
        self._writers.pop(self._name, None)
        logger.warning(
            "logging.writers: %s failed and is off from now on (%s: %s); log.jsonl has everything",
            self._name,
            type(error).__name__,
            error,
        )
        return True


def numbers_of(line: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Names and values of all numbers in a line; nested ones get a path: ``validation/loss``."""
    for name, value in line.items():
        kind = type(value)  # by itself: a report asks millions of times
        if kind is dict:
            # Metrics come with a path of their own.
            yield from numbers_of(value, prefix if name == "metrics" else f"{prefix}{name}/")
        elif (kind is float or kind is int) and name != "step":
            yield prefix + name, value


class TensorBoard:
    """Event files in the run folder.

    Args:
        folder: For the files.
        step: Later steps that earlier files hold are hidden: the run writes them again.
    """

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=step or None)

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Take the numbers of a step."""
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


class Trackio:
    """A run of a trackio project.

    trackio takes no step back: steps up to ``sent``, which a resumed run computes again, are not
    sent again. Where they come out otherwise (``--skip-steps``, ``--replan``), the old ones stay.

    Args:
        project: Its name.
        name: Of the run.
        config: Shown beside it.
        sent: Last step that it has.
    """

    def __init__(self, project: str, name: str, config: dict[str, Any], *, sent: int) -> None:
        import trackio

        self._run = trackio.init(project=project, name=name, config=config, resume="allow")
        self._sent = sent

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Take the numbers of a step."""
        if step > self._sent:
            self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        """Send what is left."""
        self._run.finish()


class Wandb:
    """A run of a W&B project; as for trackio, steps that it has are not sent again.

    Rewinding a run, which would replace them, is open to few accounts.

    Args:
        project: Its name.
        name: Of the run, for people.
        run_id: Of the run, which goes on under it.
        config: Shown beside it.
        root: The run folder, for W&B's own files.
        sent: Last step that it has.
    """

    def __init__(
        self, project: str, name: str, run_id: str, config: dict[str, Any], root: Path, *, sent: int
    ) -> None:
        import wandb

        self._run = wandb.init(
            project=project, name=name, id=run_id, config=config, dir=str(root), resume="allow"
        )
        self._sent = sent

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Take the numbers of a step."""
        if step > self._sent:
            self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        """Send what is left."""
        self._run.finish()
