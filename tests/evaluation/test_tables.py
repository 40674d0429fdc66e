"""Tables: published figures with their doubts, notes on what differs."""

import csv
from dataclasses import replace

import pytest

from smolvlm2.evaluation.published import FILE, published_score, published_scores
from smolvlm2.evaluation.runner import run_benchmark
from smolvlm2.evaluation.tables import group_table, report, score_table


@pytest.fixture
def result(make_oracle, benchmark_, data_root):
    oracle = make_oracle(benchmark_, lambda q: q.question_id[-1])
    return run_benchmark(oracle, benchmark_, data_root)


def test_every_published_score_is_read_with_its_source():
    with FILE.open(encoding="utf-8") as stream:
        assert len(published_scores()) == sum(1 for _ in csv.DictReader(stream))
    assert all(score.source and score.confidence for score in published_scores())


def test_the_video_checkpoints_own_figures_are_preferred():
    found = published_score(["MVBench"], "500M")
    assert (found.score, found.source) == (39.73, "SmolVLM2 model card (third-party copy)")
    assert str(published_score(["TextVQA"], "256M")) == "50.2?"
    assert str(published_score(["TextVQA", "TextVQA val"], "2.2B")) == "73.2"
    assert published_score(["nothing"], "256M") is None


def test_a_row_shows_score_interval_baselines_and_published_figures(result):
    shown = replace(result, benchmark="video_mme", title="Video-MME", constant={"A": 0.2, "B": 0.3})
    control = replace(shown, accuracy=0.25, blank_images=True)
    table = score_table([shown], {"video_mme": control})
    row = next(line for line in table.splitlines() if line.startswith("| Video-MME"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:2] == ["Video-MME", "**71.4**"]
    assert cells[3:] == ["7", "35.7", "B 30.0", "25.0", "33.7", "42.2", "52.1"]


def test_other_rules_are_named_where_they_differ_only(result):
    same = replace(result, beside={"anls/strict": result.accuracy})
    assert "anls/strict" not in score_table([same])
    other = replace(result, beside={"anls/strict": 0.5}, unverified=["the prompt"], empty=2)
    table = score_table([other])
    assert "same answers by other rules: 50.0 by `anls/strict`" in table
    assert "shade, unverified: the prompt" in table
    assert "0 without an answer and 2 empty, all counted as wrong" in table


def test_what_has_no_answer_is_told(make_oracle, benchmark_, data_root):
    (data_root / "media/1.png").unlink()
    result = run_benchmark(make_oracle(benchmark_, lambda _: "0"), benchmark_, data_root)
    table = score_table([result])
    assert "2 without an answer and 0 empty, all counted as wrong, first missing_media:" in table


def test_groups_have_tables_of_their_own(result):
    assert "| even | 75.0 |" in group_table(result, "type")
    assert "## shade by type" in report([result])
