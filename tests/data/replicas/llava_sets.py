"""Miniatures of the sets with LLaVA's JSON and archives or folders of media."""

import io
import json
from pathlib import Path

from PIL import Image

from smolvlm2.data.sources.llava import LlavaOneVisionJson, LlavaVideo, M4Instruct
from smolvlm2.data.sources.mammoth import MammothVL
from smolvlm2.data.sources.video_star import VideoStar
from smolvlm2.data.sources.vista import Vista

from . import media
from .media import clip, picture
from .replica import Replica, talk, write_bytes, write_json, write_tar, write_zip


def _row(name, *texts, **fields) -> dict:
    return {"id": name, "conversations": talk(*texts)} | fields


def _write_mammoth(raw: Path) -> None:
    ask = "<image>\nWhat is it?"
    rows = [
        _row("si-1", ask, "Step 1 ... A cat.", image="s/a.png"),
        _row("si-2", ask, "A dog.", image=["s/b.png"]),
        _row("si-3", ask, "It is gone.", image="s/gone.png"),
        _row("si-4", "<image><image>\nq", "a", image="s/a.png"),
        _row("si-5", ask, "a", image="../s/a.png"),
        _row("si-6", ask, "a", image="s/clip.png"),
        _row("si-7", ask, None, image="s/a.png"),
        _row("si-1", ask, "Step 1 ... A cat.", image="s/a.png"),
        _row("si-8", "No picture?", "None."),
    ]
    # A row that is no JSON does not take its neighbours down.
    lines = [json.dumps(row) for row in rows]
    lines.insert(5, '{"id": "si-0", "conversations": [1 2]}')
    write_bytes(raw / "mammoth_si_10M.json", ("[" + ",\n".join(lines) + "]").encode())
    shard = {"s/a.png": picture(1), "s/b.png": picture(2), "s/clip.png": clip(1)}
    write_tar(raw / "single_image_data" / "shard_0.tar.gz", shard)
    rows = [
        _row("ov-1", "<image>\n<image>\nMoved?", "The vase.", image=["mi/a.png", "mi/b.png"]),
        _row("ov-2", "<video>\nWhat happens?", "It brightens.", video="v/1.mp4"),
        _row("ov-3", "<video>\nq", "a", video="v/broken.mp4"),
        _row("ov-4", "<image>\nq", "a", image={"path": "mi/a.png"}),
    ]
    write_json(raw / "mammoth_ov_2M.json", rows)
    write_tar(raw / "multi_image_data" / "shard_1.tar.gz", {f"mi/{n}.png": picture(i) for i, n in
                                                             enumerate("ab", start=3)})  # fmt: skip
    clips = {"v/1.mp4": clip(2), "v/broken.mp4": media.ends_early()}
    write_tar(raw / "video_data" / "shard_0.tar.gz", clips)


MAMMOTH_REPLICA = Replica(
    adapter=MammothVL(source="mammoth_vl", licence="apache-2.0"),
    folder="MAmmoTH-VL__MAmmoTH-VL-Instruct-12M",
    write=_write_mammoth,
    kept={
        "multi_image": ["multi_image/ov-1"],
        "video": ["video/ov-2"],
        "image": ["image/si-1", "image/si-2"],
        "text": ["text/si-8"],
    },
    left_out={
        "mammoth_ov_2M.json": [(2, "corrupt_media"), (3, "unreadable_record")],
        "mammoth_si_10M.json": [
            (2, "missing_media"), (3, "placeholder_mismatch"), (4, "unsafe_path"),
            (5, "unreadable_record"), (6, "unsupported_media"), (7, "empty_answer"),
            (8, "duplicate"),
        ],
    },
)  # fmt: skip


def _m4_row(number, images, *texts, dataset="HQ-Edit", split="train", first="human") -> dict:
    metadata = {"dataset": dataset, "split": split, "question_type": "open-ended"}
    return {
        "sample_id": number,
        "conversations": talk(*texts, first=first),
        "image": images,
        "choice_list": None,
        "metadata": metadata,
    }


