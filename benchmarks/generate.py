"""Our generation against transformers' on the same weights: tokens a second, greedy.

    OMP_NUM_THREADS=1 python benchmarks/generate.py [--size tiny|256m] [--tokens 64] [--rounds 5]

Random weights of the given size are exported once and loaded by both; prompts hold one tile and a
text of its own length. Both sides take turns in one process; figures are medians of wall clock.
Tokens must be equal, or the run fails. In ``uneven`` half of the rows meet a stop token early:
ours leave the batch, transformers carries them to the end.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from smolvlm2.model.config import SmolVLMConfig, TextConfig, VisionConfig
from smolvlm2.model.smolvlm import SmolVLM

BATCHES = (1, 8)


def configuration(size: str) -> SmolVLMConfig:
    """The published 256M shape, or one small enough that overhead is what is measured."""
    if size == "256m":
        return SmolVLMConfig()
    return SmolVLMConfig(
        vision=VisionConfig(
            hidden_size=96,
            intermediate_size=288,
            num_hidden_layers=4,
            num_attention_heads=3,
            image_size=64,
            patch_size=8,
        ),
        text=TextConfig(
            hidden_size=192,
            intermediate_size=512,
            num_hidden_layers=8,
            num_attention_heads=6,
            num_key_value_heads=2,
            head_dim=32,
            vocab_size=2048,
            max_position_embeddings=1024,
        ),
        scale_factor=2,
        image_token_id=2040,
        eos_token_id=2041,
    )


def prompts(config: SmolVLMConfig, rows: int) -> dict[str, torch.Tensor]:
    """A left-padded batch, one tile a row, in transformers' layout."""
    generator = torch.Generator().manual_seed(rows)
    tokens = config.tokens_per_tile
    texts = [torch.randint(100, 2000, (24 + 5 * row,), generator=generator) for row in range(rows)]
    width = tokens + max(map(len, texts))
    ids = torch.full((rows, width), config.pad_token_id)
    mask = torch.zeros_like(ids)
    for row, text in enumerate(texts):
        line = torch.cat([text[:4], torch.full((tokens,), config.image_token_id), text[4:]])
        ids[row, width - len(line) :], mask[row, width - len(line) :] = line, 1
    side = config.vision.image_size
    pixels = torch.rand(rows, 1, 3, side, side, generator=generator) * 2 - 1
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels}


def sides(
    ours: SmolVLM, theirs: Any, inputs: dict[str, torch.Tensor], tokens: int, stops: list[int]
) -> dict[str, Callable[[], list[list[int]]]]:
    """The two competitors: each returns the new tokens of each row, cut at the stop token."""
    width = inputs["input_ids"].shape[1]

    def run_ours() -> list[list[int]]:
        return ours.generate(**inputs, max_new_tokens=tokens, stop_token_ids=stops)

    def run_theirs() -> list[list[int]]:
        with torch.no_grad():
            rows = theirs.generate(
                **inputs, max_new_tokens=tokens, do_sample=False, eos_token_id=stops or None
            )[:, width:].tolist()
        ends = ([i for i, token in enumerate(row) if token in stops] for row in rows)
        return [row[: end[0]] if end else row for row, end in zip(rows, ends, strict=True)]

    return {"ours": run_ours, "transformers": run_theirs}


def measure(
    ours: SmolVLM, theirs: Any, rows: int, tokens: int, rounds: int, *, uneven: bool
) -> dict[str, Any]:
    """Medians of seconds, and the ratio."""
    inputs = prompts(ours.config, rows)
    free = ours.generate(**inputs, max_new_tokens=tokens, stop_token_ids=[])
    stops = sorted({row[tokens // 8] for row in free[: rows // 2]}) if uneven else []
    runs = sides(ours, theirs, inputs, tokens, stops)
    found = {name: run() for name, run in runs.items()}
    if found["ours"] != found["transformers"]:
        raise SystemExit(f"batch {rows}: greedy tokens differ")
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    seconds = {name: statistics.median(values) for name, values in times.items()}
    made = sum(map(len, found["ours"]))
    return {
        "batch": rows,
        "answers": "uneven" if uneven else "even",
        "tokens": made,
        **{f"{name}_tokens_per_s": round(made / value, 1) for name, value in seconds.items()},
        "speedup": round(seconds["transformers"] / seconds["ours"], 2),
    }


def main() -> None:
    """Print a table and one line of JSON; keep the result with versions and hardware."""
    from results_file import record
    from transformers import AutoModelForImageTextToText
    from transformers.utils import logging

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=("tiny", "256m"), default="tiny")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    logging.set_verbosity_error()
    ours = SmolVLM.from_random(configuration(options.size), seed=0)
    with tempfile.TemporaryDirectory() as folder:
        ours.save_pretrained(folder)
        theirs = AutoModelForImageTextToText.from_pretrained(
            Path(folder), dtype=torch.float32
        ).eval()
        theirs.generation_config.eos_token_id = None
    cases = [(rows, False) for rows in BATCHES] + [(BATCHES[-1], True)]
    results = [
        measure(ours, theirs, rows, options.tokens, options.rounds, uneven=uneven)
        for rows, uneven in cases
    ]
    names = list(results[0])
    print("  ".join(name.rjust(12) for name in names))
    for row in results:
        print("  ".join(str(row[name]).rjust(max(12, len(name))) for name in names))
    payload = {
        "size": options.size,
        "threads": torch.get_num_threads(),
        "rounds": options.rounds,
        "runs": results,
    }
    print(json.dumps(record("generate", payload)))


if __name__ == "__main__":
    main()
