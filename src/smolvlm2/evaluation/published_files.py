"""Questions of a published benchmark, read from its files as they were published."""

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from smolvlm2.errors import DataError, DataNotFoundError
from smolvlm2.evaluation.benchmark import Benchmark, Layout, VideoFolders
from smolvlm2.evaluation.choice_letters import letters
from smolvlm2.evaluation.media_index import (
    VIDEO_SUFFIXES,
    Absent,
    LooseFile,
    MediaIndex,
    Source,
    TableCell,
    ZipMember,
)
from smolvlm2.evaluation.questions import Medium, Question, check_ids, read_questions

_FIELD = re.compile(r"\{(\w+)\}")
_LETTER = re.compile(r"^\s*\(?[A-Z][.):]\s*")
_OPTION_LINE = re.compile(r"^\s*\(?([A-Z])[.):]\s*(.*?)\s*$", re.MULTILINE)


def find_questions(
    benchmark: Benchmark, data_root: str | Path, *, limit: int | None = None
) -> list[Question]:
    """All questions of a benchmark, from the first layout whose files are there.

    Args:
        benchmark: What to look for.
        data_root: The benchmark's own folder; a data root (``raw/<owner>__<name>`` or
            ``<owner>__<name>`` below it, as ``smolvlm2 download`` makes it, or a folder named like
            the benchmark); for the demo's benchmarks the folder of the question files.
        limit: Only so many, as evenly from all files as they have questions: a file may be a task
            of its own.

    Raises:
        DataNotFoundError: No question file is there; lists where it was looked for.
        DataError: A question file is malformed.
    """
    root = Path(data_root)
    if benchmark.file is not None:
        return read_questions(root / benchmark.file, limit=limit)
    folders = [root / f"{prefix}{name}" for name in _names(benchmark) for prefix in ("", "raw/")]
    for folder in [*folders, root]:
        for layout in benchmark.layouts:
            files = sorted({p for pattern in layout.files for p in folder.glob(pattern)})
            if files:
                return _read(benchmark, layout, folder, files, limit)
    looked = ", ".join(str(folder) for folder in [*folders, root])
    patterns = " or ".join(", ".join(layout.files) for layout in benchmark.layouts)
    raise DataNotFoundError(
        f"{benchmark.name}: no question file ({patterns}) below {looked}; `smolvlm2 download "
        f"--benchmarks {benchmark.name}` fetches it, or give its folder"
    )


def _names(benchmark: Benchmark) -> list[str]:
    repos = [name for hub in benchmark.hub for name in (hub.repo, hub.formerly) if name]
    names = [repo.replace("/", "__") for repo in repos] + [repo.split("/")[-1] for repo in repos]
    return list(dict.fromkeys([*names, benchmark.name]))


