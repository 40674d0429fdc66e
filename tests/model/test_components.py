"""From transformers' own SigLIP and Llama files to a SmolVLM."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from smolvlm2 import SmolVLM
from smolvlm2.errors import CheckpointError, CheckpointNotFoundError
from smolvlm2.model.component_shapes import (
    ComponentSettings,
    ConnectorSource,
    TextSource,
    VisionSource,
    component_shapes,
)
from smolvlm2.model.components import load_components, resize_positions

VOCABULARY = 60


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A two-tower SigLIP and a tied Llama, written by transformers."""
    from transformers import LlamaConfig, LlamaForCausalLM, SiglipConfig, SiglipModel

    root = tmp_path_factory.mktemp("components")
    torch.manual_seed(0)
    tower = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    tower |= {"num_attention_heads": 4}
    siglip = SiglipModel(
        SiglipConfig(
            vision_config=tower | {"image_size": 32, "patch_size": 8},
            text_config=tower | {"vocab_size": 50, "max_position_embeddings": 8},
        )
    )
    siglip.save_pretrained(root / "siglip")
    llama = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=VOCABULARY,
            tie_word_embeddings=True,
        )
    )
    llama.save_pretrained(root / "llama")
    return root, siglip, llama


def settings_for(root, **changes):
    return ComponentSettings(
        **{
            "vision_encoder": VisionSource(name=str(root / "siglip"), image_size=32),
            "text_decoder": TextSource(
                name=str(root / "llama"), max_position_embeddings=128, rope_theta=273000.0
            ),
            "connector": ConnectorSource(ratio=2),
        }
        | changes
    )


def test_vision_features_equal_the_siglip_components(folders):
    root, siglip, _ = folders
    model = load_components(settings_for(root), seed=0)
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        expected = siglip.vision_model(pixels).last_hidden_state
        assert (model.vision_encoder(pixels) - expected).abs().max() < 1e-5


def test_text_logits_equal_the_smollm2_components(folders):
    root, _, llama = folders
    settings = settings_for(root)
    settings.text_decoder.rope_theta = 10000.0
    model = load_components(settings, seed=0)
    ids = torch.arange(3, 20)[None]
    with torch.no_grad():
        expected, found = llama(ids).logits, model(ids).logits
    assert (found[..., :VOCABULARY] - expected).abs().max() < 1e-4


def test_the_vocabulary_grows_by_mean_rows_and_the_head_is_a_copy(folders):
    root, _, llama = folders
    model = load_components(settings_for(root), seed=0)
    base = llama.model.embed_tokens.weight
    table = model.text_decoder.embed_tokens.weight
    assert len(table) == VOCABULARY + 128
    assert torch.equal(table[:VOCABULARY], base)
    assert torch.allclose(table[VOCABULARY:], base.mean(dim=0).expand(128, -1))
    assert torch.equal(model.lm_head.weight, table)
    assert model.lm_head.weight is not table


def test_ids_context_and_rope_base_follow_from_component_and_recipe(folders):
    config = component_shapes(settings_for(folders[0]))
    assert (config.image_token_id, config.eos_token_id) == (VOCABULARY + 38, VOCABULARY + 127)
    assert config.text.max_position_embeddings == 128
    assert config.text.rope_theta == 273000.0


@pytest.mark.parametrize(("name", "total"), [("135M", 256_484_928), ("360M", 507_482_304)])
def test_published_shapes_are_known_without_a_download(name, total):
    from smolvlm2.model.initialisation import empty_model

    settings = ComponentSettings(
        text_decoder=TextSource(name=f"HuggingFaceTB/SmolLM2-{name}-Instruct")
    )
    config = component_shapes(settings)
    assert (config.image_token_id, config.eos_token_id) == (49190, 49279)
    model = empty_model(config, dtype=torch.float32, device="meta")
    assert sum(parameter.numel() for parameter in model.parameters()) == total


