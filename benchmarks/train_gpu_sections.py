"""Sections of the GPU benchmark, each of which adds to the run's entry."""

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch._dynamo
from train_gpu_ops import (
    decoder_attention,
    elementwise,
    encoder_attention,
    measure_products,
    products,
)
from train_gpu_own import REFERENCE, Own, Reference, Variant, reference, settings_of
from train_gpu_peer import VARIANTS, Peer
from train_gpu_predicted import CHECK, PEAK, PREDICTED_GAIN_MS, PREDICTED_MS
from train_gpu_shapes import PACKS, SIZES, GeneratedPack, draw_packs
from train_gpu_timing import copy_rate, matmul_rate

from smolvlm2.plan.packs import Capacity
from smolvlm2.training.distributed import World
from smolvlm2.training.model_cost import cost_of

__all__ = ["PACKS", "Run"]
PHASES = ("unfrozen", "frozen")
OPTIONS: dict[str, tuple[Variant, tuple[str, ...]]] = {
    "fused GELU": (Variant(fused_gelu=True), ("frozen",)),
    "decoder by flex": (Variant(attention="flex"), PHASES),
    "encoder by flash": (Variant(encoder_attention="FLASH_ATTENTION"), ("unfrozen",)),
    "separate products": (Variant(separate_products=True), PHASES),
    "head at every token": (Variant(), ("unfrozen",)),
    "larger pack": (Variant(), ("unfrozen",)),
    "encoder recomputed": (Variant(checkpointing="encoder"), ("unfrozen",)),
    "deterministic": (Variant(deterministic=True, attention="flex"), ("unfrozen",)),
    "autocast": (Variant(autocast=True), ("unfrozen",)),
    "max-autotune": (Variant(mode="max-autotune-no-cudagraphs"), ("unfrozen",)),
}
"""One change each against the compiled step, likeliest gains first."""
OPTIONS_SECONDS, LEAST_SECONDS = 60, 15
"""For all options together; and what has to be left for another variant."""
CURVE_STEPS, CURVE_TILES, CURVE_TOKENS = 24, 12, 1536


@dataclass(kw_only=True)
class Run:
    """What all sections share."""

    world: World
    size: str
    large: str
    """The other size."""
    capacity: Capacity
    packs: list[GeneratedPack]
    check: GeneratedPack
    """Seen by the check alone."""
    entry: dict[str, Any]
    how: dict[str, Any]
    """How long to measure."""
    guarded: Callable[[str, Callable[[], None], dict[str, Any]], None]
    ends: float
    """When the run has to be over, by the monotonic clock."""
    references: dict[tuple[str, str], Reference] = field(default_factory=dict)
    """By size and phase."""

    def guard(self, name: str, work: Callable[[], None]) -> None:
        """Keep an error of one measurement from ending the section."""
        self.guarded(name, work, self.entry)

    def left(self) -> float:
        """Seconds."""
        return float("inf") if self.entry["dry"] else self.ends - time.monotonic()


def ceilings(run: Run) -> None:
    """A large matrix product and a large copy; more than 3 % apart is drift."""
    cuda = run.world.device.type == "cuda"
    kept = run.entry["ceilings"]
    kept["matmul_tflops"].append(matmul_rate(run.world.device, 8192 if cuda else 128))
    kept["copy_tbps"].append(copy_rate(run.world.device, 4 * 10**9 if cuda else 10**6))
    for name in ("matmul_tflops", "copy_tbps"):
        first, last = kept[name][0], kept[name][-1]
        kept[name.split("_")[0] + "_drift"] = round(last / first - 1, 4)


