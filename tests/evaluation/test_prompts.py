"""Prompts: to the letter where others' are rebuilt, and what each placeholder gives."""

import numpy as np
import pytest

from smolvlm2.errors import MediaError
from smolvlm2.evaluation.backends import NativeBackend
from smolvlm2.evaluation.benchmark import load_benchmark
from smolvlm2.evaluation.clips import Frames
from smolvlm2.evaluation.media_index import FrameFolder, LooseFile
from smolvlm2.evaluation.prompts import conversation, encode_prompt
from smolvlm2.evaluation.questions import Medium, Question
from smolvlm2.evaluation.subtitles import parse_subtitles, shown_at
from smolvlm2.processing.template import VideoLayout
from smolvlm2.processing.video import VideoSettings, read_video


def question(**fields) -> Question:
    values = {"question_id": "q", "text": "Is it {real}?", "media": (), "references": ("x",)}
    return Question(**values | fields)


CHOICES = question(choices=("red {letter}", "blue"), letter="A")
LETTERED = question(choices=("red", "blue"), option_lines=("A. red", "B. blue"), letter="A")


@pytest.mark.parametrize(
    ("name", "style", "asked", "text"),
    [
        (
            "docvqa",
            "lmms",
            question(),
            "Is it {real}?\nAnswer the question using a single word or phrase.",
        ),
        ("chartqa", "lmms", question(), "Is it {real}?\nAnswer the question with a single word."),
        (
            "textvqa",
            "lmms",
            question(text="who is Ann?"),
            "Who is ann?\nAnswer the question using a single word or phrase.",
        ),
        (
            "video_mme",
            "lmms",
            LETTERED,
            "Select the best answer to the following multiple-choice question based on the video "
            "and the subtitles. Respond with only the letter (A, B, C, or D) of the correct "
            "option.\nIs it {real}?\nA. red\nB. blue\n\nAnswer with the option's letter from the "
            "given choices directly.",
        ),
        (
            "mvbench",
            "lmms",
            CHOICES,
            "Question:Is it {real}?\nOption:\n(A) red {letter}\n(B) blue\nOnly give the best "
            "option.\n",
        ),
        (
            "mlvu",
            "lmms",
            question(as_published="Is it?\n(A) a", choices=("a", "b")),
            "Is it?\n(A) a\nOnly give the best option.\nBest option: (",
        ),
        (
            "mlvu",
            "vlmevalkit",
            CHOICES,
            "Question: Is it {real}?\nrespond ONLY with one of the multiple choice letter options "
            "(A/B/C/D):\n(A) red {letter}\n(B) blue Only give the best option.",
        ),
    ],
)  # fmt: skip
def test_prompts_of_other_evaluators_are_rebuilt_to_the_letter(name, style, asked, text):
    messages = conversation(asked, load_benchmark(name), style)
    assert messages[-1]["content"][-1]["text"] == text


