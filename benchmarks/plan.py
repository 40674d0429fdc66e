"""How much of a cluster's time a plan keeps useful, beside the ways others batch.

    python benchmarks/plan.py            # all tables, some minutes on one core
    python benchmarks/plan.py --large    # 24 million samples too: 6 GB of disk, some minutes more

Samples are generated: sizes only, no pixels. Costs are those of the 256M. One pack a rank, so that
nothing averages out. The others are restated from what is published of them:

- padded: 8 samples at random, padded to the longest in tokens and to the most tiles.
- grouped: likewise, sorted by tokens within 50 batches a rank (transformers' group_by_length).
- first fit: whole samples into packs of our token capacity, decreasing (offline packing by tokens).
- nanoVLM: buffers of 4 x 8 packs; sorted by tokens, each sample to the lightest of as many bags as
  needed plus 5 (data/advanced_datasets.py); its cap of images a bag is left out.

Tiles of the last two are not padded, their tokens are. Ours is given twice: packs cost what they
hold, and with blank tiles and tokens computed (static shapes).
"""

import argparse
import heapq
import itertools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from plan_large import measure_large
from plan_mixtures import SAMPLES, documents, general
from plan_plot import write_plot
from results_file import record

from smolvlm2.plan.cost import CostModel, model_cost
from smolvlm2.plan.figures import fill, rank_figures, read_steps, spread
from smolvlm2.plan.packs import PackSettings, capacity_for
from smolvlm2.plan.plan import Plan, Position, packs_for
from smolvlm2.plan.samples import MODALITIES, SourceTable

RANKS = (8, 64, 256)
BATCH = 8
STEP_PACKS = 32
TILES_512 = CostModel()
TILES_384 = model_cost(
    patches=576,
    patch_values=768,
    vision_width=768,
    vision_feed_forward=3072,
    vision_layers=12,
    tokens_per_tile=64,
    text_width=576,
    text_feed_forward=1536,
    text_layers=30,
    query_width=576,
    key_value_width=192,
    vocabulary=49280,
)
PLOT = Path(__file__).parents[1] / "docs" / "plan.svg"


MIXTURES: dict[str, tuple[Callable[[], list[SourceTable]], CostModel, int]] = {
    "general, clips of 8-32 frames": (lambda: general((8, 32)), TILES_512, BATCH),
    "general, clips of 64 frames": (lambda: general((64, 64)), TILES_512, BATCH),
    "documents to 16k tokens, batch 24": (documents, TILES_384, 24),
    "documents to 16k tokens, batch 8": (documents, TILES_384, BATCH),
}


def make_plan(tables: list[SourceTable], cost: CostModel, *, packs: int, batch: int) -> Plan:
    """The default plan for a batch size, with a given number of packs a step."""
    columns = {
        name: np.concatenate([source.column(name) for source in tables])
        for name in ("tokens", "tiles", "supervised")
    }
    tokens, tiles = columns["tokens"], columns["tiles"]
    costs = [
        cost.cost(tiles, tokens, tokens**2, columns["supervised"], frozen=frozen)
        for frozen in (True, False)
    ]
    capacity = capacity_for(
        PackSettings(),
        samples_per_pack=batch,
        tokens=tokens,
        tiles=tiles,
        costs=np.column_stack(costs),
    )
    return Plan(
        tables,
        [len(source) for source in tables],
        capacity=capacity,
        packs_per_step=packs,
        window=8192,
        seed=0,
        cost=cost,
    )


