import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

from smolvlm2.errors import CheckpointError, ConfigError, MediaNotFoundError, PromptError
from smolvlm2.model.config import SmolVLMConfig
from smolvlm2.processing.images import ImageSettings
from smolvlm2.processing.processor import Processor
from smolvlm2.processing.tokenizer import Tokenizer
from smolvlm2.processing.video import VideoSettings

Picture = Callable[..., Image.Image]


def _ask(*media: dict[str, Any], question: str = "What?", answer: str | None = None) -> list[Any]:
    messages = [{"role": "user", "content": [*media, {"type": "text", "text": question}]}]
    return [*messages, {"role": "assistant", "content": answer}] if answer else messages


@pytest.fixture
def conversations(picture: Picture) -> list[list[Any]]:
    def image(*size: int) -> dict[str, Any]:
        return {"type": "image", "image": picture(*size)}

    return [
        _ask(image(70, 45), answer="One\n\ncat"),
        _ask(image(128, 128), image(20, 90), question="Differ?"),
        _ask(image(33, 32), question=""),
    ]


@pytest.mark.parametrize("generate", [True, False])
def test_batch_of_images_equals_transformers(
    processor: Processor, their_processor: Any, conversations: list[Any], generate: bool
):
    side = "left" if generate else "right"
    ours = processor(conversations, add_generation_prompt=generate, return_format="hf")
    listed = [
        [
            {**m, "content": [{"type": "text", "text": m["content"]}]}
            if isinstance(m["content"], str)
            else m
            for m in conversation
        ]
        for conversation in conversations
    ]
    prompts = [
        their_processor.apply_chat_template(c, add_generation_prompt=generate) for c in listed
    ]
    images = [
        [item["image"] for item in c[0]["content"] if item["type"] == "image"] for c in listed
    ]
    theirs = their_processor(
        text=prompts, images=images, padding=True, padding_side=side, return_tensors="pt"
    )
    assert ours.input_ids.tolist() == theirs["input_ids"].tolist()
    assert ours.attention_mask.tolist() == theirs["attention_mask"].tolist()
    assert ours.pixel_values.dtype == theirs["pixel_values"].dtype
    assert torch.equal(ours.pixel_values, theirs["pixel_values"])
    assert torch.equal(ours.pixel_attention_mask, theirs["pixel_attention_mask"])


@pytest.mark.parametrize(("frames", "fps"), [(30, 10), (50, 7), (900, 10)])
def test_videos_equal_transformers(
    processor: Processor, their_processor: Any, encode_video, frames: int, fps: int
):
    pytest.importorskip("torchvision", reason="transformers decodes no video without torchvision")
    from transformers.video_utils import VideoMetadata

    clip = encode_video(frames, fps)
    with av.open(io.BytesIO(clip)) as container:
        pixels = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    theirs = their_processor(
        text=[their_processor.apply_chat_template(_ask({"type": "video"}))],
        videos=[np.stack(pixels)],
        video_metadata=[VideoMetadata(total_num_frames=frames, fps=fps, duration=frames / fps)],
        do_sample_frames=True,
        num_frames=64,
        fps=1,
        return_tensors="pt",
    )
    ours = processor(_ask({"type": "video", "video": clip}), return_format="hf")
    assert torch.equal(ours.input_ids, theirs["input_ids"])
    # torchvision's Lanczos is not PIL's.
    assert (ours.pixel_values - theirs["pixel_values"]).abs().max() <= 9 / 127.5


def test_tiles_of_a_batch_lie_in_order(processor: Processor, conversations: list[Any]):
    batch = processor(conversations, return_tensors="np", labels=True)
    each = [processor(c, return_tensors="np", labels=True) for c in conversations]
    np.testing.assert_array_equal(
        batch["pixel_values"], np.concatenate([one["pixel_values"] for one in each])
    )
    assert batch["pixel_values"].dtype == np.uint8
    for row, one in enumerate(each):
        length = one["input_ids"].shape[1]
        assert batch["attention_mask"][row].tolist() == [1] * length + [0] * (
            batch["input_ids"].shape[1] - length
        )
        assert batch["input_ids"][row, :length].tolist() == one["input_ids"][0].tolist()
        assert batch["labels"][row, :length].tolist() == one["labels"][0].tolist()
        assert set(batch["labels"][row, length:].tolist()) <= {-100}