@pytest.mark.parametrize(
    ("name", "system", "ends"),
    [
        (
            "video_mme",
            "pay attention to the video and answer the question",
            "These are the frames of a video. Select the best answer to the following "
            "multiple-choice question based on the video. Respond with only the letter (A, B, C, "
            "or D) of the correct option. Question: Is it {real}?\nA. red\nB. blue\nAnswer:",
        ),
        (
            "mlvu",
            "Carefully watch this video and pay attention to every detail. Based on your "
            "observations, select the best option that accurately addresses the question.",
            "Question: Is it {real}?\nrespond ONLY with one of the multiple choice letter options "
            "(A/B/C/D):\nA. red\nB. blue Only give the best option.",
        ),
        (
            "mvbench",
            "Carefully watch the video and pay attention to the cause and sequence of events, the "
            "detail and movement of objects, and the action and pose of persons. Based on your "
            "observations, select the best option that accurately addresses the question.\n",
            "Question: Is it {real}?\nrespond ONLY with one of the multiple choice letter options "
            "(A/B/C/D):\nA. red\nB. blue Only give the best option. Answer:",
        ),
    ],
)
def test_the_video_string_of_vlmevalkit_is_rebuilt_to_the_letter(
    processor, tmp_path, name, system, ends
):
    """Compared with the tokenizer of transformers on the string as that class renders it."""
    from transformers import AutoTokenizer

    benchmark = load_benchmark(name)
    layout = VideoLayout([0.0, 1.0], 2.0)
    asked = question(
        choices=("red", "blue"),
        option_lines=("A. red", "B. blue"),
        media=(Medium("video", LooseFile(tmp_path)),),
    )
    messages = conversation(asked, benchmark, "vlmevalkit")
    ids = encode_prompt(messages, [layout], processor.tokenizer, 4, "vlmevalkit_video")
    frame = (
        "<fake_token_around_image><global-img><image><image><image><image><fake_token_around_image>"
    )
    text = (
        f"<|im_start|>System: {system} <end_of_utterance>\n <|im_start|>User: Here are some frames "
        f"sampled from a video:\n Frame from 00:00: {frame} Frame from 00:01: {frame} \n {ends} "
        "<end_of_utterance> \nAssistant:"
    )
    processor.save_pretrained(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert ids.tolist() == theirs(text, add_special_tokens=False)["input_ids"]


def test_native_frames_are_those_of_training(processor, encode_clip, tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(encode_clip(1, seconds=6))
    medium = Medium("video", LooseFile(path))
    backend = NativeBackend(model=None, processor=processor, benchmark=load_benchmark("mvbench"))
    found = backend.decode(medium)
    expected = read_video(path, 32, processor.video)
    assert np.array_equal(found.tiles, expected.tiles)
    assert found.layout.timestamps == pytest.approx(expected.timestamps.tolist())
    assert found.layout.duration == pytest.approx(expected.duration)


def test_bounds_choose_the_part_and_its_times_start_at_zero(encode_clip, tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(encode_clip(0, seconds=6, fps=4))
    settings = VideoSettings(max_frames=8, backend="pyav")
    part = Frames(Medium("video", LooseFile(path), 2.0, 4.0), settings, "native")
    assert part.timestamps[0] == 0
    assert part.duration == pytest.approx(9 / 4)
    first = np.asarray(next(part.pictures()))
    assert first.mean() == pytest.approx(20 * 8, abs=4)
    with pytest.raises(
        MediaError, match=r"\[9.0, 10.0\] s: no frame within bounds; the clip has 6"
    ):
        Frames(Medium("video", LooseFile(path), 9.0, 10.0), settings, "native")


def test_one_frame_a_second_is_called_by_its_second(encode_clip, tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(encode_clip(0, seconds=6, fps=4))
    medium = Medium("video", LooseFile(path))
    settings = VideoSettings(max_frames=64, backend="pyav")
    assert Frames(medium, settings, "seconds").timestamps.tolist() == [0, 1, 2, 3, 4, 5]
    few = Frames(medium, VideoSettings(max_frames=3, backend="pyav"), "seconds")
    assert few.timestamps.tolist() == [0, 2, 5]
    # A second that is not whole is not shown: int(duration * rate), as there.
    index = Frames(Medium("video", LooseFile(path), 0.0, 3.5), settings, "seconds")
    assert index.duration == pytest.approx(15 / 4)
    assert index.timestamps.tolist() == [0, 1, 2]


def test_a_folder_of_frames_is_a_clip(tmp_path, write):
    files = []
    for number in range(9):
        path = tmp_path / f"{number:05d}.png"
        path.write_bytes(write.picture(number))
        files.append(LooseFile(path))
    medium = Medium("video", FrameFolder(tuple(files), 3.0), 1.0, 2.0)
    frames = Frames(medium, VideoSettings(max_frames=4, fps=3.0), "native")
    assert frames.duration == pytest.approx(4 / 3)
    reds = [np.asarray(image)[0, 0, 0] for image in frames.pictures()]
    assert reds == [37 * n % 256 for n in (3, 4, 5, 6)]


def test_subtitles_are_read_whatever_their_line_ends_and_markup():
    data = (
        '\ufeff1\r\n00:00:01,000 --> 00:00:02,000\r\n<font color="white">One</font>\r\nmore\r\n\r\n'
        "no block\r\n\r\n2\r\n01:00:00.5 --> 01:00:02.000\r\n{\\an8}Two\r\n\r\n3\r\n"
        "00:00:05,000 --> 00:00:06,000\r\n\r\n"
    ).encode()
    found = parse_subtitles(data)
    assert [(s.start, s.end, s.text) for s in found] == [
        (1.0, 2.0, "One more"),
        (3600.5, 3602.0, "Two"),
    ]
    assert shown_at(found, [0.5, 1.0, 1.5]) == ["One more"]
    assert shown_at(found, [2.0]) == []
