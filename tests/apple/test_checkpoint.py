"""Checkpoints of every origin load right, and what is written loads everywhere."""

import json
import shutil

import numpy as np
import pytest

mx = pytest.importorskip("mlx.core", reason="needs mlx", exc_type=ImportError)
pytest.importorskip("mlx_vlm", reason="needs mlx-vlm")

from smolvlm2.apple import checkpoint as files  # noqa: E402
from smolvlm2.errors import CheckpointError, CheckpointNotFoundError, ConfigError  # noqa: E402

pytestmark = pytest.mark.mlx
IDS = [[1, 5, 9, 33, 7, 21]]


def logits(model):
    return np.array(model(mx.array(IDS), None).logits)


@pytest.fixture
def copy(checkpoint, tmp_path):
    """A copy of the checkpoint whose files a test may change."""
    return shutil.copytree(checkpoint, tmp_path / "copy")


def edit(folder, change):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def test_the_rope_base_is_read_in_the_spelling_of_transformers_5(checkpoint, copy):
    edit(copy, lambda config: config["text_config"].pop("rope_theta"))
    found = files.load(copy)
    assert found.config.text.rope_theta == 273000.0
    assert (logits(found.model) == logits(files.load(checkpoint).model)).all()


def test_upstream_reads_what_we_write_and_not_what_transformers_5_writes(copy, tmp_path):
    """Where the second half fails, mlx-vlm reads rope_parameters now: drop the flat key."""
    from mlx_vlm.utils import load_model

    ours = files.load(copy)
    files.save(ours.model, ours.config, ours.processor, tmp_path / "written")
    assert np.abs(logits(load_model(tmp_path / "written")) - logits(ours.model)).max() < 1e-5
    edit(copy, lambda config: config["text_config"].pop("rope_theta"))
    assert np.abs(logits(load_model(copy)) - logits(ours.model)).max() > 1e-3


def test_a_tied_head_is_the_embedding(copy):
    weights = mx.load(str(copy / "model.safetensors"))
    del weights["lm_head.weight"]
    mx.save_safetensors(str(copy / "model.safetensors"), weights)
    edit(copy, lambda config: config.update(tie_word_embeddings=True))
    model = files.load(copy).model.language_model
    assert mx.array_equal(model.lm_head.weight, model.embed_tokens.weight)


def test_writing_and_reading_keeps_every_bit(checkpoint, tmp_path):
    loaded = files.load(checkpoint)
    files.save(loaded.model, loaded.config, loaded.processor, tmp_path)
    before = mx.load(str(checkpoint / "model.safetensors"))
    after = mx.load(str(tmp_path / "model.safetensors"))
    assert before.keys() == after.keys()
    assert all(mx.array_equal(before[name], after[name]) for name in before)
    torch = pytest.importorskip("torch")
    from smolvlm2 import Processor, SmolVLM

    theirs = SmolVLM.from_pretrained(tmp_path)
    with torch.no_grad():
        expected = theirs(torch.tensor(IDS)).logits.numpy()
    assert np.abs(expected - logits(loaded.model)).max() < 1e-4
    assert Processor.from_pretrained(tmp_path).tokens_per_tile == 16


@pytest.mark.parametrize("bits", [4, 8])
def test_quantisation_leaves_the_vision_encoder_alone(checkpoint, bits):
    plain, quantised = files.load(checkpoint), files.load(checkpoint, quantize=bits)
    layers = [n for n, m in quantised.model.named_modules() if type(m).__name__.startswith("Quan")]
    assert {name.split(".")[0] for name in layers} == {"language_model", "connector"}
    error = np.abs(logits(quantised.model) - logits(plain.model)).mean()
    assert 0 < error < (0.3 if bits == 4 else 0.03)


def test_a_folder_quantised_by_mlx_vlm_loads(checkpoint, tmp_path):
    from mlx.utils import tree_flatten

    loaded = files.load(checkpoint, quantize=4)
    shutil.copytree(checkpoint, tmp_path / "four")
    # As mlx_vlm.convert writes it: MLX's names, and the group size beside the bits.
    weights = dict(tree_flatten(loaded.model.parameters()))
    mx.save_safetensors(str(tmp_path / "four/model.safetensors"), weights)
    edit(
        tmp_path / "four",
        lambda config: config.update(quantization={"group_size": 64, "bits": 4}),
    )
    again = files.load(tmp_path / "four")
    assert (logits(again.model) == logits(loaded.model)).all()
    with pytest.raises(ConfigError, match="quantised already; leave --quantize out"):
        files.load(tmp_path / "four", quantize=4)


def test_missing_extra_and_misshapen_tensors_are_named(copy):
    path = copy / "model.safetensors"
    original = mx.load(str(path))
    norm = "model.text_model.norm.weight"
    for change, message in (
        ({norm: None}, r"missing tensor 'language_model\.norm\.weight'"),
        ({"extra.weight": mx.zeros(2)}, r"unexpected tensor 'extra\.weight'"),
        ({norm: mx.zeros(3)}, r"'language_model\.norm\.weight' is \(3,\), expected \(64,\)"),
    ):
        changed = {n: w for n, w in {**original, **change}.items() if w is not None}
        mx.save_safetensors(str(path), changed)
        with pytest.raises(CheckpointError, match=message):
            files.load(copy)


def test_a_cut_file_and_a_folder_without_weights_are_told(copy):
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="not a complete safetensors file"):
        files.load(copy)
    path.unlink()
    with pytest.raises(CheckpointNotFoundError, match="MLX reads exports, not step folders"):
        files.load(copy)


def test_heads_that_mlx_vlm_cannot_have_and_unknown_types_are_refused(copy):
    with pytest.raises(CheckpointError, match="dtype 'float8' is unknown"):
        files.load(copy, dtype="float8")
    with pytest.raises(ConfigError, match="quantize is 3; expected 4 or 8"):
        files.load(copy, quantize=3)
    edit(copy, lambda config: config["text_config"].update(head_dim=8))
    with pytest.raises(CheckpointError, match="4 heads of 8 are not the width 64"):
        files.load(copy)


def test_widths_without_a_group_size_are_refused(checkpoint, monkeypatch):
    monkeypatch.setattr(files, "GROUP_SIZES", (48,))
    with pytest.raises(ConfigError, match="not all multiples of 48"):
        files.load(checkpoint, quantize=4)
