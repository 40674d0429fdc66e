"""Miniature replicas of published layouts, from the raw folder to the result."""

import json

import pytest

from smolvlm2.errors import DataError, DataNotFoundError
from smolvlm2.evaluation.benchmark import load_benchmark
from smolvlm2.evaluation.published_files import find_questions
from smolvlm2.evaluation.result_files import read_results, write_results
from smolvlm2.evaluation.runner import run_benchmark

LETTERS = "ABCD"


def docvqa(root, write, _clip):
    rows = [
        {
            "questionId": str(100 + i),
            "question": f"What is in box {i}?",
            "image": {"bytes": write.picture(i), "path": None},
            "docId": i // 2,
            "answers": [f"number {i}", f"{i}"],
        }
        for i in range(5)
    ]
    write.parquet(root / "lmms-lab__DocVQA/DocVQA/validation-00000-of-00002.parquet", rows[:3])
    write.parquet(root / "lmms-lab__DocVQA/DocVQA/validation-00001-of-00002.parquet", rows[3:])
    return 5


def textvqa(root, write, _clip):
    rows = [
        {
            "question_id": i,
            "image_id": f"img{i // 2}",
            "question": "What does the Sign say?",
            "image": {"bytes": write.picture(i), "path": None},
            "answers": ["stop"] * 2 + ["STOP sign"] * 8,
        }
        for i in range(4)
    ]
    folder = root / "raw/lmms-lab-encoder__textvqa"
    write.parquet(folder / "data/validation-00000-of-00001.parquet", rows)
    return 4


def chartqa(root, write, _clip):
    rows = [
        {
            "type": "human_test" if i < 2 else "augmented_test",
            "question": "How many?",
            "answer": str(10 + i),
            "image": {"bytes": write.picture(i), "path": None},
        }
        for i in range(4)
    ]
    write.parquet(root / "chartqa/data/test-00000-of-00001.parquet", rows)
    return 4


def video_mme(root, write, clip):
    rows = [
        {
            "video_id": f"{i:03d}",
            "duration": ("short", "medium", "long")[i % 3],
            "domain": "Knowledge",
            "sub_category": "Law",
            "videoID": f"vid{i // 3}",
            "question_id": f"{i // 3:03d}-{i % 3 + 1}",
            "task_type": "Counting Problem",
            "question": f"How many {i}?",
            "options": [f"{letter}. {k} things" for k, letter in enumerate(LETTERS)],
            "answer": LETTERS[i % 4],
        }
        for i in range(9)
    ]
    folder = root / "raw/lmms-eval__Video-MME"
    write.parquet(folder / "videomme/test-00000-of-00001.parquet", rows)
    write.zip(
        folder / "videos_chunked_01.zip", {"data/vid0.mp4": clip(0), "data/vid1.MP4": clip(1)}
    )
    write.zip(folder / "videos_chunked_02.zip", {"data/vid2.mp4": clip(2)}, packed=True)
    spoken = '1\n00:00:00,000 --> 00:00:01,000\n<font color="white">Hello</font>\n\n'
    spoken += "2\n01:00:00,000 --> 01:00:01,000\nLater\n"
    write.zip(folder / "subtitle.zip", {"subtitle/vid0.srt": spoken.encode()})
    return 9


def mlvu_parquet(root, write, clip):
    rows = [
        {
            "video_name": f"v{i // 2}.mp4",
            "duration": 3.0,
            "question": f"What happens {i}?\n(A) a\n(B) b\n(C) c\n(D) d",
            "candidates": ["a", "b", "c", "d"],
            "answer": LETTERS[i % 4],
            "task_type": ("plotQA", "needle", "count")[i % 3],
            "question_id": f"q{i}",
        }
        for i in range(6)
    ]
    folder = root / "sy1998__MLVU_dev"
    write.parquet(folder / "mlvu/test-00000-of-00001.parquet", rows)
    write.zip(folder / "video_part_1.zip", {f"v{i}.mp4": clip(i) for i in range(3)})
    return 6


