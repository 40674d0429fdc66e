"""One real step of each phase, without data."""

import pytest
import torch

from smolvlm2.training.command_line import parse_arguments, run_stage
from smolvlm2.training.dry_step import dry_step
from smolvlm2.training.update import Updater


def rows(text):
    return [line.split() for line in text.splitlines() if line.startswith("steps ")]


def test_each_phase_is_executed_once(make_recipe):
    state = torch.get_rng_state()
    text = dry_step(make_recipe(), device="cpu")
    assert [row[1] for row in rows(text)] == ["0-2", "3-5"]
    assert "random weights, full packs of generated samples" in text
    assert "1 tiles (a small pack on a CPU; --full takes a whole one)" in text
    assert torch.equal(state, torch.get_rng_state())


def test_a_whole_pack_runs_where_it_is_asked_for(make_recipe):
    recipe = make_recipe("pack.tokens=700", "pack.tiles=30", "training.neftune_alpha=5")
    text = dry_step(recipe, device="cpu", full=True)
    assert "700 tokens, 30 tiles (as planned)" in text
    assert len(rows(text)) == 2


def test_whole_packs_are_executed_until_all_of_a_steps_memory_is_held(make_recipe, monkeypatch):
    seen = []
    gradients = Updater.gradients

    def watched(self, batch, numbers, divisor, *, at):
        moments = {name for name, shard in self.shards.items() if self.optimizer.state.get(shard)}
        seen.append((at.split()[-1], numbers, any("vision_encoder" in name for name in moments)))
        return gradients(self, batch, numbers, divisor, at=at)

    monkeypatch.setattr(Updater, "gradients", watched)
    dry_step(make_recipe("pack.tokens=700", "pack.tiles=30"), device="cpu", full=True)
    assert seen == [
        ("0-2", [0, 1], False),
        ("0-2", [0, 1], False),
        ("3-5", [0, 1], False),
        ("3-5", [0, 1], True),
    ]


def test_it_runs_where_nothing_is_prepared(make_recipe, tmp_path):
    text = dry_step(
        make_recipe(f"data.root={tmp_path}", "pack.tokens=300"), device="cpu", full=True
    )
    assert "(assumed, no plan)" in text


def test_the_command_prints_plan_and_steps(recipe_file, capsys):
    run_stage("vision", ["--config", str(recipe_file()), "--dry-run=step", "--device", "cpu"])
    out = capsys.readouterr().out
    assert out.index("# memory on one device") < out.index("# one step of each phase")


def test_the_flag_takes_a_setting_behind_it_for_what_it_is(capsys):
    options = parse_arguments("vision", ["--dry-run", "training.max_steps=3"])
    assert (options.dry_run, options.overrides) == ("plan", ["training.max_steps=3"])
    with pytest.raises(SystemExit):
        parse_arguments("vision", ["--dry-run=all"])
    assert "'all' is unknown; expected step" in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_the_256m_takes_a_step_of_each_phase(capsys):
    run_stage("vision", ["--model-size", "256m", "--dry-run=step", "--device", "cpu"])
    assert [row[1] for row in rows(capsys.readouterr().out)[-2:]] == ["0-9999", "10000-49999"]