def _read(
    benchmark: Benchmark, layout: Layout, folder: Path, files: Sequence[Path], limit: int | None
) -> list[Question]:
    wants_files = layout.videos or layout.folders or layout.subtitles
    index = MediaIndex(folder) if wants_files else None
    questions: list[Question] = []
    for number, file in enumerate(files):
        left = None if limit is None else limit - len(questions)
        share = None if left is None else -(-left // (len(files) - number))
        for row, cell in itertools.islice(_rows(file, layout.image), share):
            columns = {**row, "file": file.stem}
            try:
                questions.append(_question(layout, columns, cell, index, folder))
            except (KeyError, TypeError, ValueError) as error:
                raise DataError(
                    f"{file}: row {row['row']} does not fit {benchmark.name}'s layout ({error!r}); "
                    f"found columns {', '.join(map(str, row))}"
                ) from error
    if not questions:
        raise DataError(f"{files[0]}: found no questions")
    check_ids(questions, str(folder))
    return questions


def _question(
    layout: Layout,
    row: Mapping[str, Any],
    cell: TableCell | None,
    index: MediaIndex | None,
    folder: Path,
) -> Question:
    published = str(row[layout.question])
    options = tuple(map(str, row[layout.options] or ())) if layout.options else ()
    bare = tuple(_LETTER.sub("", x) for x in options) if layout.options_lettered else options
    text = published
    if layout.options_in_question:
        text, bare = _cut_options(published, bare, layout.options_count)
    references, letter, problem = _answer(layout, row, bare)
    question_id = fill(layout.question_id, row)
    media: list[Medium] = []
    if cell is not None:
        media.append(Medium("image", cell))
    elif index is not None and (layout.videos or layout.folders):
        media.append(_video(layout, row, index))
    return Question(
        question_id=question_id,
        text=text,
        as_published=published if layout.options_in_question else "",
        media=tuple(media),
        references=references,
        choices=bare,
        option_lines=options if layout.options_lettered else (),
        letter=letter,
        groups={
            name: " / ".join(fill(template, row) for template in templates)
            for name, templates in layout.groups.items()
        },
        cluster=fill(layout.cluster, row) if layout.cluster else "",
        subtitles=_subtitles(layout, row, index),
        problem=problem,
    )


def _cut_options(
    text: str, options: tuple[str, ...], count: int | None
) -> tuple[str, tuple[str, ...]]:
    """Cut lines ``A. ...`` off a question; the options are those of the file, else these lines."""
    lines = list(_OPTION_LINE.finditer(text))
    lettered = "".join(line[1] for line in lines)
    if len(lines) > 1 and lettered == letters(len(lines)):
        return text[: lines[0].start()].rstrip(), options or tuple(line[2] for line in lines)
    return text, options or (tuple(letters(count)) if count else ())


def _answer(
    layout: Layout, row: Mapping[str, Any], options: Sequence[str]
) -> tuple[tuple[str, ...], str, str | None]:
    """References, letter of the right option, and why the question cannot be asked."""
    answer = row[layout.answer]
    if layout.answer_is in ("text", "texts"):
        texts = answer if isinstance(answer, list) else [answer]
        kept = tuple(str(text) for text in texts or () if text is not None)
        return kept, "", None if kept else "no_answer: the file gives no accepted answer"
    if not options:
        return (str(answer),), "", "no_options: the file gives no options to choose from"
    known = letters(len(options))
    if layout.answer_is == "letter":
        letter = str(answer).strip().strip("().").upper()[:1]
    else:
        # As text, as the options are: a task that counts may hold numbers.
        letter = known[options.index(str(answer))] if str(answer) in options else ""
    if not letter or letter not in known:
        return (str(answer),), "", f"no_answer: {answer!r} is none of {len(options)} options"
    return (options[known.index(letter)],), letter, None


def _video(layout: Layout, row: Mapping[str, Any], index: MediaIndex) -> Medium:
    bounds = tuple(
        float(row[column]) if column and row.get(column) is not None else None
        for column in (layout.start, layout.end)
    )
    if not layout.folders:
        paths = [fill(template, row) for template in layout.videos]
        return Medium("video", index.find(paths, VIDEO_SUFFIXES), *bounds)
    folders = layout.folders.get(row["file"], VideoFolders())
    video = str(row["video"])

    def below(names: Sequence[str]) -> list[str]:
        return [f"{name}/{video}" for name in names]

    source: Source = index.find(below(folders.segments), VIDEO_SUFFIXES)
    if folders.segments and not isinstance(source, Absent):
        return Medium("video", source)
    if isinstance(source, Absent) and folders.frames:
        found = index.find_frames(below(folders.frames), layout.frame_rate)
        if not isinstance(found, Absent):
            return Medium("video", found, *bounds)
    if folders.whole:
        whole = index.find(below(folders.whole), VIDEO_SUFFIXES)
        if not isinstance(whole, Absent) or not folders.segments:
            return Medium("video", whole, *bounds)
    return Medium("video", source, *bounds)


def _subtitles(
    layout: Layout, row: Mapping[str, Any], index: MediaIndex | None
) -> LooseFile | ZipMember | None:
    if layout.subtitles is None or index is None:
        return None
    found = index.find([fill(layout.subtitles, row)])
    return found if isinstance(found, LooseFile | ZipMember) else None


def fill(template: str, values: Mapping[str, Any]) -> str:
    """Replace ``{name}`` by its value; braces inside values stay what they are.

    >>> fill("{file}/{id}", {"file": "a", "id": "{file}"})
    'a/{file}'
    """
    return _FIELD.sub(lambda match: str(values[match[1]]), template)


def _rows(file: Path, image: str | None) -> Iterator[tuple[dict[str, Any], TableCell | None]]:
    """Rows with their number, and where each row's picture lies; pictures are not read."""
    if file.suffix == ".parquet":
        yield from _parquet_rows(file, image)
        return
    try:
        text = file.read_text(encoding="utf-8")
        parsed = (
            [json.loads(line) for line in text.split("\n") if line.strip()]
            if file.suffix == ".jsonl"
            else json.loads(text)
        )
    except (UnicodeDecodeError, json.JSONDecodeError, OSError) as error:
        raise DataError(f"{file}: not JSON ({error}); fetch it again") from error
    if not isinstance(parsed, list) or not all(isinstance(row, dict) for row in parsed):
        raise DataError(f"{file}: expected a list of objects")
    for number, row in enumerate(parsed):
        yield {**row, "row": number}, None


def _parquet_rows(
    file: Path, image: str | None
) -> Iterator[tuple[dict[str, Any], TableCell | None]]:
    try:
        with pq.ParquetFile(file) as table:
            names = table.schema_arrow.names
            if image is not None and image not in names:
                raise DataError(f"{file}: no column {image!r}, found {', '.join(names)}")
            number = 0
            for group in range(table.num_row_groups):
                columns = [name for name in names if name != image]
                rows = table.read_row_group(group, columns=columns).to_pylist()
                for place, row in enumerate(rows):
                    cell = TableCell(file, group, place, image) if image is not None else None
                    yield {**row, "row": number}, cell
                    number += 1
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: not a readable parquet file ({error}); fetch it again") from error