def mlvu_json(root, write, clip):
    folder = root / "raw/MLVU__MVLU/MLVU"
    for name, task in (("1_plotQA", "plotQA"), ("4_count", "count"), ("9_summary", "summary")):
        rows = [
            {
                "video": f"{task}_{i}.mp4",
                "duration": 3.0,
                "question": "What happens?",
                "candidates": ["red", "green", "blue", "grey"],
                "answer": "blue" if i else "red",
                "question_type": task,
            }
            for i in range(2)
        ]
        write.json(folder / "json" / f"{name}.json", rows)
        for i in range(2):
            write.file(folder / "video" / name / f"{task}_{i}.mp4", clip(i))
    return 4  # the summaries are no multiple choice


def mvbench(root, write, clip):
    folder = root / "OpenGVLab__MVBench"

    def rows(video, **bounds):
        return [
            {
                "video": video,
                "question": "Why?",
                "candidates": ["x", "y", "z"],
                "answer": a,
                **bounds,
            }
            for a in ("x", "z")
        ]

    write.json(folder / "json/action_sequence.json", rows("cut.mp4", start=0.5, end=1.5))
    write.json(folder / "json/action_localization.json", rows("long.mp4", start=1.0, end=2.0))
    write.json(folder / "json/episodic_reasoning.json", rows("show_1", start=0.0, end=1.0))
    write.json(folder / "json/action_antonym.json", rows("thing.webm"))
    write.zip(folder / "video/star.zip", {"star/Charades_segment/cut.mp4": clip(1)})
    write.zip(folder / "video/sta.zip", {"sta/sta_video/long.mp4": clip(2)})
    frames = {f"tvqa/frames_fps3_hq/show_1/{i:05d}.jpg": write.picture(i) for i in range(1, 10)}
    write.zip(folder / "video/tvqa.zip", frames)
    write.file(folder / "video/ssv2_video_mp4/thing.mp4", clip(3))
    return 8


def mmstar(root, write, _clip):
    rows = [
        {
            "index": i,
            "question": "Which?\nOptions: A: one, B: two, C: three, D: four",
            "image": write.picture(i),
            "answer": LETTERS[i % 4],
            "category": "math",
            "l2_category": "geometry",
        }
        for i in range(4)
    ]
    write.parquet(root / "Lin-Chen__MMStar/mmstar.parquet", rows)
    return 4


def tempcompass(root, write, clip):
    rows = [
        {
            "video_id": f"{i // 2}",
            "question": "Which way?\nA. left\nB. right\nC. up",
            "answer": ("A. left", "C. up")[i % 2],
            "dim": "direction",
        }
        for i in range(4)
    ]
    folder = root / "lmms-eval__TempCompass"
    write.parquet(folder / "multi-choice/test-00000-of-00001.parquet", rows)
    write.zip(folder / "tempcompass_videos.zip", {f"videos/{i}.mp4": clip(i) for i in range(2)})
    return 4


REPLICAS = {
    "docvqa": docvqa,
    "textvqa": textvqa,
    "chartqa": chartqa,
    "video_mme": video_mme,
    "video_mme_subtitles": video_mme,
    "mlvu": mlvu_parquet,
    "mlvu from JSON": mlvu_json,
    "mvbench": mvbench,
    "mmstar": mmstar,
    "tempcompass": tempcompass,
}


@pytest.fixture(params=REPLICAS)
def replica(request, tmp_path, write, encode_clip):
    """A benchmark, a data root that holds a replica of it, and its number of questions."""
    count = REPLICAS[request.param](tmp_path / "data", write, encode_clip)
    return load_benchmark(request.param.split(" ")[0]), tmp_path / "data", count


def test_a_replica_goes_from_raw_folder_to_result(replica, make_oracle, gold, tmp_path):
    benchmark, root, count = replica
    for style in benchmark.prompts:
        oracle = make_oracle(benchmark, gold, style=style)
        result = run_benchmark(oracle, benchmark, root, style=style)
        assert (result.n, result.unanswered) == (count, [])
        # Its first answer is given by two annotators of ten only.
        assert result.accuracy == pytest.approx(0.6 if benchmark.name == "textvqa" else 1)
        assert set(result.groups) == set(benchmark.layouts[0].groups)
        write_results(tmp_path / "out.json", "somewhere", [result])
        _, read = read_results(tmp_path / "out.json")
        assert read == {benchmark.name: result}
        assert f"| {benchmark.title} |" in (tmp_path / "out.md").read_text()


