"""The demo's data: small, real, made on the spot from handwritten digits, in published layouts."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from smolvlm2.data.demo import samples as draw
from smolvlm2.data.demo.benchmarks import write_benchmark
from smolvlm2.data.demo.layouts import write_cauldron, write_llava_video, write_m4, write_onevision
from smolvlm2.data.demo.samples import DemoSample
from smolvlm2.data.demo.scans import Scans, load_scans, split_scans
from smolvlm2.data.disk_errors import explained
from smolvlm2.errors import ConfigError, DataError

VERSION = 1
"""Raised whenever the same settings would give other files."""
SUMMARY = "demo_digits.json"
FOLDERS = (
    "demo__cauldron_digits",
    "demo__m4_digits",
    "demo__video_digits",
    "demo__text_digits",
)
VIDEO_CONFIG = "0_30_s_digits_v0_1"
TRAINING_BEND = 0.2
"""``Scans.bend`` of the training pages."""


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """How much demo data to draw."""

    seed: int = 0
    """Of everything that is random."""
    tile_size: int = 32
    """Side of the model's tile, in pixels; even."""
    held_out_share: float = 0.2
    """Share of the scans of every digit that training never sees."""
    one_digit_pages: int = 12_000
    """Training pages with one digit."""
    several_digit_pages: int = 2000
    """Training pages with two to four digits."""
    image_comparisons: int = 2000
    """Training samples with two or three images."""
    moving_clips: int = 1000
    """Training clips of a digit that moves."""
    changing_clips: int = 600
    """Training clips of a digit that changes."""
    text_questions: int = 1000
    """Training samples without media."""
    held_out_questions: int = 200
    """Questions of every benchmark but ``which_digit``, which asks about each held-out scan."""

    def __post_init__(self) -> None:
        if self.tile_size < 16 or self.tile_size % 2:
            raise ConfigError(
                f"demo data: tile_size is {self.tile_size}; expected an even number of at least 16 "
                "pixels, because digits are 8x8 scans and H.264 wants even sides"
            )
        for name, value in asdict(self).items():
            if name not in ("seed", "held_out_share") and value < 1:
                raise ConfigError(f"demo data: {name} is {value}; expected at least 1")


@dataclass(frozen=True, kw_only=True)
class DemoSummary:
    """What was written; also stored beside the data as ``demo_digits.json``."""

    version: int
    settings: dict
    train_scans: list[int]
    """Indices into ``load_digits`` that training may see."""
    held_out_scans: list[int]
    """Indices that only the held-out files show."""
    train_rows: dict[str, int]
    """Rows per data set."""
    benchmarks: dict[str, int]
    """Questions per held-out table."""


def write_demo_data(out: Path, *, seed: int = 0, **counts: float) -> DemoSummary:
    """Write the demo data under ``out``; the same settings give the same bytes.

    ``out/raw/demo__*`` holds four training sets in the layouts of the Cauldron, M4-Instruct,
    LLaVA-Video-178K and LLaVA-OneVision-Data. ``out/held_out`` holds the same layouts under
    ``raw/``, and tables ``<benchmark>.jsonl`` whose media paths are relative to it.

    Args:
        out: Data root. A complete copy with the same settings is left alone; half a copy is
            replaced.
        seed: Of everything random.
        counts: Any other field of ``DemoSettings``.

    Raises:
        DataError: ``out`` holds demo data made with other settings, or a foreign ``held_out``; it
            is a file or below one, or cannot be written to.
        ConfigError: A setting is unknown or out of range.
        MissingDependencyError: scikit-learn is not installed.
    """
    known = DemoSettings.__dataclass_fields__
    if unknown := sorted(set(counts) - set(known)):
        raise ConfigError(f"demo data: {unknown[0]} is no setting; expected one of {list(known)}")
    settings = DemoSettings(seed=seed, **counts)  # type: ignore[arg-type]
    out = Path(out)
    if (done := _finished(out, settings)) is not None:
        return done
    _check_replaceable(out / "held_out")
    with explained(out):
        return _write(out, settings)


def _write(out: Path, settings: DemoSettings) -> DemoSummary:
    train, held_out = split_scans(
        load_scans(), held_out_share=settings.held_out_share, seed=settings.seed
    )
    partial_folder = out / ".demo_digits.partial"
    shutil.rmtree(partial_folder, ignore_errors=True)
    train = replace(train, bend=TRAINING_BEND)
    train_rows = _write_train(partial_folder / "raw", train, settings)
    benchmarks = _write_held_out(partial_folder / "held_out", held_out, settings)
    (out / "raw").mkdir(parents=True, exist_ok=True)
    for name in [*(f"raw/{folder}" for folder in FOLDERS), "held_out"]:
        shutil.rmtree(out / name, ignore_errors=True)
        (partial_folder / name).rename(out / name)
    shutil.rmtree(partial_folder)
    summary = DemoSummary(
        version=VERSION,
        settings=asdict(settings),
        train_scans=train.indices.tolist(),
        held_out_scans=held_out.indices.tolist(),
        train_rows=train_rows,
        benchmarks=benchmarks,
    )
    unfinished = out / f"{SUMMARY}.partial"
    unfinished.write_text(json.dumps(asdict(summary), indent=1) + "\n", encoding="utf-8")
    unfinished.replace(out / SUMMARY)
    return summary


