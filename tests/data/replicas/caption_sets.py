"""Miniatures of the sets that describe clips."""

import json
from pathlib import Path

from smolvlm2.data.sources.moviechat import MovieChat
from smolvlm2.data.sources.sharegpt4video import ShareGPT4Video
from smolvlm2.data.sources.vript import Vript

from . import media
from .media import clip, picture
from .replica import Replica, write_bytes, write_json, write_lines, write_zip

_CAPTIONS = "vript_captions/vript_{}_videos_captions"


def _script(video: str, captions: dict[int, str | None], integrity: bool = True) -> dict:
    data = {}
    for scene, content in captions.items():
        name = f"{video}-Scene-{scene:03d}"
        caption = None if content is None else {
            "shot_type": "Wide", "camera_movement": "Static", "content": content,
            "scene_title": "Title",
        }  # fmt: skip
        data[name] = {"video_id": video, "clip_id": name, "caption": caption, "voiceover": ["Hi"]}
    meta = {"video_id": video, "num_clips": 9, "integrity": integrity}
    return {"meta": meta, "data": data}


def _write_vript(raw: Path) -> None:
    long = {
        "abc": _script("abc", {1: "A man waters plants.", 2: "He leaves.", 4: "Night."}),
        # Clips without caption, without file, and with a file that cannot be used.
        "def": _script("def", {1: None, 2: "Dusk.", 3: " ", 5: "A still.", 6: "Broken."}, False),
        "ghi": _script("ghi", {}),
    }
    files = {f"{name}_caption.json": json.dumps(value).encode() for name, value in long.items()}
    files["jkl_caption.json"] = b'{"meta": {'
    write_zip(raw / f"{_CAPTIONS.format('long')}.zip", files, stored=False)
    short = _script("xyz", {1: "A cat jumps.", 2: "It is gone."})
    files = {"vript_short_videos_captions/xyz_caption.json": json.dumps(short).encode()}
    write_zip(raw / f"{_CAPTIONS.format('short')}.zip", files)
    write_json(raw / "vript_meta" / "vript_long_videos_meta.json", {"abc": {}})
    clips = {f"abc/abc-Scene-{n:03d}.mp4": clip(n) for n in (1, 2, 4)}
    notes = {"abc/abc_cut_meta.json": b"{}", "abc/abc_asr.jsonl": b"{}", "empty/": b""}
    folder = raw / "vript_long_videos_clips"
    write_zip(folder / "clips_1_of_1095.zip", {**clips, **notes})
    second = {
        "def/def-Scene-002.mp4": clip(12),
        "def/def-Scene-003.mp4": clip(13),
        "def/def-Scene-005.mp4": picture(1),
        "def/def-Scene-006.mp4": media.ends_early(),
    }
    write_zip(folder / "clips_2_of_1095.zip", second)
    write_zip(raw / "vript_short_videos_clips" / "shorts_clips_1_of_42.zip",
              {"shorts_clips_1_of_42/xyz/xyz-Scene-001.mp4": clip(21)})  # fmt: skip
    write_zip(raw / "vript_long_videos" / "video_1_of_1095.zip", {"abc.mp4": clip(30)})


VRIPT_REPLICA = Replica(
    adapter=Vript(source="vript", licence="academic use only"),
    folder="Mutonix__Vript",
    write=_write_vript,
    kept={
        "long": [f"long/abc-Scene-{n:03d}" for n in (1, 2, 4)] + ["long/def-Scene-002"],
        "short": ["short/xyz-Scene-001"],
    },
    left_out={
        f"{_CAPTIONS.format('long')}.zip": [
            (1, "no_caption"), (1, "no_caption"), (1, "unsupported_media"), (1, "corrupt_media"),
            (2, "no_caption"), (3, "unreadable_record"),
        ],
        f"{_CAPTIONS.format('short')}.zip": [(0, "missing_media")],
    },
)  # fmt: skip


def _film(name: str, caption: str | None, *questions, moments=(), fps: float | None = 8.0) -> dict:
    return {
        "info": {"video_path": f"{name}.mp4", "fps": fps},
        "caption": caption,
        "global": [{"question": q, "answer": a} for q, a in questions],
        "breakpoint": [{"time": t, "question": q, "answer": a} for t, q, a in moments],
    }