def test_every_group_of_questions_is_decoded_once(tmp_path, write, encode_clip, make_oracle, gold):
    video_mme(tmp_path, write, encode_clip)
    benchmark = load_benchmark("video_mme")
    oracle = make_oracle(benchmark, gold)
    run_benchmark(oracle, benchmark, tmp_path, workers=1)
    assert [name.rpartition("/")[2] for name in oracle.decoded] == [
        "vid0.mp4",
        "vid1.MP4",
        "vid2.mp4",
    ]


def test_subtitles_on_screen_are_quoted(tmp_path, write, encode_clip, make_oracle, gold):
    video_mme(tmp_path, write, encode_clip)
    benchmark = load_benchmark("video-mme-subtitles")
    oracle = make_oracle(benchmark, gold)
    run_benchmark(oracle, benchmark, tmp_path)
    assert "listed below: \nHello\nHow many 0?" in oracle.prompts["000-1"]
    assert "listed below: \nNo subtitles available\nHow many 3?" in oracle.prompts["001-1"]


def test_bounds_apply_to_uncut_videos_only(tmp_path, write, encode_clip):
    mvbench(tmp_path, write, encode_clip)
    questions = find_questions(load_benchmark("mvbench"), tmp_path)
    media = {q.groups["task"]: q.media[0] for q in questions}
    assert (media["action_sequence"].start, media["action_sequence"].end) == (None, None)
    assert (media["action_localization"].start, media["action_localization"].end) == (1, 2)
    assert len(media["episodic_reasoning"].source.frames) == 9
    assert media["action_antonym"].source.open().name == "thing.mp4"


@pytest.mark.parametrize(
    ("limit", "tasks"),
    [(1, [1, 0, 0, 0]), (4, [1, 1, 1, 1]), (6, [2, 2, 1, 1]), (20, [2, 2, 2, 2])],
)
def test_a_limit_takes_from_every_file(tmp_path, write, encode_clip, limit, tasks):
    mvbench(tmp_path, write, encode_clip)
    questions = find_questions(load_benchmark("mvbench"), tmp_path, limit=limit)
    names = ["action_antonym", "action_localization", "action_sequence", "episodic_reasoning"]
    found = [question.groups["task"] for question in questions]
    assert [found.count(name) for name in names] == tasks


def test_options_are_cut_off_the_question(tmp_path, write, encode_clip):
    mlvu_parquet(tmp_path, write, encode_clip)
    question = find_questions(load_benchmark("mlvu"), tmp_path)[1]
    assert (question.text, question.choices) == ("What happens 1?", ("a", "b", "c", "d"))
    assert question.as_published.endswith("(D) d")
    assert (question.letter, question.references) == ("B", ("b",))


def test_the_mean_of_tasks_is_the_headline_and_that_of_questions_stands_beside_it(
    tmp_path, write, encode_clip, make_oracle
):
    mlvu_json(tmp_path, write, encode_clip)
    path = tmp_path / "raw/MLVU__MVLU/MLVU/json/4_count.json"
    path.write_text(json.dumps(json.loads(path.read_text())[:1]))
    benchmark = load_benchmark("mlvu")
    right = ("1_plotQA/0", "4_count/0")
    oracle = make_oracle(benchmark, lambda q: q.letter if q.question_id in right else "D")
    result = run_benchmark(oracle, benchmark, tmp_path)
    assert result.accuracy == pytest.approx((1 / 2 + 1) / 2)
    assert result.beside["mean of questions"] == pytest.approx(2 / 3)
    assert result.aggregation == "mean of task"


