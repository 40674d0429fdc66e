"""Miniatures of the sets whose media lie inside parquet."""

import json
from pathlib import Path

import pyarrow as pa

from smolvlm2.data.sources.cauldron import ImagesAndTexts
from smolvlm2.data.sources.finevideo import FineVideo
from smolvlm2.data.sources.llava import LlavaOneVision
from smolvlm2.data.sources.mathwriting import MathWriting

from . import media
from .media import picture
from .replica import (
    CAULDRON,
    IMAGE,
    ONEVISION,
    Replica,
    cauldron_row,
    talk,
    write_bytes,
    write_json,
    write_parquet,
    write_zip,
)


def _write_cauldron(raw: Path) -> None:
    good = cauldron_row(
        [picture(1)], ("How many chairs?\nKeep it brief.", "Four."), ("Lamp?", "No")
    )
    rows = [
        good,
        cauldron_row([picture(2), picture(3)], ("Which is <image> or <row_1_col_1>?", "<image>")),
        cauldron_row([picture(4)]),
        cauldron_row([picture(4)], ("q", ""), ("q", None)),
        good,
        cauldron_row([picture(5)], ("one\0", "a"), ("two", None)),
    ]
    write_parquet(raw / "vqav2" / "train-00000-of-00002.parquet", rows, CAULDRON)
    rows = [
        cauldron_row([b"no picture at all"], ("q", "a")),
        cauldron_row([picture(6, 210, 10)], ("q", "a")),
        cauldron_row([b"%PDF-1.7 and so on"], ("q", "a")),
        cauldron_row([picture(7), media.huge_png()], ("q", "a")),
        cauldron_row([picture(8)], ("q", "a")),
    ]
    write_parquet(raw / "vqav2" / "train-00001-of-00002.parquet", rows, CAULDRON)
    # Configs that do not load: paths on the publisher's disk, other columns, another file.
    dead = [cauldron_row([None], ("q", "a")), cauldron_row([None], ("p", "b"))]
    write_parquet(raw / "okvqa" / "train-00000-of-00001.parquet", dead, CAULDRON)
    other = pa.schema([("question", pa.string()), ("image_path", pa.string())])
    rows = [{"question": "q", "image_path": "/data/1.png"}] * 3
    write_parquet(raw / "clevr_math" / "train-00000-of-26433.parquet", rows, other)
    write_bytes(raw / "websight" / "train-00000-of-00001.parquet", b"version https://git-lfs")
    write_bytes(raw / ".cache" / "train-00000-of-00001.parquet", b"the hub client's own")
    write_bytes(raw / "README.md", b"# cards")


CAULDRON_REPLICA = Replica(
    adapter=ImagesAndTexts(source="the_cauldron", licence="by subset"),
    folder="HuggingFaceM4__the_cauldron",
    write=_write_cauldron,
    kept={
        "vqav2": [
            "vqav2/train-00000-of-00002:0",
            "vqav2/train-00000-of-00002:1",
            "vqav2/train-00000-of-00002:5",
            "vqav2/train-00001-of-00002:4",
        ]
    },
    left_out={
        "clevr_math/train-00000-of-26433.parquet": [(n, "unreadable_record") for n in range(3)],
        "okvqa/train-00000-of-00001.parquet": [(0, "missing_media"), (1, "missing_media")],
        "vqav2/train-00000-of-00002.parquet": [
            (2, "no_conversation"), (3, "empty_answer"), (4, "duplicate"),
        ],
        "vqav2/train-00001-of-00002.parquet": [
            (0, "corrupt_media"), (1, "bad_image_size"), (2, "unsupported_media"),
            (3, "bad_image_size"),
        ],
    },
    others=[("websight/train-00000-of-00001.parquet", None, "unreadable_record")],
    repairs={"unanswered_question": 1, "control_characters": 1},
)  # fmt: skip