def operations(run: Run) -> None:
    """Single operations at the step's shapes."""
    config, device, ops = SIZES[run.size], run.world.device, run.entry["ops"]
    cuda, tiles = device.type == "cuda", run.capacity.tiles
    shapes = products(config, tiles, run.capacity.tokens, run.check.supervised)
    run.guard("products", lambda: ops.extend(measure_products(shapes, device)))
    backends = ("CUDNN_ATTENTION", "FLASH_ATTENTION", "EFFICIENT_ATTENTION") if cuda else ()
    for each in (None, *backends):
        run.guard(
            f"encoder attention, {each or 'chosen'}",
            lambda each=each: ops.extend(encoder_attention(config, tiles, device, each)),
        )
    for each in ("varlen", "flex") if cuda else ("sdpa",):
        for pack in run.packs:
            run.guard(
                f"decoder attention, {each}",
                lambda each=each, pack=pack: ops.extend(
                    decoder_attention(config, pack, device, each)
                ),
            )
    run.guard("elementwise", lambda: ops.extend(elementwise(config, tiles, device)))


def own(
    run: Run,
    size: str,
    phase: str,
    name: str,
    variant: Variant,
    *,
    packs: list[GeneratedPack] | None = None,
    capacity: Capacity | None = None,
    whole: bool = False,
) -> dict[str, Any] | None:
    """One variant of ours: right first, then silent, then fast.

    Args:
        run: Of the benchmark.
        size: Of the model.
        phase: ``frozen`` or ``unfrozen``.
        name: Of the variant, for the table.
        variant: How it runs.
        packs: Other than the run's.
        capacity: Of these.
        whole: Whether its kernels are counted.
    """
    frozen, started = phase == "frozen", time.monotonic()
    packs, capacity = packs or run.packs, capacity or run.capacity
    free()
    common = {"config": SIZES[size], "frozen": frozen, "world": run.world, "capacity": capacity}
    step: dict[str, Any] = {"system": "own", "size": size, "phase": phase, "variant": name}
    if run.left() < LEAST_SECONDS:
        run.entry["skipped"].append(f"{size}, {phase}, {name}")
        return None
    checked = capacity is run.capacity
    if checked and (size, phase) not in run.references:
        run.guard(f"reference, {size}, {phase}", lambda: add_reference(run, size, phase, common))
        checked = (size, phase) in run.references
    with settings_of(variant):
        each = Own(**common, variant=variant)
        step["options"] = variant.chosen()
        step["first_pass_s"] = each.first_pass(packs[0])
        if checked:
            step["check"] = each.check(run.check, run.references[size, phase])
            step["right"] = bool(
                step["check"]["loss_error"] <= CHECK["loss_error"]
                and step["check"]["grad_norm_error"] <= CHECK["grad_norm_error"]
                and step["check"]["grad_cosine"] >= CHECK["grad_cosine"]
            )
        step |= each.measure(packs, **run.how)
        if whole:
            step["kernels_ms"] = each.kernels(packs)
        try:  # last: where it fails it leaves the model in the middle of a pass
            step["syncs"] = each.silent(packs[0])
        except RuntimeError as error:
            step["syncs"] = str(error)[:200]
    add_rates(run, step, packs)
    step["seconds"] = round(time.monotonic() - started, 1)
    run.entry["steps"].append(step)
    del each
    free()
    return step


def add_reference(run: Run, size: str, phase: str, common: dict[str, Any]) -> None:
    """What the check compares with; without it variants are still timed."""
    right = Own(**common, variant=REFERENCE)
    run.references[size, phase] = reference(right, run.check)


def add_rates(run: Run, step: dict[str, Any], packs: list[GeneratedPack]) -> None:
    """Predictions, and rates over what the packs really hold."""
    frozen = step["phase"] == "frozen"
    cost = cost_of(SIZES[step["size"]])
    useful = sum(pack.useful_flops(cost, frozen=frozen) for pack in packs) / len(packs)
    seconds = step["ms"]["median"] / 1000
    step["predicted_ms"] = PREDICTED_MS.get(
        (step["system"], step["size"], step["phase"], step["variant"])
    )
    if step["predicted_ms"]:
        step["measured_over_predicted"] = round(1000 * seconds / step["predicted_ms"], 3)
    step["useful_tflop"] = round(useful / 1e12, 4)
    step["tflops"] = round(useful / seconds / 1e12, 4)
    step["mfu_peak"] = round(step["tflops"] / PEAK, 4)
    if run.entry["ceilings"]["matmul_tflops"]:
        ceiling = run.entry["ceilings"]["matmul_tflops"][0]
        step["mfu_ceiling"] = round(step["tflops"] / ceiling, 4)
    for name in ("tiles", "tokens"):
        mean = sum(pack.figures()[name] for pack in packs) / len(packs)
        step[f"{name}_per_s"] = round(mean / seconds, 1)