def test_labels_are_the_answers_ids(processor: Processor, conversations: list[Any]):
    batch = processor(conversations[0], labels=True)
    kept = batch.labels[0] != -100
    assert torch.equal(batch.labels[0][kept], batch.input_ids[0][kept])
    assert processor.decode(batch.input_ids[0][kept], False) == " One\n\ncat<end_of_utterance>"
    assert processor.batch_decode([batch.input_ids[0][kept]]) == [" One\n\ncat"]


def test_padding_is_left_for_generation(processor: Processor, conversations: list[Any]):
    mask = processor(conversations, add_generation_prompt=True)["attention_mask"]
    assert mask[:, -1].tolist() == [1, 1, 1]
    mask = processor(conversations, add_generation_prompt=True, padding_side="right")
    assert mask.attention_mask[:, 0].tolist() == [1, 1, 1]


def test_image_and_video_in_one_prompt(processor: Processor, picture: Picture, encode_video):
    clip = encode_video(30, 10)
    batch = processor(
        _ask(
            {"type": "video", "video": clip},
            {"type": "image", "image": picture(70, 45)},
            answer="Yes",
        )
    )
    images = processor(_ask({"type": "image", "image": picture(70, 45)}))
    videos = processor(_ask({"type": "video", "video": clip}))
    assert torch.equal(batch.pixel_values[:3], videos.pixel_values)
    assert torch.equal(batch.pixel_values[3:], images.pixel_values)
    visual = (batch.input_ids == processor.tokenizer.special.image).sum()
    assert visual == 4 * len(batch.pixel_values)


def test_text_alone_has_no_pixels(processor: Processor):
    for shape in ("smolvlm2", "hf"):
        batch = processor([{"role": "user", "content": "Hi"}], return_format=shape)
        assert set(batch) == {"input_ids", "attention_mask"}
    sample = processor.encode_sample([{"role": "user", "content": "Hi"}], [])
    assert sample.tiles.shape == (0, 3, 32, 32)


def test_paths_and_bytes_are_media(processor: Processor, picture: Picture, tmp_path: Path):
    path = tmp_path / "a.png"
    picture(50, 40).save(path)
    items = [
        {"type": "image", "image": path},
        {"type": "image", "path": str(path)},
        {"type": "image", "image": path.read_bytes()},
        {"type": "image", "image": picture(50, 40)},
    ]
    batches = [processor(_ask(item)) for item in items]
    assert all(torch.equal(b.pixel_values, batches[0].pixel_values) for b in batches)


def test_each_medium_may_have_its_own_limit(processor: Processor, picture: Picture, encode_video):
    messages = _ask({"type": "image"}, {"type": "image"}, {"type": "video"})
    media = [picture(90, 90), picture(90, 90), encode_video(40, 10)]
    sample = processor.encode_sample(messages, media, [None, 32, 2])
    assert len(sample.tiles) == 17 + 1 + 2
    assert [layout.tiles for layout in sample.layouts] == [17, 1, 2]
    lengths = processor.length_model()
    image = lengths.images([90, 90], [90, 90], [128, 32])
    assert image[0].tolist() == [17, 1]


def test_sample_length_is_the_planned_length(processor: Processor, picture: Picture, encode_video):
    from smolvlm2.processing.lengths import turn_tokens
    from smolvlm2.processing.video import probe_video

    clip = encode_video(45, 10, times_ms=[90 * n + (n % 3) * 20 for n in range(45)])
    messages = _ask({"type": "video"}, {"type": "image"}, answer="Well")
    sample = processor.encode_sample(messages, [clip, picture(300, 77)])
    lengths, info = processor.length_model(), probe_video(clip)
    videos = lengths.videos(info.duration, info.fps, info.num_frames)
    images = lengths.images(300, 77)
    turns = turn_tokens(messages, processor.tokenizer)
    assert len(sample.input_ids) == turns.text.sum() + videos[1][0] + images[1][0]
    assert len(sample.tiles) == videos[0][0] + images[0][0]
    assert sample.supervised.sum() == turns.supervised.sum()


def test_batch_moves_and_casts(processor: Processor, conversations: list[Any]):
    batch = processor(conversations[0], return_format="hf").to("cpu", dtype=torch.bfloat16)
    assert batch.pixel_values.dtype == torch.bfloat16
    assert batch.input_ids.dtype == torch.int64
    assert batch.to("cpu").input_ids is not None
    with pytest.raises(AttributeError, match="batch has no 'missing', only input_ids"):
        _ = batch.missing