def _write_docmatix(raw: Path) -> None:
    pages = [picture(100 + n) for n in range(20)]
    rows = [
        cauldron_row(pages[:2], ("Which clause limits liability?", "Clause 9."), ("Page?", "2")),
        cauldron_row(pages, *((f"What is on page {n}?", f"Text {n}.") for n in range(1, 21))),
        cauldron_row([pages[3]], *((f"Question {n}?", f"Answer number {n}.") for n in range(40))),
        cauldron_row([pages[4]], ("q", "a")) | {"texts": None},
        cauldron_row([pages[5], None], ("q", "a")),
        cauldron_row([pages[6], media.turned_jpeg()[:60]], ("q", "a")),
        cauldron_row([pages[0]], ("q", "a")) | {"texts": [None]},
        cauldron_row([pages[7]], ("", ""), ("q", " ")),
    ]
    write_parquet(raw / "data" / "train-00000-of-01106-2f1c.parquet", rows, CAULDRON)
    held_out = [cauldron_row([pages[8]], ("q", "a"))]
    write_parquet(raw / "data" / "test-00000-of-00001.parquet", held_out, CAULDRON)
    pdf = pa.schema([("pdf", pa.binary()), ("texts", CAULDRON.field("texts").type)])
    write_parquet(raw / "pdf" / "train-00000-of-00089.parquet", [{"pdf": b"%PDF"}], pdf)
    experiment = raw / "zero-shot-exp" / "test-00000-of-00001.parquet"
    write_parquet(experiment, held_out, CAULDRON)


DOCMATIX_REPLICA = Replica(
    adapter=ImagesAndTexts(source="docmatix", licence="MIT"),
    folder="HuggingFaceM4__Docmatix",
    write=_write_docmatix,
    kept={"images": [f"data/train-00000-of-01106-2f1c:{n}" for n in range(3)]},
    left_out={
        "data/test-00000-of-00001.parquet": [(0, "non_train_split")],
        "data/train-00000-of-01106-2f1c.parquet": [
            (3, "no_conversation"), (4, "missing_media"), (5, "corrupt_media"),
            (6, "unreadable_record"), (7, "empty_answer"),
        ],
    },
    # Twenty pages do not fit; forty questions do in part, and lose the rest.
    not_planned=frozenset({"data/train-00000-of-01106-2f1c:1"}),
)  # fmt: skip


def _onevision_row(name: str | None, data: bytes | None, *texts: str | None, **fields) -> dict:
    image = None if data is None else {"bytes": data, "path": None}
    row = {"id": name, "image": image, "conversations": talk(*texts), "data_source": "s"}
    return row | fields


def _write_onevision(raw: Path) -> None:
    row = _onevision_row
    rows = [
        row("x_1", picture(1), "<image>\nRead the price.", "$4.20"),
        row("x_2", picture(2), "Read it.\n<image>", "It says <image>.", "Sure?", "Yes"),
        row("x_1", picture(3), "<image>\nRead the price.", "$4.50"),
        row("x_3", None, "<image>\nRead the price.", "$1"),
        row("x_4", picture(4), "<image><image>\nCompare.", "Same."),
        row("x_5", b"GIF89a broken", "<image>\nq", "a"),
        row("x_6", picture(5)),
        row("x_7", picture(6), "<image>\nq", ""),
        row("x_8", picture(7), conversations=talk("<image>\nq", "a") + talk("b", first="gpt")),
        row("x_9", None, image={"bytes": None, "path": "/lost/x.png"}),
        row(None, media.cmyk_jpeg(), "<image>\nq", "a"),
    ]
    folder = "textocr(gpt4v)"
    write_parquet(raw / folder / "train-00000-of-00001.parquet", rows, ONEVISION)
    # A text subset may lack the column.
    text = ONEVISION.remove(ONEVISION.get_field_index("image"))
    rows = [row("t_1", None, "Why?", "So."), row("t_2", None, "Say <image>.", "No.")]
    folder = "magpie_pro(l3_80b_mt)"
    write_parquet(raw / folder / "train-00000-of-00001.parquet", rows, text)
    # Folders that are no parquet belong to another source, and are passed over.
    write_json(raw / "ureader_kg" / "ureader_kg.json", [{"id": "k"}])
    write_zip(raw / "ureader_kg" / "images.zip", {"a.png": picture(9)})


