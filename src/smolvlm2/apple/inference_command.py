"""``python mlx/test_inference.py``: one answer, streamed."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from smolvlm2.apple.commands import question, run_command
from smolvlm2.apple.drawn_samples import draw_shape
from smolvlm2.apple.packages import require_mlx
from smolvlm2.apple.published import MODEL_SIZES, choose_model
from smolvlm2.errors import ConfigError

LOCAL = "python mlx/test_inference.py --model FOLDER --image photo.jpg"


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    return run_command(lambda: _run(_parse(arguments)))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="mlx/test_inference.py", description="Ask a SmolVLM2 a question, with MLX."
    )
    parser.add_argument(
        "--model-size",
        choices=MODEL_SIZES,
        help="a published model, from the hub (with --image or --video: 256m)",
    )
    parser.add_argument("--model", metavar="PATH", help="run, checkpoint folder or hub id")
    parser.add_argument("--adapters", type=Path, metavar="FOLDER", help="of mlx/lora_finetune.py")
    parser.add_argument("--image", type=Path, action="append", default=[], help="repeatable")
    parser.add_argument("--video", type=Path, action="append", default=[], help="repeatable")
    parser.add_argument("--prompt", default="Describe this.")
    parser.add_argument("--quantize", type=int, choices=(4, 8), help="bits of the text decoder")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="as stored")
    parser.add_argument("--max-tokens", type=int, default=256, help="of the answer")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 takes the likeliest")
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


def _run(options: argparse.Namespace) -> None:
    if options.max_tokens < 1 or options.temperature < 0 or not 0 < options.top_p <= 1:
        raise ConfigError(
            f"--max-tokens {options.max_tokens}, --temperature {options.temperature} and --top-p "
            f"{options.top_p}: expected at least 1, at least 0, and above 0 up to 1"
        )
    messages = question(options.prompt, options.image, options.video)
    # The specification asks about an image without naming a model.
    default = "256m" if options.image or options.video else None
    name = choose_model(options.model, options.model_size, command=LOCAL, default=default)
    if default is None:
        picture = draw_shape("circle", "red", np.random.default_rng(0), 256)
        messages[0]["content"].insert(0, {"type": "image", "image": picture})
        print("no --image or --video: asking about a drawn red circle", file=sys.stderr)
    require_mlx()
    import mlx.core as mx

    from smolvlm2.apple import adapters
    from smolvlm2.apple.checkpoint import load
    from smolvlm2.apple.generation import Answer

    started = time.perf_counter()
    checkpoint = load(name, quantize=options.quantize, dtype=options.dtype)
    if options.adapters is not None:
        adapters.attach(checkpoint.model, options.adapters)
    loaded = time.perf_counter() - started
    mx.reset_peak_memory()
    answer = Answer(
        checkpoint,
        messages,
        max_new_tokens=options.max_tokens,
        temperature=options.temperature,
        top_p=options.top_p,
        seed=options.seed,
    )
    for piece in answer:
        print(piece, end="", flush=True)
    print()
    print(
        f"{answer.tiles} tiles, {answer.prompt_tokens} prompt tokens, {len(answer.tokens)} new; "
        f"loaded in {loaded:.1f} s, answered in {answer.seconds:.1f} s, peak memory "
        f"{mx.get_peak_memory() / 1e9:.2f} GB on {mx.default_device()}",
        file=sys.stderr,
    )
