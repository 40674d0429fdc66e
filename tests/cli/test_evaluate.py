"""``smolvlm2 evaluate``: what it prints, writes, and refuses before loading a checkpoint."""

import json

import pytest

from smolvlm2.cli import evaluate as command
from smolvlm2.errors import ConfigError, DataNotFoundError
from smolvlm2.evaluation.runner import BenchmarkResult


@pytest.fixture
def mine(tmp_path):
    """A benchmark of two text questions, in a folder of its own."""
    rows = [
        {"question_id": i, "messages": [{"role": "user", "content": "?"}], "answer": answer}
        for i, answer in enumerate(("yes", "no"))
    ]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    path = tmp_path / "mine.yaml"
    path.write_text("{name: mine, file: q.jsonl, modality: text, chance: 0.5}")
    return path


@pytest.fixture
def _checkpoint(monkeypatch):
    class Yes:
        def generate(self, input_ids, **_):
            return [[1] for _ in input_ids]

        def __call__(self, conversations, add_generation_prompt):
            return {"input_ids": conversations}

        def decode(self, ids):
            return "Yes."

    monkeypatch.setattr(command, "load_checkpoint", lambda *_, **__: (Yes(), Yes()))


@pytest.mark.usefixtures("_checkpoint")
@pytest.mark.parametrize(("blank", "name"), [(False, "mine.jsonl"), (True, "mine.blank.jsonl")])
def test_scores_are_printed_and_written(mine, tmp_path, capsys, blank, name):
    output = tmp_path / "out" / "scores.json"
    (result,) = command.evaluate_checkpoint(
        "ckpt", [str(mine)], tmp_path, output=output, blank_images=blank
    )
    assert capsys.readouterr().out == f"{command.summary_line(result)}\n"
    written = json.loads(output.read_text())
    assert written["checkpoint"] == "ckpt"
    assert [(r["benchmark"], r["accuracy"]) for r in written["results"]] == [("mine", 0.5)]
    assert len((tmp_path / "out" / "scores" / name).read_text().splitlines()) == 3


def test_the_line_tells_interval_chance_control_and_unreadable_media():
    result = BenchmarkResult(
        benchmark="which_way",
        accuracy=0.5,
        n=100,
        interval=(0.40383, 0.59617),
        chance=0.125,
        by_type={},
        blank_images=True,
        seconds=1.0,
        unreadable=[{"question_id": "a", "problem": "missing"}],
    )
    assert command.summary_line(result) == (
        "which_way on blank pictures: 50.0% (40.4% to 59.6%) of 100 questions, chance 12.5%, "
        "1 unreadable"
    )


def test_what_is_missing_is_told_before_the_checkpoint_is_loaded(tmp_path):
    with pytest.raises(DataNotFoundError, match=r"which_digit\.jsonl: no such file"):
        command.evaluate_checkpoint("nowhere", ["which_digit"], tmp_path)
    with pytest.raises(ConfigError, match="--benchmarks names none"):
        command.evaluate_checkpoint("nowhere", [], tmp_path)
