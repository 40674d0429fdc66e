"""A benchmark as data: where its questions lie, how they are asked, how answers are scored."""

import re
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from smolvlm2.config import load_config
from smolvlm2.errors import ConfigError
from smolvlm2.evaluation.rules import find_rule

FOLDER = Path(__file__).parent / "benchmarks"
PromptStyle = Literal["native", "vlmevalkit", "lmms"]
STYLES = ("native", "vlmevalkit", "lmms")
_PLACES = {
    "text": (
        "question", "options", "question_and_options", "question_capitalised", "subtitles",
    ),
    "option": ("letter", "text"),
}  # fmt: skip
"""What may stand in braces in a prompt."""


@dataclass(kw_only=True)
class Hub:
    """A hub repository that publishes the benchmark. Ids move; what counts is the layout."""

    repo: str
    """``owner/name`` of a data set repository."""
    revision: str | None = None
    """Branch, tag or commit; None: the default branch."""
    patterns: list[str] = field(default_factory=lambda: ["*"])
    """Files to fetch, as the hub's client matches them."""
    formerly: str | None = None
    """An older id of the same repository."""


@dataclass(kw_only=True)
class VideoFolders:
    """Where the videos of one task lie, below the benchmark's folder or in its archives."""

    segments: list[str] = field(default_factory=list)
    """Folders of clips already cut to the question's part; bounds do not apply to them."""
    whole: list[str] = field(default_factory=list)
    """Folders of uncut videos."""
    frames: list[str] = field(default_factory=list)
    """Folders that hold a folder of numbered pictures for each video."""


@dataclass(kw_only=True)
class Layout:
    """How published files hold the questions. A template is a text with ``{column}`` in it;
    ``{file}`` is the file's name without ending, ``{row}`` the row's number."""

    files: list[str]
    """Patterns of the question files (parquet, JSON list, JSON lines), below the folder."""
    question_id: str = "{row}"
    """Template; must be unique."""
    question: str = "question"
    """Column."""
    options: str | None = None
    """Column with the list of options; None for open questions."""
    options_lettered: bool = False
    """Whether each option begins with its letter, as in ``A. a bus``."""
    options_in_question: bool = False
    """Whether the question's text lists the options, a line each; without ``options`` they are
    read from there."""
    options_count: int | None = None
    """Options of every question whose text lists them in no form that can be cut."""
    answer: str = "answer"
    """Column."""
    answer_is: Literal["text", "texts", "letter", "option"] = "text"
    """One text, a list of accepted texts, the letter of an option, or the text of an option."""
    image: str | None = None
    """Column with the picture's bytes."""
    videos: list[str] = field(default_factory=list)
    """Templates of the video's path, likeliest first; other video endings are tried too."""
    folders: dict[str, VideoFolders] = field(default_factory=dict)
    """Instead of ``videos``: folders by the question file's name; the file is ``{video}``."""
    frame_rate: float = 3.0
    """Pictures a second in ``VideoFolders.frames``."""
    start: str | None = None
    """Column with the first second of the part asked about."""
    end: str | None = None
    """Column with its last second."""
    subtitles: str | None = None
    """Template of the subtitle file's path."""
    groups: dict[str, list[str]] = field(default_factory=dict)
    """Scores by group: name to the templates whose values are joined."""
    cluster: str | None = None
    """Template; questions with the same value are not independent. None: each stands alone."""


@dataclass(kw_only=True)
class Prompt:
    """How one style asks. ``{question}``, ``{options}`` and ``{subtitles}`` are filled in."""

    text: str = "{question}"
    """What the user says after the medium; also ``{question_and_options}`` (as published where the
    file's text has both) and ``{question_capitalised}`` (``str.capitalize``)."""
    option: str = "{letter}. {text}"
    """One line of ``{options}``; options that carry their letters stay as they are."""
    wrapper: Literal["chat", "vlmevalkit_video"] = "chat"
    """The chat template, or the string that VLMEvalKit's class for SmolVLM2 builds."""
    system: str | None = None
    """What the system says; None: nothing."""
    max_new_tokens: int | None = None
    """Longest answer in tokens; None: the benchmark's."""
    unverified: str | None = None
    """What of this prompt is not confirmed; repeated in the result."""

    def __post_init__(self) -> None:
        for key, known in _PLACES.items():
            for name in re.findall(r"\{(\w+)\}", getattr(self, key)):
                if name not in known:
                    raise ConfigError(
                        f"a prompt's {key} has {{{name}}}, which nothing fills; known: "
                        f"{', '.join(f'{{{place}}}' for place in known)}"
                    )


