"""What ``smolvlm2 report RUN`` writes: one page for any run, finished or not."""

import json
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from smolvlm2.cli.estimate import describe_estimate
from smolvlm2.cli.report import facts_card
from smolvlm2.cli.report_page import section, write_page
from smolvlm2.cli.run_charts import PARTS, STYLE, charts
from smolvlm2.cli.run_history import History, read_history
from smolvlm2.config import (
    diff_configs,
    find_recipe,
    flatten,
    load_config,
    load_raw,
    recipe_names,
    to_dict,
    to_yaml,
)
from smolvlm2.errors import ResumeError, SmolVLMError
from smolvlm2.model.hub import LATEST
from smolvlm2.training.estimate import gpu_key
from smolvlm2.training.recipe import Recipe
from smolvlm2.training.run_folder import RunFolder
from smolvlm2.training.segments import read_segments

LONGEST_VALUE = 120
"""Characters of a setting that are shown beside another."""


def write_run_report(folder: str | Path, out: str | Path | None = None) -> Path:
    """Write the page of a run.

    Args:
        folder: Of the run.
        out: The HTML file; None: ``report.html`` in the run folder.

    Returns:
        Where it is.

    Raises:
        CheckpointNotFoundError: ``folder`` is not the folder of a run.
        ConfigError: Its recipe is not valid.
    """
    run = RunFolder(folder)
    history = read_history(run)
    recipe = load_config(Recipe, run.root / "config.yaml")
    training = recipe.training
    mark = training.unfreeze_vision_after_steps if training.freeze_vision_encoder else None
    sections = [
        section(
            "So far" if _state(run, history, recipe) != "finished" else "In all",
            facts_card(_facts(run, history, recipe)),
        ),
        section("Curves", charts(history, mark=mark)),
        section("Where the time went", _time(history)),
        section("Estimated and measured", _estimate(run)),
        section("Evaluation", _scores(history)),
        section("Skipped samples", _skips(history)),
        section("Segments", _segments(run)),
        section("Checkpoints", _checkpoints(run)),
        section("Recipe", _recipe(recipe)),
    ]
    subtitle = f"{recipe.stage} stage, {_state(run, history, recipe)}"
    page = run.root / "report.html" if out is None else Path(out)
    return write_page(page, run.root.resolve().name, subtitle, sections, STYLE)


def _state(run: RunFolder, history: History, recipe: Recipe) -> str:
    steps = _steps(run, recipe)
    if history.lines >= steps:
        return "finished"
    place = f"step {history.lines:,} of {steps:,}"
    path = run.root / "exit_status"
    code = path.read_text(encoding="utf-8").strip() if path.is_file() else ""
    ended = {
        "75": "stopped when its time was over",
        "130": "stopped by Ctrl-C",
        "0": "ended in order",
    }
    return f"{place}, {ended.get(code, 'running, or ended without a word')}"


def _steps(run: RunFolder, recipe: Recipe) -> int:
    """Of the whole run: fewer than the recipe's where all sources end before."""
    return int(_json(run, "plan.json").get("steps", recipe.training.max_steps))


def _facts(run: RunFolder, history: History, recipe: Recipe) -> dict[str, Any]:
    hardware = _json(run, "hardware.json")
    seconds, tokens = history.total("seconds"), int(history.total("tokens"))
    facts: dict[str, Any] = {
        "steps": f"{history.lines:,} of {_steps(run, recipe):,}",
        "samples": int(history.total("samples")),
        "tokens": tokens,
        "tiles": int(history.total("tiles")),
        "time of steps": _duration(seconds),
        "loss": history.last("loss"),
        "held-out loss": history.last("validation/loss"),
        "seconds a step, median": history.median("seconds"),
        "tokens/s, median": history.median("tokens_per_second"),
        "tiles/s, median": history.median("tiles_per_second"),
        "MFU, median": history.median("mfu"),
        "fill of tokens, mean": _mean(history, "fill_tokens"),
        "fill of tiles, mean": _mean(history, "fill_tiles"),
        "peak memory, GiB": history.last("memory_gib"),
        "steps left out, not finite": len(history.nonfinite) or None,
        "skipped samples": sum(history.skips.values()),
        "ranks": hardware.get("ranks"),
        "device": hardware.get("device"),
        "torch": hardware.get("torch"),
    }
    return {name: value for name, value in facts.items() if value is not None}


