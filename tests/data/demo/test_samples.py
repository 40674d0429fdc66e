"""What the drawn samples show is what their answers say."""

import io

import av
import numpy as np
import pytest
from PIL import Image

from smolvlm2.data.demo import samples as draw
from smolvlm2.data.demo.clips import DIRECTIONS, changing_clip, moving_clip
from smolvlm2.data.demo.pages import Style, digit_coverage
from smolvlm2.data.demo.scans import load_scans, split_scans
from smolvlm2.processing.video import VideoSettings, read_video, sample_frames


@pytest.fixture(scope="module")
def scans():
    return load_scans()


def frames(clip: bytes) -> np.ndarray:
    with av.open(io.BytesIO(clip)) as container:
        return np.stack([f.to_ndarray(format="gray") for f in container.decode(video=0)])


def test_the_split_keeps_the_share_of_every_digit(scans):
    train, held_out = split_scans(scans, held_out_share=0.2, seed=0)
    assert len(train) + len(held_out) == 1797
    assert not set(train.indices) & set(held_out.indices)
    for label in range(10):
        share = len(held_out.positions_of(label)) / len(scans.positions_of(label))
        assert share == pytest.approx(0.2, abs=0.01)
    again = split_scans(scans, held_out_share=0.2, seed=1)[1]
    assert set(again.indices) != set(held_out.indices)


def test_one_digit_pages_stay_near_one_tile_and_legible(scans):
    sizes = set()
    for number in range(40):
        sample = draw.one_digit(scans, number, np.random.default_rng(number), 32)
        page = np.asarray(Image.open(io.BytesIO(sample.media[0])))
        sizes.add(page.shape)
        assert int(np.percentile(page, 90)) - int(page.min()) > 60
        (question,) = [q for q in sample.questions if q.question_type == "which_digit"]
        assert question.answer == str(scans.labels[number])
    assert (32, 32) in sizes
    assert len(sizes) > 1
    assert max(max(size) for size in sizes) <= 48


def test_digits_are_upscaled_upright(scans):
    # Ink of the scan and of its enlargement lie in the same quarters.
    scan = scans.pixels[7].astype(float)
    large = digit_coverage(scans.pixels[7], size=30, angle=0.0)[3:27, 3:27]
    small = large.reshape(8, 3, 8, 3).mean((1, 3))
    assert np.corrcoef(small.ravel(), scan.ravel())[0, 1] > 0.95


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_digit_moves_the_way_that_is_asked_for(scans, direction):
    rng = np.random.default_rng(0)
    clip = moving_clip(scans.pixels[0], direction, rng, size=(48, 32), fps=6, seconds=2)
    gray = frames(clip).astype(float)
    ink = gray.max((1, 2), keepdims=True) - gray
    ink[ink < 60] = 0
    x = (ink.sum(1) * np.arange(48)).sum(1) / ink.sum((1, 2))
    y = (ink.sum(2) * np.arange(32)).sum(1) / ink.sum((1, 2))
    moved = {"left": x[0] - x[-1], "right": x[-1] - x[0], "up": y[0] - y[-1], "down": y[-1] - y[0]}
    assert max(moved, key=moved.get) == direction
    assert moved[direction] > 6
    assert len(gray) == 12


@pytest.mark.parametrize("seconds", [[], [2], [1, 3], [1, 2, 3]])
def test_the_digit_changes_as_often_as_is_asked_for(scans, seconds):
    rng = np.random.default_rng(0)
    digits = [scans.pixels[scans.positions_of(n)[0]] for n in (1, 0, 7, 8)[: len(seconds) + 1]]
    clip = changing_clip(digits, seconds, rng, size=(32, 32), fps=5, seconds=4)
    gray = frames(clip).astype(float)
    step = np.abs(np.diff(gray, axis=0)).mean((1, 2))
    assert (np.flatnonzero(step > 12) + 1).tolist() == [5 * second for second in seconds]


@pytest.mark.parametrize("fps", range(4, 9))
def test_sampling_one_frame_a_second_sees_every_digit(fps):
    length = draw.CHANGE_SECONDS
    chosen = sample_frames(length * fps, fps, length, VideoSettings())
    assert {int(frame // fps) for frame in chosen} == set(range(length))


def test_equal_clips_are_equal_bytes_and_readable(scans):
    clips = [
        moving_clip(
            scans.pixels[5], "up", np.random.default_rng(3), size=(40, 34), fps=4, seconds=2.5
        )
        for _ in range(2)
    ]
    assert clips[0] == clips[1]
    clip = read_video(clips[0], 32, VideoSettings(backend="pyav"))
    assert clip.duration == pytest.approx(2.5)


def test_several_digits_answer_in_reading_order(scans):
    lengths = set()
    for number in range(30):
        sample = draw.several_digits(scans, np.random.default_rng(number), 32)
        (read,) = [q for q in sample.questions if q.question_type == "read_digits"]
        labels = [str(scans.labels[scans.indices == scan][0]) for scan in sample.scans]
        assert read.answer == " ".join(labels)
        size = Image.open(io.BytesIO(sample.media[0])).size
        assert size in ((64, 32), (96, 32), (64, 64))
        lengths.add(len(labels))
        for question in sample.questions:
            if question.question_type == "how_many_digits":
                assert question.answer == str(len(labels))
    assert lengths == {2, 3, 4}


@pytest.mark.parametrize("count", [2, 3])
def test_comparisons_answer_about_their_images(scans, count):
    kinds = set()
    for number in range(40):
        sample = draw.compared_images(scans, np.random.default_rng(number), 32, count)
        labels = [int(scans.labels[scans.indices == scan][0]) for scan in sample.scans]
        (question,) = sample.questions
        kinds.add(question.question_type)
        assert question.text.count("<image>") == len(sample.media) == count
        if question.question_type == "same_digit":
            assert question.answer == ("yes" if labels[0] == labels[1] else "no")
            continue
        place = draw.ORDINALS.index(question.answer)
        if question.question_type == "which_larger":
            assert labels[place] == max(labels)
        else:
            assert f"digit {labels[place]}?" in question.text
            assert labels.count(labels[place]) == 1
    assert kinds == (
        {"which_shows"} if count == 3 else {"which_shows", "which_larger", "same_digit"}
    )


def test_number_questions_have_right_answers():
    seen = set()
    for number in range(60):
        for question in draw.about_numbers(np.random.default_rng(number)).questions:
            seen.add(question.question_type)
            digits = [int(word.strip("?.,")) for word in question.text.split() if word[0].isdigit()]
            expected = {
                "digit_after": lambda d: str(d[0] + 1),
                "spell_digit": lambda d: draw.NUMBER_WORDS[d[0]],
                "sum": lambda d: str(sum(d)),
                "larger": lambda d: str(max(d)),
            }[question.question_type](digits)
            assert question.answer == expected
    assert len(seen) == 4


def test_styles_keep_ink_and_paper_apart():
    styles = [Style.random(np.random.default_rng(n)) for n in range(50)]
    assert min(style.paper - style.ink for style in styles) >= 90
