"""Question files and benchmark files."""

import json

import pytest

from smolvlm2.errors import ConfigError, DataError, DataNotFoundError
from smolvlm2.evaluation.benchmark import benchmark_names, load_benchmark
from smolvlm2.evaluation.questions import read_questions
from smolvlm2.evaluation.scorers import SCORERS


def test_media_are_put_in_their_places(data_root):
    question = read_questions(data_root / "shade.jsonl", limit=1)[0]
    assert question.text == "How bright?"
    assert question.conversation() == [
        {
            "role": "user",
            "content": [
                {"type": "image", "path": str(data_root / "media/0.png")},
                {"type": "text", "text": "How bright?"},
            ],
        }
    ]


def test_plain_text_and_several_references_are_understood(tmp_path):
    path = tmp_path / "text.jsonl"
    row = {"question_id": 1, "messages": [{"role": "user", "content": "Hi?"}], "answer": ["a", "b"]}
    path.write_text(f"\n{json.dumps(row)}\n\n")
    (question,) = read_questions(path)
    assert (question.references, question.choices, question.text) == (("a", "b"), (), "Hi?")
    assert question.conversation("Now.")[0]["content"][1:] == [{"type": "text", "text": "\nNow."}]


def test_several_media_keep_their_order(tmp_path):
    content = [{"type": "image"}, {"type": "text", "text": "or"}, {"type": "video"}]
    row = {"question_id": "a", "messages": [{"role": "user", "content": content}], "answer": "x"}
    path = tmp_path / "two.jsonl"
    path.write_text(json.dumps(row | {"media": ["first.png", "second.mp4"]}))
    items = read_questions(path)[0].conversation()[0]["content"]
    assert [item.get("path", "").rpartition("/")[2] for item in items] == [
        "first.png",
        "",
        "second.mp4",
    ]


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
    benchmark = load_benchmark(name)
    assert benchmark.name == name
    assert benchmark.scorer in SCORERS


def test_one_may_bring_a_benchmark_of_ones_own(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("{name: mine, file: q.jsonl, modality: image, chance: 0.5}")
    assert load_benchmark(str(path)).chance == 0.5


def test_unknown_benchmarks_and_values_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="no benchmark 'wich_digit'; did you mean 'which_digit'"):
        load_benchmark("wich_digit")
    with pytest.raises(ConfigError, match="no benchmark 'zzz'; known: how_many_changes, "):
        load_benchmark("zzz")
    path = tmp_path / "mine.yaml"
    path.write_text("{name: mine, file: q.jsonl, modality: image, max_new_tokens: 0}")
    with pytest.raises(ConfigError, match=r"mine\.yaml: max_new_tokens is 0, expected at least 1"):
        load_benchmark(str(path))