def test_settings_survive_a_round_trip(tokenizer: Tokenizer, tmp_path: Path):
    ours = Processor(
        tokenizer,
        tile_size=384,
        tokens_per_tile=64,
        image=ImageSettings(longest_edge=1536, upscale="never", resample="fast", split=False),
        video=VideoSettings(max_frames=32, fps=0.5, backend="pyav", timeout_s=9),
    )
    ours.save_pretrained(tmp_path)
    loaded = Processor.from_pretrained(tmp_path)
    assert loaded.image == ours.image
    assert loaded.video == ours.video
    assert (loaded.tile_size, loaded.tokens_per_tile) == (384, 64)
    assert loaded.tokenizer.key == tokenizer.key


def test_what_transformers_saves_again_is_read(
    their_processor: Any, processor: Processor, tmp_path
):
    their_processor.image_processor.save_pretrained(tmp_path)
    their_processor.tokenizer.save_pretrained(tmp_path)
    (tmp_path / "processor_config.json").write_text('{"image_seq_len": 4}')
    loaded = Processor.from_pretrained(tmp_path)
    assert loaded.image == processor.image
    assert loaded.tokenizer.encode_text("a 12").tolist() == (
        processor.tokenizer.encode_text("a 12").tolist()
    )
    # transformers 5 nests the same dictionaries in one file.
    nested = {
        "image_processor": json.loads((tmp_path / "preprocessor_config.json").read_text()),
        "video_processor": {"num_frames": 7, "fps": 2},
        "image_seq_len": 4,
    }
    nested["image_processor"].pop("video_sampling", None)
    (tmp_path / "preprocessor_config.json").unlink()
    (tmp_path / "processor_config.json").write_text(json.dumps(nested))
    loaded = Processor.from_pretrained(tmp_path)
    assert loaded.image == processor.image
    assert (loaded.video.max_frames, loaded.video.fps) == (7, 2.0)


def test_published_layout_is_read(tokenizer: Tokenizer, tmp_path: Path):
    tokenizer.save_pretrained(tmp_path)
    published = {
        "do_image_splitting": True,
        "max_image_size": {"longest_edge": 512},
        "resample": 1,
        "size": {"longest_edge": 2048},
        "video_sampling": {"fps": 1, "max_frames": 64, "video_size": {"longest_edge": 512}},
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(published))
    (tmp_path / "config.json").write_text(json.dumps(SmolVLMConfig().to_hf()))
    loaded = Processor.from_pretrained(tmp_path)
    assert (loaded.tile_size, loaded.tokens_per_tile) == (512, 64)
    assert (loaded.image, loaded.video) == (ImageSettings(), VideoSettings())


