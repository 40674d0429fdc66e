"""Question files and benchmark files."""

import json

import pytest

from smolvlm2.errors import ConfigError, DataError, DataNotFoundError
from smolvlm2.evaluation.benchmark import benchmark_names, download_plan, load_benchmark
from smolvlm2.evaluation.prompts import conversation
from smolvlm2.evaluation.questions import read_questions
from smolvlm2.evaluation.rules import apply_rule

PUBLISHED = (
    "chartqa",
    "docvqa",
    "mlvu",
    "mmstar",
    "mvbench",
    "tempcompass",
    "textvqa",
    "video_mme",
)


def test_media_stand_beside_the_file(data_root, benchmark_):
    question = read_questions(data_root / "shade.jsonl", limit=1)[0]
    assert question.text == "How bright?"
    assert [m.source.path for m in question.media] == [data_root / "media/0.png"]
    assert conversation(question, benchmark_, "native") == [
        {
            "role": "user",
            "content": [
                {"type": "image"},
                {"type": "text", "text": "How bright?"},
                {"type": "text", "text": "\nIn short."},
            ],
        }
    ]


def test_plain_text_and_several_references_are_understood(tmp_path, benchmark_):
    path = tmp_path / "text.jsonl"
    row = {"question_id": 1, "messages": [{"role": "user", "content": "Hi?"}], "answer": ["a", "b"]}
    path.write_text(f"\n{json.dumps(row)}\n\n")
    (question,) = read_questions(path)
    assert (question.references, question.choices, question.text) == (("a", "b"), (), "Hi?")
    content = conversation(question, benchmark_, "native")[0]["content"]
    assert [item["text"] for item in content] == ["Hi?", "\nIn short."]


def test_several_media_keep_their_order(tmp_path):
    content = [{"type": "image"}, {"type": "text", "text": "or"}, {"type": "video"}]
    row = {"question_id": "a", "messages": [{"role": "user", "content": content}], "answer": "x"}
    path = tmp_path / "two.jsonl"
    path.write_text(json.dumps(row | {"media": ["first.png", "second.mp4"]}))
    media = read_questions(path)[0].media
    assert [(m.kind, m.source.path.name) for m in media] == [
        ("image", "first.png"),
        ("video", "second.mp4"),
    ]


def test_media_may_be_named_as_in_rows_for_training(tmp_path):
    content = [{"type": "image", "path": "first.png"}, {"type": "text", "text": "What?"}]
    row = {"question_id": "a", "messages": [{"role": "user", "content": content}], "answer": "x"}
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps(row))
    (question,) = read_questions(path)
    assert [(m.kind, m.source.path) for m in question.media] == [("image", tmp_path / "first.png")]


@pytest.mark.parametrize(
    ("answer", "choices", "letter"),
    [
        ("blue", ["red", "blue"], "B"),
        ("B", ["red", "blue"], "B"),
        ("A", ["B", "A"], "B"),  # the text of a choice before its letter
        (["x", "2"], [1, 2], "B"),
        ("C", ["red", "blue"], ""),
        ("blue", [], ""),
    ],
)
def test_a_question_of_ones_own_can_be_scored_by_its_letter(tmp_path, answer, choices, letter):
    row = {"question_id": 1, "messages": [{"role": "user", "content": "Which?"}]}
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps(row | {"answer": answer, "choices": choices}))
    (question,) = read_questions(path)
    assert question.letter == letter
    if letter:
        assert apply_rule("choice/lmms-eval", f"({letter})", question) == 1
        assert apply_rule("choice/lmms-eval", "D", question) == 0


@pytest.mark.parametrize("answer", [None, [], [None]])
def test_a_question_without_an_accepted_answer_is_not_asked(tmp_path, answer):
    row = {"question_id": 1, "messages": [{"role": "user", "content": "Which?"}], "answer": answer}
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps(row))
    (question,) = read_questions(path)
    assert question.problem == "no_answer: the file gives no accepted answer"


