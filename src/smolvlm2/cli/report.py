"""A run as one HTML file that needs no network.

Input, all of it optional but ``title``::

    {"title": str, "subtitle": str,
     "stages": [{"name": str, "unfreeze_step": int | None,
                 "log": [{"step": int, "loss": float, ...}]}],
     "scores": [{"name": str, "stage": str, "accuracy": float, "control": float | None,
                 "chance": float | None, "n": int}],
     "examples": [{"question": str, "answer": str, "truth": str, "media": [path],
                   "benchmark": str, "right": bool}],
     "facts": {name: value},
     "next": [{"text": str, "command": str}]}

Shares are 0 to 1. ``right`` may be left out: then answer and truth are compared as ``exact_match``
does. Media paths are read now and embedded; one that is missing is named in the page.
"""

import base64
import mimetypes
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from smolvlm2.cli.report_chart import loss_chart
from smolvlm2.cli.report_page import section, write_page
from smolvlm2.errors import ConfigError
from smolvlm2.evaluation.scorers import exact_match

NEXT_STEPS = (
    {
        "text": "Ask the trained model about a picture of yours",
        "command": "smolvlm2 generate RUN --image photo.png --prompt 'Which digit is this?'",
    },
    {
        "text": "Score it again, and once more on grey pictures",
        "command": "smolvlm2 evaluate RUN --benchmarks which_digit --data DATA/held_out "
        "--blank-images",
    },
    {
        "text": "See the full recipes, and where they differ from the published ones",
        "command": "smolvlm2 recipes && smolvlm2 recipes diff",
    },
)


def write_report(run_summary: Mapping[str, Any], out: str | Path) -> Path:
    """Write the page of a run.

    Args:
        run_summary: See the top of this file.
        out: The HTML file; folders are made.

    Returns:
        ``out`` as a path.

    Raises:
        ConfigError: The summary has no title, or a key that is not known here.
    """
    known = {"title", "subtitle", "stages", "scores", "examples", "facts", "next"}
    if "title" not in run_summary:
        raise ConfigError("report: the run summary has no 'title'")
    if unknown := sorted(set(run_summary) - known):
        raise ConfigError(f"report: {unknown[0]!r} is not known; expected {sorted(known)}")
    sections = [
        section("Results", _scores(run_summary.get("scores", ()))),
        section("Held-out questions", _examples(run_summary.get("examples", ()))),
        section("Training", _charts(run_summary.get("stages", ()))),
        section("Run", facts_card(run_summary.get("facts", {}))),
        section("What next", _next(run_summary.get("next", NEXT_STEPS))),
    ]
    subtitle = run_summary.get("subtitle")
    subtitle = "" if subtitle is None else str(subtitle)
    return write_page(out, str(run_summary["title"]), subtitle, sections)


def _charts(stages: Sequence[Mapping[str, Any]]) -> str:
    figures = []
    for stage in stages:
        log = [entry for entry in stage.get("log", ()) if entry.get("loss") is not None]
        if not log:
            continue
        unfreeze = stage.get("unfreeze_step")
        mark = "<span><i class=dash></i>vision encoder unfrozen</span>" if unfreeze else ""
        figures.append(
            f"<figure class=card><figcaption><b>{escape(str(stage['name']))}</b>"
            f"<span class=quiet>{log[0]['loss']:.3g} &rarr; {log[-1]['loss']:.3g}</span>"
            f"</figcaption>\n{loss_chart(log, unfreeze_step=unfreeze)}"
            f"<p class=legend><span><i class=raw></i>loss of a step</span>"
            f"<span><i class=smooth></i>smoothed</span>{mark}</p></figure>"
        )
    return f"<div class=charts>{''.join(figures)}</div>" if figures else ""


def _scores(scores: Sequence[Mapping[str, Any]]) -> str:
    if not scores:
        return ""
    rows = []
    for entry in scores:
        accuracy, chance = float(entry["accuracy"]), entry.get("chance")
        tick = "" if chance is None else f"<s style='left:{100 * chance:.2f}%'></s>"
        stage = escape(str(entry.get("stage", "")))
        name = escape(str(entry["name"])).replace("_", "_<wbr>")  # may break on a phone
        rows.append(
            f"<tr><th scope=row>{name}<small>{stage}</small></th>"
            f"<td class=score><b>{accuracy:.1%}</b>"
            f"<span class=bar><i style='width:{100 * accuracy:.2f}%'></i>{tick}</span></td>"
            f"<td>{_share(entry.get('control'))}</td><td>{_share(chance)}</td>"
            f"<td>{int(entry['n'])}</td></tr>"
        )
    return (
        "<div class='card table'><table><thead><tr><th scope=col>Benchmark</th>"
        "<th scope=col>Accuracy</th><th scope=col>Grey pictures</th><th scope=col>Chance</th>"
        f"<th scope=col>Questions</th></tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        "<p class=quiet>Questions that training never saw. "
        "<em>Grey pictures</em> asks the same questions with every pixel grey: what is right there "
        "is guessed, not seen. The mark on a bar is chance.</p>"
    )


def _examples(examples: Sequence[Mapping[str, Any]]) -> str:
    if not examples:
        return ""
    cards = []
    for entry in examples:
        answer, truth = str(entry["answer"]), str(entry["truth"])
        right = entry.get("right")
        right = exact_match(answer, [truth]) == 1 if right is None else right
        media = [_medium(Path(path)) for path in entry.get("media", ())]
        verdict = (
            "<b class=right>&#10003; right</b>" if right else "<b class=wrong>&#10007; wrong</b>"
        )
        expected = "" if right else f"<dt>expected</dt><dd>{escape(truth)}</dd>"
        cards.append(
            f"<article class=card><div class='media n{min(len(media), 3)}'>{''.join(media)}</div>"
            f"<div class=text><p class=tag>{escape(str(entry.get('benchmark', '')))}{verdict}</p>"
            f"<p>{escape(str(entry['question']))}</p>"
            f"<dl><dt>answered</dt><dd>{escape(answer) or '(nothing)'}</dd>{expected}</dl>"
            f"</div></article>"
        )
    return f"<div class=examples>{''.join(cards)}</div>"


def _medium(path: Path) -> str:
    if not path.is_file():
        return f"<span class=missing>{escape(path.name)}: not found</span>"
    kind = mimetypes.guess_type(path.name)[0] or "image/png"
    data = f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
    if kind.startswith("video/"):
        return f"<video src='{data}' autoplay loop muted playsinline controls></video>"
    return f"<img src='{data}' alt='picture of the question' loading=lazy>"


def facts_card(facts: Mapping[str, Any]) -> str:
    """Names and values as a card; nothing where there are none."""
    if not facts:
        return ""
    items = [
        f"<div><dt>{escape(str(name))}</dt><dd>{escape(_fact(value))}</dd></div>"
        for name, value in facts.items()
    ]
    return f"<dl class='card facts'>{''.join(items)}</dl>"


def _fact(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "unknown"}[value]
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _next(steps: Sequence[Mapping[str, str]]) -> str:
    items = [
        f"<li>{escape(step['text'])}<pre><code>{escape(step['command'])}</code></pre></li>"
        for step in steps
    ]
    return f"<ol class=next>{''.join(items)}</ol>" if items else ""


def _share(value: float | None) -> str:
    return "&ndash;" if value is None else f"{value:.1%}"