def test_questions_that_cannot_be_asked_are_wrong_and_listed(
    tmp_path, write, encode_clip, make_oracle, gold
):
    mvbench(tmp_path, write, encode_clip)
    folder = tmp_path / "OpenGVLab__MVBench"
    rows = [
        {"video": "thing.webm", "question": "Why?", "candidates": [], "answer": "x"},
        {"video": "thing.webm", "question": "Why?", "candidates": ["a"], "answer": "x"},
        {"video": "gone.webm", "question": "Why?", "candidates": ["x"], "answer": "x"},
        {"video": "../x.webm", "question": "Why?", "candidates": ["x"], "answer": "x"},
        {"video": "bad.mp4", "question": "Why?", "candidates": ["x"], "answer": "x"},
        {"video": "thing.webm", "question": "Why?", "candidates": ["x", "y"], "answer": "x"},
    ]
    write.json(folder / "json/action_antonym.json", rows)
    write.file(folder / "video/ssv2_video/bad.mp4", b"no video")
    benchmark = load_benchmark("mvbench")
    result = run_benchmark(make_oracle(benchmark, gold), benchmark, tmp_path)
    problems = {e["question_id"].rpartition("/")[2]: e["problem"] for e in result.unanswered}
    assert {place: text.split(":")[0] for place, text in problems.items()} == {
        "0": "no_options",
        "1": "no_answer",
        "2": "missing_media",
        "3": "missing_media",
        "4": "corrupt_media",
    }
    assert result.groups["task"]["action_antonym"].score == pytest.approx(1 / 6)
    assert result.n == 12


def test_a_corrupt_picture_is_wrong_and_listed(tmp_path, write, make_oracle, gold):
    row = {"type": "human_test", "question": "?", "answer": "1"}
    pictures = [write.picture(), b"no picture", None]
    rows = [row | {"image": {"bytes": data, "path": None}} for data in pictures]
    write.parquet(tmp_path / "data/test.parquet", rows)
    benchmark = load_benchmark("chartqa")
    result = run_benchmark(make_oracle(benchmark, gold), benchmark, tmp_path)
    assert [e["question_id"] for e in result.unanswered] == ["test/1", "test/2"]
    assert all(e["problem"].startswith("corrupt_media") for e in result.unanswered)
    assert result.accuracy == pytest.approx(1 / 3)


def test_a_missing_benchmark_says_where_it_was_looked_for(tmp_path):
    with pytest.raises(DataNotFoundError, match=r"no question file \(DocVQA/validation.*raw/lmms"):
        find_questions(load_benchmark("docvqa"), tmp_path)


def test_options_may_be_numbers(tmp_path, write, encode_clip):
    mlvu_json(tmp_path, write, encode_clip)
    row = {"video": "count_0.mp4", "question": "How many?", "question_type": "count"}
    row |= {"candidates": [3, 2, 1], "answer": 2}
    write.json(tmp_path / "raw/MLVU__MVLU/MLVU/json/4_count.json", [row])
    (found,) = [
        q for q in find_questions(load_benchmark("mlvu"), tmp_path) if q.text == "How many?"
    ]
    assert (found.problem, found.letter, found.choices) == (None, "B", ("3", "2", "1"))


def test_malformed_question_files_are_refused(tmp_path, write):
    benchmark = load_benchmark("chartqa")
    path = tmp_path / "data/test-0.parquet"
    write.file(path, b"PAR1 no")
    with pytest.raises(DataError, match=r"test-0\.parquet: not a readable parquet file"):
        find_questions(benchmark, tmp_path)
    write.parquet(path, [{"question": "?"}])
    with pytest.raises(DataError, match="no column 'image', found question"):
        find_questions(benchmark, tmp_path)
    write.parquet(path, [{"question": "?", "image": b"", "type": "x"}])
    with pytest.raises(
        DataError, match=r"row 0 does not fit chartqa's layout \(KeyError\('answer'"
    ):
        find_questions(benchmark, tmp_path)
    write.parquet(path, [{"question": "gr\u00f6\u00dfe", "image": b"", "type": "x", "answer": "1"}])
    write.file(path, path.read_bytes().replace("\u00f6".encode(), b"\xff\xff"))
    with pytest.raises(DataError, match=r"test-0\.parquet: not a readable parquet file"):
        find_questions(benchmark, tmp_path)
    mvbench_ = load_benchmark("mvbench")
    write.file(tmp_path / "json/action_count.json", b"[")
    with pytest.raises(DataError, match=r"action_count\.json: not JSON"):
        find_questions(mvbench_, tmp_path)
    write.json(tmp_path / "json/action_count.json", [1])
    with pytest.raises(DataError, match="expected a list of objects"):
        find_questions(mvbench_, tmp_path)
    write.json(tmp_path / "json/action_count.json", [])
    with pytest.raises(DataError, match="found no questions"):
        find_questions(mvbench_, tmp_path)