def test_position_embeddings_follow_another_tile_size(folders):
    root, siglip, _ = folders
    vision = VisionSource(name=str(root / "siglip"), image_size=48)
    model = load_components(settings_for(root, vision_encoder=vision), seed=0)
    table = model.vision_encoder.embeddings.position_embedding.weight
    assert table.shape == (36, 32)
    old = siglip.vision_model.embeddings.position_embedding.weight
    assert table.mean().item() == pytest.approx(old.mean().item(), abs=1e-2)


def test_a_resized_grid_of_positions_keeps_a_gradient_in_place():
    row, column = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    table = torch.stack([row.flatten(), column.flatten()], dim=1)
    small = resize_positions(table, 16).view(4, 4, 2)
    inner = torch.tensor([2.5, 4.5])
    assert small[1:3, 0, 0].tolist() == pytest.approx(inner.tolist(), abs=0.1)
    assert small[0, 1:3, 1].tolist() == pytest.approx(inner.tolist(), abs=0.1)
    assert torch.equal(resize_positions(table, 64), table)


def test_visual_tokens_start_with_the_magnitude_of_text_embeddings(folders):
    root, _, llama = folders
    model = load_components(settings_for(root), seed=0)
    with torch.no_grad():
        visual = model.connector(torch.randn(8, 16, 32, generator=torch.Generator().manual_seed(1)))
        text = llama.model.embed_tokens.weight.square().mean().sqrt()
    assert (visual.square().mean().sqrt() / text).item() == pytest.approx(1, abs=0.2)


def test_components_to_model_to_export_to_transformers(folders, make_batch, to_transformers):
    model = load_components(settings_for(folders[0]), seed=0)
    batch = make_batch(model.config)
    with torch.no_grad():
        difference = model(**batch).logits - to_transformers(model)(**batch).logits
    assert difference[batch["attention_mask"].bool()].abs().max() < 1e-4


def test_the_same_seed_gives_the_same_connector(folders):
    first, second, other = (
        load_components(settings_for(folders[0]), seed=seed).connector.proj.weight
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


@pytest.fixture
def broken(folders, tmp_path):
    """Copies of the components with one tensor changed."""
    import shutil

    def make(component, change):
        root = tmp_path / "broken"
        shutil.copytree(folders[0], root)
        path = root / component / "model.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path, metadata={"format": "pt"})
        return settings_for(root)

    return make


@pytest.mark.parametrize(
    ("component", "change", "message"),
    [
        (
            "siglip",
            lambda t: t.pop("vision_model.post_layernorm.bias"),
            "'vision_model.post_layernorm.bias' is missing",
        ),
        ("siglip", lambda t: t.update(surprise=torch.zeros(1)), "unexpected tensor 'surprise'"),
        (
            "llama",
            lambda t: t.update({"model.embed_tokens.weight": torch.zeros(7, 32)}),
            r"'model.embed_tokens.weight' is \(7, 32\), expected \(60, 32\)",
        ),
        (
            "llama",
            lambda t: t.update({"model.layers.2.mlp.up_proj.weight": torch.zeros(1)}),
            "unexpected tensor 'model.layers.2.mlp.up_proj.weight'",
        ),
    ],
)
def test_a_component_tensor_that_does_not_fit_is_named(broken, component, change, message):
    with pytest.raises(CheckpointError, match=message):
        load_components(broken(component, change), seed=0)


def test_a_component_of_another_architecture_is_rejected(folders):
    root = folders[0]
    with pytest.raises(CheckpointError, match="expected a SigLIP model"):
        component_shapes(settings_for(root, vision_encoder=VisionSource(name=str(root / "llama"))))
    with pytest.raises(CheckpointError, match="expected 'llama'"):
        component_shapes(settings_for(root, text_decoder=TextSource(name=str(root / "siglip"))))
    with pytest.raises(CheckpointNotFoundError, match="known without a download"):
        component_shapes(settings_for(root, text_decoder=TextSource(name="./nowhere")))


def test_a_loaded_model_is_in_eval_mode_and_untouched_by_the_global_generator(folders):
    before = torch.get_rng_state()
    model = load_components(settings_for(folders[0]), seed=0)
    assert torch.equal(before, torch.get_rng_state())
    assert isinstance(model, SmolVLM)
    assert not model.training