def free() -> None:
    """Give memory back between variants, and forget their graphs: torch keeps a few a function."""
    gc.collect()
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def own_eager(run: Run) -> None:
    """Ours without compilation."""
    for phase in PHASES:
        work = lambda phase=phase: own(run, run.size, phase, "eager", Variant(compile=False))  # noqa: E731
        run.guard(f"eager, {phase}", work)


def own_compiled(run: Run) -> None:
    """Ours as it trains."""
    for phase in PHASES:
        work = lambda phase=phase: own(  # noqa: E731
            run, run.size, phase, "compiled", compiled(run), whole=True
        )
        run.guard(f"compiled, {phase}", work)


def compiled(run: Run, variant: Variant | None = None) -> Variant:
    """A variant as it is; on a CPU without compilation, which takes longer than the dry run may."""
    variant = variant or Variant()
    if run.world.device.type == "cuda":
        return variant
    return replace(variant, compile=False, attention=None)


def options(run: Run) -> None:
    """One change at a time against the compiled step, while there is time."""
    config = SIZES[run.size]
    last = time.monotonic() + OPTIONS_SECONDS
    for name, (variant, phases) in OPTIONS.items():
        for phase in phases:
            if not run.entry["dry"] and time.monotonic() > last:
                run.entry["skipped"].append(f"option: {name}, {phase}")
                continue
            packs, capacity = None, None
            if name == "larger pack":
                double = {k: 2 * getattr(run.capacity, k) for k in ("tokens", "tiles")}
                capacity = Capacity(**double, documents=run.capacity.documents)
                packs = draw_packs(config, capacity, count=2)
            elif name == "head at every token":
                packs = draw_packs(config, run.capacity, count=PACKS, every_token=True)
            run.guard(
                f"option: {name}, {phase}",
                lambda name=name, phase=phase, variant=variant, packs=packs, capacity=capacity: (
                    compare(run, name, phase, variant, packs, capacity)
                ),
            )


def compare(
    run: Run,
    name: str,
    phase: str,
    variant: Variant,
    packs: list[GeneratedPack] | None,
    capacity: Capacity | None,
) -> None:
    """Measure an option; its gain is given for as many tiles as the run's packs hold."""
    step = own(run, run.size, phase, name, compiled(run, variant), packs=packs, capacity=capacity)
    before = found(run, "own", run.size, phase, "compiled")
    if step is None or before is None:
        return
    scale = run.capacity.tiles / (capacity or run.capacity).tiles
    run.entry["options"].append(
        {
            "name": name,
            "phase": phase,
            "predicted_gain_ms": PREDICTED_GAIN_MS.get((name, phase)),
            "gain_ms": round(before["ms"]["median"] - scale * step["ms"]["median"], 3),
        }
    )


def found(run: Run, system: str, size: str, phase: str, variant: str) -> dict[str, Any] | None:
    """A step that was measured before."""
    key = (system, size, phase, variant)
    names = ("system", "size", "phase", "variant")
    hits = [step for step in run.entry["steps"] if tuple(step[n] for n in names) == key]
    return hits[0] if hits else None


def peer(run: Run) -> None:
    """transformers, in every way it can be run."""
    for name, variant in VARIANTS.items():
        for phase in PHASES:
            if run.left() < LEAST_SECONDS:
                run.entry["skipped"].append(f"transformers: {name}, {phase}")
                continue
            run.guard(
                f"transformers: {name}, {phase}",
                lambda name=name, phase=phase, variant=variant: measure_peer(
                    run, name, phase, variant
                ),
            )