def _finished(out: Path, settings: DemoSettings) -> DemoSummary | None:
    """The summary of a complete copy with these settings, or None when there is none."""
    path = out / SUMMARY
    if not path.is_file():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    version, stored = found.get("version"), found.get("settings")
    if (version, stored) != (VERSION, asdict(settings)):
        raise DataError(
            f"{path}: demo data of version {version} with settings {stored} are here; asked for "
            f"version {VERSION} with {asdict(settings)}; remove {path.name} to have them "
            "replaced, or choose another folder"
        )
    folders = [*(out / "raw" / name for name in FOLDERS), out / "held_out"]
    return DemoSummary(**found) if all(folder.is_dir() for folder in folders) else None


def _check_replaceable(held_out: Path) -> None:
    """Refuse to replace a folder of that name which is not the demo's."""
    if held_out.exists() and not (held_out / "which_digit.jsonl").is_file():
        raise DataError(
            f"{held_out}: exists and is not the demo's (no which_digit.jsonl in it); move it, or "
            "choose another folder for the demo data"
        )


def _write_train(raw: Path, scans: Scans, settings: DemoSettings) -> dict[str, int]:
    tile = settings.tile_size
    # Each scan is drawn equally often: one shuffled round after another.
    order = np.random.default_rng([settings.seed, 2]).permutation(len(scans))

    def page(number: int, rng: np.random.Generator) -> DemoSample:
        return draw.one_digit(scans, int(order[number % len(order)]), rng, tile)

    many = partial(_draw_many, settings.seed)
    ones = many(10, settings.one_digit_pages, page)
    several = many(
        11, settings.several_digit_pages, lambda _, rng: draw.several_digits(scans, rng, tile)
    )
    write_cauldron(raw / FOLDERS[0], "digits_one", ones)
    write_cauldron(raw / FOLDERS[0], "digits_page", several)
    pairs, triples = _comparisons(scans, settings, settings.image_comparisons, stream=12)
    write_m4(raw / FOLDERS[1], {"DigitPairs": pairs, "DigitTriples": triples})
    moving = many(14, settings.moving_clips, lambda _, rng: draw.moving_digit(scans, rng, tile))
    changing = many(
        15, settings.changing_clips, lambda _, rng: draw.changing_digit(scans, rng, tile)
    )
    write_llava_video(raw / FOLDERS[2], VIDEO_CONFIG, moving + changing)
    texts = many(16, settings.text_questions, lambda _, rng: draw.about_numbers(rng))
    write_onevision(raw / FOLDERS[3], "digit_text", texts)
    counts = (len(ones) + len(several), len(pairs) + len(triples))
    return dict(zip(FOLDERS, (*counts, len(moving) + len(changing), len(texts)), strict=True))


def _write_held_out(folder: Path, scans: Scans, settings: DemoSettings) -> dict[str, int]:
    tile, count = settings.tile_size, settings.held_out_questions
    raw = folder / "raw"
    many = partial(_draw_many, settings.seed)
    ones = many(20, len(scans), lambda number, rng: draw.one_digit(scans, number, rng, tile))
    several = many(21, count, lambda _, rng: draw.several_digits(scans, rng, tile))
    pairs, triples = _comparisons(scans, settings, count, stream=22)
    moving = many(24, count, lambda _, rng: draw.moving_digit(scans, rng, tile))
    changing = many(25, count, lambda _, rng: draw.changing_digit(scans, rng, tile))
    texts = many(26, count, lambda _, rng: draw.about_numbers(rng))
    write_cauldron(raw / FOLDERS[0], "digits_one", ones)
    write_cauldron(raw / FOLDERS[0], "digits_page", several)
    write_m4(raw / FOLDERS[1], {"DigitPairs": pairs, "DigitTriples": triples})
    write_llava_video(raw / FOLDERS[2], VIDEO_CONFIG, moving + changing)
    write_onevision(raw / FOLDERS[3], "digit_text", texts)
    image_questions = ("which_shows", "which_larger", "same_digit")
    return {
        "which_digit": write_benchmark(folder, "which_digit", ones, ["which_digit"]),
        "read_digits": write_benchmark(folder, "read_digits", several, ["read_digits"]),
        "which_image": write_benchmark(folder, "which_image", pairs + triples, image_questions),
        "which_way": write_benchmark(folder, "which_way", moving, ["which_way"]),
        "video_digit": write_benchmark(folder, "video_digit", moving, ["video_digit"]),
        "how_many_changes": write_benchmark(
            folder, "how_many_changes", changing, ["how_many_changes"]
        ),
    }


def _comparisons(
    scans: Scans, settings: DemoSettings, count: int, *, stream: int
) -> tuple[list[DemoSample], list[DemoSample]]:
    """Two thirds pairs of images, one third triples."""
    pairs = max(1, count * 2 // 3)

    def compared(images: int, _: int, rng: np.random.Generator) -> DemoSample:
        return draw.compared_images(scans, rng, settings.tile_size, images)

    return (
        _draw_many(settings.seed, stream, pairs, partial(compared, 2)),
        _draw_many(settings.seed, stream + 1, count - pairs, partial(compared, 3)),
    )


def _draw_many(
    seed: int,
    stream: int,
    count: int,
    sample: Callable[[int, np.random.Generator], DemoSample],
) -> list[DemoSample]:
    """Draw ``count`` samples, each from its own generator: none depends on the others."""
    return [
        sample(number, np.random.default_rng([seed, stream, number])) for number in range(count)
    ]
