"""The runner: scores, control, killed runs, unreadable media."""

import json
from dataclasses import asdict

import pytest
import torch

from smolvlm2.errors import DataError, DataNotFoundError
from smolvlm2.evaluation.answers import Answer, fingerprint
from smolvlm2.evaluation.questions import read_questions
from smolvlm2.evaluation.runner import evaluate, examples, rescore, score
from smolvlm2.evaluation.scorers import wilson_interval


@pytest.fixture
def run(processor, benchmark_, data_root, new_model):
    def run_model(model=None, **options):
        return evaluate(model or new_model(), processor, benchmark_, data_root, **options)

    return run_model


def test_scores_chance_and_types_are_counted(run):
    result = run(batch_size=3)
    assert (result.n, result.accuracy) == (7, 5 / 7)
    assert result.interval == wilson_interval(5, 7)
    assert result.chance == pytest.approx((4 * 1 / 4 + 3 * 1 / 2) / 7)
    assert {name: (s.accuracy, s.n) for name, s in result.by_type.items()} == {
        "even": (3 / 4, 4),
        "odd": (2 / 3, 3),
    }
    assert json.loads(json.dumps(asdict(result)))["unreadable"] == []


def test_questions_are_answered_in_batches_and_progress_is_told(run, new_model):
    model, seen = new_model(), []
    run(model, batch_size=3, progress=lambda done, total: seen.append((done, total)))
    assert model.batches == [3, 3, 1]
    assert seen == [(3, 7), (6, 7), (7, 7)]


def test_the_prompt_suffix_follows_the_question(run, processor):
    run(limit=1)
    texts = [item.get("text") for item in processor.calls[0][0][-1]["content"]]
    assert texts == [None, "How bright?", "\nIn short."]


def test_blank_pictures_keep_their_shape_and_lose_their_content(run, new_model):
    seeing, blind = new_model(), new_model()
    run(seeing)
    result = run(blind, blank_images=True)
    assert blind.pixels[0].shape == seeing.pixels[0].shape
    assert blind.pixels[0].dtype == torch.uint8
    assert blind.pixels[0].unique().tolist() == [128]
    assert (result.accuracy, result.blank_images) == (0, True)


def test_a_killed_run_continues_where_it_stopped(run, tmp_path, new_model):
    log = tmp_path / "answers" / "shade.jsonl"
    with pytest.raises(KeyboardInterrupt):
        run(new_model(die_after=2), batch_size=2, answers_path=log)
    with log.open("a") as stream:
        stream.write('{"question_id": "shade/4", "predic')
    second = new_model()
    result = run(second, batch_size=2, answers_path=log)
    assert second.batches == [2, 1]
    assert result.accuracy == 5 / 7
    assert len(log.read_text().splitlines()) == 8


def test_answers_of_another_run_are_not_taken_over(run, tmp_path, new_model):
    log = tmp_path / "shade.jsonl"
    run(answers_path=log)
    for options in ({"blank_images": True}, {"limit": 3}, {}):
        model = new_model()
        run(model, answers_path=log, **options)
        assert model.batches, options


def test_other_weights_have_another_fingerprint():
    one = torch.nn.Linear(2, 2)
    before = fingerprint(one)
    assert fingerprint(one) == before
    with torch.no_grad():
        one.bias[0] += 1e-3
    assert fingerprint(one) != before


def test_an_unreadable_medium_is_wrong_and_listed(run, data_root, tmp_path, new_model):
    (data_root / "media/1.png").unlink()
    (data_root / "media/2.png").write_bytes(b"no picture")
    log = tmp_path / "shade.jsonl"
    result = run(answers_path=log)
    assert result.accuracy == 3 / 7
    assert [entry["question_id"] for entry in result.unreadable] == ["shade/1", "shade/2"]
    assert result.unreadable[0]["problem"].startswith("missing_media: ")
    assert result.unreadable[1]["problem"].startswith("corrupt_media: ")
    (data_root / "media/2.png").write_bytes((data_root / "media/0.png").read_bytes())
    again = new_model()
    assert [e["question_id"] for e in run(again, answers_path=log).unreadable] == ["shade/1"]
    assert sum(again.batches) == 1


def test_answers_are_scored_again_without_a_model(run, benchmark_, data_root, tmp_path):
    log = tmp_path / "shade.jsonl"
    result = run(answers_path=log, limit=6, blank_images=True)
    again = rescore(benchmark_, data_root, log)
    assert asdict(again) | {"seconds": 0} == asdict(result) | {"seconds": 0}


def test_rescoring_refuses_what_does_not_fit(run, benchmark_, data_root, tmp_path):
    log = tmp_path / "shade.jsonl"
    with pytest.raises(DataNotFoundError, match=r"shade\.jsonl: no such file; .*evaluate"):
        rescore(benchmark_, data_root, log)
    run(answers_path=log)
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[:3]))
    with pytest.raises(DataError, match="5 of 7 questions have no answer, first 'shade/2'"):
        rescore(benchmark_, data_root, log)
    log.write_text(lines[0].replace('"shade"', '"other"'))
    with pytest.raises(DataError, match="answers to 'other', expected 'shade'"):
        rescore(benchmark_, data_root, log)
    log.write_text(lines[1])
    with pytest.raises(DataError, match="not an answer log"):
        rescore(benchmark_, data_root, log)


def test_examples_are_spread_over_the_file(run, benchmark_, data_root, tmp_path):
    log = tmp_path / "shade.jsonl"
    run(answers_path=log)
    shown = examples(benchmark_, data_root, log, count=3)
    assert [example["truth"] for example in shown] == ["0", "2", "4"]
    assert shown[1] == {
        "benchmark": "shade",
        "question": "How bright?",
        "answer": "2.",
        "truth": "2",
        "right": True,
        "media": [str(data_root / "media/2.png")],
    }
    assert len(examples(benchmark_, data_root, log, count=50)) == 7


def test_a_lucky_guess_about_an_unreadable_medium_does_not_count(benchmark_, data_root):
    questions = read_questions(data_root / "shade.jsonl")
    answers = {q.question_id: Answer(question_id=q.question_id, prediction="1") for q in questions}
    assert score(benchmark_, questions, answers).accuracy == 1 / 7
    answers["shade/1"] = Answer(question_id="shade/1", prediction="1", problem="corrupt_media: x")
    assert score(benchmark_, questions, answers).accuracy == 0


@pytest.mark.parametrize(("rule", "expected"), [("none", None), (0.25, 0.25)])
def test_chance_follows_the_declared_rule(run, benchmark_, rule, expected):
    benchmark_.chance = rule
    assert run().chance == expected


def test_chance_by_choices_wants_choices(run, data_root):
    path = data_root / "shade.jsonl"
    path.write_text(path.read_text().replace('"choices"', '"options"'))
    with pytest.raises(DataError, match=r"'shade/0' has no choices.*set `chance: none`"):
        run()


def test_an_empty_batch_is_refused(run):
    with pytest.raises(ValueError, match="batch_size is 0, expected at least 1"):
        run(batch_size=0)
