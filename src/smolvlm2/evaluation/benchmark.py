"""A benchmark as data: which questions, how they are asked, how answers are scored."""

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from smolvlm2.config import load_config
from smolvlm2.errors import ConfigError

FOLDER = Path(__file__).parent / "benchmarks"


@dataclass(kw_only=True)
class Benchmark:
    """One YAML file of ``evaluation/benchmarks``."""

    name: str
    """Name on the command line and in results."""
    file: str
    """JSONL of the questions, relative to the data folder; media are relative to this file."""
    modality: Literal["text", "image", "multi-image", "video"]
    """What the questions show."""
    prompt_suffix: str = ""
    """Text added to the last user turn, after a line break."""
    scorer: Literal["exact_match"] = "exact_match"
    """Name in ``scorers.SCORERS``."""
    chance: float | Literal["choices", "none"] = "choices"
    """Score of guessing: a share, the mean of 1 / choices over the questions, or not defined."""
    max_new_tokens: int = 16
    """Longest answer, in tokens."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens is {self.max_new_tokens}, expected at least 1")


def benchmark_names() -> list[str]:
    """Names of the shipped benchmarks."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_benchmark(name: str) -> Benchmark:
    """A shipped benchmark by name, or one's own by the path of its YAML.

    Raises:
        ConfigError: Neither exists, or the file is wrong.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if path.parent == FOLDER and path.stem not in benchmark_names():
        close = get_close_matches(name, benchmark_names(), n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(benchmark_names())}"
        raise ConfigError(f"no benchmark {name!r}; {hint}")
    return load_config(Benchmark, path)
