"""DoRA adapters: what trains, that masks repeat, and that merging changes nothing."""

import importlib.util

import pytest
import torch

from smolvlm2.errors import CheckpointError, ConfigError, MissingDependencyError
from smolvlm2.model.components import load_components
from smolvlm2.model.smolvlm import SmolVLM
from smolvlm2.training import adapters
from smolvlm2.training.adapters import (
    AdapterSettings,
    adapter_scale,
    attach_adapters,
    merge_adapters,
)
from smolvlm2.training.dry_run import describe
from smolvlm2.training.freezing import apply_freezing
from smolvlm2.training.memory import count_trained
from smolvlm2.training.randomness import PackRandomness
from smolvlm2.training.recipe import TrainingSettings

needs_peft = pytest.mark.skipif(
    importlib.util.find_spec("peft") is None, reason="needs peft: pip install peft"
)
ADAPTERS = (
    "training.adapters.rank=4",
    "training.adapters.alpha=8",
    "training.adapters.trained_embeddings_from=290",
    "training.freeze_vision_encoder=false",
    "training.unfreeze_vision_after_steps=null",
    "training.max_steps=3",
    "schedule.warmup_steps=0",
)


def logits(model: SmolVLM) -> torch.Tensor:
    """Of a fixed prompt with one tile."""
    config = model.config
    tiles = torch.arange(3 * 32 * 32, dtype=torch.uint8).view(1, 3, 32, 32)
    visual = [config.image_token_id] * config.tokens_per_tile
    ids = torch.tensor([[1, 5, *visual, 7, 8, 9]])
    with torch.no_grad():
        return model.eval()(ids, tiles).logits


@needs_peft
def test_figures_on_paper_count_what_trains(make_trainer, make_recipe, tmp_path):
    trainer = make_trainer(tmp_path / "run", *ADAPTERS)
    config, settings = trainer.model.config, trainer.recipe.training.adapters
    every, trained = count_trained(config, settings)
    numbers = {name: p.numel() for name, p in trainer.model.named_parameters()}
    assert sum(numbers.values()) == every.total
    for frozen, expected in (
        (frozenset(), trained.total),
        (frozenset({"vision_encoder"}), trained.total - trained.vision_encoder),
    ):
        apply_freezing(trainer.model, frozen)
        trains = [p.numel() for p in trainer.model.parameters() if p.requires_grad]
        assert sum(trains) == expected
    text = describe(make_recipe(*ADAPTERS))
    assert f"{trained.text_decoder:,} train" in text
    assert "adapters: their own activations" in text


def test_a_tied_head_is_refused_before_a_run(make_recipe):
    recipe = make_recipe(*ADAPTERS, "model.tie_word_embeddings=true")
    with pytest.raises(ConfigError, match="needs a head of its own"):
        describe(recipe)


@needs_peft
def test_the_components_stay_and_the_rest_trains(make_trainer, tmp_path):
    trainer = make_trainer(tmp_path / "run", *ADAPTERS)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    state = torch.get_rng_state()
    trainer.train()
    assert torch.equal(state, torch.get_rng_state())
    for name, parameter in trainer.model.named_parameters():
        same = torch.equal(before[name], parameter)
        if name == adapters.EMBEDDING:
            assert torch.equal(before[name][:290], parameter[:290])
            assert not same
        else:
            assert same is (".base_layer." in name), name


@needs_peft
def test_the_export_has_the_models_names_and_the_trained_logits(make_trainer, tmp_path):
    trainer = make_trainer(tmp_path / "run", *ADAPTERS)
    trainer.train()
    exported = SmolVLM.from_pretrained(tmp_path / "run")
    names = {name for name, _ in exported.named_parameters()}
    assert not any("lora" in name or "base_layer" in name for name in names)
    torch.testing.assert_close(logits(exported), logits(trainer.model), atol=1e-5, rtol=1e-5)


@needs_peft
def test_merging_equals_pefts_own(make_recipe):
    from peft.tuners.lora import LoraLayer

    model = load_components(make_recipe().model, seed=0)
    attach_adapters(model, AdapterSettings(rank=4, alpha=8), PackRandomness(seed=1))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    ours = merge_adapters(dict(model.named_parameters()), adapter_scale(model))
    assert adapter_scale(model) == 2
    count = 0
    for name, module in model.eval().named_modules():
        if isinstance(module, LoraLayer):
            module.merge()
            torch.testing.assert_close(ours[f"{name}.weight"], module.get_base_layer().weight)
            count += 1
    assert count == 2 * 6 + 2 * 7 + 1


@needs_peft
def test_recomputed_activations_see_the_same_dropout(make_trainer, tmp_path, log_lines):
    losses = []
    for name, recompute in (("a", "true"), ("b", "false")):
        setting = f"training.gradient_checkpointing={recompute}"
        make_trainer(tmp_path / name, *ADAPTERS, setting).train()
        losses.append([line["loss"] for line in log_lines(tmp_path / name)])
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


@needs_peft
def test_an_interrupted_run_goes_on_as_if_it_had_not_been(make_trainer, tmp_path, log_lines):
    make_trainer(tmp_path / "whole", *ADAPTERS).train()
    first = make_trainer(tmp_path / "run", *ADAPTERS)
    first.stop.pending = lambda: "asked" if first.state.step == 2 else None
    first.train()
    make_trainer(tmp_path / "run", *ADAPTERS).train()
    whole = (tmp_path / "whole" / "model.safetensors").read_bytes()
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == whole


@needs_peft
def test_a_tied_head_is_refused(make_trainer, tmp_path):
    with pytest.raises(ConfigError, match="needs a head of its own"):
        make_trainer(tmp_path / "run", *ADAPTERS, "model.tie_word_embeddings=true")


@needs_peft
def test_a_frozen_encoder_keeps_its_adapters_still(make_trainer, tmp_path):
    model = make_trainer(tmp_path / "run", *ADAPTERS).model
    apply_freezing(model, frozenset({"vision_encoder"}))
    trains = [name for name, p in model.named_parameters() if p.requires_grad]
    assert not any(name.startswith("vision_encoder") for name in trains)
    assert any("lora_A" in name for name in trains)


@pytest.mark.skipif(importlib.util.find_spec("peft") is not None, reason="peft is installed")
def test_a_missing_peft_names_the_command(make_trainer, tmp_path):
    with pytest.raises(MissingDependencyError, match="pip install 'smolvlm2\\[peft\\]'"):
        make_trainer(tmp_path / "run", *ADAPTERS)


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match=r"training\.adapters\.rank is 0"):
        AdapterSettings(rank=0)
    with pytest.raises(ConfigError, match=r"training\.adapters\.dropout is 1"):
        AdapterSettings(dropout=1)
    with pytest.raises(ConfigError, match=r"training\.compile does not go with"):
        TrainingSettings(compile=True, adapters=AdapterSettings())


@needs_peft
def test_a_step_folder_with_adapters_is_refused_by_name_with_what_helps(make_trainer, tmp_path):
    from smolvlm2.training.export import export_checkpoint

    make_trainer(tmp_path / "run", *ADAPTERS, "training.max_steps=1").train()
    step = tmp_path / "run" / "checkpoints" / "step-00000001"
    with pytest.raises(CheckpointError, match=r"step-00000001: holds adapters .*smolvlm2 export"):
        SmolVLM.from_pretrained(step)
    export_checkpoint(step, tmp_path / "out")
    merged, run = (SmolVLM.from_pretrained(tmp_path / name) for name in ("out", "run"))
    torch.testing.assert_close(logits(merged), logits(run))
