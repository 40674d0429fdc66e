"""``smolvlm2 generate`` and ``evaluate`` with a real, tiny, untrained checkpoint."""

import json
import sys

import av
import numpy as np
import pytest
from PIL import Image

from smolvlm2.cli import main as command_line
from smolvlm2.cli.generate import generate_answer, question
from smolvlm2.errors import (
    CheckpointNotFoundError,
    MediaError,
    MediaNotFoundError,
    PromptError,
)
from smolvlm2.model.config import SmolVLMConfig, TextConfig, VisionConfig
from smolvlm2.model.smolvlm import SmolVLM
from smolvlm2.processing.processor import Processor
from smolvlm2.processing.tiling import ImageSettings
from smolvlm2.processing.tokenizer import extend_for_images
from smolvlm2.processing.tokenizer_training import train_base_tokenizer

ASK = {"device": "cpu", "max_new_tokens": 4}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("checkpoint")
    train_base_tokenizer(["User: Which digit is this?\nAssistant: 7"], folder, vocab_size=300)
    tokenizer = extend_for_images(folder)
    config = SmolVLMConfig(
        vision=VisionConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=1,
            num_attention_heads=4,
            image_size=32,
            patch_size=8,
        ),
        text=TextConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            vocab_size=tokenizer.vocab_size,
            max_position_embeddings=2048,
        ),
        scale_factor=2,
        image_token_id=tokenizer.special.image,
        bos_token_id=tokenizer.special.bos,
        eos_token_id=tokenizer.special.end_of_utterance,
        pad_token_id=tokenizer.special.pad,
    )
    SmolVLM.from_random(config, seed=0).save_pretrained(folder)
    image = ImageSettings(longest_edge=64)
    Processor.for_model(config, tokenizer, image=image).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """A folder with ``a.png``, ``a.mp4`` and a file that is neither."""
    folder = tmp_path_factory.mktemp("media")
    Image.new("RGB", (40, 30), "red").save(folder / "a.png")
    with av.open(str(folder / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=4)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for number in range(8):
            pixels = np.full((32, 32, 3), 20 * number, dtype=np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    (folder / "broken").write_bytes(b"neither picture nor clip")
    return folder


def test_images_stand_before_videos_before_the_text(tmp_path):
    content = question("Why?", [tmp_path / "a.png"], [tmp_path / "b.mp4"])[0]["content"]
    assert [item["type"] for item in content] == ["image", "video", "text"]
    assert question("Why?")[0]["content"] == [{"type": "text", "text": "Why?"}]


def test_markers_in_the_prompt_place_the_media(tmp_path):
    first, second = tmp_path / "a.png", tmp_path / "b.png"
    content = question("Before: <image> After: <image> What changed?", [first, second])[0][
        "content"
    ]
    assert content == [
        {"type": "text", "text": "Before: "},
        {"type": "image", "path": str(first)},
        {"type": "text", "text": " After: "},
        {"type": "image", "path": str(second)},
        {"type": "text", "text": " What changed?"},
    ]


@pytest.mark.parametrize(
    ("prompt", "images", "message"),
    [
        ("<image> and?", 2, "1 <image> markers and the command line 2 --image"),
        ("What is <image>?", 0, "1 <image> markers and the command line 0 --image"),
        ("What is <video>?", 1, "0 <image> markers and the command line 1 --image"),
    ],
)
def test_markers_that_do_not_match_are_rejected(tmp_path, prompt, images, message):
    with pytest.raises(PromptError, match=message):
        question(prompt, [tmp_path / "a.png"] * images)


def test_text_images_and_clips_are_answered(checkpoint, media):
    pictures, clips = [media / "a.png"], [media / "a.mp4"]
    for images, videos in (((), ()), (pictures * 2, ()), ((), clips), (pictures, clips)):
        answer = generate_answer(checkpoint, "Which?", images=images, videos=videos, **ASK)
        assert isinstance(answer, str)


def test_the_seed_decides_a_sampled_answer(checkpoint):
    answers = {
        seed: [
            generate_answer(checkpoint, "?", temperature=5.0, seed=seed, **ASK) for _ in range(2)
        ]
        for seed in (0, 1)
    }
    assert answers[0][0] == answers[0][1]
    assert answers[0][0] != answers[1][0]
    likeliest = generate_answer(checkpoint, "?", **ASK)
    assert likeliest != answers[0][0]
    assert generate_answer(checkpoint, "?", temperature=5.0, top_p=1e-6, **ASK) == likeliest


@pytest.mark.parametrize("kind", ["images", "videos"])
def test_a_broken_medium_is_named(checkpoint, media, kind):
    with pytest.raises(MediaError, match="broken"):
        generate_answer(checkpoint, "?", **{kind: [media / "broken"]}, **ASK)
    with pytest.raises(MediaNotFoundError, match="gone: no such file"):
        generate_answer(checkpoint, "?", **{kind: [media / "gone"]}, **ASK)


def test_a_folder_without_a_checkpoint_is_named(media):
    with pytest.raises(CheckpointNotFoundError, match=str(media)):
        generate_answer(str(media), "?", **ASK)


def test_the_command_prints_the_answer(checkpoint, media, monkeypatch, capsys):
    arguments = ["generate", checkpoint, "--image", str(media / "a.png"), "--prompt", "Which?"]
    monkeypatch.setattr(
        sys, "argv", ["smolvlm2", *arguments, "--max-new-tokens", "4", "--device", "cpu"]
    )
    with pytest.raises(SystemExit, match="0"):
        command_line.main()
    expected = generate_answer(checkpoint, "Which?", images=[media / "a.png"], **ASK)
    assert capsys.readouterr().out == f"{expected}\n"


def test_a_checkpoint_is_evaluated_with_its_control(checkpoint, media, tmp_path, monkeypatch):
    lines = [
        {
            "question_id": f"{number}",
            "messages": [
                {"role": "user", "content": [{"type": kind}, {"type": "text", "text": "Which?"}]}
            ],
            "media": [name],
            "answer": "7",
            "choices": ["6", "7"],
        }
        for number, (kind, name) in enumerate(
            [("image", "a.png"), ("image", "broken"), ("image", "gone.png"), ("video", "a.mp4")]
        )
    ]
    (media / "which_digit.jsonl").write_text("\n".join(map(json.dumps, lines)))
    output = tmp_path / "scores.json"
    arguments = ["evaluate", checkpoint, "--benchmarks", "which_digit", "--data", str(media)]
    arguments += ["--output", str(output), "--blank-images", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["smolvlm2", *arguments])
    with pytest.raises(SystemExit, match="0"):
        command_line.main()
    (result,) = json.loads(output.read_text())["results"]
    assert (result["n"], result["chance"], result["blank_images"]) == (4, 0.5, True)
    problems = {entry["question_id"]: entry["problem"] for entry in result["unanswered"]}
    assert problems.keys() == {"1", "2"}
    assert problems["1"].startswith("corrupt_media: ")
    assert problems["2"].startswith("missing_media: ")