ONEVISION_REPLICA = Replica(
    adapter=LlavaOneVision(source="llava_onevision", licence="apache-2.0"),
    folder="lmms-lab__LLaVA-OneVision-Data",
    write=_write_onevision,
    kept={
        "magpie_pro(l3_80b_mt)": ["magpie_pro(l3_80b_mt)/t_1"],
        "textocr(gpt4v)": [
            "textocr(gpt4v)/x_1",
            "textocr(gpt4v)/x_2",
            "textocr(gpt4v)/x_1~2",
            "textocr(gpt4v)/train-00000-of-00001:10",
        ],
    },
    left_out={
        "magpie_pro(l3_80b_mt)/train-00000-of-00001.parquet": [(1, "placeholder_mismatch")],
        "textocr(gpt4v)/train-00000-of-00001.parquet": [
            (3, "placeholder_mismatch"), (4, "placeholder_mismatch"), (5, "corrupt_media"),
            (6, "no_conversation"), (7, "empty_answer"), (8, "bad_role_order"),
            (9, "missing_media"),
        ],
    },
)  # fmt: skip


def _write_onevision_1_5(raw: Path) -> None:
    turn = pa.struct(
        [(name, pa.string()) for name in ("from", "value", "role", "content", "markdown")]
    )
    schema = pa.schema([("id", pa.int64()), ("image", IMAGE), ("conversations", pa.list_(turn))])
    spelled = [{"role": "user", "content": "<image>\nq"}, {"role": "assistant", "content": "a"}]
    stray = [{"role": "user", "content": "<image>\nq"}, {"role": "assistant", "markdown": "a"}]
    rows = [
        {"id": n, "image": {"bytes": picture(n)}, "conversations": turns}
        for n, turns in enumerate([spelled, talk("<image>\nq", "a"), stray, None])
    ]
    write_parquet(raw / "coco" / "part-00000.parquet", rows, schema)


ONEVISION_1_5_REPLICA = Replica(
    adapter=LlavaOneVision(source="llava_onevision_1_5", licence="apache-2.0"),
    folder="mvp-lab__LLaVA-OneVision-1.5-Instruct-Data",
    write=_write_onevision_1_5,
    kept={"coco": ["coco/0", "coco/1"]},
    left_out={"coco/part-00000.parquet": [(2, "empty_answer"), (3, "no_conversation")]},
)


def _write_finevision(raw: Path) -> None:
    rated = CAULDRON.append(pa.field("relevance_ratings", pa.list_(pa.int64())))
    rows = [cauldron_row([picture(1)], ("q", "a")) | {"relevance_ratings": [1]}]
    write_parquet(raw / "vqav2" / "train-00000-of-00001.parquet", rows, rated)
    rows = [cauldron_row([], ("q", "a")) | {"images": None}, cauldron_row([])]
    write_parquet(raw / "text_openhermes_2_5" / "train-00000-of-00001.parquet", rows, rated)


FINEVISION_REPLICA = Replica(
    adapter=ImagesAndTexts(source="finevision", licence="unknown"),
    folder="HuggingFaceM4__FineVision",
    write=_write_finevision,
    kept={
        "text_openhermes_2_5": ["text_openhermes_2_5/train-00000-of-00001:0"],
        "vqav2": ["vqav2/train-00000-of-00001:0"],
    },
    left_out={"text_openhermes_2_5/train-00000-of-00001.parquet": [(1, "no_conversation")]},
)


def _write_mathwriting(raw: Path) -> None:
    schema = pa.schema([("image", IMAGE), ("latex", pa.string())])
    labels = [r"\frac{1}{2}", "x^2", "  ", None]
    rows = [{"image": {"bytes": picture(n)}, "latex": label} for n, label in enumerate(labels)] + [
        {"image": None, "latex": "y"}
    ]
    write_parquet(raw / "data" / "train-00000-of-00001.parquet", rows, schema)
    write_parquet(raw / "data" / "val-00000-of-00001.parquet", rows[:1], schema)


