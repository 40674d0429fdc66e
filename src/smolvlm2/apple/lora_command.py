"""``python mlx/lora_finetune.py``: LoRA on a SmolVLM2, estimated, trained, fused."""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from smolvlm2.apple.commands import run_command
from smolvlm2.apple.drawn_samples import write_drawn_samples
from smolvlm2.apple.lora_settings import TARGETS, AdapterSettings, LoraSettings
from smolvlm2.apple.memory import MemoryCase, describe, estimate, fit_in, parse_size
from smolvlm2.apple.packages import require_mlx
from smolvlm2.apple.published import MODEL_SIZES, PUBLISHED, choose_model
from smolvlm2.apple.samples import Samples, open_samples
from smolvlm2.errors import ConfigError
from smolvlm2.model.config import SmolVLMConfig
from smolvlm2.model.hub import read_json, resolve_checkpoint

LOCAL = "python mlx/lora_finetune.py --model FOLDER --data FOLDER"
SPLIT_IMAGE_TILES, PROMPT_TOKENS = 17, 128
"""Of the estimate without data: one image of 4 x 4 tiles and the whole, and its conversation."""
SHOWN_EVERY = 10
"""Steps between lines of progress."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    return run_command(lambda: _run(_parse(arguments)))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="mlx/lora_finetune.py",
        description="Fine-tune the text decoder of a SmolVLM2 with LoRA, with MLX. A run that was "
        "interrupted goes on when it is started again with the same settings and folder.",
    )
    add = parser.add_argument
    add("--model-size", choices=MODEL_SIZES, help="a published model, from the hub")
    add("--model", metavar="PATH", help="run, checkpoint folder or hub id")
    add("--data", type=Path, help="folder with train.jsonl, or prepared sources (default: drawn)")
    add("--output", type=Path, default=Path("runs/lora"), help="run folder (default: %(default)s)")
    add("--iters", type=int, default=100, help="optimiser steps (default: %(default)s)")
    add("--batch-size", type=int, default=1, help="samples that pass together (default: 1)")
    add("--accumulate", type=int, default=1, help="batches of a step (default: 1)")
    add("--learning-rate", type=float, default=1e-4)
    add("--warmup", type=int, default=0, help="steps")
    add("--weight-decay", type=float, default=0.0)
    add("--kind", choices=("lora", "dora"), default="lora")
    add("--rank", type=int, default=8)
    add("--alpha", type=float, default=16.0, help="the update is scaled by alpha / rank")
    add("--targets", default=",".join(TARGETS), help="linear layers, with commas between")
    add("--quantize", type=int, choices=(4, 8), help="bits of the frozen text decoder")
    add("--dtype", choices=("float32", "bfloat16", "float16"), help="of the base (as stored)")
    add("--gradient-checkpointing", action="store_true", help="less memory, more time")
    add("--save-every", type=int, default=50, help="steps")
    add("--seed", type=int, default=0)
    add("--restart", action="store_true", help="throw the run in the folder away")
    add("--fuse", type=Path, metavar="FOLDER", help="write the fused model, for transformers")
    add("--estimate-memory", action="store_true", help="print the estimate and stop")
    add("--fit-in", metavar="SIZE", help="such as 16GB: choose batch, checkpointing, quantisation")
    return parser.parse_args(arguments)


def read_settings(options: argparse.Namespace) -> LoraSettings:
    """The settings of a command line."""
    return LoraSettings(
        adapters=AdapterSettings(
            kind=options.kind,
            rank=options.rank,
            alpha=options.alpha,
            targets=[name.strip() for name in options.targets.split(",") if name.strip()],
        ),
        iters=options.iters,
        batch_size=options.batch_size,
        accumulate=options.accumulate,
        learning_rate=options.learning_rate,
        warmup=options.warmup,
        weight_decay=options.weight_decay,
        checkpointing=options.gradient_checkpointing,
        save_every=options.save_every,
        seed=options.seed,
    )


def _run(options: argparse.Namespace) -> None:
    settings = read_settings(options)
    name = choose_model(options.model, options.model_size, command=LOCAL)
    if options.estimate_memory or options.fit_in:
        case = _paper_case(options, settings)
        if options.fit_in:
            case = fit_in(parse_size(options.fit_in), case)
            settings = _fitted(settings, case)
            if _stored_bits(options) is None:
                options.quantize = case.bits
        print(describe(case))
        if options.fit_in:
            print(f"chosen: {_flags(settings, options.quantize)}")
        if options.estimate_memory:
            return
    with tempfile.TemporaryDirectory() as scratch:
        if options.data is None:
            options.data = write_drawn_samples(Path(scratch) / "drawn")
            print("no --data: training on 24 drawn samples; your own: --data FOLDER")
        samples = open_samples(options.data)
        require_mlx()  # after what is told without it
        _train(name, samples, options, settings)


def _train(
    name: str, samples: Samples, options: argparse.Namespace, settings: LoraSettings
) -> None:
    from smolvlm2.apple import adapters
    from smolvlm2.apple.checkpoint import load, save, weights_digest
    from smolvlm2.apple.lora_run import LoraRun
    from smolvlm2.apple.training import LoraTrainer, trainable_count

    checkpoint = load(name, quantize=options.quantize, dtype=options.dtype)
    adapters.add(checkpoint.model, settings.adapters, seed=settings.seed)
    facts = {
        "model": name,
        "weights": weights_digest(checkpoint.folder),
        "quantize": options.quantize,
        "dtype": options.dtype,
        "data": samples.digest(),
    }
    run = LoraRun(options.output, settings, facts, restart=options.restart)
    show = _Progress(checkpoint.config, settings, options)
    trainer = LoraTrainer(checkpoint, samples, settings, run, report=show)
    print(
        f"{len(samples)} samples, {trainable_count(checkpoint.model):,} trainable parameters, "
        f"steps {trainer.step} to {settings.iters}"
    )
    trainer.train()
    print(f"adapters: {options.output}")
    if options.fuse is not None:
        adapters.fuse(checkpoint.model)
        save(checkpoint.model, checkpoint.config, checkpoint.processor, options.fuse)
        print(f"fused model: {options.fuse} (loads in transformers, vLLM and here)")
    source = options.fuse or name
    extra = "" if options.fuse else f" --adapters {options.output}"
    print(f"try it: python mlx/test_inference.py --model {source}{extra} --image FILE")


class _Progress:
    """Prints every tenth line, and after the first step the estimate beside the measured peak."""

    def __init__(
        self, config: SmolVLMConfig, settings: LoraSettings, options: argparse.Namespace
    ) -> None:
        self._config, self._settings, self._options, self._first = config, settings, options, True

    def __call__(self, line: dict[str, Any]) -> None:
        step = line["step"]
        if self._first or step % SHOWN_EVERY == 0 or step == self._settings.iters:
            print(
                f"step {step}/{self._settings.iters}  loss {line['loss']:.4f}  "
                f"{line['supervised'] / line['seconds']:.0f} supervised tokens/s  peak "
                f"{line['peak_bytes'] / 1e9:.2f} GB",
                flush=True,
            )
        if self._first:
            self._first = False
            bytes_per_weight = _bytes(self._options)
            case = MemoryCase(
                config=self._config,
                bits=self._options.quantize or _stored_bits(self._options),
                bytes_per_weight=bytes_per_weight,
                checkpointing=self._settings.checkpointing,
                adapters=self._settings.adapters,
                **line["shape"],
            )
            total, measured = estimate(case).total, line["peak_bytes"]
            print(
                f"memory of this step: estimated {total / 1e9:.3f} GB, measured "
                f"{measured / 1e9:.3f} GB ({(total - measured) / measured:+.0%})",
                flush=True,
            )


def _bytes(options: argparse.Namespace) -> int:
    """Bytes of a weight that is not quantised."""
    if options.dtype is not None:
        return 4 if options.dtype == "float32" else 2
    hf = _stored(options)
    return 4 if (hf.get("dtype") or hf.get("torch_dtype")) == "float32" else 2


def _stored_bits(options: argparse.Namespace) -> int | None:
    """Bits of a checkpoint that is quantised already, as ``mlx_vlm.convert`` leaves it."""
    return _stored(options).get("quantization", {}).get("bits")


def _stored(options: argparse.Namespace) -> dict[str, Any]:
    """The checkpoint's own ``config.json``; of a published model nothing is fetched for it."""
    if options.model is None:
        return {}
    return read_json(resolve_checkpoint(options.model) / "config.json")