def test_written_files_say_what_the_published_ones_say(tokenizer: Tokenizer, tmp_path: Path):
    """Those who read them get our frames and tiles: transformers, vLLM, mlx-vlm."""
    Processor.for_model(SmolVLMConfig(), tokenizer).save_pretrained(tmp_path)

    def read(name: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((tmp_path / name).read_text(encoding="utf-8"))
        return content

    common = {
        "do_convert_rgb": True,
        "do_resize": True,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "do_pad": True,
        "resample": 1,  # Lanczos
        "max_image_size": {"longest_edge": 512},
        "video_sampling": {"fps": 1, "max_frames": 64, "video_size": {"longest_edge": 512}},
        "processor_class": "SmolVLMProcessor",
    }
    images = read("preprocessor_config.json")
    images.pop("smolvlm2")  # what Hugging Face's keys cannot say
    assert images == common | {
        "image_processor_type": "SmolVLMImageProcessor",
        "do_image_splitting": True,
        "size": {"longest_edge": 2048},
    }
    assert read("video_preprocessor_config.json") == common | {
        "video_processor_type": "SmolVLMVideoProcessor",
        "size": {"longest_edge": 512},  # transformers follows it rather than video_size
        "num_frames": 64,
        "fps": 1,
    }
    assert read("processor_config.json") == {
        "processor_class": "SmolVLMProcessor",
        "image_seq_len": 64,
    }
    words = read("tokenizer_config.json")
    assert (
        words
        | {
            "bos_token": "<|im_start|>",
            "eos_token": "<end_of_utterance>",
            "pad_token": "<|im_end|>",
            "unk_token": "<|endoftext|>",
            "truncation_side": "left",
            "model_max_length": 8192,
            "extra_special_tokens": {
                "end_of_utterance_token": "<end_of_utterance>",
                "fake_image_token": "<fake_token_around_image>",
                "global_image_token": "<global-img>",
                "image_token": "<image>",
            },
        }
        == words
    )


def test_processor_follows_a_model(tokenizer: Tokenizer):
    config = SmolVLMConfig()
    ours = Processor.for_model(config, tokenizer)
    assert (ours.tile_size, ours.tokens_per_tile) == (512, 64)


def test_incomplete_checkpoints_are_named(tokenizer: Tokenizer, tmp_path: Path):
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="key 'max_image_size' is missing"):
        Processor.from_pretrained(tmp_path)
    sizes = {"max_image_size": {"longest_edge": 32}, "size": {"longest_edge": 64}}
    config = tmp_path / "preprocessor_config.json"
    config.write_text(json.dumps(sizes))
    with pytest.raises(CheckpointError, match="neither image_seq_len"):
        Processor.from_pretrained(tmp_path)
    config.write_text(json.dumps(sizes | {"smolvlm2": {"upscale": "maybe"}}))
    with pytest.raises(CheckpointError, match=r"image\.upscale is 'maybe'"):
        Processor.from_pretrained(tmp_path)
    config.write_text(json.dumps(sizes))
    broken = SmolVLMConfig().to_hf() | {"scale_factor": 5}
    (tmp_path / "config.json").write_text(json.dumps(broken))
    with pytest.raises(CheckpointError, match=r"config\.json: .*pixel shuffle ratio 5"):
        Processor.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("messages", "options", "error", "match"),
    [
        ([], {}, PromptError, "no conversation given"),
        (None, {}, PromptError, "no conversation given"),
        (_ask()[0], {}, PromptError, "conversation is a dict; expected a list of messages"),
        (iter(_ask()), {}, PromptError, "conversation is a list_iterator; expected a list"),
        (_ask({"type": "image"}), {}, PromptError, "message 0, item 0 is of type image without"),
        (
            _ask({"type": "video", "url": "https://x"}),
            {},
            PromptError,
            "of type video without a medium.*not fetched",
        ),
        (_ask({"type": "image", "image": "/no/such.png"}), {}, MediaNotFoundError, "no such image"),
        (_ask({"type": "video", "video": "/no/such.mp4"}), {}, MediaNotFoundError, "no such video"),
        (_ask(), {"padding_side": "top"}, ConfigError, "padding_side is 'top'; expected left or"),
        (_ask(), {"return_tensors": "tf"}, ConfigError, "return_tensors is 'tf'"),
        (_ask(), {"return_format": "x"}, ConfigError, "return_format is 'x'; expected smolvlm2"),
    ],
)
def test_wrong_calls_are_rejected(
    processor: Processor, messages: Any, options: Any, error: type[Exception], match: str
):
    with pytest.raises(error, match=match):
        processor(messages, **options)


def test_media_and_markers_must_match(processor: Processor, picture: Picture):
    with pytest.raises(PromptError, match="1 image and video markers but 2 media and 2 limits"):
        processor.encode_sample(_ask({"type": "image"}), [picture(9, 9)] * 2)


def test_media_read_apart_give_the_same_sample(
    processor: Processor, picture: Picture, encode_video
):
    media = [picture(100, 60), encode_video(20, 10)]
    content = [{"type": "image"}, {"type": "video"}, {"type": "text", "text": "What?"}]
    messages = [
        {"role": "user", "content": content},
        {"role": "assistant", "content": [{"type": "text", "text": "Shapes."}]},
    ]
    sample = processor.encode_sample(messages, media)
    room = np.zeros((len(sample.tiles), 3, 32, 32), dtype=np.uint8)
    first = processor.read_medium("image", media[0], out=room)
    second = processor.read_medium("video", media[1], out=room[len(first.tiles) :])
    encoded = processor.encode_text(messages, [first.layout, second.layout])
    np.testing.assert_array_equal(encoded.input_ids, sample.input_ids)
    np.testing.assert_array_equal(encoded.supervised, sample.supervised)
    np.testing.assert_array_equal(room, sample.tiles)
    np.testing.assert_array_equal(processor.join_tiles([first, second]), sample.tiles)