def _mean(history: History, name: str) -> float | None:
    return history.total(name) / len(history.columns[name][1]) if name in history.columns else None


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours} h {rest // 60:02} min" if hours else f"{rest // 60} min {rest % 60:02} s"


def _time(history: History) -> str:
    """Seconds of each part, in all and as a share."""
    whole = history.total("seconds")
    if not whole:
        return ""
    sums = {part: history.total(f"{part}_seconds") for part in PARTS}
    sums["everything else"] = max(whole - sum(sums.values()), 0.0)
    rows = [(part, _duration(total), f"{total / whole:.1%}") for part, total in sums.items()]
    note = (
        "<p class=quiet>Of rank 0. Text is the decoder with embedding, head and loss, vision the "
        "encoder with the connector, each in both passes; wait is for words of other ranks.</p>"
    )
    return _table(("part", "time", "share"), rows) + note


def _estimate(run: RunFolder) -> str:
    """The estimate for the run's device beside its log, where the device is known."""
    gpu = gpu_key(str(_json(run, "hardware.json").get("device")))
    if gpu is None:
        return ""
    try:
        ranks = int(_json(run, "hardware.json").get("ranks", 1))
        text = describe_estimate([], gpu=gpu, gpus=ranks, run=run.root)
    except SmolVLMError as error:
        return f"<p class=quiet>No estimate: {escape(str(error))}</p>"
    return f"<pre>{escape(text)}</pre>"


def _scores(history: History) -> str:
    rows = []
    for name in history.names(lambda name: name.startswith("eval/") and name.count("/") == 1):
        steps, values = history.columns[name]
        low, high = (history.last(f"{name}/{end}") for end in ("low", "high"))
        within = "" if low is None or high is None else f"{low:.1%} to {high:.1%}"
        best = max(range(len(values)), key=values.__getitem__)
        rows.append(
            (
                name.removeprefix("eval/"),
                f"{values[-1]:.1%}",
                within,
                f"after step {steps[-1] + 1:,}",
                f"{values[best]:.1%} after step {steps[best] + 1:,}",
            )
        )
    table = _table(("benchmark", "last", "95 % interval", "when", "best"), rows)
    failed = [(f"after step {step:,}", reason) for step, reason in history.failures]
    return table + _table(("failed", "why"), failed)


def _skips(history: History) -> str:
    rows = [
        (reason, during, f"{count:,}", "; ".join(": ".join(each) for each in examples))
        for (during, reason), count in history.skips.items()
        for examples in [history.examples[during, reason]]
    ]
    return _table(("reason", "during", "samples", "for example"), rows)


def _segments(run: RunFolder) -> str:
    try:
        records = read_segments(run)
    except ResumeError:
        return ""
    rows = [
        (
            f"{record.first_step:,}",
            f"{record.packs_per_step} of {record.tokens:,} tokens, {record.tiles:,} tiles",
            ", ".join(f"{each.name} {each.share:.1%}" for each in record.sources),
        )
        for record in records
    ]
    return _table(("from step", "packs a step", "sources, share of samples"), rows)


def _checkpoints(run: RunFolder) -> str:
    latest = (run.root / LATEST).resolve().name
    rows = [
        (folder.name, f"{_size(folder) / 1e6:,.1f} MB", "latest" if folder.name == latest else "")
        for folder in run.steps()
    ]
    return _table(("step folder", "size", ""), rows)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _recipe(recipe: Recipe) -> str:
    """Differences from the nearest shipped recipe, and all of it."""
    nearest = nearest_recipe(recipe)
    text = f"<details><summary>All settings</summary><pre>{escape(to_yaml(recipe))}</pre></details>"
    if nearest is None:
        return text
    names, differences = nearest
    rows = [(key, _value(shipped), _value(here)) for key, shipped, here in differences]
    title = " + ".join(names)
    table = _table(("setting", title, "here"), rows) or f"<p>As {escape(title)}.</p>"
    return f"{table}{text}"


def nearest_recipe(recipe: Recipe) -> tuple[list[str], list[tuple[str, Any, Any]]] | None:
    """The shipped recipe with the fewest settings that differ, and these: key, shipped, here."""
    here = flatten(to_dict(recipe))

    def others(names: list[str]) -> int:
        """Settings of the files that are otherwise here; cheap, and enough to choose by."""
        raw = flatten(load_raw(*[find_recipe(name) for name in names]))
        return sum(here.get(key) != value for key, value in raw.items())

    nearest = min(shipped_recipes(recipe.stage), key=others, default=None)
    if nearest is None:
        return None
    shipped = load_config(Recipe, *[find_recipe(name) for name in nearest])
    return nearest, diff_configs(shipped, recipe)


def shipped_recipes(stage: str) -> list[list[str]]:
    """Shipped files that make a whole recipe of a stage, each with the models of its folder."""
    names = recipe_names()
    recipes = []
    for name in names:
        folder, _, own = name.rpartition("/")
        if not own.startswith("train_") or load_raw(find_recipe(name)).get("stage") != stage:
            continue
        models = [each for each in names if each.startswith(f"{folder}/model_".lstrip("/"))]
        recipes += [[model, name] for model in models] or [[name]]
    return recipes


def _value(value: Any) -> str:
    text = str(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    if not body:
        return ""
    names = "".join(f"<th scope=col>{escape(name)}</th>" for name in head)
    return (
        f"<div class='card table wide'><table><thead><tr>{names}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def _json(run: RunFolder, name: str) -> dict[str, Any]:
    path = run.root / "plan" / name
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