def batches_of_others(
    tokens: np.ndarray, ranks: int, capacity: int, draw: np.random.Generator
) -> Iterator[tuple[str, list[np.ndarray]]]:
    """How others would group the same samples: name, and the samples of each batch."""
    order = draw.permutation(len(tokens))
    yield "padded", np.array_split(order, len(order) // BATCH)
    grouped = []
    for start in range(0, len(order), 50 * BATCH * ranks):
        part = order[start : start + 50 * BATCH * ranks]
        part = part[np.argsort(-tokens[part], kind="stable")]
        grouped += np.array_split(part, max(len(part) // BATCH, 1))
    yield "grouped", grouped
    yield "first fit", first_fit(tokens, order, capacity, draw)
    yield "nanoVLM", nano_vlm(tokens, order, capacity, draw)


def first_fit(
    tokens: np.ndarray, order: np.ndarray, capacity: int, draw: np.random.Generator
) -> list[np.ndarray]:
    """First fit decreasing by tokens in windows of 8,192, packs shuffled."""
    packs: list[list[int]] = []
    for start in range(0, len(order), 8192):
        part = order[start : start + 8192]
        room = np.full(len(part), capacity)
        held: list[list[int]] = [[] for _ in part]
        for sample in part[np.argsort(-tokens[part], kind="stable")].tolist():
            pack = int((room >= tokens[sample]).argmax())
            room[pack] -= tokens[sample]
            held[pack].append(sample)
        packs += [pack for pack in held if pack]
    return [np.array(packs[i]) for i in draw.permutation(len(packs))]


def nano_vlm(
    tokens: np.ndarray, order: np.ndarray, capacity: int, draw: np.random.Generator
) -> list[np.ndarray]:
    """Lightest of the needed bags plus five, buffer by buffer."""
    packs: list[list[int]] = []
    start = 0
    while start < len(order):
        within = np.searchsorted(np.cumsum(tokens[order[start:]]), capacity * 4 * BATCH) + 1
        part = order[start : start + int(within)]
        start += len(part)
        bags: list[list[int]] = [[] for _ in range(-(-int(tokens[part].sum()) // capacity) + 5)]
        heap = [(0, bag) for bag in range(len(bags))]
        for sample in part[np.argsort(-tokens[part], kind="stable")].tolist():
            load, bag = heap[0]
            if load + tokens[sample] > capacity:
                bags.append([])
                heapq.heappush(heap, (int(tokens[sample]), len(bags) - 1))
                bags[-1].append(sample)
                continue
            heapq.heapreplace(heap, (load + int(tokens[sample]), bag))
            bags[bag].append(sample)
        full = [bag for bag in bags if bag]
        packs += [full[i] for i in draw.permutation(len(full))]
    return [np.array(pack) for pack in packs]


def useful_of_others(
    name: str, batches: list[np.ndarray], columns: dict[str, np.ndarray], plan: Plan, ranks: int
) -> dict[str, float]:
    """Useful share where every rank takes the next batch, encoder frozen and not."""
    steps = len(batches) // ranks
    held = np.zeros((steps * ranks, 4), dtype=np.int64)
    run = np.zeros_like(held)
    for number, batch in enumerate(batches[: steps * ranks]):
        tiles, tokens = columns["tiles"][batch], columns["tokens"][batch]
        loss = int(columns["supervised"][batch].sum())
        held[number] = tiles.sum(), tokens.sum(), (tokens**2).sum(), loss
        run[number] = held[number]
        if name in ("padded", "grouped"):
            run[number] = len(batch) * np.array([tiles.max(), tokens.max(), tokens.max() ** 2, 0])
            run[number, 3] = loss
        else:
            run[number, 1] = plan.capacity.tokens
    found = {}
    for frozen in (True, False):
        useful = plan.cost.cost(*held.T, frozen=frozen).reshape(steps, ranks)
        taken = plan.cost.cost(*run.T, frozen=frozen).reshape(steps, ranks)
        key = "frozen" if frozen else "trains"
        found[key] = round(float(useful.sum() / (ranks * taken.max(axis=1).sum())), 4)
    return found


def compare(name: str) -> dict[str, Any]:
    """One mixture: ours and the others on each number of ranks."""
    build, cost, batch = MIXTURES[name]
    tables = build()
    columns = {
        key: np.concatenate([source.column(key) for source in tables])
        for key in ("tiles", "tokens", "supervised")
    }
    rows = []
    for ranks in RANKS:
        plan = make_plan(tables, cost, packs=ranks, batch=batch)
        steps = read_steps(plan, max(8, 2048 // ranks))
        row: dict[str, Any] = {"ranks": ranks, "steps": len(steps.packs)}
        for frozen in (True, False):
            figures = rank_figures(steps.packs, cost, plan.capacity, ranks=ranks, frozen=frozen)
            key = "frozen" if frozen else "trains"
            row[f"useful_{key}"] = round(figures.useful, 4)
            row[f"useful_with_blanks_{key}"] = round(figures.useful_full, 4)
            row[f"imbalance_p95_{key}"] = round(figures.imbalance, 4)
        row["fill_tiles"], row["fill_tokens"] = (
            round(v, 4) for v in fill(steps.packs, plan.capacity)
        )
        draw = np.random.default_rng(1)
        row["others"] = {
            other: useful_of_others(other, batches, columns, plan, ranks)
            for other, batches in batches_of_others(
                columns["tokens"], ranks, plan.capacity.tokens, draw
            )
        }
        rows.append(row)
    plan = make_plan(tables, cost, packs=STEP_PACKS, batch=batch)
    start = time.process_time()
    for window in range(4):
        plan.pack(window)
    seconds = time.process_time() - start
    steps = read_steps(plan, 200)
    return {
        "mixture": name,
        "tokens": plan.capacity.tokens,
        "tiles": plan.capacity.tiles,
        "ranks": rows,
        "planning_us_a_sample": round(seconds / 4 / plan.window * 1e6, 1),
        "spread_at_32_packs": {
            modality: round(ratio, 3) for modality, (_, ratio) in spread(steps.samples).items()
        },
        **inclusion(plan),
    }


def inclusion(plan: Plan, windows: int = 60) -> dict[str, float]:
    """Do all samples come equally often, over all windows and in first steps alone?

    Each is a chi-square over samples in standard deviations from what independent draws give:
    far below 0 is more even, above 2 would be a preference.
    """
    sizes = [len(source) for source in plan.tables]
    base = np.cumsum([0, *sizes])
    anywhere, first = np.zeros(base[-1]), np.zeros(base[-1])
    for window in range(windows):
        packs = plan.pack(window)
        for number, pack in enumerate(packs):
            places = base[pack.samples.source] + pack.samples.index
            np.add.at(anywhere, places, 1)
            if number < STEP_PACKS:
                np.add.at(first, places, 1)
    found = {}
    for key, counts in (("inclusion_z", anywhere), ("inclusion_in_first_steps_z", first)):
        expected = counts.mean()
        chi_square = float(((counts - expected) ** 2 / expected).sum())
        freedom = len(counts) - 1
        found[key] = round((chi_square - freedom) / np.sqrt(2 * freedom), 2)
    # Independent draws compare samples; this compares sorts of samples, which a deal might prefer.
    by_source = [first[a:b].sum() for a, b in itertools.pairwise(base)]
    expected_by_source = first.sum() * np.array(sizes) / base[-1]
    found["first_steps_share_of_source"] = round(
        float(np.abs(by_source / expected_by_source - 1).max()), 4
    )
    return found


def show(result: dict[str, Any]) -> None:
    """Print one mixture as a table: useful share, encoder frozen / training."""
    print(f"\n{result['mixture']}: packs of {result['tokens']} tokens, {result['tiles']} tiles")
    names = ["padded", "grouped", "first fit", "nanoVLM", "ours, blanks too", "ours", "p95"]
    print("ranks  " + "  ".join(name.rjust(16) for name in names))
    for row in result["ranks"]:
        cells = [
            f"{row['others'][name]['frozen']:.1%} / {row['others'][name]['trains']:.1%}"
            for name in names[:4]
        ]
        for key in ("useful_with_blanks", "useful"):
            cells.append(f"{row[f'{key}_frozen']:.1%} / {row[f'{key}_trains']:.1%}")
        cells.append(f"{row['imbalance_p95_frozen']:.3f} / {row['imbalance_p95_trains']:.3f}")
        print(f"{row['ranks']:5d}  " + "  ".join(cell.rjust(16) for cell in cells))
    for key in ("planning_us_a_sample", "spread_at_32_packs", "inclusion_z"):
        print(f"{key}: {result[key]}")
    print(
        f"in first steps: z {result['inclusion_in_first_steps_z']}, a source's share off by at "
        f"most {result['first_steps_share_of_source']:.1%}"
    )


def resume_seconds() -> dict[str, float]:
    """From nothing to the packs of a step a million steps in; the best of three."""
    build, cost, batch = MIXTURES["general, clips of 8-32 frames"]
    tables = build()
    taken = []
    for _ in range(3):
        wall, cpu = time.perf_counter(), time.process_time()
        plan = make_plan(tables, cost, packs=packs_for(256, 8), batch=batch)
        plan.step(Position(window=31_250, pack=517))
        taken.append((time.perf_counter() - wall, time.process_time() - cpu))
    wall, cpu = min(taken)
    return {"resume_s": round(wall, 3), "resume_cpu_s": round(cpu, 3)}


def main() -> None:
    """Print tables and one line of JSON; keep figures and plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--large", action="store_true", help="24 million samples too")
    options = parser.parse_args()
    results = []
    for name in MIXTURES:
        results.append(compare(name))
        show(results[-1])
    payload: dict[str, Any] = {"samples": SAMPLES, "modalities": MODALITIES, "mixtures": results}
    payload |= resume_seconds()
    if options.large:
        payload["large"] = measure_large()
    write_plot(PLOT, results[0])
    print(json.dumps(record("plan", payload)))


if __name__ == "__main__":
    main()
