"""What the README.md of an export says, against the run that it comes from."""

import json
from dataclasses import replace

import pytest
import yaml

from smolvlm2.data.sources.catalogue import SOURCES
from smolvlm2.model.config import SmolVLMConfig
from smolvlm2.training import model_card as cards
from smolvlm2.training.export import CARD, average_checkpoints, export_checkpoint
from smolvlm2.training.model_card import Stage, card_for, model_card


def step(run, number):
    return run / "checkpoints" / f"step-{number:08d}"


def metadata(text):
    return yaml.safe_load(text.split("---")[1])


def rows(text):
    """The table's cells, by the first one."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return {line[0]: line[1:] for line in lines}


def test_a_card_counts_what_the_model_has_seen(straight, tmp_path):
    export_checkpoint(step(straight, 4), tmp_path / "my_model")
    card = (tmp_path / "my_model" / CARD).read_text()
    lines = [json.loads(line) for line in (straight / "log.jsonl").read_text().splitlines()]
    seen = sum(line["samples"] for line in lines if line["step"] < 4 and "samples" in line)
    assert "# my_model\n" in card
    assert 'from_pretrained("my_model")' in card
    assert rows(card)["optimiser steps"] == ["4"]
    assert rows(card)["samples"] == [f"{seen:,}"]
    assert metadata(card)["library_name"] == "transformers"
    assert metadata(card)["pipeline_tag"] == "image-text-to-text"
    assert "base_model" not in metadata(card)  # folders of this machine
    assert str(tmp_path) not in card


def test_a_run_folder_stands_for_its_last_step_and_a_card_that_is_there_stays(straight, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / CARD).write_text("my own words")
    export_checkpoint(straight, out)
    assert (out / CARD).read_text() == "my own words"
    (out / CARD).unlink()
    export_checkpoint(straight, out, scores="| DocVQA | 12.3 % |\n")
    card = (out / CARD).read_text()
    last = Stage.of(straight)
    assert last.steps == last.recipe.training.max_steps
    assert f"{last.steps} of {last.steps} steps" in card
    assert "## Scores\n\n| DocVQA | 12.3 % |" in card


def test_an_average_names_its_steps(straight, tmp_path):
    average_checkpoints(straight, [6, 4], tmp_path / "out")
    assert "the mean of the weights after steps 4, 6" in (tmp_path / "out" / CARD).read_text()


def test_stages_before_count_with_their_data_and_terms(straight, run_copy, tmp_path, monkeypatch):
    (run_copy / "plan" / "start.json").write_text(json.dumps({"checkpoint": str(straight)}))
    last = Stage.of(run_copy)
    config = SmolVLMConfig.from_folder(run_copy)
    entry = next(iter(last.entries()))[1]
    known = replace(
        SOURCES["the_cauldron"], name=entry.source, licence="free | for all", research_only=True
    )
    monkeypatch.setattr(cards, "SOURCES", {entry.source: known})
    card = model_card("both", last, config)
    assert rows(card)["stage"] is not None
    assert len(rows(card)["optimiser steps"]) == 2
    assert card.count("free / for all; research only ([HuggingFaceM4/the_cauldron](https://") == (
        2 * sum(each.source == entry.source for _, each, _ in last.entries())
    )
    assert metadata(card)["datasets"] == ["HuggingFaceM4/the_cauldron"]


def test_what_it_began_from_is_named_where_it_is_not_at_hand(run_copy):
    config = SmolVLMConfig.from_folder(run_copy)
    start = run_copy / "plan" / "start.json"
    start.write_text(json.dumps({"checkpoint": "org/model"}))
    card = model_card("tuned", Stage.of(run_copy), config)
    assert metadata(card)["base_model"] == ["org/model"]
    assert "What `org/model` was trained on is not known here." in card
    start.write_text(json.dumps({"checkpoint": "/home/somebody/secret/base"}))
    card = model_card("tuned", Stage.of(run_copy), config)
    assert "What `base` was trained on" in card
    assert "somebody" not in card
    assert "base_model" not in metadata(card)


def test_a_checkpoint_of_no_run_has_no_card(straight, tmp_path):
    export_checkpoint(straight, tmp_path / "one")
    export_checkpoint(tmp_path / "one", tmp_path / "two")
    assert not (tmp_path / "two" / CARD).exists()


@pytest.mark.parametrize("damage", ["{", '{"segments": [1]}'])
def test_a_damaged_run_costs_the_card_alone(run_copy, tmp_path, caplog, damage):
    (run_copy / "plan" / "segments.json").write_text(damage)
    config = SmolVLMConfig.from_folder(run_copy)
    assert card_for(tmp_path / "out", run_copy, config) is None
    assert "no model card is written" in caplog.text
