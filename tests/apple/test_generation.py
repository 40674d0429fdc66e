"""Answers equal torch's, token by token, on images, clips and text."""

import pytest

mx = pytest.importorskip("mlx.core", reason="needs mlx", exc_type=ImportError)
pytest.importorskip("mlx_vlm", reason="needs mlx-vlm")
torch = pytest.importorskip("torch")

from smolvlm2.apple import checkpoint as files  # noqa: E402
from smolvlm2.apple.generation import Answer  # noqa: E402
from smolvlm2.apple.samples import open_samples  # noqa: E402
from smolvlm2.errors import PromptError  # noqa: E402
from smolvlm2.model.smolvlm import SmolVLM  # noqa: E402

pytestmark = pytest.mark.mlx


@pytest.fixture(scope="module")
def ours(checkpoint):
    return files.load(checkpoint)


@pytest.fixture(scope="module")
def theirs(checkpoint):
    return SmolVLM.from_pretrained(checkpoint)


def ask(kind, drawn, conversation):
    if kind == "video":
        clip = str(open_samples(drawn).read(5).media[0])
        items = [{"type": "video", "path": clip}, {"type": "text", "text": "Which way?"}]
        return [{"role": "user", "content": items}]
    return conversation([(96, 96), (96, 40)] if kind == "images" else [])[:1]


@pytest.mark.parametrize("kind", ["images", "video", "text"])
def test_greedy_tokens_equal_torch(ours, theirs, drawn, conversation, kind):
    messages = ask(kind, drawn, conversation)
    inputs = ours.processor(messages, add_generation_prompt=True)
    expected = list(theirs.generate(**inputs, max_new_tokens=12)[0])
    end = ours.config.eos_token_id
    expected = expected[: expected.index(end)] if end in expected else expected
    answer = Answer(ours, messages, max_new_tokens=12)
    text = "".join(answer)
    assert answer.tokens == expected
    assert text == ours.processor.decode(expected).lstrip()
    assert answer.prompt_tokens == inputs["input_ids"].shape[1]
    assert answer.tiles == (len(inputs["pixel_values"]) if "pixel_values" in inputs else 0)


def test_sampling_repeats_with_its_seed(ours, conversation):
    messages = conversation([])[:1]

    def sample(seed):
        answer = Answer(ours, messages, max_new_tokens=12, temperature=2.0, seed=seed)
        list(answer)
        return answer.tokens

    assert sample(1) == sample(1)
    assert sample(1) != sample(2)


def test_an_answer_stays_within_the_models_context(ours):
    """mlx-vlm has no limit of its own: it goes on, at positions that the model has never seen."""
    context = ours.config.text.max_position_embeddings

    def messages(words):
        return [{"role": "user", "content": "\n" * words + "red"}]

    with pytest.raises(PromptError, match=rf"tokens and the model's context is {context}; shorten"):
        list(Answer(ours, messages(2 * context)))
    bare = len(ours.processor(messages(0), add_generation_prompt=True)["input_ids"][0])
    answer = Answer(ours, [{"role": "user", "content": "?1" * ((context - bare) // 2 - 2) + "red"}])
    list(answer)
    assert context - 16 < answer.prompt_tokens < context
    assert answer.prompt_tokens + len(answer.tokens) <= context