def _write_m4(raw: Path) -> None:
    a, b = "HQ-Edit/images/1.png", "HQ-Edit/images/2.png"
    two = "Before: <image> After: <image> What was edited?"
    rows = [
        _m4_row(1, [a, b], two, "The sky was made red."),
        _m4_row(2, [b, a], two, "I'm sorry, but I cannot see images."),
        _m4_row(3, [a, b], "<image><image> Reply?", "Nice!", dataset="twitter_post", first="gpt"),
        _m4_row(4, [a], two, "x"),
        _m4_row(5, [a, b], two, "x", split="test"),
        _m4_row(6, [a, b], two, ""),
        _m4_row(1, [a, b], two, "The sky was made red."),
        _m4_row(7, [a, "HQ-Edit/images/gone.png"], two, "x"),
        _m4_row(8, ["nuscenes/cam/1.png", "nuscenes/cam/2.png"], two, "Cars.", dataset="nuscenes"),
        _m4_row(9, [a, b], "<image> q", "x", "<image> <image>", "y"),
        _m4_row(10, [a, b], "x", first="gpt"),
        _m4_row(11, [a, "/etc/hostname"], two, "x"),
    ]
    write_json(raw / "m4_instruct_annotations.json", rows)
    write_json(raw / "m4_instruct_video.json", [_m4_row(1, [], "q", "a")])
    write_zip(raw / "HQ-Edit.zip", {a: picture(1), b: picture(2), "../evil.png": picture(9)})
    # Packed with one more folder than the rows say.
    extra = {f"release/nuscenes/cam/{n}.png": picture(n) for n in (1, 2)}
    write_zip(raw / "nuscenes.zip", extra, stored=False)


M4_REPLICA = Replica(
    adapter=M4Instruct(source="m4_instruct", licence="CC-BY-4.0"),
    folder="lmms-lab__M4-Instruct-Data",
    write=_write_m4,
    kept={
        "HQ-Edit": ["HQ-Edit/1", "HQ-Edit/2"],
        "twitter_post": ["twitter_post/3"],
        "nuscenes": ["nuscenes/8"],
    },
    left_out={
        "m4_instruct_annotations.json": [
            (3, "placeholder_mismatch"), (4, "non_train_split"), (5, "empty_answer"),
            (6, "duplicate"), (7, "missing_media"), (9, "placeholder_mismatch"),
            (10, "bad_role_order"), (11, "unsafe_path"),
        ]
    },
    others=[("HQ-Edit.zip", "../evil.png", "unsafe_path")],
    not_planned=frozenset({"HQ-Edit/2"}),
    repairs={"swapped_roles": 1},
)  # fmt: skip


