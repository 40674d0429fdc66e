"""What ``inspect`` and ``data stats`` look at: prepared data under a recipe, without torch."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from smolvlm2.cli.prepare import read_tokenizer
from smolvlm2.config import find_recipe, load_config, load_raw, recipe_names, recipes_folder
from smolvlm2.data.manifest import MANIFEST_FILE, Manifest
from smolvlm2.data.mixture import MixtureEntry, MixtureSettings, check_overlap, match_subsets
from smolvlm2.errors import ConfigError
from smolvlm2.loading.sample_table import admit, open_sources, sample_shares
from smolvlm2.plan.samples import SourceTable
from smolvlm2.processing.processor import Processor
from smolvlm2.training.planning import data_root
from smolvlm2.training.recipe import Recipe, with_model
from smolvlm2.training.starting_point import starting_config

DEFAULT_RECIPE = ("model_256m", "train_vision_stage")
"""What decides sizes and limits when a source or a bare mixture is named."""


@dataclass(kw_only=True)
class OpenedEntry:
    """One entry of the mixture; the arrays have a value for each of the n rows admitted."""

    name: str
    """``source`` or ``source:subset``."""
    weight: float
    """Share by the mixture's weights; all entries sum to 1."""
    share: float
    """Share of the samples that training sees; all entries sum to 1."""
    manifest: Manifest
    """Of the source."""
    subsets: list[int]
    """Numbers of the source's subsets that belong to the entry."""
    rows: np.ndarray
    """int64 ``(n,)``, ascending: rows of the manifest that the recipe admits."""
    messages: np.ndarray
    """int64 ``(n,)``: messages that fit."""
    tokens: np.ndarray
    """int64 ``(n,)``, visual ones included."""
    tiles: np.ndarray
    """int64 ``(n,)``."""
    supervised: np.ndarray
    """int64 ``(n,)``: tokens with loss."""
    longest_edge: np.ndarray
    """int64 ``(n,)``: of the row's images in the source's first epoch, in pixels."""
    modality: np.ndarray
    """int64 ``(n,)``: index into ``MODALITIES``."""
    excluded: dict[str, int]
    """Rows that the recipe leaves out, by reason."""
    cut: int
    """Admitted rows that lose turns at their end."""
    turn_order: int | None
    """Number of the order of turns that is looked at; None: as published."""

    def __len__(self) -> int:
        return len(self.rows)

    def place(self, row: int) -> int | None:
        """Where a row of the manifest stands in the arrays; None where it is not admitted."""
        place = int(np.searchsorted(self.rows, row))
        return place if place < len(self) and self.rows[place] == row else None


@dataclass(kw_only=True)
class OpenedMixture:
    """A mixture, or a source as a mixture of one, as the recipe would train on it."""

    name: str
    """As the user gave it."""
    recipe: Recipe
    """Decides tiles, frames and limits."""
    recipe_files: list[Path]
    """Where the recipe came from."""
    processor: Processor
    """The recipe's, but for how images are resized."""
    entries: list[OpenedEntry]
    """In the mixture's order."""

    @property
    def recipe_names(self) -> list[str]:
        """The recipe's files, shipped ones by name."""
        shipped = recipes_folder().resolve()
        return [
            path.relative_to(shipped).with_suffix("").as_posix()
            if (path := file.resolve()).is_relative_to(shipped)
            else str(file)
            for file in self.recipe_files
        ]

    @property
    def sources(self) -> dict[str, Manifest]:
        """Each manifest once, by the name of its source."""
        return {entry.manifest.source: entry.manifest for entry in self.entries}


