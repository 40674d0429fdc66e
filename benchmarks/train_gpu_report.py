"""The GPU benchmark's table."""

from typing import Any

from train_gpu_predicted import (
    AT_BEST,
    EXPLAIN,
    MEMORY_ERROR,
    MFU_TARGET,
    PUBLISHED,
)

ROWS = 20


def print_table(entry: dict[str, Any]) -> None:
    """At most `ROWS` steps, what options gained, what was promised, and what went wrong."""
    options = {option["name"] for option in entry["options"]}
    shown = [step for step in entry["steps"] if step["variant"] not in options]
    heads = ("predicted", "ms", "% peak", "% ceil.", "tiles/s", "GB", "right")
    print("\n" + f"{'system':13} {'size':5} {'variant':24} {'phase':9}", end="")
    print("".join(f"{head:>10}" for head in heads))
    for step in shown[:ROWS]:
        cells = (
            step.get("predicted_ms") or "-",
            f"{step['ms']['median']:.1f}",
            f"{100 * step['mfu_peak']:.1f}",
            f"{100 * step['mfu_ceiling']:.1f}" if "mfu_ceiling" in step else "-",
            f"{step['tiles_per_s']:.0f}",
            f"{step['peak_gb']:.1f}" if "peak_gb" in step else "-",
            {True: "yes", False: "NO", None: "-"}[step.get("right")],
        )
        names = f"{step['system']:13} {step['size']:5} {step['variant']:24} {step['phase']:9}"
        print(names + "".join(f"{cell:>10}" for cell in cells))
        miss = step.get("measured_over_predicted")
        if miss is not None and abs(miss - 1) > EXPLAIN:
            print(f"{'':14}missed its prediction: {miss:.2f} of it; say why where this is kept")
    for option in entry["options"]:
        predicted = option["predicted_gain_ms"]
        print(
            f"option {option['name']}, {option['phase']}: gains {option['gain_ms']} ms a pack, "
            f"predicted {'-' if predicted is None else predicted}"
        )
    for phase, verdict in entry.get("verdicts", {}).items():
        print(f"\n{phase}: {verdict}")
    print(
        f"\nwanted: {MFU_TARGET:.0%} of the ceiling; over transformers at its best {AT_BEST}, over "
        f"the published way {PUBLISHED}; no recompile; memory within {MEMORY_ERROR:.0%} of the "
        f"estimate"
    )
    for name in ("skipped", "errors"):
        for each in entry[name]:
            print(f"{name}: {each}")
