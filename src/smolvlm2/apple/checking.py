"""Does a folder train? Every row read, decoded and encoded, and what was checked said."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from smolvlm2.apple.samples import Samples, answers
from smolvlm2.errors import SmolVLMError
from smolvlm2.processing.processor import ProcessedSample, Processor

CHECKS = (
    "rows are JSON with known keys, roles and items",
    "images and clips exist and decode, upright",
    "one run of visual tokens for each tile",
    "supervised tokens are the assistant's answers and their end, and nothing else",
    "samples fit the context",
)


@dataclass
class DataReport:
    """What was found."""

    rows: int = 0
    """Rows read."""
    problems: list[str] = field(default_factory=list)
    """One line for each row that cannot be used."""
    media: Counter[str] = field(default_factory=Counter)
    """Images and clips of the usable rows."""
    tiles: list[int] = field(default_factory=list)
    """Of each usable row."""
    tokens: list[int] = field(default_factory=list)
    """Of each usable row, visual tokens included."""
    supervised: list[int] = field(default_factory=list)
    """Of each usable row."""

    @property
    def usable(self) -> int:
        """Rows without a problem."""
        return len(self.tokens)

    def describe(self, *, own_tokenizer: bool) -> str:
        """The report as text.

        Args:
            own_tokenizer: Whether tokens were counted by a model's tokenizer and mean something.
        """
        lines = ["checked:", *(f"  {check}" for check in CHECKS)]
        lines.append(
            f"{self.usable} of {self.rows} rows can be used; {self.media['image']} images, "
            f"{self.media['video']} clips"
        )
        if self.usable:
            columns = [("tiles", self.tiles)]
            if own_tokenizer:
                columns += [("tokens", self.tokens), ("supervised", self.supervised)]
            for name, values in columns:
                low, middle, high = np.percentile(values, [0, 50, 100])
                lines.append(f"  {name:10} {low:6.0f} least {middle:8.0f} median {high:8.0f} most")
        if not own_tokenizer:
            lines.append("tokens were not counted: give --model FOLDER for its tokenizer and tiles")
        return "\n".join([*lines, *(f"problem: {problem}" for problem in self.problems)])


def check_samples(
    samples: Samples, processor: Processor, *, limit: int | None = None
) -> DataReport:
    """Read and encode every sample; a bad one is reported and its neighbours are read.

    Args:
        samples: What ``open_samples`` found.
        processor: With ``resample: exact``.
        limit: Only so many rows, from the start.
    """
    report = DataReport()
    for index in range(min(len(samples), limit or len(samples))):
        report.rows += 1
        try:
            sample = samples.read(index)
        except SmolVLMError as error:
            report.problems.append(str(error))
            continue
        try:
            encoded = processor.encode_sample(sample.messages, sample.media)
        except SmolVLMError as error:
            report.problems.append(f"{sample.sample_id}: {error}")
            continue
        problem = _find_problem(sample.messages, encoded, processor)
        if problem is not None:
            report.problems.append(f"{sample.sample_id}: {problem}")
            continue
        items = [item["type"] for message in sample.messages for item in message["content"]]
        report.media.update(kind for kind in items if kind != "text")
        report.tiles.append(len(encoded.tiles))
        report.tokens.append(len(encoded.input_ids))
        report.supervised.append(int(encoded.supervised.sum()))
    return report


def _find_problem(
    messages: list[dict[str, object]], encoded: ProcessedSample, processor: Processor
) -> str | None:
    special, context = processor.tokenizer.special, processor.tokenizer.model_max_length
    visual = encoded.input_ids == special.image
    wanted = len(encoded.tiles) * processor.tokens_per_tile
    if int(visual.sum()) != wanted:
        return f"{int(visual.sum())} visual tokens for {len(encoded.tiles)} tiles, not {wanted}"
    if (visual & encoded.supervised).any():
        return "a visual token is supervised"
    said = encoded.input_ids[encoded.supervised]
    ends = np.split(said, np.flatnonzero(said == special.end_of_utterance) + 1)[:-1]
    spoken = [processor.decode(turn[:-1]).strip() for turn in ends]
    expected = [answer.strip() for answer in answers(messages)]
    if spoken != expected:
        return f"supervised are {spoken!r} and not the answers {expected!r}"
    if not any(expected):
        return "no answer says anything; expected an assistant's text"
    if len(encoded.input_ids) > context:
        return f"{len(encoded.input_ids)} tokens, more than the context of {context}; shorten it"
    return None
