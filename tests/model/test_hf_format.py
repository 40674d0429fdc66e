"""Save and load are bit-equal; what does not fit is named."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from smolvlm2 import SmolVLM
from smolvlm2.errors import CheckpointError, CheckpointNotFoundError


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_save_and_load_are_bit_equal(make_model, tmp_path, tied, dtype):
    model = make_model(tied=tied).to(dtype)
    model.save_pretrained(tmp_path)
    loaded = SmolVLM.from_pretrained(tmp_path)
    assert loaded.config == model.config
    assert loaded.dtype == dtype
    assert (loaded.lm_head.weight is loaded.text_decoder.embed_tokens.weight) is tied
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name
    assert "lm_head.weight" in load_file(tmp_path / "model.safetensors")


def test_transformers_files_load_bit_equal(make_model, to_transformers, tmp_path):
    ours = make_model()
    to_transformers(ours).save_pretrained(tmp_path)
    loaded = SmolVLM.from_pretrained(tmp_path)
    assert loaded.config.text == ours.config.text
    assert loaded.config.vision == ours.config.vision
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name


def test_a_published_checkpoint_saved_again_by_transformers_still_ends_its_answers(
    make_model, to_transformers, tmp_path
):
    """The published text configuration names no end token; transformers 5 writes Llama's there."""
    ours = make_model()
    theirs = to_transformers(ours)
    theirs.config.text_config.eos_token_id = type(theirs.config.text_config)().eos_token_id
    theirs.config.eos_token_id = None
    theirs.generation_config.eos_token_id = ours.config.eos_token_id
    theirs.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert written["text_config"]["eos_token_id"] == ours.config.pad_token_id
    loaded = SmolVLM.from_pretrained(tmp_path)
    assert loaded.config == ours.config


def test_sharded_transformers_files_load(make_model, to_transformers, tmp_path):
    ours = make_model()
    to_transformers(ours).save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    loaded = SmolVLM.from_pretrained(tmp_path)
    assert torch.equal(loaded.lm_head.weight, ours.lm_head.weight)


def test_an_idefics3_class_checkpoint_loads_with_equal_logits(make_model, make_batch, tmp_path):
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration

    ours = make_model()
    values = ours.config.to_hf()
    vision = values["vision_config"] | {"model_type": "idefics3_vision"}
    config = Idefics3Config(
        vision_config=vision,
        text_config=values["text_config"],
        scale_factor=values["scale_factor"],
        image_token_id=values["image_token_id"],
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    theirs = Idefics3ForConditionalGeneration(config).eval()
    theirs.save_pretrained(tmp_path)
    loaded = SmolVLM.from_pretrained(tmp_path)
    batch = make_batch(loaded.config)
    with torch.no_grad():
        difference = loaded(**batch).logits - theirs(**batch).logits
    assert difference[batch["attention_mask"].bool()].abs().max() < 1e-4


def test_dtype_and_device_are_the_callers_choice(make_model, tmp_path):
    make_model().save_pretrained(tmp_path)
    assert SmolVLM.from_pretrained(tmp_path, dtype="bfloat16").dtype == torch.bfloat16
    with pytest.raises(CheckpointError, match="dtype 'float8' is unknown"):
        SmolVLM.from_pretrained(tmp_path, dtype="float8")


def change_weights(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("model.text_model.norm.weight"), "'model.text_model.norm.weight' is miss"),
        (lambda t: t.pop("lm_head.weight"), "'lm_head.weight' is missing"),
        (lambda t: t.update(extra=torch.zeros(1)), "unexpected tensor 'extra'"),
        (
            lambda t: t.update({"model.text_model.norm.weight": torch.ones(3)}),
            r"'model.text_model.norm.weight' is \(3,\), expected \(32,\)",
        ),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(make_model, tmp_path, change, message):
    make_model().save_pretrained(tmp_path)
    change_weights(tmp_path, change)
    with pytest.raises(CheckpointError, match=message):
        SmolVLM.from_pretrained(tmp_path)


def test_leftover_buffers_of_old_files_are_ignored(make_model, tmp_path):
    make_model().save_pretrained(tmp_path)
    name = "model.vision_model.embeddings.position_ids"
    change_weights(tmp_path, lambda tensors: tensors.update({name: torch.arange(16)}))
    SmolVLM.from_pretrained(tmp_path)


def test_wrong_places_are_rejected(make_model, tmp_path):
    with pytest.raises(CheckpointNotFoundError, match="in this folder nor in checkpoints/latest"):
        SmolVLM.from_pretrained(tmp_path)
    with pytest.raises(CheckpointNotFoundError, match="no such folder, and not a hub id"):
        SmolVLM.from_pretrained("./no/such/folder")
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointNotFoundError, match="is a file"):
        SmolVLM.from_pretrained(tmp_path / "file")
    make_model().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointNotFoundError, match=r"neither model.safetensors nor"):
        SmolVLM.from_pretrained(tmp_path)


def test_broken_files_are_rejected(make_model, tmp_path):
    make_model().save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="not a complete safetensors file"):
        SmolVLM.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        SmolVLM.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="found list"):
        SmolVLM.from_pretrained(tmp_path)


def test_an_interrupted_save_leaves_the_old_checkpoint(make_model, tmp_path, monkeypatch):
    model = make_model()
    model.save_pretrained(tmp_path)

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr("smolvlm2.model.tensor_files.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        make_model(seed=5).save_pretrained(tmp_path)
    loaded = SmolVLM.from_pretrained(tmp_path)
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)


def test_who_may_read_the_folder_may_read_the_weights(make_model, tmp_path):
    (tmp_path / "other").touch()
    make_model().save_pretrained(tmp_path)
    modes = {path.stat().st_mode for path in tmp_path.iterdir() if path.is_file()}
    assert len(modes) == 1


def test_generation_config_names_the_stop_token(make_model, tmp_path):
    make_model().save_pretrained(tmp_path)
    written = json.loads((tmp_path / "generation_config.json").read_text())
    assert written["eos_token_id"] == 95
