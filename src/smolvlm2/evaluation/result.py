"""What an evaluation comes to: scores with their uncertainty, and how they were made."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class GroupScore:
    """Score of some of the questions."""

    score: float
    """Mean, 0 to 1."""
    n: int
    """Questions."""
    interval: tuple[float, float]
    """95 %, clustered."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkResult:
    """Scores of one benchmark; ``asdict`` of it is JSON."""

    benchmark: str
    """Its name."""
    title: str
    """Its name for people."""
    accuracy: float
    """The headline, 0 to 1, by ``rule`` and ``aggregation``; what has no answer counts as wrong."""
    n: int
    """Questions asked: the denominator."""
    interval: tuple[float, float]
    """95 % interval of ``accuracy``, clustered by video or page where the benchmark says how."""
    rule: str
    """Id of the rule that scores an answer."""
    aggregation: str
    """``mean of questions`` or ``mean of <group>``."""
    beside: dict[str, float]
    """The same answers by other rules or aggregations."""
    chance: float | None
    """Score of guessing by the benchmark's rule; None where it declares none."""
    constant: dict[str, float]
    """Score of always giving one letter, by letter."""
    groups: dict[str, dict[str, GroupScore]]
    """Scores by group and value."""
    blank_images: bool
    """Whether every picture was replaced by mid-grey."""
    prompt_style: str
    """Whose prompts were used."""
    unverified: list[str]
    """What of the benchmark's file or prompt is not confirmed."""
    unanswered: list[dict[str, str]]
    """``question_id`` and ``problem`` of each question without an answer."""
    empty: int
    """Questions answered by nothing."""
    seconds: float
    """Time of this call; answers taken over from a killed run cost none."""
    tokens: int
    """Tokens generated in this call."""
    tokens_per_s: float
    """Of this call, reading and decoding included."""
    run: dict[str, Any] = field(default_factory=dict)
    """What was evaluated: backend, digest of the weights, resolution, frames, versions."""
    questions: dict[str, tuple[float, str, str]] = field(default_factory=dict, repr=False)
    """For comparisons: score, cluster and headline group of each question, by id."""

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries and lists."""
        return asdict(self)


def result_from_json(value: Mapping[str, Any]) -> BenchmarkResult:
    """The inverse of ``BenchmarkResult.to_json``."""
    plain = dict(value)
    plain["groups"] = {
        name: {
            key: GroupScore(**entry | {"interval": tuple(entry["interval"])})
            for key, entry in scores.items()
        }
        for name, scores in plain["groups"].items()
    }
    plain["interval"] = tuple(plain["interval"])
    plain["questions"] = {key: tuple(entry) for key, entry in plain["questions"].items()}
    return BenchmarkResult(**plain)