def frame(number: int) -> bytes:
    """One frame of LLaVA-Hound."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(picture(number))).save(buffer, "JPEG")
    return buffer.getvalue()


def _write_llava_video(raw: Path) -> None:
    config = "0_30_s_academic_v0_1"

    def row(name, video, *texts, **fields):
        return _row(name, *texts, data_source=config, video=video) | fields

    captions = [
        row("v1", "academic_source/demo/v1.mp4", "<image>\nDescribe it.", "It gets brighter."),
        row("v2", "academic_source/demo/turned.mp4", "<image>\nDescribe it.", "On its side."),
        row("v3", "academic_source/demo/gone.mp4", "<image>\nDescribe it.", "Nothing."),
        row("v4", "academic_source/demo/sound.mp4", "<image>\nDescribe it.", "Silence."),
    ]
    write_json(raw / config / f"{config}_cap_processed.json", captions)
    choices = "Which?\nA. salt\nB. oil\nPlease respond with only the letter of the correct answer."
    questions = [
        row("v1", "academic_source/demo/v1.mp4", f"<image>\n{choices}", "A.", "Sure?", "Yes."),
        {k: v for k, v in row("", "academic_source/demo/uneven.mp4", "<video>\nq", "a").items()
         if k != "id"},
        row("v5", "academic_source/demo/v1.mp4", "<image>\n<image>\nq", "a"),
        row("v6", "/data/v1.mp4", "<image>\nq", "a"),
        row("v7", "academic_source/demo/cut.mp4", "<image>\nq", "a"),
        row("v8", "academic_source/demo/still.mp4", "<image>\nq", "a"),
        row("v9", None, "<image>\nq", "a"),
    ]  # fmt: skip
    name = config.replace("academic_v0_1", "academic_mc_v0_1_qa")
    write_json(raw / config / f"{name}_processed.json", questions)
    folder = "academic_source/demo"
    first = {f"{folder}/v1.mp4": clip(1), f"{folder}/turned.mp4": clip(2, turn=90)}
    second = {
        f"{folder}/uneven.mp4": clip(3, frames=6, times_ms=(0, 100, 1000, 1100, 1900, 2000)),
        f"{folder}/sound.mp4": media.sound_only(),
        f"{folder}/cut.mp4": media.ends_early(),
        f"{folder}/still.mp4": picture(1),
    }
    write_tar(raw / config / f"{config}_videos_1.tar.gz", first)
    write_tar(raw / config / f"{config}_videos_2.tar.gz", second)
    hound = [
        _row("h1", "<video>\nWhat?", "Noise.", video="x-Scene-001"),
        _row("h2", "<video>\nWhat?", "Noise.", video="lost-Scene-001"),
        _row("h3", "<video>\nWhat?", "Loose.", video="train_300k/y-Scene-002"),
    ]
    write_json(raw / "llava_hound" / "sharegptvideo_qa_255k_processed.json", hound)
    frames = {f"x-Scene-001/c01_{n:04d}.jpeg": frame(n) for n in range(1, 12)}
    write_tar(raw / "llava_hound" / "train_300k" / "chunk_0.tar.gz", frames)
    for number in (2, 10, 1):
        path = raw / "llava_hound" / "train_300k" / "y-Scene-002" / f"{number}.jpeg"
        write_bytes(path, frame(20 + number))


_CONFIG = "0_30_s_academic_v0_1"
LLAVA_VIDEO_REPLICA = Replica(
    adapter=LlavaVideo(source="llava_video_178k", licence="Apache-2.0"),
    folder="lmms-lab__LLaVA-Video-178K",
    write=_write_llava_video,
    kept={
        f"{_CONFIG}_cap": [f"{_CONFIG}_cap/v1", f"{_CONFIG}_cap/v2"],
        "0_30_s_academic_mc_v0_1_qa": [
            "0_30_s_academic_mc_v0_1_qa/v1",
            f"{_CONFIG}/0_30_s_academic_mc_v0_1_qa_processed:1",
        ],
        "sharegptvideo_qa_255k": ["sharegptvideo_qa_255k/h1", "sharegptvideo_qa_255k/h3"],
    },
    left_out={
        f"{_CONFIG}/{_CONFIG}_cap_processed.json": [(2, "missing_media"), (3, "corrupt_media")],
        f"{_CONFIG}/0_30_s_academic_mc_v0_1_qa_processed.json": [
            (2, "placeholder_mismatch"), (3, "unsafe_path"), (4, "corrupt_media"),
            (5, "unsupported_media"), (6, "missing_media"),
        ],
        "llava_hound/sharegptvideo_qa_255k_processed.json": [(1, "missing_media")],
    },
)  # fmt: skip


def _write_video_star(raw: Path) -> None:
    ask = "<video>\nWhat is done?"
    rows = [
        _row("k1", ask, "Juggling.", video="Kinetics700/abc_000017_000027.mp4"),
        _row("k2", ask, "Running.", video="rotten_000001_000011.mp4"),
        _row("k3", "<video> <video>", "a", video="abc_000017_000027.mp4"),
        _row("k4", ask, " ", video="abc_000017_000027.mp4"),
        _row("k5", ask, "a", video="broken_000001_000011.mp4"),
        _row(None, ask, "a"),
        _row("k7", ask, "a", video="/data/abc_000017_000027.mp4"),
        {"id": "k8", "conversations": talk("a", first="gpt"), "video": "abc_000017_000027.mp4"},
    ]
    write_json(raw / "ft_json" / "kinetics700_tune_.json", rows)
    write_bytes(raw / "Kinetics700" / "abc_000017_000027.mp4", clip(1))
    write_bytes(raw / "Kinetics700" / "broken_000001_000011.mp4", media.ends_early())
    # An object of records.
    records = {
        "a": _row("17_8", "What score?", "Nine.", video="17_8.mp4"),
        "b": _row("17_9", "What score?", "Eight.", video_path="FineDiving/17_9.mp4"),
    }
    write_json(raw / "ft_json" / "finediving_tune_.json", records)
    write_tar(raw / "FineDiving" / "clips.tar", {"17_8.mp4": clip(2), "17_9.mp4": clip(3)})
    # None of this subset's clips was brought.
    rows = [_row(f"s{n}", ask, "a", video=f"{n}.mp4") for n in range(2)]
    write_json(raw / "ft_json" / "starb_tune_.json", rows)


VIDEO_STAR_REPLICA = Replica(
    adapter=VideoStar(source="video_star", licence="apache-2.0"),
    folder="orrzohar__Video-STaR",
    write=_write_video_star,
    kept={
        "finediving": ["finediving/17_8", "finediving/17_9"],
        "kinetics700": ["kinetics700/k1"],
    },
    left_out={
        "ft_json/kinetics700_tune_.json": [
            (1, "missing_media"), (2, "placeholder_mismatch"), (3, "empty_answer"),
            (4, "corrupt_media"), (5, "missing_media"), (6, "unsafe_path"), (7, "bad_role_order"),
        ],
        "ft_json/starb_tune_.json": [(0, "missing_media"), (1, "missing_media")],
    },
)  # fmt: skip


def _write_vista(raw: Path) -> None:
    rows = [
        _row("c1", "<video>\nDescribe.", "Long.", image="a_19_17to138.mp4"),
        _row("c2", "Describe.", "No marker.", image="b_0_1to2.mp4"),
        _row("c3", "<video>\nDescribe.", "Other key.", video="b_0_1to2.mp4"),
        _row("c4", "<video>\nDescribe.", "x", image="gone_0_1to2.mp4"),
        _row("c5", "<video>\n<video>\nDescribe.", "x", image="b_0_1to2.mp4"),
        _row("c6", "<video>\nDescribe.", "x", image="still.mp4"),
        _row("c7", image="b_0_1to2.mp4"),
        _row("c8", "<video>\nDescribe.", "x"),
        _row("c1", "<video>\nDescribe.", "Long.", image="a_19_17to138.mp4"),
    ]
    name = "long_video_caption"
    write_json(raw / name / f"{name}.json", rows)
    clips = {"a_19_17to138.mp4": clip(1), "b_0_1to2.mp4": clip(2), "still.mp4": picture(1)}
    write_tar(raw / name / f"{name}_1.tar", clips)
    # Annotations and folder disagree on the spelling.
    rows = [_row("n1", "<video>\nWhere?\nA. left", "A", image="grid.mp4")]
    write_json(raw / "spatialtemporal_niah_mcq.json", rows)
    write_tar(raw / "spatiotemporal_niah_mcq" / "spatiotemporal_niah_mcq_1.tar",
              {"./grid.mp4": clip(3)})  # fmt: skip


VISTA_REPLICA = Replica(
    adapter=Vista(source="vista_400k", licence="MIT"),
    folder="TIGER-Lab__VISTA-400K",
    write=_write_vista,
    kept={
        "long_video_caption": [f"long_video_caption/c{n}" for n in (1, 2, 3)],
        "spatialtemporal_niah_mcq": ["spatialtemporal_niah_mcq/n1"],
    },
    left_out={
        "long_video_caption/long_video_caption.json": [
            (3, "missing_media"), (4, "placeholder_mismatch"), (5, "unsupported_media"),
            (6, "no_conversation"), (7, "missing_media"), (8, "duplicate"),
        ]
    },
)  # fmt: skip


def _write_onevision_json(raw: Path) -> None:
    rows = [
        _row("k1", "<image>\nq", "a", image="a.png"),
        _row("k2", "<image>\nq", "a", image="ureader_kg/b.png"),
        _row("k3", "<image>\nq", "a", image="gone.png"),
    ]
    write_json(raw / "ureader_kg" / "ureader_kg.json", rows)
    write_zip(
        raw / "ureader_kg" / "images.zip", {"a.png": picture(1), "ureader_kg/b.png": picture(2)}
    )


ONEVISION_JSON_REPLICA = Replica(
    adapter=LlavaOneVisionJson(source="llava_onevision_json", licence="apache-2.0"),
    folder="lmms-lab__LLaVA-OneVision-Data",
    write=_write_onevision_json,
    kept={"ureader_kg": ["ureader_kg/k1", "ureader_kg/k2"]},
    left_out={"ureader_kg/ureader_kg.json": [(2, "missing_media")]},
)
