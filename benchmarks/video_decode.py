"""Frames of H.264 clips at one a second, on one core: ours against decord and a full decode.

    OMP_NUM_THREADS=1 python benchmarks/video_decode.py

Figures are wanted frames a second of CPU time, one thread, medians of interleaved rounds. `decode`
is from a file to RGB pixels; `tiles` goes on to the 512 px tiles of the model, with PIL
(`exact`) and torch (`fast`). `sequential` decodes every frame and keeps those wanted. decord
is left out where it is not installed. The pixels of all PyAV sides are compared first.
"""

import importlib.util
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image

from smolvlm2.processing.video import VideoSettings, read_video, sample_frames
from smolvlm2.processing.video_decoding import Deadline, decode_frames
from smolvlm2.processing.video_index import index_video

WIDTH, HEIGHT, FPS, TILE = 640, 360, 25, 512
CLIPS = [(10, 250), (10, 25), (120, 250)]
"""Seconds, and frames from one key frame to the next; x264's default is 250."""
ROUNDS = 3
SETTINGS = VideoSettings(max_frames=120, fps=1.0, backend="pyav")


def write_clip(path: Path, seconds: int, gop: int) -> None:
    """A textured picture that moves, with grain."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (125, 160, 3), dtype=np.uint8)
    texture = Image.fromarray(coarse).resize((1280, 1000), Image.Resampling.BICUBIC)
    picture = np.asarray(texture).astype(np.int16)
    grain = rng.integers(-4, 5, (8, HEIGHT, WIDTH, 1), dtype=np.int16)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.options = {"preset": "veryfast", "g": str(gop), "crf": "23"}
        for number in range(seconds * FPS):
            x, y = (int(150 + 150 * wave(number / 40)) for wave in (np.sin, np.cos))
            cut = picture[y : y + HEIGHT, x : x + WIDTH] + grain[number % len(grain)]
            frame = av.VideoFrame.from_ndarray(cut.clip(0, 255).astype(np.uint8), format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def wanted_frames(path: Path) -> np.ndarray:
    """Numbers of the frames that the recipe looks at."""
    info = index_video(path).info
    return sample_frames(info.num_frames, info.fps, info.duration, SETTINGS)


def ours(path: Path) -> list[np.ndarray]:
    """Index, choose, decode."""
    index = index_video(path)
    chosen = sample_frames(index.info.num_frames, index.info.fps, index.info.duration, SETTINGS)
    frames = decode_frames(path, index, chosen, "pyav", Deadline.of(path, 600))
    return [np.asarray(frame) for frame in frames]


def sequential(path: Path) -> list[np.ndarray]:
    """Every frame decoded, those wanted kept."""
    wanted = set(wanted_frames(path).tolist())
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        context.thread_type, context.thread_count = "SLICE", 1
        return [
            frame.to_ndarray(format="rgb24")
            for number, frame in enumerate(container.decode(video=0))
            if number in wanted
        ]


def decord(path: Path) -> list[np.ndarray]:
    """decord's batch of frames, one thread."""
    from decord import VideoReader

    frames = VideoReader(str(path), num_threads=1).get_batch(wanted_frames(path).tolist())
    return list(frames.asnumpy())


def tiles(resample: str) -> Callable[[Path], np.ndarray]:
    """The whole way to tiles."""
    return lambda path: read_video(path, TILE, SETTINGS, resample=resample).tiles


def measure(path: Path, seconds: int, gop: int) -> dict[str, float | int | None]:
    """Wanted frames a second of CPU time for each side, and ratios."""
    sides: dict[str, Callable[[Path], object]] = {"decode": ours, "sequential": sequential}
    if importlib.util.find_spec("decord"):
        sides["decord"] = decord
    sides |= {"exact_tiles": tiles("exact"), "fast_tiles": tiles("fast")}
    if not all(np.array_equal(*pair) for pair in zip(ours(path), sequential(path), strict=True)):
        raise SystemExit(f"{seconds} s: our frames differ from those of a full decode")
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(ROUNDS):
        for name, run in sides.items():
            start = time.process_time()
            run(path)
            times[name].append(time.process_time() - start)
    frames = len(wanted_frames(path))
    rate = {name: frames / statistics.median(values) for name, values in times.items()}
    return {
        "seconds": seconds,
        "gop": gop,
        "frames": frames,
        **{f"{name}_per_s": round(value, 1) for name, value in rate.items()},
        "of_sequential": round(rate["decode"] / rate["sequential"], 2),
        "of_decord": round(rate["decode"] / rate["decord"], 2) if "decord" in rate else None,
        "fast_of_exact": round(rate["fast_tiles"] / rate["exact_tiles"], 2),
    }


def main() -> None:
    """Print a table and one line of JSON; keep the result with versions and hardware."""
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for seconds, gop in CLIPS:
            path = Path(folder) / f"{seconds}-{gop}.mp4"
            write_clip(path, seconds, gop)
            rows.append(measure(path, seconds, gop))
            print("  ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
    size = f"{WIDTH}x{HEIGHT}"
    payload = {"size": size, "fps": FPS, "tile": TILE, "rounds": ROUNDS, "clips": rows}
    from results_file import record

    print(json.dumps(record("video_decode", payload)))


if __name__ == "__main__":
    main()
