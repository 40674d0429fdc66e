"""The runner: batches, killed runs, ranks, media that cannot be read, controls."""

import copy
import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from smolvlm2.errors import DataError, DataNotFoundError
from smolvlm2.evaluation.answers import Answer, AnswerLog, fingerprint
from smolvlm2.evaluation.backends import NativeBackend
from smolvlm2.evaluation.hook import make_hook
from smolvlm2.evaluation.media_index import LooseFile
from smolvlm2.evaluation.questions import Medium, read_questions
from smolvlm2.evaluation.runner import evaluate, examples, rescore, run_benchmark
from smolvlm2.evaluation.scoring import score
from smolvlm2.evaluation.statistics import clustered_interval

UNTIMED = {"seconds": 0, "tokens": 0, "tokens_per_s": 0}


def plain(result) -> dict:
    """A result without what depends on time."""
    return asdict(result) | UNTIMED


@pytest.fixture
def ask(make_oracle, benchmark_, data_root):
    """Run an oracle that gives the number in the question's id: five of seven are right."""

    def run(oracle=None, benchmark=benchmark_, **options):
        oracle = oracle or make_oracle(benchmark, lambda q: q.question_id[-1])
        return run_benchmark(oracle, benchmark, data_root, **options)

    return run


def test_scores_chance_and_groups_are_counted(ask):
    result = ask(batch_size=3)
    assert (result.n, result.accuracy) == (7, 5 / 7)
    ones = [1, 1, 1, 1, 1, 0, 0]
    assert result.interval == clustered_interval(ones, np.full(7, 1 / 7), [""] * 7, range(7))
    assert result.chance == pytest.approx((4 * 1 / 4 + 3 * 1 / 2) / 7)
    assert {name: (s.score, s.n) for name, s in result.groups["type"].items()} == {
        "even": (3 / 4, 4),
        "odd": (2 / 3, 3),
    }
    assert json.loads(json.dumps(result.to_json()))["unanswered"] == []
    assert result.tokens == 7


def test_a_constant_letter_has_a_score_where_letters_are_asked_for(ask, benchmark_):
    assert ask().constant == {}
    benchmark_.rule = "choice/lmms-eval"
    assert set(ask().constant) == set("ABC")


def test_prompts_of_like_shape_go_together(make_oracle, benchmark_, ask):
    oracle = make_oracle(benchmark_, lambda _: "0")
    ask(oracle, batch_size=3)
    assert [len(batch) for batch in oracle.batches] == [3, 3, 1]
    # Pictures 0, 2, 4 have five tiles, 1 and 3 have one; questions 5 and 6 show 0 and 1.
    assert {name[-1] for batch in oracle.batches[:1] for name in batch} < set("0245")
    assert len(oracle.decoded) == 5


def test_a_batch_holds_no_more_tiles_than_allowed(make_oracle, benchmark_, ask):
    oracle = make_oracle(benchmark_, lambda _: "0")
    ask(oracle, batch_size=7, batch_tiles=6)
    tiles = [sum(5 if name[-1] in "0245" else 1 for name in batch) for batch in oracle.batches]
    assert max(tiles) == 6
    assert sum(map(len, oracle.batches)) == 7


def test_progress_tells_count_score_and_time_left(ask):
    seen = []
    ask(batch_size=3, progress=seen.append)
    assert [(now.done, now.total) for now in seen] == [(3, 7), (6, 7), (7, 7)]
    assert seen[-1].score == 5 / 7
    assert seen[-1].seconds_left == 0
    assert seen[0].seconds_left > 0


def test_batch_size_order_and_threads_do_not_change_greedy_answers(
    model, processor, benchmark_, data_root, tmp_path
):
    benchmark_.max_new_tokens = 8
    found = []
    for number, options in enumerate(
        ({"batch_size": 1, "workers": 1}, {"batch_size": 7}, {"batch_size": 3, "batch_tiles": 8})
    ):
        log = tmp_path / f"{number}.jsonl"
        evaluate(model, processor, benchmark_, data_root, answers_path=log, **options)
        found.append(log.read_bytes())
    assert found[0] == found[1] == found[2]
    path = data_root / "shade.jsonl"
    path.write_text("\n".join(reversed(path.read_text().splitlines())))
    log = tmp_path / "reversed.jsonl"
    evaluate(model, processor, benchmark_, data_root, answers_path=log, batch_size=4)
    assert sorted(log.read_bytes().splitlines()[1:]) == sorted(found[0].splitlines()[1:])
    predictions = {json.loads(line)["prediction"] for line in found[0].splitlines()[1:]}
    assert len(predictions) > 1


