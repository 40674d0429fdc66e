"""``README.md`` of an export: what the model is, how it came about, and on what terms."""

import logging
import os
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import ModelCardData

from smolvlm2 import __version__
from smolvlm2.config import load_config, to_yaml
from smolvlm2.data.mixture import MixtureEntry
from smolvlm2.data.sources.catalogue import HUB, SOURCES
from smolvlm2.errors import SmolVLMError
from smolvlm2.model.config import SmolVLMConfig
from smolvlm2.model.hub import HUB_ID, read_json
from smolvlm2.model.sharded_files import STATE_FILE
from smolvlm2.training.export import CARD
from smolvlm2.training.recipe import DataSettings, EvaluationSettings, Recipe
from smolvlm2.training.run_folder import RunFolder
from smolvlm2.training.schedule import PARTS
from smolvlm2.training.segments import SegmentRecord, read_segments
from smolvlm2.training.start_record import START_FILE
from smolvlm2.training.training_settings import TrainingSettings
from smolvlm2.training.writers import LoggingSettings

logger = logging.getLogger(__name__)

_LAST = 100
"""Steps whose losses are averaged."""
_USE = """\
```python
from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained("{name}")
processor = AutoProcessor.from_pretrained("{name}")
```

or with smolvlm2, which trained it:

```bash
smolvlm2 generate {name} --image picture.png --prompt "What is this?"
```
"""
_NEVER_ENLARGED = (
    "Training never enlarged an image; the processors of transformers and vLLM always do. For the "
    "pixels that training saw use smolvlm2's, whose tensors transformers' model takes too: "
    '`processor(messages, return_format="hf")`.\n'
)


@dataclass(kw_only=True)
class Stage:
    """One run that a model went through."""

    run: RunFolder
    recipe: Recipe
    segments: list[SegmentRecord]
    began_from: str | None
    """The checkpoint; None: its components."""
    steps: int
    """Done, as far as the model goes."""

    @classmethod
    def of(cls, folder: Path) -> "Stage | None":
        """The run that a run folder or step folder belongs to; None: no run's folder."""
        folder = folder.resolve()
        is_step = (folder / STATE_FILE).is_file()
        run = RunFolder(folder.parent.parent if is_step else folder)
        if not (run.root / "config.yaml").is_file() or not (run.root / "plan").is_dir():
            return None
        start = read_json(run.root / "plan" / START_FILE, missing_ok=True)
        if is_step:
            steps = int(read_json(folder / STATE_FILE)["step"])
        else:
            steps = max((line["step"] + 1 for line in run.log if "loss" in line), default=0)
        return cls(
            run=run,
            recipe=load_config(Recipe, run.root / "config.yaml"),
            segments=read_segments(run),
            began_from=start.get("checkpoint"),
            steps=steps,
        )

    def before(self) -> "Stage | None":
        """The run that this one began from, where its folder is at hand."""
        return None if self.began_from is None else Stage.of(Path(self.began_from))

    def entries(self) -> Iterator[tuple[int, MixtureEntry, float]]:
        """First step, entry of a mixture and share of the samples, for each segment begun."""
        for record in self.segments:
            if record.first_step >= max(1, self.steps):
                return
            recipe = load_config(Recipe, self.run.root / "plan" / record.recipe)
            assert recipe.data.mixture is not None
            for entry, source in zip(recipe.data.mixture.entries, record.sources, strict=True):
                yield record.first_step, entry, source.share


def card_for(
    out: Path,
    checkpoint: Path,
    config: SmolVLMConfig,
    *,
    averaged: Sequence[int] = (),
    scores: str | None = None,
) -> str | None:
    """The card of an export; None where there is one already, or the model is of no run.

    Args:
        out: Folder of the export; its name is the model's.
        checkpoint: Run folder or step folder that it is made from.
        config: Its shapes.
        averaged: Steps whose weights were averaged.
        scores: Markdown, for a section of its own.
    """
    if (out / CARD).exists():
        return None
    try:
        last = Stage.of(checkpoint)
        if last is None:
            return None
        return model_card(out.resolve().name, last, config, averaged=averaged, scores=scores)
    except SmolVLMError as error:  # the weights matter more
        logger.warning("no model card is written: %s", error)
        return None


def model_card(
    name: str,
    last: Stage,
    config: SmolVLMConfig,
    *,
    averaged: Sequence[int] = (),
    scores: str | None = None,
) -> str:
    """The text of a card, for the hub and for people.

    Args:
        name: Of the model.
        last: The run that it comes from; earlier ones are looked for.
        config: Its shapes.
        averaged: Steps whose weights were averaged.
        scores: Markdown, for a section of its own.
    """
    stages = [last]
    while (before := stages[0].before()) is not None and len(stages) < 10:
        stages.insert(0, before)
    sources = dict.fromkeys(e.source for stage in stages for _, e, _ in stage.entries())
    header = ModelCardData(
        base_model=_bases(stages[0]) or None,
        datasets=[hub_id for source in sources for hub_id in _hub_ids(source)] or None,
        library_name="transformers",
        pipeline_tag="image-text-to-text",
        tags=["smolvlm2"],
    )
    done = f"{last.steps:,} of {last.recipe.training.max_steps:,} steps"
    if averaged:
        done = f"the mean of the weights after steps {', '.join(map(str, sorted(averaged)))}"
    parts = [
        f"---\n{header.to_yaml()}\n---\n\n# {name}\n",
        f"A vision-language model of the SmolVLM2 family, trained with smolvlm2 {__version__}: "
        f"{last.recipe.stage} stage, {done}.\n",
        f"## Use\n\n{_USE.format(name=name)}",
        *([_NEVER_ENLARGED] if last.recipe.image.upscale == "never" else []),
        *([f"## Scores\n\n{scores}"] if scores else []),
        f"## Training\n\n{_training_table(stages, config)}",
        f"## Data and terms\n\n{_data_table(stages)}",
        f"## Recipe\n\nOf the last stage:\n\n```yaml\n{_shown_recipe(last.recipe)}```\n",
    ]
    return "\n".join(parts)