def open_mixture(
    subject: str,
    *,
    recipes: Sequence[str] = (),
    tokenizer: str | None = None,
    checkpoint: str | None = None,
    data: Path | None = None,
    resample: Literal["exact", "fast"] = "exact",
) -> OpenedMixture:
    """Open prepared data as a recipe sees them.

    Args:
        subject: A prepared source (``name``, ``name:subset`` or its folder), a mixture, or a
            recipe with one.
        recipes: Recipes by name or file; default: the subject where it is one, else the vision
            stage of the 256M model.
        tokenizer: Folder or hub id; default: the checkpoint's, else the recipe's text decoder's.
        checkpoint: What the stage starts from; its tiles, tokens and context count then, not those
            of the recipe's components.
        data: Data root; default: the recipe's.
        resample: ``fast`` needs torch; sizes and tokens are the same for both.

    Raises:
        ConfigError: Neither a source nor a mixture, or a recipe is wrong.
        DataNotFoundError: A source is not prepared, or not for this tokenizer.
    """
    given = [find_recipe(name) for name in recipes]
    if (Path(subject) / MANIFEST_FILE).is_file():
        data, subject = data or Path(subject).resolve().parents[1], Path(subject).resolve().name
    own = _find_file(subject)
    files = given or (
        [own] if own and _is_recipe(own) else [find_recipe(n) for n in DEFAULT_RECIPE]
    )
    files = with_model(files)
    recipe = load_config(Recipe, *files)
    root = data or data_root(recipe)
    source = subject.partition(":")[0]
    if (root / "prepared" / source / MANIFEST_FILE).is_file():
        whole = recipe.data.mixture
        mixture = MixtureSettings(entries=[_entry(subject)], epochs=whole.epochs if whole else None)
    elif own is not None:
        mixture = _read_mixture(own)
    else:
        raise ConfigError(_nothing_found(subject, root))
    recipe.data.mixture = mixture
    config = starting_config(recipe, checkpoint)
    processor = Processor.for_model(
        config,
        read_tokenizer(tokenizer or checkpoint or recipe.model.text_decoder.name),
        image=replace(recipe.image, resample=resample),
        video=recipe.video,
    )
    return OpenedMixture(
        name=subject,
        recipe=recipe,
        recipe_files=files,
        processor=processor,
        entries=_open_entries(
            recipe, mixture, root, processor, context=config.text.max_position_embeddings
        ),
    )


def _open_entries(
    recipe: Recipe, mixture: MixtureSettings, root: Path, processor: Processor, *, context: int
) -> list[OpenedEntry]:
    """The planner's tables, computed as a run computes them."""
    sources = open_sources(mixture, root / "prepared", processor.tokenizer)
    check_overlap(mixture, {name: manifest.subsets for name, manifest in sources.items()})
    lengths = processor.length_model()
    tables = admit(
        mixture.entries,
        sources,
        lengths,
        recipe.limits,
        max_tokens=min(recipe.limits.max_tokens or context, context),
        seed=recipe.training.seed,
    )
    edges = np.array(lengths.budgets.edges, dtype=np.int64)
    return [
        _opened(entry, weight, share, sources[entry.source], table, edges)
        for entry, weight, share, table in zip(
            mixture.entries,
            mixture.shares,
            _seen_shares(recipe, mixture, tables),
            tables,
            strict=True,
        )
    ]


def _seen_shares(
    recipe: Recipe, mixture: MixtureSettings, tables: list[SourceTable]
) -> list[float]:
    """Shares of all samples: by the weights, but where all sources end by their sizes."""
    training, rows = recipe.training, sum(map(len, tables))
    asked = training.samples_per_step * training.max_steps
    if mixture.epochs is not None and 0 < mixture.epochs * rows <= asked:
        return [len(table) / rows for table in tables]
    return sample_shares(mixture, tables)


def _opened(
    entry: MixtureEntry,
    weight: float,
    share: float,
    manifest: Manifest,
    table: SourceTable,
    edges: np.ndarray,
) -> OpenedEntry:
    """The planner's table as plain arrays: the only place here that knows its form."""
    columns = ("rows", "messages", "tokens", "tiles", "supervised", "modality")
    order = np.argsort(table.column("rows"))  # `take` may have shuffled them
    return OpenedEntry(
        name=entry.name,
        weight=weight,
        share=share,
        manifest=manifest,
        subsets=match_subsets(entry, manifest.subsets),
        **{name: table.column(name)[order] for name in columns},
        longest_edge=edges[table.budgets(order, 0)],
        excluded=dict(table.excluded),
        cut=table.cut,
        turn_order=table.turn_order(0),
    )


def _entry(subject: str) -> MixtureEntry:
    source, _, subset = subject.partition(":")
    return MixtureEntry(source=source, subset=subset or None)


def _find_file(subject: str) -> Path | None:
    """A recipe or mixture of that name; mixtures are also found without their folder."""
    for name in (subject, f"mixtures/{subject}"):
        try:
            return find_recipe(name)
        except ConfigError:
            continue
    return None


def _is_recipe(path: Path) -> bool:
    """Whether a file says more than which data are mixed."""
    return bool(set(load_raw(path)) - {"data"})


def _read_mixture(path: Path) -> MixtureSettings:
    mixture = load_config(Recipe, path).data.mixture
    if mixture is None:
        raise ConfigError(
            f"{path}: sets no data.mixture; expected a mixture such as those in configs/mixtures/, "
            "or the name of a prepared source"
        )
    return mixture


def _nothing_found(subject: str, root: Path) -> str:
    prepared = sorted(path.parent.name for path in root.glob(f"prepared/*/{MANIFEST_FILE}"))
    known = [*prepared, *recipe_names()]
    near = difflib.get_close_matches(subject.partition(":")[0], known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"prepared are {', '.join(prepared) or 'none'}"
    return (
        f"{subject}: no prepared source below {root / 'prepared'}, and no mixture or recipe; {hint}"
    )
