"""Compare the scores of ``make demo`` with what the README promises."""

import json
import sys
from pathlib import Path

PROMISED = {"which_digit": 0.80, "which_way": 0.80}
"""Least accuracy of each benchmark, as a share."""
CONTROL_MARGIN = 0.15
"""How far above chance a run on blank pictures may score before it counts as a leak."""


def failures(scores: list[dict]) -> list[str]:
    """Every promise that ``scores`` breaks, in words."""
    found = {score["name"]: score for score in scores}
    wrong = [f"{name}: not scored" for name in PROMISED if name not in found]
    for name, score in found.items():
        if score["accuracy"] < PROMISED.get(name, 0):
            wrong.append(f"{name}: accuracy {score['accuracy']:.3f}, promised {PROMISED[name]}")
        control, chance = score.get("control"), score.get("chance")
        if control is not None and chance is not None and control > chance + CONTROL_MARGIN:
            wrong.append(f"{name}: {control:.3f} on blank pictures, chance is {chance:.3f}")
    return wrong


if __name__ == "__main__":
    wrong = failures(json.loads(Path(sys.argv[1]).read_text())["scores"])
    print("\n".join(wrong) or "demo: all promises kept")
    sys.exit(bool(wrong))
