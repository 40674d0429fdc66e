"""The answer log: what is no answer, and answers that were given to something else."""

import pytest

from smolvlm2.errors import DataError
from smolvlm2.evaluation.runner import rescore, run_benchmark


@pytest.fixture
def answered(make_oracle, benchmark_, data_root, tmp_path):
    """The log of a run, and a function that runs it again."""
    log = tmp_path / "shade.jsonl"
    oracle = make_oracle(benchmark_, lambda question: question.question_id[-1])

    def again():
        return run_benchmark(oracle, benchmark_, data_root, answers_path=log)

    again()
    return log, again


def test_scoring_answers_to_other_questions_is_told(answered, benchmark_, data_root, caplog):
    log, _ = answered
    path = data_root / "shade.jsonl"
    path.write_text(path.read_text().replace("How bright?", "How dark?"))
    rescore(benchmark_, data_root, log)
    assert "not those that were answered" in caplog.text


def test_a_line_that_is_no_answer_is_told(answered, benchmark_, data_root):
    log, again = answered
    log.write_text(log.read_text().replace('"prediction"', '"predicted"'))
    for use in (again, lambda: rescore(benchmark_, data_root, log)):
        with pytest.raises(DataError, match=r"shade\.jsonl: holds a line that is no answer .*'pre"):
            use()
