"""Checkpoints run by transformers answer as ours do."""

import importlib.util

import pytest
import torch

from smolvlm2.errors import CheckpointError, PromptError
from smolvlm2.evaluation.answers import read_answers
from smolvlm2.evaluation.runner import evaluate, run_benchmark
from smolvlm2.evaluation.transformers_models import (
    TransformersBackend,
    TransformersGenerator,
    load_transformers,
)
from smolvlm2.processing.processor import Processor
from smolvlm2.processing.tiling import ImageSettings


def test_a_smolvlm_in_transformers_answers_as_ours(
    model, processor, benchmark_, data_root, tmp_path
):
    benchmark_.max_new_tokens = 6
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    theirs, same = load_transformers(str(tmp_path / "model"))
    assert isinstance(theirs, TransformersGenerator)
    found = {}
    for name, runs in (("ours", model), ("theirs", theirs)):
        log = tmp_path / f"{name}.jsonl"
        evaluate(runs, same, benchmark_, data_root, batch_size=4, answers_path=log)
        found[name] = {key: a.prediction for key, a in read_answers(log)[1].items()}
    assert found["ours"] == found["theirs"]
    assert len(set(found["ours"].values())) > 1


def test_the_context_bounds_prompts_and_answers_in_transformers_too(model, processor, tmp_path):
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    theirs, _ = load_transformers(str(tmp_path))
    context = model.config.text.max_position_embeddings
    ids = torch.full((2, context), processor.tokenizer.special.pad)
    ids[0, 2:], ids[1, -3:] = 5, 5
    asked = {"attention_mask": (ids == 5).long(), "max_new_tokens": 4, "min_new_tokens": 4}
    found = theirs.generate(ids, **asked)
    assert [len(row) for row in found] == [2, 4]
    assert found == model.generate(ids, **asked)
    ids[0] = 5
    asked["attention_mask"] = (ids == 5).long()
    for runs in (model, theirs):
        with pytest.raises(PromptError, match="prompt has 1024 tokens and the model's context is"):
            runs.generate(ids, **asked)


def test_what_transformers_cannot_load_is_named(model, tmp_path, monkeypatch):
    with pytest.raises(CheckpointError, match="transformers cannot load it"):
        load_transformers(str(tmp_path))
    model.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    with pytest.raises(CheckpointError, match="transformers cannot load it"):
        load_transformers(str(tmp_path))

    def lacks_a_package(*_, **__):
        raise ImportError("\nits processor needs torchvision\nsee there")

    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", lacks_a_package)
    with pytest.raises(CheckpointError, match=r"load it \(its processor needs torchvision\)$"):
        load_transformers(str(tmp_path))


@pytest.fixture
def their_processor(processor, tmp_path, monkeypatch):
    """transformers' processor from our files; its video part needs torchvision, which no picture
    needs, so an empty one stands in where that is missing."""
    from transformers import AutoProcessor
    from transformers.models.auto.video_processing_auto import AutoVideoProcessor
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil
    from transformers.processing_utils import ProcessorMixin

    processor.save_pretrained(tmp_path / "processor")
    if importlib.util.find_spec("torchvision") is None:

        class StandIn(dict):
            num_frames, fps, model_input_names = 64, 1, ()

        check = ProcessorMixin.check_argument_for_proper_class
        monkeypatch.setattr(
            AutoVideoProcessor,
            "from_pretrained",
            lambda *_, **__: StandIn(video_processor_type="none"),
        )
        monkeypatch.setattr(
            ProcessorMixin,
            "check_argument_for_proper_class",
            lambda self, name, value: isinstance(value, StandIn) or check(self, name, value),
        )
    loaded = AutoProcessor.from_pretrained(tmp_path / "processor")
    loaded.image_processor = SmolVLMImageProcessorPil.from_pretrained(tmp_path / "processor")
    return loaded


def test_any_checkpoint_is_prompted_by_its_own_template(
    model, processor, their_processor, benchmark_, data_root, tmp_path
):
    """A SmolVLM stands for it: by its own processor it gives the answers that ours gives."""
    from transformers import AutoModelForImageTextToText

    benchmark_.max_new_tokens = 6
    model.save_pretrained(tmp_path / "model")
    backend = TransformersBackend(
        model=AutoModelForImageTextToText.from_pretrained(tmp_path / "model").eval(),
        processor=their_processor,
        name="tiny",
        benchmark=benchmark_,
        video=processor.video,
    )
    theirs, ours = tmp_path / "theirs.jsonl", tmp_path / "ours.jsonl"
    result = run_benchmark(backend, benchmark_, data_root, batch_size=3, answers_path=theirs)
    assert (result.n, result.unanswered) == (7, [])
    assert result.run["backend"] == "transformers"
    # Their processor always enlarges, and knows no least number of tokens.
    enlarging = Processor(
        processor.tokenizer,
        tile_size=32,
        tokens_per_tile=4,
        image=ImageSettings(longest_edge=64, upscale="always"),
    )
    evaluate(model, enlarging, benchmark_, data_root, answers_path=ours)
    found = [
        {key: a.prediction for key, a in read_answers(path)[1].items() if a.prediction}
        for path in (theirs, ours)
    ]
    assert found[0]
    assert found[0] == {key: found[1][key] for key in found[0]}
