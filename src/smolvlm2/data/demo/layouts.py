"""Demo samples written as the hub publishes them: Cauldron, M4-Instruct, LLaVA-Video, OneVision.

Every file is a pure function of the samples: no clock, no user name, no compression that
depends on the machine.
"""

import gzip
import io
import json
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from smolvlm2.data.demo.samples import DemoSample

_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
CAULDRON_SCHEMA = pa.schema(
    [
        ("images", pa.list_(_IMAGE)),
        (
            "texts",
            pa.list_(
                pa.struct(
                    [("user", pa.string()), ("assistant", pa.string()), ("source", pa.string())]
                )
            ),
        ),
    ]
)
ONEVISION_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("image", _IMAGE),
        ("conversations", pa.list_(pa.struct([("from", pa.string()), ("value", pa.string())]))),
        ("data_source", pa.string()),
    ]
)
ZIP_TIME = (2024, 1, 1, 0, 0, 0)


def write_cauldron(
    folder: Path, config: str, samples: Sequence[DemoSample], *, rows_per_file: int = 2048
) -> None:
    """Write ``<config>/train-0000i-of-0000n.parquet`` with ``images`` and ``texts``."""
    rows = [
        {
            "images": [{"bytes": data, "path": None} for data in sample.media],
            "texts": [
                {"user": question.text, "assistant": question.answer, "source": config}
                for question in sample.questions
            ],
        }
        for sample in samples
    ]
    _write_parquet(folder / config, rows, CAULDRON_SCHEMA, rows_per_file)


def write_onevision(folder: Path, subset: str, samples: Sequence[DemoSample]) -> None:
    """Write a subset in the LLaVA-OneVision-Data layout; without media ``image`` is null."""
    rows = [
        {
            "id": f"{subset}_{number:06d}",
            "image": {"bytes": sample.media[0], "path": None} if sample.media else None,
            "conversations": _llava_turns(sample, "<image>\n" if sample.media else ""),
            "data_source": subset,
        }
        for number, sample in enumerate(samples)
    ]
    _write_parquet(folder / subset, rows, ONEVISION_SCHEMA, 2048)


def write_m4(folder: Path, sources: dict[str, Sequence[DemoSample]]) -> None:
    """Write ``m4_instruct_annotations.json`` and one zip a source.

    Args:
        folder: Where to write; made if missing.
        sources: Samples by source. The first source's zip is stored, the others deflated: both
            are met on the hub.
    """
    folder.mkdir(parents=True, exist_ok=True)
    annotations = []
    for place, (source, samples) in enumerate(sources.items()):
        compression = zipfile.ZIP_DEFLATED if place else zipfile.ZIP_STORED
        with zipfile.ZipFile(folder / f"{source}.zip", "w", compression) as archive:
            for number, sample in enumerate(samples):
                paths = [
                    f"{source}/images/{number:06d}_{k}.{sample.suffix}"
                    for k in range(len(sample.media))
                ]
                for path, data in zip(paths, sample.media, strict=True):
                    member = zipfile.ZipInfo(path, ZIP_TIME)
                    member.compress_type = compression
                    archive.writestr(member, data)
                annotations.append(_m4_row(source, number, sample, paths, len(samples)))
    _write_json(folder / "m4_instruct_annotations.json", annotations)


def write_llava_video(folder: Path, data_source: str, samples: Sequence[DemoSample]) -> None:
    """Write one config of LLaVA-Video-178K: a processed JSON and ``*_videos_1.tar.gz``.

    Args:
        folder: Root of the data set.
        data_source: Config such as ``0_30_s_digits_v0_1``; the task goes before ``_v0_1``.
        samples: One clip each.
    """
    config = folder / data_source
    config.mkdir(parents=True, exist_ok=True)
    rows = []
    with (
        (config / f"{data_source}_videos_1.tar.gz").open("wb") as file,
        gzip.GzipFile(filename="", mode="wb", compresslevel=1, fileobj=file, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for number, sample in enumerate(samples):
            video = f"digits/clips/{number:06d}.mp4"
            member = tarfile.TarInfo(video)
            member.size = len(sample.media[0])
            archive.addfile(member, io.BytesIO(sample.media[0]))
            rows.append(
                {
                    "id": f"digits-{number:06d}",
                    "data_source": data_source,
                    "video": video,
                    "conversations": _llava_turns(sample, "<image>\n"),
                }
            )
    name = data_source.replace("_v0_1", "_mc_v0_1")
    _write_json(config / f"{name}_qa_processed.json", rows)


def _m4_row(
    source: str, number: int, sample: DemoSample, paths: list[str], num_samples: int
) -> dict:
    return {
        "sample_id": number,
        "conversations": _llava_turns(sample, ""),
        "image": paths,
        "choice_list": None,
        "metadata": {
            "dataset": source,
            "split": "train",
            "num_sample": num_samples,
            "task_instruction": "",
            "question_type": "multi-choice",
        },
    }


def _llava_turns(sample: DemoSample, opening: str) -> list[dict[str, str]]:
    turns = []
    for place, question in enumerate(sample.questions):
        turns.append({"from": "human", "value": ("" if place else opening) + question.text})
        turns.append({"from": "gpt", "value": question.answer})
    return turns


def _write_parquet(folder: Path, rows: list[dict], schema: pa.Schema, rows_per_file: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    count = max(1, -(-len(rows) // rows_per_file))
    for number in range(count):
        part = rows[number * rows_per_file : (number + 1) * rows_per_file]
        table = pa.Table.from_pylist(part, schema=schema)
        # Pictures are compressed already; small row groups keep a reader's memory small.
        name = f"train-{number:05d}-of-{count:05d}.parquet"
        pq.write_table(table, folder / name, row_group_size=256, compression="none")


def _write_json(path: Path, rows: list[dict]) -> None:
    """Write a JSON list with a row a line, so that a person can read it and a reader recover."""
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