def _write_moviechat(raw: Path) -> None:
    day = ("Is it day?", "Yes")
    films = {
        "1": _film("1", "A corridor.", day, moments=[(4, "What is near?", "A wall"),
                                                     (800, "Later?", "No film left")]),
        "12": _film("12", "A desk.", day, moments=[(2, "Lamp?", "Yes")], fps=0),
        "179": _film("179", "The film is missing.", day, moments=[(1, "q", "a")]),
        "2": _film("2", "", day, moments=[(None, "When?", "Never")]),
        "3": _film("3", None),
        "4": _film("4", "Cannot be played."),
    }  # fmt: skip
    for name, film in films.items():
        write_json(raw / "jsons" / f"{name}.json", film)
    write_bytes(raw / "jsons" / "5.json", b"[1, 2]")
    for number, name in enumerate(("1", "12", "2", "3")):
        write_bytes(raw / "raw_videos" / f"{name}.mp4", clip(number))
    write_bytes(raw / "raw_videos" / "4.mp4", media.ends_early())


MOVIECHAT_REPLICA = Replica(
    adapter=MovieChat(source="moviechat", licence="unknown"),
    folder="Enxin__MovieChat-1K_train",
    write=_write_moviechat,
    kept={"descriptions": ["1", "12", "2"], "breakpoints": ["1/breakpoint-0"]},
    left_out={
        "jsons": [
            (0, "incomplete_record"), (1, "incomplete_record"), (2, "missing_media"),
            (2, "missing_media"), (3, "incomplete_record"), (4, "no_caption"),
            (5, "corrupt_media"), (6, "unreadable_record"),
        ]
    },
)  # fmt: skip


def _shared(name: str, origin: str, caption: str | None, **fields) -> dict:
    captions = [{"idx": "0", "content": "a segment"}]
    if caption is not None:
        captions.append({"idx": "-1", "content": caption})
    return {
        "video_id": name,
        "video_path": f"{origin}/{name}.mp4",
        "zip_folder": f"{origin}_videos_1.zip",
        "captions": captions,
    } | fields


def _write_sharegpt4video(raw: Path) -> None:
    lines = [
        _shared("p1", "panda", "A panda eats."),
        _shared("p2", "panda", "A panda sleeps."),
        _shared("b1", "bdd100k", "A car turns."),
        _shared("m1", "mixkit", "A wave breaks."),
        _shared("p3", "panda", None),
        _shared("p4", "panda", " "),
        _shared("p5", "panda", "The clip is missing."),
        _shared("p6", "panda", "Broken."),
        _shared("p1", "panda", "A panda eats."),
        '{"video_id": "p7", "captions": [',
        _shared("p8", "panda", "x", captions="none"),
        _shared("p9", "panda", "x", video_path="../panda/p1.mp4"),
    ]
    write_lines(raw / "sharegpt4video_40k.jsonl", lines)
    mix = "llava_v1_5_mix665k_with_video_chatgpt72k_share4video28k.json"
    write_json(raw / mix, [{"id": "not these"}])
    folder = raw / "zip_folder"
    pandas = {"p1.mp4": clip(1), "panda/p2.mp4": clip(2), "p6.mp4": media.ends_early()}
    write_zip(folder / "panda" / "panda_videos_1.zip", pandas)
    # Packed, and with the zip's name as a folder inside.
    cars = {"bdd100k_videos_1/b1.mp4": clip(3)}
    write_zip(folder / "bdd100k" / "bdd100k_videos_1.zip", cars, stored=False)
    write_zip(folder / "mixit" / "mixkit_videos_1.zip", {"m1.mp4": clip(4)})


SHAREGPT4VIDEO_REPLICA = Replica(
    adapter=ShareGPT4Video(source="sharegpt4video", licence="CC-BY-NC-4.0"),
    folder="ShareGPT4Video__ShareGPT4Video",
    write=_write_sharegpt4video,
    kept={
        "panda": ["panda/p1", "panda/p2"],
        "bdd100k": ["bdd100k/b1"],
        "mixit": ["mixit/m1"],
    },
    left_out={
        "sharegpt4video_40k.jsonl": [
            (4, "no_caption"), (5, "no_caption"), (6, "missing_media"), (7, "corrupt_media"),
            (8, "duplicate"), (9, "unreadable_record"), (10, "unreadable_record"),
            (11, "unsafe_path"),
        ]
    },
)  # fmt: skip
