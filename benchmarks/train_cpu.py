"""One optimiser step on the CPU: ours against transformers' model as its Trainer feeds it.

    OMP_NUM_THREADS=1 python benchmarks/train_cpu.py            # minutes on one core
    OMP_NUM_THREADS=1 python benchmarks/train_cpu.py --quick    # the code only, no figures kept

Both train the same weights on the same 32 generated samples (the proportions of the general mixture
of plan.py at a sixteenth of the published patches and tokens), fp32, AdamW, clipping. transformers
gets micro-batches of 8 in random order, padded in tokens and tiles, pixels already normalised; ours
gets packs of 8 mean samples as the loader makes them. Variants alternate in one process; each round
starts from the same weights, and the losses must be equal to 1e-5. Times are CPU seconds. Memory is
the peak of a process of its own, above one with the same imports that does nothing.

What limits the ratios: transformers leaves padded tiles out before its encoder, so both encode the
same tiles, and one thread spends three quarters of our step in their matrix products. Only padded
tokens (56 % of the tokens computed are real here, 55 % over the whole mixture) and the head at
every token are work that we do not have. The table's last column is the ratio of both sides'
products alone; the last lines give the same for the 256M on the whole mixture, which is higher
since longer documents cost more attention than here (1.8 % against 0.4 % of the products,
unfrozen). Ours runs without blank tiles and padding on a CPU, so that the fill of its packs has no
influence.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from plan_mixtures import general
from results_file import record
from torch import Tensor
from train_cpu_products import product_ratios
from transformers import SmolVLMConfig as TheirConfig
from transformers import SmolVLMForConditionalGeneration

from smolvlm2.loading.micro_batch import MicroBatch
from smolvlm2.loading.step_batch import StepBatch
from smolvlm2.model.config import SmolVLMConfig, TextConfig, VisionConfig
from smolvlm2.model.hf_format import hf_name
from smolvlm2.model.smolvlm import SmolVLM
from smolvlm2.plan.packs import Capacity
from smolvlm2.plan.plan import Plan, Position
from smolvlm2.plan.samples import SourceTable
from smolvlm2.training.distributed import connect
from smolvlm2.training.freezing import apply_freezing
from smolvlm2.training.generated import GeneratedIds, GeneratedSample, generate, lay_out
from smolvlm2.training.launch import Launch
from smolvlm2.training.optimizer import OptimizerSettings
from smolvlm2.training.update import Updater

CONFIG = SmolVLMConfig(
    vision=VisionConfig(
        hidden_size=192,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=3,
        image_size=128,
    ),
    text=TextConfig(
        hidden_size=144,
        intermediate_size=384,
        num_hidden_layers=12,
        num_attention_heads=9,
        num_key_value_heads=3,
        head_dim=16,
        vocab_size=4928,
    ),
    scale_factor=4,
    image_token_id=4900,
    eos_token_id=4927,
)
"""Encoder, decoder and head cost each other as in the 256M; 64 patches and 4 tokens a tile."""
SAMPLES, MICRO_BATCH, ROUNDS = 32, 8, 7
LEARNING_RATE = 1e-4
TARGETS = {"unfrozen": 1.3, "frozen": 1.8, "unfrozen, checkpointing": 1.6}
"""Least ratios of CPU seconds, transformers over ours."""
MEMORY_TARGET = 0.7
TOLERANCE = 1e-5


def samples() -> list[GeneratedSample]:
    """Drawn from the mixture; text is a sixteenth as long, as visual tokens are."""
    plan = Plan(
        general((8, 32)),
        [0.344, 0.33, 0.202, 0.124],
        capacity=Capacity(tokens=1 << 20, tiles=1 << 20, documents=64),
        packs_per_step=1,
        window=SAMPLES,
        seed=0,
    )
    drawn = plan.order.samples(0, SAMPLES).columns(plan.tables, ("tiles", "tokens", "supervised"))
    found = []
    for tiles, tokens, supervised in zip(*(drawn[name].tolist() for name in drawn), strict=True):
        loss = max(1, supervised // 16)
        text = max(loss + 1, (tokens - 64 * tiles) // 16)
        found.append(GeneratedSample(tokens=text + 4 * tiles, tiles=tiles, supervised=loss))
    return found


@dataclass(kw_only=True)
class Ours:
    """Our step on packs."""

    batch: list[dict[str, np.ndarray]]
    frozen: bool

    def __post_init__(self) -> None:
        world = connect(Launch(), "cpu")
        self.model = SmolVLM.from_random(CONFIG, seed=0)
        self.start = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        apply_freezing(self.model, frozenset({"vision_encoder"} if self.frozen else ()))
        self.updater = Updater(
            model=self.model,
            mesh=None,
            world=world,
            settings=OptimizerSettings(),
            max_length=max(len(arrays["input_ids"]) for arrays in self.batch),
        )
        for group in self.updater.optimizer.param_groups:
            group["lr"] = LEARNING_RATE
        packs = [as_micro_batch(arrays) for arrays in self.batch]
        self.step_batch = StepBatch(packs=packs, position=Position())
        self.divisor = sum(float(pack.loss_weights.sum()) for pack in packs)

    def restore(self) -> None:
        """Back to the first weights; the optimiser forgets."""
        restore(self.model, self.start)
        self.updater.optimizer.state.clear()

    def step(self) -> float:
        """One optimiser step; returns the mean loss."""
        numbers = list(range(len(self.batch)))
        loss, _ = self.updater.gradients(self.step_batch, numbers, self.divisor, at="benchmark")
        self.updater.apply()
        return loss.total / self.divisor


@dataclass(kw_only=True)
class Theirs:
    """transformers' model on padded micro-batches, accumulated as its Trainer does."""

    batches: list[dict[str, Tensor]]
    frozen: bool
    checkpointing: bool = False

    def __post_init__(self) -> None:
        config = TheirConfig(**CONFIG.to_hf())
        config._attn_implementation = "sdpa"
        self.model = SmolVLMForConditionalGeneration(config)
        ours = SmolVLM.from_random(CONFIG, seed=0)
        weights = {hf_name(name): p.detach() for name, p in ours.named_parameters()}
        self.model.load_state_dict(weights, strict=False)
        self.start = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        assert set(self.start) <= set(weights)
        self.model.train()
        if self.checkpointing:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
        if self.frozen:
            self.model.model.vision_model.requires_grad_(False)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.0, fused=True)
        self.items = sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in self.batches)

    def restore(self) -> None:
        """Back to the first weights; the optimiser forgets."""
        restore(self.model, self.start)
        self.optimizer.state.clear()

    def step(self) -> float:
        """One optimiser step; returns the mean loss."""
        total = 0.0
        for batch in self.batches:
            loss = self.model(**batch, num_items_in_batch=self.items, use_cache=False).loss
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return total