def measure_peer(run: Run, name: str, phase: str, variant: dict[str, bool]) -> None:
    """One variant of transformers; its loss of the check's pack has to be ours."""
    free()
    cuda = run.world.device.type == "cuda"
    variant = variant if cuda else variant | {"compile": False}
    each = Peer(
        config=SIZES[run.size], frozen=phase == "frozen", device=run.world.device, **variant
    )
    step = {"system": "transformers", "size": run.size, "phase": phase, "variant": name}
    step |= each.measure(run.packs, run.check, **run.how)
    right = run.references.get((run.size, phase))
    if right is not None:
        step["check"] = {"loss_error": abs(step["loss"] - right.loss) / right.loss}
        step["right"] = bool(step["check"]["loss_error"] <= CHECK["loss_error"])
    add_rates(run, step, run.packs)
    run.entry["steps"].append(step)


def large(run: Run) -> None:
    """The other size, compiled."""
    capacity = run.capacity
    packs = draw_packs(SIZES[run.large], capacity, count=PACKS + 1)
    other = replace(run, packs=packs[:PACKS], check=packs[-1])
    for phase in PHASES:
        work = lambda phase=phase: own(other, run.large, phase, "compiled", compiled(run))  # noqa: E731
        run.guard(f"{run.large}, {phase}", work)


def curves(run: Run) -> None:
    """Losses of the same steps in bf16 and in fp32, from the same weights."""
    dry = run.entry["dry"]
    capacity = run.capacity
    if not dry:
        capacity = Capacity(tokens=CURVE_TOKENS, tiles=CURVE_TILES, documents=64)
    packs = draw_packs(SIZES[run.size], capacity, count=PACKS)
    lines: dict[str, list[float]] = {}
    for name, bf16 in (("bf16", True), ("fp32", False)):
        each = Own(
            config=SIZES[run.size],
            frozen=False,
            # In fp32 training's would be FlexAttention, whose compilation takes the section's time.
            variant=Variant(compile=False, bf16=bf16, attention=None if bf16 else "sdpa"),
            world=run.world,
            capacity=capacity,
        )
        lines[name] = [round(each.step(packs), 5) for _ in range(2 if dry else CURVE_STEPS)]
        del each
        free()
    apart = max(abs(a - b) / b for a, b in zip(*lines.values(), strict=True))
    run.entry["curves"] = lines | {"largest_relative_distance": round(apart, 5)}


def again(run: Run) -> None:
    """The headline variants a second time: the distance to the first is the noise."""
    for phase in PHASES:
        work = lambda phase=phase: own(  # noqa: E731
            run, run.size, phase, "compiled, again", compiled(run)
        )
        run.guard(f"again, {phase}", work)


def conclude(run: Run) -> None:
    """What was promised, beside what was found."""
    verdicts: dict[str, Any] = {}
    for phase in PHASES:
        mine = found(run, "own", run.size, phase, "compiled")
        theirs = [
            step
            for step in run.entry["steps"]
            if step["system"] == "transformers"
            and step["phase"] == phase
            and step.get("right", True)
        ]
        if mine is None:
            continue
        verdict = {name: mine.get(name) for name in ("mfu_ceiling", "mfu_peak", "recompiles")}
        twice = found(run, "own", run.size, phase, "compiled, again")
        if twice is not None:
            verdict["noise_ms"] = round(abs(twice["ms"]["median"] - mine["ms"]["median"]), 3)
        if "peak_gb" in mine:
            verdict["memory_over_estimate"] = round(mine["peak_gb"] / mine["estimated_gb"], 3)
        if theirs:
            best = min(theirs, key=lambda step: step["ms"]["median"])
            verdict["best_of_transformers"] = best["variant"]
            verdict["over_its_best"] = round(best["ms"]["median"] / mine["ms"]["median"], 3)
        published = found(run, "transformers", run.size, phase, "padded, checkpointing")
        if published is not None:
            ratio = published["ms"]["median"] / mine["ms"]["median"]
            verdict["over_published"] = round(ratio, 3)
        verdicts[phase] = verdict
    run.entry["verdicts"] = verdicts
