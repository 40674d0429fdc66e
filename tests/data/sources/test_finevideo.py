"""FineVideo: a video is a sample; questions about what is heard are a second, flagged one."""

import json

import pytest

from smolvlm2.data.geometry import FLAGS
from smolvlm2.data.ledger import LeftOutError
from smolvlm2.data.sources.finevideo import FineVideo, needs_sound

FINE = FineVideo(source="fine", licence="none")


def row(*pairs, mp4=b"mp4", text=False):
    questions = [{"question": question, "answer": answer} for question, answer in pairs]
    facts = {"content_metadata": {"title": "T", "scenes": None, "qAndA": questions}}
    return {"mp4": mp4, "json": json.dumps(facts) if text else facts}


@pytest.mark.parametrize("text", [False, True])
def test_the_facts_are_a_struct_or_text(text):
    (record,) = FINE.records(row(("How many cooks?", "Two."), text=text), "data/x.parquet")
    assert record.turns == [("user", "How many cooks?"), ("assistant", "Two.")]
    assert (record.subset, record.flags) == ("qa", 0)


def test_questions_about_the_sound_form_a_flagged_sample_of_the_same_clip():
    pairs = [
        ("What colour is the car?", "Red."),
        ("What does he say?", "Hello."),
        ("Why?", "Rain."),
    ]
    seen, heard = FINE.records(row(*pairs), "data/x.parquet")
    assert [text for _, text in seen.turns] == ["What colour is the car?", "Red.", "Why?", "Rain."]
    assert [text for _, text in heard.turns] == ["What does he say?", "Hello."]
    assert (seen.flags, heard.flags) == (0, FLAGS["speech_dependent"])
    # The bytes are one object: they are stored once.
    assert seen.media[0].data is heard.media[0].data


def test_a_clip_with_only_such_questions_is_only_flagged():
    (heard,) = FINE.records(row(("Which song is played?", "None.")), "data/x.parquet")
    assert heard.flags == FLAGS["speech_dependent"]


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What does the narrator explain?", "The rules."),
        ("Who is talking?", "The man."),
        ("What did she say at the end?", "Goodbye."),
        ("How does the music change?", "It slows."),
        ("Why does the crowd cheer?", "The commentator announces the winner."),
        ("What can be heard?", "Rain."),
        ("What is mentioned about the price?", "It fell."),
        ("What SOUND does it make?", "A bark."),
        ("How is the tone of the video?", "Calm."),
        ("What is the voice-over about?", "Birds."),
    ],
)
def test_questions_that_need_the_sound(question, answer):
    assert needs_sound(question, answer)


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What colour is the car?", "Red."),
        ("What is written on the essay?", "A title."),  # not 'say'
        ("How many single beds are there?", "Two."),  # not 'sing'
        ("Where is the monument?", "By the sea."),
        ("What does the woman hold?", "A microphone."),
        ("Which stone is placed last?", "The keystone."),  # not 'tone'
        (None, 7),
    ],
)
def test_questions_that_frames_can_answer(question, answer):
    assert not needs_sound(question, answer)


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ("{broken", "unreadable_record"),
        ("[]", "unreadable_record"),
        ({"content_metadata": {"qAndA": "none"}}, "unreadable_record"),
        ({"content_metadata": {"qAndA": []}}, "no_conversation"),
        ({"content_metadata": None}, "no_conversation"),
        (None, "no_conversation"),
    ],
)
def test_facts_without_questions_are_refused(facts, reason):
    with pytest.raises(LeftOutError, match=reason):
        list(FINE.records({"mp4": b"mp4", "json": facts}, "data/x.parquet"))


@pytest.mark.parametrize("mp4", [None, b""])
def test_a_row_without_a_video_lacks_its_medium(mp4):
    with pytest.raises(LeftOutError, match="missing_media: mp4 is empty"):
        list(FINE.records(row(("q", "a"), mp4=mp4), "data/x.parquet"))