@torch.no_grad()
def restore(model: torch.nn.Module, weights: dict[str, Tensor]) -> None:
    """Copy weights back."""
    for name, parameter in model.named_parameters():
        parameter.copy_(weights[name])


def as_micro_batch(arrays: dict[str, np.ndarray]) -> MicroBatch:
    """A pack as the loader hands it over."""
    used = int(arrays["cu_seqlens"][-2])
    tiles = int((arrays["tile_slots"] < len(arrays["input_ids"])).sum()) // CONFIG.tokens_per_tile
    documents = len(arrays["cu_seqlens"]) - 2
    return MicroBatch(
        **arrays,
        sample_ids=[str(number) for number in range(documents)],
        modalities=np.ones(documents, dtype=np.uint8),
        tokens=used,
        tiles=tiles,
    )


def packs(chosen: list[GeneratedSample], made: list[GeneratedIds]) -> list[dict[str, np.ndarray]]:
    """The planner's packs of 8 mean samples."""
    columns = {
        name: np.array([getattr(sample, name) for sample in chosen], dtype=np.int32)
        for name in ("tokens", "tiles", "supervised")
    }
    table = SourceTable(
        name="generated",
        rows=np.arange(len(chosen)),
        **columns,
        messages=np.full(len(chosen), 2, dtype=np.int32),
        modality=np.ones(len(chosen), dtype=np.uint8),
        excluded={},
    )
    mean = MICRO_BATCH / len(chosen)
    capacity = Capacity(
        tokens=int(max(columns["tokens"].max(), 1.05 * mean * columns["tokens"].sum())),
        tiles=int(max(columns["tiles"].max(), 1.05 * mean * columns["tiles"].sum())),
        documents=64,
    )
    plan = Plan([table], [1.0], capacity=capacity, packs_per_step=1, window=len(chosen), seed=0)
    return [
        lay_out(
            CONFIG,
            [made[number] for number in pack.samples.index.tolist()],
            tokens=capacity.tokens,
            tiles=capacity.tiles,
        )
        for pack in plan.packs_of_window(0)
    ]


def padded(made: list[GeneratedIds]) -> list[dict[str, Tensor]]:
    """Micro-batches as a collator pads them: tokens to the longest, tiles to the most."""
    batches = []
    for start in range(0, len(made), MICRO_BATCH):
        group = made[start : start + MICRO_BATCH]
        length = max(len(sample.input_ids) for sample in group)
        most = max(1, *(len(sample.pixel_values) for sample in group))
        side = CONFIG.vision.image_size
        ids = torch.full((len(group), length), CONFIG.pad_token_id)
        mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
        pixels = torch.zeros(len(group), most, 3, side, side)
        pixel_mask = torch.zeros(len(group), most, side, side, dtype=torch.long)
        for row, sample in enumerate(group):
            size, tiles = len(sample.input_ids), len(sample.pixel_values)
            ids[row, :size] = torch.from_numpy(sample.input_ids)
            mask[row, :size] = 1
            labels[row, size - sample.supervised : size] = ids[row, size - sample.supervised : size]
            pixels[row, :tiles] = torch.from_numpy(sample.pixel_values) / 127.5 - 1
            pixel_mask[row, :tiles] = 1
        batches.append(
            {
                "input_ids": ids,
                "attention_mask": mask,
                "labels": labels,
                "pixel_values": pixels,
                "pixel_attention_mask": pixel_mask,
            }
        )
    return batches