def test_shared_pictures_give_the_answers_of_generate(model, processor, benchmark_, data_root):
    """The path with one picture for several questions equals the processor and model by hand."""
    backend = NativeBackend(model=model, processor=processor, benchmark=benchmark_)
    questions = read_questions(data_root / "shade.jsonl")
    medium = backend.decode(questions[0].media[0])
    batch = [backend.ask(q, [medium]) for q in (questions[0], questions[5])]
    replies = backend.answer(batch)
    content = [
        {"type": "image", "path": str(data_root / "media/0.png")},
        {"type": "text", "text": "How bright?"},
        {"type": "text", "text": "\nIn short."},
    ]
    inputs = processor([[{"role": "user", "content": content}]] * 2, add_generation_prompt=True)
    rows = model.generate(**inputs, max_new_tokens=16, min_new_tokens=1)
    assert [reply.text for reply in replies] == [processor.decode(row).strip() for row in rows]
    assert np.array_equal(batch[0].prompt, inputs["input_ids"][0].numpy())


def test_blank_pictures_keep_their_prompts_and_lose_their_content(make_oracle, benchmark_, ask):
    seeing = make_oracle(benchmark_, lambda _: "0")
    blind = make_oracle(benchmark_, lambda _: "0", blank_images=True)
    ask(seeing)
    result = ask(blind, blank_images=True)
    assert blind.prompts == seeing.prompts
    medium = Medium("image", LooseFile(Path(blind.decoded[0])))
    assert np.unique(blind.decode(medium).tiles).tolist() == [128]
    assert result.blank_images


def test_a_stopped_run_continues_and_leaves_the_same_file(ask, make_oracle, benchmark_, tmp_path):
    whole, log = tmp_path / "whole.jsonl", tmp_path / "answers" / "shade.jsonl"

    def say(question):
        return question.question_id[-1]

    expected = ask(batch_size=2, answers_path=whole)
    with pytest.raises(KeyboardInterrupt):
        ask(make_oracle(benchmark_, say, die_after=2), batch_size=2, answers_path=log)
    with log.open("a") as stream:
        stream.write('{"question_id": "shade/4", "predic')
    second = make_oracle(benchmark_, say)
    result = ask(second, batch_size=2, answers_path=log)
    assert sum(map(len, second.batches)) == 3
    assert plain(result) == plain(expected)
    assert log.read_bytes() == whole.read_bytes()


def test_answers_of_another_run_are_not_taken_over(ask, make_oracle, benchmark_, tmp_path):
    log = tmp_path / "shade.jsonl"
    ask(answers_path=log)
    benchmark_.max_new_tokens = 17
    for options in ({"blank_images": True}, {"limit": 3}, {}):
        oracle = make_oracle(benchmark_, lambda _: "0")
        ask(oracle, answers_path=log, **options)
        assert oracle.batches, options
    oracle = make_oracle(benchmark_, lambda _: "0")
    ask(oracle, answers_path=log)
    assert not oracle.batches


def test_answers_of_another_run_are_kept_and_found_again(
    ask, make_oracle, benchmark_, tmp_path, caplog
):
    """Somebody takes up a long evaluation and forgets a setting."""
    log = tmp_path / "shade.jsonl"
    with pytest.raises(KeyboardInterrupt):
        ask(make_oracle(benchmark_, lambda _: "0", die_after=2), batch_size=2, answers_path=log)
    ask(blank_images=True, answers_path=log)
    assert "held 4 answers of a run with another blank_images; they are in shade." in caplog.text
    oracle = make_oracle(benchmark_, lambda _: "0")
    ask(oracle, batch_size=2, answers_path=log)
    assert sum(map(len, oracle.batches)) == 3
    (kept,) = tmp_path.glob("shade.*.jsonl")  # the other run's, whole
    assert json.loads(kept.read_text().splitlines()[0])["blank_images"] is True


@pytest.mark.parametrize("field", ["split", "max_frames"])
def test_a_log_of_other_pixels_is_another_log(make_oracle, benchmark_, processor, field):
    oracle = make_oracle(benchmark_, lambda _: "0")
    before = oracle.describe()
    oracle.processor = copy.copy(processor)
    oracle.processor.image = replace(processor.image, split=False)
    oracle.processor.video = replace(processor.video, max_frames=7)
    assert oracle.describe()[field] != before[field]