@dataclass(kw_only=True)
class Benchmark:
    """One YAML file of ``evaluation/benchmarks``."""

    name: str
    """Name on the command line and in results."""
    title: str = ""
    """Name for people; empty: ``name``."""
    aliases: list[str] = field(default_factory=list)
    """Other names on the command line."""
    modality: Literal["text", "image", "multi-image", "video"]
    """What the questions show."""
    file: str | None = None
    """JSONL of the questions in this package's own form, relative to the data folder."""
    hub: list[Hub] = field(default_factory=list)
    """Where to get it, preferred first."""
    layouts: list[Layout] = field(default_factory=list)
    """How published files may hold it; the first whose files are there is read."""
    prompts: dict[str, Prompt] = field(default_factory=dict)
    """By style; without ``native`` the question's own messages are asked."""
    prompt_suffix: str = ""
    """Text added to the last user turn of a question's own messages, after a line break."""
    rule: str = "exact_match"
    """Id in ``rules.RULES`` that makes the headline, or ``module:function`` of one's own."""
    beside: list[str] = field(default_factory=list)
    """Ids of rules shown beside the headline."""
    macro_over: str | None = None
    """The headline is the mean over this group's means; None: the mean over all questions."""
    chance: float | Literal["choices", "none"] = "choices"
    """Score of guessing: a share, the mean of 1 / choices over the questions, or not defined."""
    max_new_tokens: int = 16
    """Longest answer, in tokens."""
    published: list[str] = field(default_factory=list)
    """Its names in ``published_scores.csv``."""
    unverified: list[str] = field(default_factory=list)
    """What of this file is not confirmed by a source at hand."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens is {self.max_new_tokens}, expected at least 1")
        if (self.file is None) == (not self.layouts):
            raise ConfigError("expected either 'file' or 'layouts'")
        for rule in (self.rule, *self.beside):
            find_rule(rule)
        wrong = [style for style in self.prompts if style not in STYLES]
        if wrong:
            raise ConfigError(f"no prompt style {wrong[0]!r}; known: {', '.join(STYLES)}")
        if self.layouts and "native" not in self.prompts:
            raise ConfigError("prompts.native is missing; published questions need a prompt")
        lacking = [x for x in self.layouts if self.macro_over and self.macro_over not in x.groups]
        if lacking:
            raise ConfigError(f"macro_over {self.macro_over!r} is no group of every layout")

    def prompt(self, style: PromptStyle) -> Prompt:
        """How a style asks.

        Raises:
            ConfigError: The benchmark has no such prompt.
        """
        if style == "native" and not self.prompts:
            return Prompt(text="")
        if style not in self.prompts:
            raise ConfigError(
                f"{self.name} has no prompt of style {style!r}, only "
                f"{', '.join(self.prompts or ['native'])}"
            )
        return self.prompts[style]


def benchmark_names() -> list[str]:
    """Names of the shipped benchmarks."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_benchmark(name: str) -> Benchmark:
    """A shipped benchmark by name or alias, or one's own by the path of its YAML.

    Raises:
        ConfigError: Neither exists, or the file is wrong.
    """
    if name.endswith((".yaml", ".yml")):
        return load_config(Benchmark, Path(name))
    known = benchmark_names()
    wanted = name.replace("-", "_").lower()
    if wanted in known:
        return load_config(Benchmark, FOLDER / f"{wanted}.yaml")
    for path in sorted(FOLDER.glob("*.yaml")):
        # A cheap look first: reading a YAML file in full takes longer than all the others' text.
        if name.lower() in path.read_text(encoding="utf-8").lower():
            benchmark = load_config(Benchmark, path)
            if name.lower() in benchmark.aliases:
                return benchmark
    close = get_close_matches(wanted, known, n=1)
    hint = (
        f"did you mean {close[0]!r}?"
        if close
        else f"known: {', '.join(known)}, or the path of a YAML"
    )
    raise ConfigError(f"no benchmark {name!r}; {hint}")


def download_plan(name: str) -> Hub:
    """What to fetch for a benchmark: repository, revision, file patterns.

    Raises:
        ConfigError: No such benchmark, or it is not published anywhere (the demo's).
    """
    benchmark = load_benchmark(name)
    if not benchmark.hub:
        raise ConfigError(
            f"{benchmark.name} is on no hub; `smolvlm2 demo-data OUT` writes the demo's questions"
        )
    return benchmark.hub[0]
