"""Run the three commands of `mlx/` on what `make demo` left, and compare what comes out.

The LoRA loss must fall, reloaded adapters must give the same bits, and the fused model must have
equal logits in transformers.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).parent.parent
DEMO = REPO / "runs" / "demo"
MEDIA = DEMO / "data" / "held_out" / "media"
LORA, FUSED = DEMO / "lora", DEMO / "fused"
BASE = DEMO / "vision_stage"
"""Has seen no clip, so that there is something to learn."""
ITERS = 60


def run(*arguments: object) -> str:
    """Run a Python script in the clone; its output."""
    command = [sys.executable, *map(str, arguments)]
    shown = " ".join(str(item) for item in arguments if "\n" not in str(item))
    print(f"$ python {shown}", flush=True)
    done = subprocess.run(command, cwd=REPO, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{done.stdout}\nerror: exit status {done.returncode}")
    return done.stdout


def compare() -> None:
    """Logits of the base with its adapters: twice here, and fused in transformers."""
    import mlx.core as mx
    import numpy as np
    import torch
    import transformers

    from smolvlm2.apple import adapters, checkpoint

    ids = [[1, 5, 9, 33, 7, 21, 40, 2]]

    def logits(*, adapted: bool) -> np.ndarray:
        model = checkpoint.load(str(BASE), dtype="float32").model
        if adapted:
            adapters.attach(model, LORA)
        return np.array(model(mx.array(ids), None).logits)

    plain, ours, again = logits(adapted=False), logits(adapted=True), logits(adapted=True)
    load = transformers.AutoModelForImageTextToText.from_pretrained
    with torch.no_grad():
        theirs = load(FUSED, dtype=torch.float32).eval()(input_ids=torch.tensor(ids)).logits.numpy()
    apart, moved = np.abs(theirs - ours).max(), np.abs(ours - plain).max()
    print(f"adapters move logits by {moved:.2f}; transformers is apart from them by {apart:.1e}")
    if not (ours == again).all():
        sys.exit("error: reloaded adapters give other bits")
    if moved < 0.1 or apart > 1e-3:
        sys.exit("error: the fused model is not the base with its adapters")


def main() -> None:
    """Run everything; a failed promise ends with its reason."""
    for folder in (LORA, FUSED):
        shutil.rmtree(folder, ignore_errors=True)
    run("mlx/test_data_loading.py", "--data", DEMO / "data", "--model", BASE, "--limit", 50)
    lora = ("--model", BASE, "--data", DEMO / "data", "--batch-size", 4, "--learning-rate", 1e-3)
    run("mlx/lora_finetune.py", *lora, "--iters", ITERS, "--output", LORA, "--fuse", FUSED)
    lines = [json.loads(line) for line in (LORA / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines]
    first, last = sum(losses[:15]) / 15, sum(losses[-15:]) / 15
    print(f"LoRA: {len(losses)} steps, loss {first:.3f} at first, {last:.3f} at last")
    if len(losses) != ITERS or last > 0.9 * first:
        sys.exit("error: the loss of the LoRA run does not fall")
    compare()
    image = ("--image", MEDIA / "which_digit/00000_0.png", "--prompt", "Which digit is this?")
    clip = (
        "--video",
        MEDIA / "which_way/00000_0.mp4",
        "--prompt",
        "Which way does the digit move?",
    )
    asked = (
        ("--model", FUSED, *image),
        ("--model", BASE, "--adapters", LORA, *image),
        ("--model", DEMO / "video_stage", *clip),
    )
    for arguments in asked:
        print(run("mlx/test_inference.py", *arguments, "--max-tokens", 8).strip())


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
