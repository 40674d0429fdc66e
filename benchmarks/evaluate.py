"""Our runner against the usual loop: 200 multiple-choice questions about 60 generated clips.

    OMP_NUM_THREADS=1 python benchmarks/evaluate.py [--questions 200] [--videos 60]

The loop is what VLMEvalKit does: one question at a time, its clip decoded for it, transformers'
``generate`` at batch 1. Both read the same files, make the same prompts by the same processor and
load the same tiny checkpoint, so the answers must be equal, or the run fails. One run each, wall
clock, on a CPU.
"""

import argparse
import io
import json
import tempfile
import time
import zipfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from smolvlm2.evaluation.backends import NativeBackend
from smolvlm2.evaluation.benchmark import load_benchmark
from smolvlm2.evaluation.published_files import find_questions
from smolvlm2.evaluation.runner import rescore, run_benchmark
from smolvlm2.evaluation.transformers_models import load_transformers
from smolvlm2.model.config import SmolVLMConfig, TextConfig, VisionConfig
from smolvlm2.model.smolvlm import SmolVLM
from smolvlm2.processing.processor import Processor
from smolvlm2.processing.tokenizer import extend_for_images
from smolvlm2.processing.tokenizer_training import train_base_tokenizer
from smolvlm2.processing.video import VideoSettings

SIZE, FPS, SECONDS = (320, 240), 25, 12
"""Of a clip: width and height in pixels, frames a second, seconds."""
FRAMES = 8
"""Shown of each clip."""
NAME = "video_mme"
TEXTS = [
    "User: Assistant: What moves in part 0? A. red B. green C. blue D. nothing",
    "You are provided the following series of eight frames from a 0:00:12 [H:MM:SS] video.\n",
    "\nFrame from 00:01:\nFrame from 00:11:\n\n",
    "\nAnswer with the option's letter from the given choices directly.",
]
"""Words of the prompts, so that they are whole tokens, as they are for a real model."""


def clip(seed: int) -> bytes:
    """Moving noise, H.264: as dear to decode as film of that size."""
    rng = np.random.default_rng(seed)
    still = rng.integers(0, 255, (SIZE[1] // 8, SIZE[0] // 8, 3), dtype=np.uint8)
    still = still.repeat(8, axis=0).repeat(8, axis=1)
    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        stream.time_base = Fraction(1, FPS)
        for number in range(SECONDS * FPS):
            picture = np.roll(still, 3 * number, axis=1)
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    return target.getvalue()


def write_data(root: Path, questions: int, videos: int) -> None:
    """A benchmark in Video-MME's layout, clips unpacked."""
    (root / "videomme").mkdir(parents=True)
    rows = [
        {
            "question_id": f"{number}",
            "videoID": f"v{number % videos:03d}",
            "question": f"What moves in part {number}?",
            "options": ["A. red", "B. green", "C. blue", "D. nothing"],
            "answer": "ABCD"[number % 4],
            **dict.fromkeys(("duration", "domain", "sub_category", "task_type"), "x"),
        }
        for number in range(questions)
    ]
    pq.write_table(pa.Table.from_pylist(rows), root / "videomme/test.parquet")
    with zipfile.ZipFile(root / "unpacked.zip", "w") as archive:
        for number in range(videos):
            archive.writestr(f"data/v{number:03d}.mp4", clip(number))
    with zipfile.ZipFile(root / "unpacked.zip") as archive:
        archive.extractall(root)
    (root / "unpacked.zip").unlink()


def write_checkpoint(folder: Path) -> None:
    """A tiny model with random weights."""
    train_base_tokenizer(TEXTS * 4, folder / "base", vocab_size=600)
    tokenizer = extend_for_images(folder / "base")
    special = tokenizer.special
    config = SmolVLMConfig(
        vision=VisionConfig(
            hidden_size=96,
            intermediate_size=288,
            num_hidden_layers=4,
            num_attention_heads=3,
            image_size=64,
            patch_size=8,
        ),
        text=TextConfig(
            hidden_size=128,
            intermediate_size=320,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            vocab_size=tokenizer.vocab_size,
            max_position_embeddings=2048,
        ),
        scale_factor=4,
        image_token_id=special.image,
        eos_token_id=special.end_of_utterance,
        pad_token_id=special.pad,
        bos_token_id=special.bos,
    )
    SmolVLM.from_random(config, seed=0).save_pretrained(folder)
    video = VideoSettings(max_frames=FRAMES, backend="pyav")
    Processor.for_model(config, tokenizer, video=video).save_pretrained(folder)


Side = tuple[float, float, dict[str, str]]
"""Seconds of wall clock, of processors, and the answers by question."""


def usual_loop(checkpoint: Path, data: Path) -> Side:
    """The loop at batch 1; loading is not counted."""
    theirs, processor = load_transformers(str(checkpoint), dtype="float32")
    benchmark = load_benchmark(NAME)
    backend = NativeBackend(model=theirs, processor=processor, benchmark=benchmark)
    answers = {}
    start, used = time.perf_counter(), time.process_time()
    for question in find_questions(benchmark, data):
        media = [backend.decode(medium) for medium in question.media]
        (reply,) = backend.answer([backend.ask(question, media)])
        answers[question.question_id] = reply.text
    return time.perf_counter() - start, time.process_time() - used, answers


def our_runner(checkpoint: Path, data: Path, log: Path) -> Side:
    """The runner; loading is not counted."""
    benchmark = load_benchmark(NAME)
    backend = NativeBackend(
        model=SmolVLM.from_pretrained(checkpoint),
        processor=Processor.from_pretrained(checkpoint),
        benchmark=benchmark,
    )
    start, used = time.perf_counter(), time.process_time()
    run_benchmark(backend, benchmark, data, answers_path=log, batch_size=32)
    seconds, used = time.perf_counter() - start, time.process_time() - used
    rescore(benchmark, data, log)  # the log is whole
    lines = (json.loads(line) for line in log.read_text().splitlines()[1:])
    return seconds, used, {line["question_id"]: line["prediction"] for line in lines}


def main() -> None:
    """Print a table and one line of JSON; keep the result with versions and hardware."""
    from results_file import record
    from transformers.utils import logging

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--videos", type=int, default=60)
    options = parser.parse_args()
    logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_data(root / "data", options.questions, options.videos)
        write_checkpoint(root / "model")
        ours, our_cpu, answers = our_runner(root / "model", root / "data", root / "answers.jsonl")
        theirs, their_cpu, expected = usual_loop(root / "model", root / "data")
    different = [key for key in expected if answers[key] != expected[key]]
    if different:
        raise SystemExit(f"{len(different)} answers differ, first of question {different[0]}")
    rows: dict[str, Any] = {
        "loop_questions_per_s": round(options.questions / theirs, 2),
        "runner_questions_per_s": round(options.questions / ours, 2),
        "speedup": round(theirs / ours, 2),
        # What is left of it where no second core is free for decoding.
        "processor_time_speedup": round(their_cpu / our_cpu, 2),
    }
    print("\n".join(f"{name:>24} {value:8}" for name, value in rows.items()))
    payload = {
        "questions": options.questions,
        "videos": options.videos,
        "clip": f"{SIZE[0]}x{SIZE[1]}, {SECONDS} s at {FPS} fps, {FRAMES} frames shown",
        "threads": torch.get_num_threads(),
        "distinct_answers": len(set(expected.values())),
        **rows,
    }
    print(json.dumps(record("evaluate", payload)))


if __name__ == "__main__":
    main()