MATHWRITING_REPLICA = Replica(
    adapter=MathWriting(source="mathwriting", licence="unknown"),
    folder="andito__mathwriting-google",
    write=_write_mathwriting,
    kept={"": ["data/train-00000-of-00001:0", "data/train-00000-of-00001:1"]},
    left_out={
        "data/train-00000-of-00001.parquet": [
            (2, "no_caption"), (3, "no_caption"), (4, "missing_media"),
        ],
        "data/val-00000-of-00001.parquet": [(0, "non_train_split")],
    },
)  # fmt: skip


def _fine_row(mp4: bytes | None, *pairs: tuple[str | None, str | None], **facts) -> dict:
    questions = [{"question": q, "answer": a} for q, a in pairs]
    content = {"title": "T", "fps": 25.0, "qAndA": questions, "scenes": None}
    return {"mp4": mp4, "json": {"content_fine_category": "Cooking", "content_metadata": content}
            | facts}  # fmt: skip


def _write_finevideo(raw: Path) -> None:
    pair = pa.struct([("question", pa.string()), ("answer", pa.string())])
    content = pa.struct(
        [("title", pa.string()), ("fps", pa.float64()), ("qAndA", pa.list_(pair)),
         ("scenes", pa.list_(pa.struct([("sceneId", pa.int64())])))]
    )  # fmt: skip
    facts = pa.struct([("content_fine_category", pa.string()), ("content_metadata", content)])
    seen, heard = ("What colour is the pan?", "Red."), ("What does the cook say?", "Hello.")
    rows = [
        _fine_row(media.clip(1), seen, ("How many eggs?", "Two.")),
        _fine_row(media.clip(2), seen, heard),
        _fine_row(media.clip(3), heard),
        _fine_row(media.clip(1), seen, ("How many eggs?", "Two.")),
        _fine_row(media.ends_early(), seen),
        _fine_row(None, seen),
        _fine_row(media.sound_only(), seen),
        _fine_row(picture(1), seen),
        _fine_row(media.clip(4)),
        _fine_row(media.clip(5), seen, content_metadata=None),
        _fine_row(media.clip(6), ("What is cut?", None)),
    ]
    schema = pa.schema([("mp4", pa.binary()), ("json", facts)])
    write_parquet(raw / "data" / "train-00000-of-01357.parquet", rows, schema)
    # Others met the facts as text.
    texts = [{**row, "json": json.dumps(row["json"])} for row in [_fine_row(media.clip(7), seen)]]
    texts.append({"mp4": media.clip(8), "json": "{cut"})
    schema = pa.schema([("mp4", pa.binary()), ("json", pa.string())])
    write_parquet(raw / "data" / "train-00001-of-01357.parquet", texts, schema)


FINEVIDEO_REPLICA = Replica(
    adapter=FineVideo(source="finevideo", licence="cc"),
    folder="HuggingFaceFV__finevideo",
    write=_write_finevideo,
    kept={
        "qa": [
            "data/train-00000-of-01357:0",
            "data/train-00000-of-01357:1",
            "data/train-00000-of-01357:1~2",
            "data/train-00000-of-01357:2",
            "data/train-00001-of-01357:0",
        ]
    },
    left_out={
        "data/train-00000-of-01357.parquet": [
            (3, "duplicate"), (4, "corrupt_media"), (5, "missing_media"), (6, "corrupt_media"),
            (7, "unsupported_media"), (8, "no_conversation"), (9, "no_conversation"),
            (10, "empty_answer"),
        ],
        "data/train-00001-of-01357.parquet": [(1, "unreadable_record")],
    },
    not_planned=frozenset({"data/train-00000-of-01357:1~2", "data/train-00000-of-01357:2"}),
)  # fmt: skip