def test_other_weights_have_another_fingerprint():
    one = torch.nn.Linear(2, 2)
    before = fingerprint(one)
    assert fingerprint(one) == before
    with torch.no_grad():
        one.weight[:] = one.weight.flip(0).clone()
    assert fingerprint(one) != before


def test_an_unreadable_medium_is_wrong_listed_and_tried_again(
    ask, make_oracle, benchmark_, data_root, tmp_path
):
    (data_root / "media/1.png").unlink()
    (data_root / "media/2.png").write_bytes(b"no picture")
    log = tmp_path / "shade.jsonl"
    result = ask(answers_path=log)
    assert result.accuracy == 3 / 7
    assert [entry["question_id"][-1] for entry in result.unanswered] == ["1", "2", "6"]
    assert result.unanswered[0]["problem"].startswith("missing_media: ")
    assert result.unanswered[1]["problem"].startswith("corrupt_media: ")
    (data_root / "media/2.png").write_bytes((data_root / "media/0.png").read_bytes())
    again = make_oracle(benchmark_, lambda q: q.question_id[-1])
    left = ask(again, answers_path=log).unanswered
    assert [entry["question_id"] for entry in left] == ["shade/1", "shade/6"]
    assert again.batches == [["shade/2"]]


def test_a_prompt_beyond_the_context_fails_alone(model, processor, benchmark_, data_root):
    path = data_root / "shade.jsonl"
    first, *rest = path.read_text().splitlines()
    path.write_text("\n".join([first.replace("How bright?", "why " * 2000), *rest]))
    result = evaluate(model, processor, benchmark_, data_root)
    assert [e["question_id"] for e in result.unanswered] == ["shade/0"]
    assert "the model's context is 1024" in result.unanswered[0]["problem"]


def test_answers_are_scored_again_without_a_model(ask, benchmark_, data_root, tmp_path, caplog):
    log = tmp_path / "shade.jsonl"
    result = ask(answers_path=log, limit=6, blank_images=True)
    again = rescore(benchmark_, data_root, log)
    assert plain(again) == plain(result)
    assert not caplog.records


def test_rescoring_refuses_what_does_not_fit(ask, benchmark_, data_root, tmp_path):
    log = tmp_path / "shade.jsonl"
    with pytest.raises(DataNotFoundError, match=r"shade\.jsonl: no such file; .*evaluate"):
        rescore(benchmark_, data_root, log)
    ask(answers_path=log)
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


def test_examples_are_spread_over_the_file(ask, benchmark_, data_root, tmp_path):
    log = tmp_path / "shade.jsonl"
    ask(answers_path=log)
    shown = examples(benchmark_, data_root, log, count=3)
    assert [example["truth"] for example in shown] == ["0", "2", "4"]
    assert shown[1] == {
        "benchmark": "shade",
        "question": "How bright?",
        "answer": "2",
        "truth": "2",
        "right": True,
        "media": [str(data_root / "media/2.png")],
    }
    assert len(examples(benchmark_, data_root, log, count=50)) == 7


def test_a_lucky_guess_about_an_unreadable_medium_does_not_count(benchmark_, data_root):
    questions = read_questions(data_root / "shade.jsonl")
    answers = {q.question_id: Answer(question_id=q.question_id, prediction="1") for q in questions}
    assert score(benchmark_, questions, answers).accuracy == 1 / 7
    answers["shade/1"] = replace(answers["shade/1"], problem="corrupt_media: x")
    assert score(benchmark_, questions, answers).accuracy == 0


@pytest.mark.parametrize(("rule", "expected"), [("none", None), (0.25, 0.25)])
def test_chance_follows_the_declared_rule(ask, benchmark_, rule, expected):
    benchmark_.chance = rule
    assert ask().chance == expected


def test_chance_by_choices_wants_choices(ask, data_root):
    path = data_root / "shade.jsonl"
    path.write_text(path.read_text().replace('"choices"', '"options"'))
    with pytest.raises(DataError, match=r"'shade/0' has no choices.*set `chance: none`"):
        ask()


def test_an_empty_batch_is_refused(ask):
    with pytest.raises(ValueError, match="batch_size is 0, expected at least 1"):
        ask(batch_size=0)