def _paper_case(options: argparse.Namespace, settings: LoraSettings) -> MemoryCase:
    """The case of a command line without looking at data: one split image a sample."""
    if options.model is None:
        config = PUBLISHED[options.model_size].config
    else:
        config = SmolVLMConfig.from_folder(resolve_checkpoint(options.model))
    return MemoryCase(
        config=config,
        batch=settings.batch_size,
        length=SPLIT_IMAGE_TILES * config.tokens_per_tile + PROMPT_TOKENS,
        supervised=settings.batch_size * PROMPT_TOKENS // 2,
        tiles=settings.batch_size * SPLIT_IMAGE_TILES,
        bits=options.quantize or _stored_bits(options),
        bytes_per_weight=_bytes(options),
        checkpointing=settings.checkpointing,
        adapters=settings.adapters,
    )


def _fitted(settings: LoraSettings, case: MemoryCase) -> LoraSettings:
    """The settings of a case; smaller batches are accumulated to the same samples a step."""
    if settings.batch_size % case.batch:
        raise ConfigError(
            f"--batch-size {settings.batch_size} does not fit and {case.batch} does not divide it; "
            f"choose a power of two"
        )
    return replace(
        settings,
        batch_size=case.batch,
        accumulate=settings.accumulate * (settings.batch_size // case.batch),
        checkpointing=case.checkpointing,
    )


def _flags(settings: LoraSettings, quantize: int | None) -> str:
    flags = [f"--batch-size {settings.batch_size}", f"--accumulate {settings.accumulate}"]
    flags += ["--gradient-checkpointing"] if settings.checkpointing else []
    flags += [f"--quantize {quantize}"] if quantize is not None else []
    return " ".join(flags)