SYSTEMS = ("ours, unfrozen", "ours, frozen", "theirs, unfrozen", "theirs, frozen", "theirs, ckpt")


def build(name: str, quick: bool) -> "Ours | Theirs":
    """One of `SYSTEMS`, ready to step."""
    chosen = samples()[: 8 if quick else SAMPLES]
    made = [generate(CONFIG, sample, seed=number) for number, sample in enumerate(chosen)]
    who, how = name.split(", ")
    if who == "ours":
        return Ours(batch=packs(chosen, made), frozen=how == "frozen")
    return Theirs(batches=padded(made), frozen=how == "frozen", checkpointing=how == "ckpt")


def seconds(work: Callable[[], float]) -> tuple[float, float]:
    """CPU seconds of a step, and its loss."""
    start = time.process_time()
    loss = work()
    return time.process_time() - start, loss


def measure(quick: bool, rounds: int) -> dict[str, list[float]]:
    """CPU seconds of every system in every round, alternating."""
    built = {name: build(name, quick) for name in SYSTEMS}
    times: dict[str, list[float]] = {name: [] for name in SYSTEMS}
    for turn in range(1 + rounds):  # the first warms up
        losses = {}
        for name in SYSTEMS if turn % 2 else reversed(SYSTEMS):
            built[name].restore()
            spent, losses[name] = seconds(built[name].step)
            if turn:
                times[name].append(spent)
        spread = max(losses.values()) - min(losses.values())
        assert spread <= TOLERANCE * max(losses.values()), losses
        print(f"round {turn}: loss {losses['ours, unfrozen']:.6f}, apart by {spread:.1e}")
    return times


def peak(name: str, quick: bool) -> float:
    """MiB of a fresh process with this system (``idle``: with none)."""
    arguments = [sys.executable, __file__, "--peak", name, *(["--quick"] if quick else [])]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    return float(done.stdout.strip().splitlines()[-1])


def high_water() -> float:
    """Largest memory of this process so far, MiB; ``ru_maxrss`` would count its parent's too."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return float(line.split()[1]) / 1024
    raise SystemExit("peak memory is read from /proc/self/status, which is not here; use Linux")


def ratios(top: list[float], bottom: list[float]) -> dict[str, float]:
    """Median of the rounds' ratios and the quartiles around it."""
    each = sorted(a / b for a, b in zip(top, bottom, strict=True))
    low, _, high = (
        statistics.quantiles(each, n=4, method="inclusive") if len(each) > 1 else each * 3
    )
    return {"median": statistics.median(each), "low": low, "high": high}


def main() -> None:
    """Measure, print a table, keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="8 samples, one round, keep nothing")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--peak", choices=["idle", *SYSTEMS], help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.peak:
        if options.peak != "idle":
            build(options.peak, options.quick).step()
        print(high_water())
        return
    times = measure(options.quick, 1 if options.quick else options.rounds)
    pairs = {
        "unfrozen": ("theirs, unfrozen", "ours, unfrozen"),
        "frozen": ("theirs, frozen", "ours, frozen"),
        "unfrozen, checkpointing": ("theirs, ckpt", "ours, unfrozen"),
    }
    speed = {name: ratios(times[top], times[bottom]) for name, (top, bottom) in pairs.items()}
    idle = peak("idle", options.quick)
    memory = {name: peak(name, options.quick) - idle for name in SYSTEMS}
    print(f"\n{'system':18} {'CPU s a step':>13} {'MiB above idle':>15}")
    for name in SYSTEMS:
        print(f"{name:18} {statistics.median(times[name]):13.2f} {memory[name]:15.0f}")
    by_products = product_ratios(
        CONFIG, samples()[: 8 if options.quick else SAMPLES], batch=MICRO_BATCH
    )
    heads = f"{'median':>7} {'quartiles':>14} {'wanted':>7} {'products':>9}"
    print(f"\n{'transformers / ours':26} {heads}")
    for name, found in speed.items():
        span = f"{found['low']:.2f} - {found['high']:.2f}"
        share = f"{by_products['here'][name]:9.2f}"
        print(f"{name:26} {found['median']:7.2f} {span:>14} {TARGETS[name]:7.1f} {share}")
    share = {
        how: memory[f"ours, {how}"] / memory[f"theirs, {how}"] for how in ("unfrozen", "frozen")
    }
    for how, value in share.items():
        print(f"{'memory, ' + how:26} {value:7.2f} {'':14} {MEMORY_TARGET:7.1f}")
    for how, value in by_products["256m"].items():
        print(f"{'256M, products, ' + how:41} {value:5.2f}")
    payload = {
        "threads": 1,
        "samples": SAMPLES,
        "rounds": options.rounds,
        "cpu_seconds": {name: statistics.median(values) for name, values in times.items()},
        "ratios": speed,
        "ratios_of_products": by_products,
        "peak_mib": memory,
        "memory_ratio": share,
    }
    print(json.dumps(payload if options.quick else record("train_cpu", payload)))


if __name__ == "__main__":
    main()