def test_the_hook_scores_the_model_in_place(model, processor, data_root, tmp_path):
    path = tmp_path / "shade.yaml"
    path.write_text("{name: shade, file: shade.jsonl, modality: image, max_new_tokens: 2}")
    before, mode = fingerprint(model), model.training
    state = torch.get_rng_state()
    hook = make_hook(processor, [str(path)], data_root, limit=4)
    metrics = hook(model, 10)
    assert set(metrics) == {"eval/shade", "eval/shade/low", "eval/shade/high"}
    assert metrics == hook(model, 10)
    assert (fingerprint(model), model.training) == (before, mode)
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(DataNotFoundError, match=r"shade\.jsonl: no such file"):
        make_hook(processor, [str(path)], tmp_path / "elsewhere")


SCRIPT = """
import os, sys, time
from pathlib import Path
from smolvlm2 import Processor, SmolVLM
from smolvlm2.evaluation.backends import NativeBackend
from smolvlm2.evaluation.benchmark import load_benchmark
from smolvlm2.evaluation.ranks import launched_ranks
from smolvlm2.evaluation.runner import run_benchmark
import torch
torch.set_num_threads(1)
checkpoint, yaml, data, log, pause = sys.argv[1:]
benchmark = load_benchmark(yaml)
class Slow(NativeBackend):
    def answer(self, batch):
        replies = super().answer(batch)
        time.sleep(float(pause))
        return replies
backend = Slow(model=SmolVLM.from_pretrained(checkpoint),
               processor=Processor.from_pretrained(checkpoint), benchmark=benchmark)
result = run_benchmark(backend, benchmark, data, batch_size=1, answers_path=log,
                       ranks=launched_ranks(), progress=lambda now: print(now.done, flush=True))
# A file for each rank: lines that two ranks print at one time may run into each other.
Path(f"{log}.score{os.environ.get('RANK', 0)}").write_text(str(result.accuracy))
"""


@pytest.fixture
def launch(model, processor, data_root, tmp_path):
    """Builder of a command that evaluates in processes of its own."""
    checkpoint, script, yaml = tmp_path / "model", tmp_path / "run.py", tmp_path / "shade.yaml"
    model.save_pretrained(checkpoint)
    processor.save_pretrained(checkpoint)
    script.write_text(SCRIPT)
    yaml.write_text("{name: shade, file: shade.jsonl, modality: image, max_new_tokens: 4}")

    def command(log, pause=0.0, world=1):
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world)]
        start = [sys.executable, *(launcher if world > 1 else [])]
        return [*map(str, [*start, script, checkpoint, yaml, data_root, log, pause])]

    return command


def run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_kill_9_and_a_rerun_leave_the_same_file(launch, tmp_path):
    whole, log = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    run(launch(whole))
    # Every batch rests before it is logged; the first progress line says that one answer is.
    process = subprocess.Popen(launch(log, pause=0.5), stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        os.kill(process.pid, signal.SIGKILL)
    assert 2 <= len(log.read_text().splitlines()) < 8
    run(launch(log))
    assert log.read_bytes() == whole.read_bytes()


@pytest.mark.slow
def test_two_ranks_are_one_rank(launch, tmp_path):
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    run(launch(one))
    run(launch(two, world=2))
    alone = (tmp_path / "one.jsonl.score0").read_text()
    assert [path.read_text() for path in sorted(tmp_path.glob("two.jsonl.score*"))] == [alone] * 2
    assert two.read_bytes() == one.read_bytes()
    assert not list(tmp_path.glob("two.rank*"))


def test_answers_of_ranks_are_taken_up_by_any_number(ask, make_oracle, benchmark_, tmp_path):
    log, whole = tmp_path / "shade.jsonl", tmp_path / "whole.jsonl"
    ask(answers_path=whole)
    header = json.loads(whole.read_text().splitlines()[0])
    part = AnswerLog(log, header, rank=1, world=3)
    part.append([Answer(question_id="shade/3", prediction="3", tokens=1)])
    oracle = make_oracle(benchmark_, lambda q: q.question_id[-1])
    ask(oracle, answers_path=log)
    assert "shade/3" not in [name for batch in oracle.batches for name in batch]
    assert log.read_bytes() == whole.read_bytes()
    assert not list(tmp_path.glob("*.rank*"))