def _training_table(stages: Sequence[Stage], config: SmolVLMConfig) -> str:
    facts = [_facts(stage) for stage in stages]
    rows = [["stage", *(stage.recipe.stage for stage in stages)]]
    rows += [[name, *(each[name] for each in facts)] for name in facts[0]]
    vision, text = config.vision, config.text
    shapes = (
        f"Tiles of {vision.image_size} px, {config.tokens_per_tile} tokens each; context of "
        f"{text.max_position_embeddings:,} tokens, RoPE base {text.rope_theta:,.0f}.\n"
    )
    return f"{_table(rows)}\n{shapes}"


def _facts(stage: Stage) -> dict[str, str]:
    recipe, training = stage.recipe, stage.recipe.training
    lines = [line for line in stage.run.log if line["step"] < stage.steps]
    steps = [line for line in lines if line.get("loss") is not None]
    held_out = [line["validation"]["loss"] for line in lines if "validation" in line]
    model = recipe.model
    components = f"{_shown(model.vision_encoder.name)} and {_shown(model.text_decoder.name)}"
    return {
        "began from": _shown(stage.began_from) if stage.began_from else components,
        "optimiser steps": f"{stage.steps:,}",
        "samples": f"{sum(line['samples'] for line in steps):,}",
        "trained": _trained(training),
        "highest learning rates": ", ".join(
            f"{part.replace('_', ' ')} {recipe.optimizer.peak(part, training.learning_rate):g}"
            for part in PARTS
        ),
        "schedule": f"{recipe.schedule.type}, {recipe.schedule.warmup(training.max_steps)} steps "
        "of warm-up",
        f"loss, last {_LAST} steps": _mean([line["loss"] for line in steps[-_LAST:]]),
        "validation loss": _mean([loss for loss in held_out[-1:] if loss is not None]),
    }


def _trained(training: TrainingSettings) -> str:
    if training.adapters is not None:
        return f"DoRA adapters of rank {training.adapters.rank}, merged"
    if not training.freeze_vision_encoder:
        return "everything"
    since = training.unfreeze_vision_after_steps
    vision = "never" if since is None else f"from step {since:,}"
    return f"connector and text decoder; vision encoder {vision}"


def _data_table(stages: Sequence[Stage]) -> str:
    rows = [["stage", "source", "share of samples", "terms"]]
    for stage in stages:
        for first, entry, share in stage.entries():
            since = f", from step {first:,}" if first else ""
            rows.append([stage.recipe.stage + since, entry.name, f"{share:.1%}", _terms(entry)])
    text = (
        f"{_table(rows)}\nWho uses the model is bound by the terms of all of them, and of what it "
        "began from; the pages of the data sets have the last word.\n"
    )
    if (began := stages[0].began_from) is not None:
        text += f"What `{_shown(began)}` was trained on is not known here.\n"
    return text


def _terms(entry: MixtureEntry) -> str:
    known = SOURCES.get(entry.source)
    if known is None:
        return "rows of the author's own"
    links = ", ".join(f"[{name}]({HUB}/datasets/{name})" for name in _hub_ids(entry.source))
    terms = known.licence + ("; research only" if known.research_only else "")
    return f"{terms} ({links})" if links else terms


def _hub_ids(source: str) -> list[str]:
    known = SOURCES.get(source)
    return [] if known is None or known.made_locally else [repo.hub_id for repo in known.repos]


def _bases(first: Stage) -> list[str]:
    """Hub ids of what the first stage began from."""
    model = first.recipe.model
    components = [model.vision_encoder.name, model.text_decoder.name]
    names = components if first.began_from is None else [first.began_from]
    return [name for name in names if HUB_ID.fullmatch(name) and not Path(name).exists()]


def _shown(place: str) -> str:
    """A path without the folders that only one machine has."""
    return os.path.basename(place.rstrip("/")) if os.path.isabs(place) else place


def _shown_recipe(recipe: Recipe) -> str:
    """The recipe without what tells of one machine only."""
    data = replace(recipe.data, root=DataSettings().root)
    return to_yaml(
        replace(recipe, data=data, evaluation=EvaluationSettings(), logging=LoggingSettings())
    )


def _mean(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):.4g}" if values else "-"


def _table(rows: Sequence[Sequence[str]]) -> str:
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |\n" for row in lines)
