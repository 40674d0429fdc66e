"""Peak memory of a LoRA step with MLX beside the estimate, on random weights of real widths.

    python benchmarks/apple_memory.py [--quick]

Every width, vocabulary and tile is that of the published 256M and 500M; the number of layers is cut
where it only repeats what was measured. Rows marked "held out" were not used to fit the estimate.
On Linux the bundled BLAS is slow: LD_PRELOAD=libopenblas.so.0 makes this about 50 times as fast.
On a Mac the same command fills in what was not measured.
"""

import argparse
import json
import sys
import time
from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_map

from smolvlm2.apple import adapters
from smolvlm2.apple.batches import LoraBatch
from smolvlm2.apple.checkpoint import quantize_text
from smolvlm2.apple.memory import MemoryCase, estimate
from smolvlm2.apple.model import SmolVLM
from smolvlm2.apple.published import PUBLISHED
from smolvlm2.apple.training import loss_and_gradients

# size, decoder layers, batch, length, supervised, tiles, bits, checkpointing, held out
ROWS = (
    ("256m", 2, 1, 256, 64, 0, None, False, False),
    ("256m", 6, 1, 256, 64, 0, None, False, False),
    ("256m", 6, 1, 512, 64, 0, None, False, False),
    ("256m", 6, 2, 256, 64, 0, None, False, False),
    ("256m", 6, 1, 512, 64, 0, None, True, False),
    ("256m", 6, 1, 512, 400, 0, None, True, False),
    ("256m", 1, 1, 320, 32, 3, None, True, False),
    ("500m", 4, 1, 384, 100, 0, None, False, False),
    ("500m", 4, 2, 256, 200, 0, None, True, False),
    ("256m", 30, 1, 384, 96, 0, None, False, True),
    ("256m", 12, 2, 640, 160, 0, None, True, True),
    ("500m", 6, 1, 512, 48, 1, None, False, True),
    ("256m", 3, 1, 192, 48, 0, 4, True, True),
)


def main() -> None:
    """Measure all rows and keep them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the first two rows")
    options = parser.parse_args()
    rows = [measure(*row) for row in (ROWS[:2] if options.quick else ROWS)]
    worst = max(abs(row["error"]) for row in rows)
    print(f"largest error {worst:.1%}")
    from results_file import record

    record(
        "apple_memory", {"device": str(mx.default_device()), "mlx": mx.__version__, "rows": rows}
    )


def measure(
    size: str,
    layers: int,
    batch: int,
    length: int,
    supervised: int,
    tiles: int,
    bits: int | None,
    checkpointing: bool,
    held_out: bool,
) -> dict[str, object]:
    """One setting: two steps, the larger peak."""
    config = PUBLISHED[size].config
    text = replace(config.text, num_hidden_layers=layers)
    # The encoder's peak does not depend on its depth: nothing is kept of a layer.
    vision = replace(config.vision, num_hidden_layers=2)
    config = replace(config, text=text, vision=vision)
    model = SmolVLM(config)
    if bits is not None:
        quantize_text(model, bits)
    mx.eval(model.parameters())
    case = MemoryCase(
        config=config,
        batch=batch,
        length=length,
        supervised=supervised,
        tiles=tiles,
        bits=bits,
        bytes_per_weight=4,
        checkpointing=checkpointing,
    )
    adapters.add(model, case.adapters, seed=0)
    optimizer = optim.AdamW(learning_rate=1e-4)
    optimizer.init(model.trainable_parameters())
    inputs, peak, started = make_batch(case), 0, time.perf_counter()
    for _ in range(2):
        mx.clear_cache()
        mx.reset_peak_memory()
        step(model, optimizer, inputs, checkpointing)
        peak = max(peak, mx.get_peak_memory())
    total = estimate(case).total
    row = {
        "model": size,
        "layers": layers,
        "batch": batch,
        "length": length,
        "supervised": supervised,
        "tiles": tiles,
        "bits": bits,
        "checkpointing": checkpointing,
        "held_out": held_out,
        "measured_mb": round(peak / 1e6, 1),
        "base_mb": round(estimate(case).weights / 1e6, 1),
        "estimated_mb": round(total / 1e6, 1),
        "error": round((total - peak) / peak, 4),
        "seconds": round(time.perf_counter() - started, 1),
    }
    print(json.dumps(row), flush=True)
    return row


def step(model: nn.Module, optimizer: optim.Optimizer, batch: LoraBatch, again: bool) -> None:
    """A step as the trainer takes it."""
    value, gradients = loss_and_gradients(model, batch, checkpointing=again)
    mx.eval(value, gradients)
    gradients = tree_map(lambda gradient: gradient / batch.supervised, gradients)
    gradients, norm = optim.clip_grad_norm(gradients, 1.0)
    optimizer.update(model, gradients)
    mx.eval(model.trainable_parameters(), optimizer.state, norm)


def make_batch(case: MemoryCase) -> LoraBatch:
    """Random tokens and tiles of a case's shape."""
    rng, config = np.random.default_rng(0), case.config
    side, visual = config.vision.image_size, case.tiles * config.tokens_per_tile
    ids = rng.integers(3, 49000, case.batch * case.length, dtype=np.int32)
    ids[:visual] = config.image_token_id
    places = np.sort(rng.permutation(len(ids) - 1)[: case.supervised])
    return LoraBatch(
        input_ids=mx.array(ids.reshape(case.batch, case.length)),
        tiles=rng.integers(0, 256, (case.tiles, 3, side, side), dtype=np.uint8),
        slots=mx.arange(visual),
        positions=mx.array(places.astype(np.int32)),
        targets=mx.array(ids[places + 1]),
    )


if __name__ == "__main__":
    sys.exit(main())
