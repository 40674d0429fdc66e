"""Compare the scores of ``make demo`` with what the README promises."""

import json
import sys
from pathlib import Path

PROMISED = {
    ("vision", "which_digit"): 0.94,
    ("video", "which_digit"): 0.92,
    ("video", "which_way"): 0.90,
}
"""Least accuracy after a stage, as a share; another order of the data moves it by some points."""
CONTROL_MARGIN = 0.05
"""How far from chance a run on blank pictures may score: further, and the answers leak."""


def failures(summary: dict) -> list[str]:
    """Every promise that a summary breaks, in words."""
    found = {(score["stage"], score["name"]): score for score in summary["scores"]}
    wrong = [
        f"{stage} {name}: not scored" for stage, name in PROMISED if (stage, name) not in found
    ]
    for key, least in PROMISED.items():
        score = found.get(key)
        if score is None:
            continue
        if score["accuracy"] < least:
            wrong.append(f"{' '.join(key)}: accuracy {score['accuracy']:.3f}, promised {least}")
        if abs(score["control"] - score["chance"]) > CONTROL_MARGIN:
            wrong.append(
                f"{' '.join(key)}: {score['control']:.3f} on blank pictures, chance is "
                f"{score['chance']:.3f}"
            )
    return wrong


if __name__ == "__main__":
    summary = json.loads(Path(sys.argv[1]).read_text())
    wrong = failures(summary)
    print("\n".join(wrong) or f"demo: all promises kept in {summary['seconds']:.0f} s")
    sys.exit(bool(wrong))