def test_lines_end_at_line_feeds_only(tmp_path):
    text = "one\u2028two"
    row = {"question_id": 1, "messages": [{"role": "user", "content": text}], "answer": "a"}
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps(row, ensure_ascii=False), encoding="utf-8")
    assert read_questions(path)[0].text == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"q\.jsonl:1: not JSON"),
        ("[]", r"q\.jsonl:1: 'question_id' is missing; expected question_id, messages, answer"),
        ('{"question_id": 1, "messages": []}', "'answer' is missing"),
        ('{"question_id": 1, "messages": [{}], "answer": "a"}', "malformed messages or media"),
        (
            '{"question_id": 1, "messages": [{"role": "user", "content": [{"type": "image"}]}], '
            '"answer": "a"}',
            "0 media for 1 placeholders",
        ),
        ('{"question_id": 1, "messages": [], "answer": "a"}', "messages is empty"),
        ("\n\n", "found no questions"),
        (
            '{"question_id": 1, "messages": [{"role": "user", "content": ""}], "answer": "a"}\n'
            * 2,
            "question_id '1' appears twice",
        ),
    ],
)
def test_malformed_files_are_refused(tmp_path, text, message):
    path = tmp_path / "q.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_questions(path)


def test_a_missing_file_names_the_command_that_makes_it(tmp_path):
    with pytest.raises(DataNotFoundError, match=r"no such file; `smolvlm2 demo-data OUT`"):
        read_questions(tmp_path / "none.jsonl")


@pytest.mark.parametrize("name", benchmark_names())
def test_every_shipped_benchmark_loads(name):
    assert load_benchmark(name).name == name


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_benchmarks_say_what_to_fetch(name):
    plan = download_plan(name)
    assert plan.repo.count("/") == 1
    assert plan.patterns


def test_the_names_of_the_specification_and_of_lmms_eval_are_understood():
    names = ("video-mme", "videomme", "MLVU", "mlvu_dev", "mvbench", "videomme_w_subtitle")
    assert [load_benchmark(name).name for name in names] == [
        "video_mme",
        "video_mme",
        "mlvu",
        "mlvu",
        "mvbench",
        "video_mme_subtitles",
    ]


def test_one_may_bring_a_benchmark_of_ones_own(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("{name: mine, file: q.jsonl, modality: image, chance: 0.5}")
    assert load_benchmark(str(path)).chance == 0.5


def test_unknown_benchmarks_are_refused():
    with pytest.raises(ConfigError, match="no benchmark 'wich_digit'; did you mean 'which_digit'"):
        load_benchmark("wich_digit")
    with pytest.raises(ConfigError, match=r"no benchmark 'zzz'; known: chartqa, .*, or the path"):
        load_benchmark("zzz")
    with pytest.raises(ConfigError, match="which_digit is on no hub; `smolvlm2 demo-data OUT`"):
        download_plan("which_digit")
    with pytest.raises(ConfigError, match="no prompt of style 'vlmevalkit', only native, lmms"):
        load_benchmark("mmstar").prompt("vlmevalkit")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("file: q.jsonl, max_new_tokens: 0", r"mine\.yaml: max_new_tokens is 0, expected at least"),
        ("max_new_tokens: 4", "expected either 'file' or 'layouts'"),
        ("file: q.jsonl, rule: guess", "no rule 'guess'; known: exact_match, "),
        ("file: q.jsonl, prompts: {nativ: {}}", "no prompt style 'nativ'; known: native, "),
        ("layouts: [{files: [a]}]", r"prompts\.native is missing"),
        (
            "layouts: [{files: [a]}], prompts: {native: {text: '{qestion}'}}",
            r"mine\.yaml: .*text has \{qestion\}, which nothing fills; known: \{question\}, ",
        ),
        (
            "layouts: [{files: [a]}], prompts: {native: {option: '{x}'}}",
            r"option has \{x\}, which nothing fills; known: \{letter\}, \{text\}",
        ),
        (
            "layouts: [{files: [a]}], prompts: {native: {}}, macro_over: task",
            "macro_over 'task' is no group of every layout",
        ),
    ],
)
def test_wrong_benchmark_files_are_refused(tmp_path, fields, message):
    path = tmp_path / "mine.yaml"
    path.write_text(f"{{name: mine, modality: image, {fields}}}")
    with pytest.raises(ConfigError, match=message):
        load_benchmark(str(path))
