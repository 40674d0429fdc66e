"""Held-out samples written as small benchmarks: one question a line beside its media files."""

import json
from collections.abc import Sequence
from pathlib import Path

from smolvlm2.data.demo.samples import DemoSample, Question


def write_benchmark(
    folder: Path, name: str, samples: Sequence[DemoSample], question_types: Sequence[str]
) -> int:
    """Write ``<name>.jsonl`` and its media under ``media/<name>/``.

    Args:
        folder: The held-out folder; paths in the table are relative to it.
        name: Of the benchmark.
        samples: Held-out samples; the first question of a wanted type is asked of each.
        question_types: Which questions belong to the benchmark.

    Returns:
        Number of questions written.
    """
    media_folder = folder / "media" / name
    media_folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, sample in enumerate(samples):
        asked = [q for q in sample.questions if q.question_type in question_types]
        if not asked:
            continue
        paths = []
        for place, data in enumerate(sample.media):
            path = media_folder / f"{number:05d}_{place}.{sample.suffix}"
            path.write_bytes(data)
            paths.append(path.relative_to(folder).as_posix())
        line = {
            "question_id": f"{name}/{number:05d}",
            "messages": [{"role": "user", "content": _content(asked[0], sample)}],
            "media": paths,
            "answer": asked[0].answer,
            "choices": list(asked[0].choices),
            "question_type": asked[0].question_type,
        }
        lines.append(json.dumps(line, ensure_ascii=False))
    (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(lines)


def _content(question: Question, sample: DemoSample) -> list[dict[str, str]]:
    """The user's message: media first, unless the question says where each image stands."""
    kind = "video" if sample.suffix == "mp4" else "image"
    parts = question.text.split("<image>")
    if len(parts) == 1:
        return [{"type": kind}] * len(sample.media) + [{"type": "text", "text": question.text}]
    content: list[dict[str, str]] = []
    for place, part in enumerate(parts):
        if place:
            content.append({"type": kind})
        text = part.removeprefix("\n")
        if text:
            content.append({"type": "text", "text": text})
    return content
