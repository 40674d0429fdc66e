"""The whole path in small: data, components, both stages, scores, summary, report."""

import json
import os
import signal

import pytest

from smolvlm2 import Processor, SmolVLM
from smolvlm2.cli.demo import BENCHMARKS, run_demo
from smolvlm2.errors import ConfigError
from smolvlm2.training.progress import Progress

FEW = {
    "one_digit_pages": 30,
    "several_digit_pages": 10,
    "image_comparisons": 10,
    "moving_clips": 8,
    "changing_clips": 4,
    "text_questions": 10,
    "held_out_questions": 4,
}
SHORT = ("training.max_steps=3", "data.workers=0", "checkpoint.every_steps=2", "pack.window=32")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished demo."""
    output = tmp_path_factory.mktemp("demo")
    overrides = (*SHORT, "training.freeze_vision_encoder=false")
    overrides = (*overrides, "training.unfreeze_vision_after_steps=null")
    return output, run_demo(output, overrides, **FEW), overrides


def test_the_summary_holds_every_figure(finished):
    output, summary, _ = finished
    assert json.loads((output / "summary.json").read_text()) == json.loads(json.dumps(summary))
    asked = [(score["stage"], score["name"]) for score in summary["scores"]]
    assert asked == [(stage, name) for stage, names in BENCHMARKS.items() for name in names]
    for score in summary["scores"]:
        assert 0 <= score["accuracy"] <= 1
        assert 0 <= score["control"] <= 1
    assert set(summary["losses"]) == {"vision", "video"}
    assert summary["versions"]["torch"]
    assert summary["seconds"] > 0


def test_the_report_is_one_file_without_network(finished):
    page = (finished[0] / "report.html").read_text()
    assert "http://" not in page
    assert "https://" not in page
    assert page.count("data:image/png;base64") >= 4
    assert page.count("data:video/mp4;base64") >= 4


def test_the_run_is_a_checkpoint(finished):
    output = finished[0]
    for folder in (output / "video_stage", output / "video_stage/checkpoints/latest"):
        model, processor = SmolVLM.from_pretrained(folder), Processor.from_pretrained(folder)
        question = [{"role": "user", "content": "What is 1 plus 1?"}]
        inputs = processor(question, add_generation_prompt=True)
        assert isinstance(model.generate(**inputs, max_new_tokens=3)[0], list)


def test_started_again_it_does_nothing_twice(finished):
    output, summary, overrides = finished
    weights = output / "video_stage" / "model.safetensors"
    before = weights.read_bytes()
    log = (output / "vision_stage" / "log.jsonl").read_text()
    again = run_demo(output, overrides, **FEW)
    assert weights.read_bytes() == before
    assert (output / "vision_stage" / "log.jsonl").read_text() == log
    assert again["scores"] == summary["scores"]


def test_a_file_is_no_folder_for_the_demo(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match=r"--output .*file: is a file; give a folder"):
        run_demo(tmp_path / "file", SHORT, **FEW)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_signal_ends_the_demo_and_not_only_its_stage(tmp_path, monkeypatch, capsys):
    def interrupt(progress, line):
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Progress, "update", interrupt)
    with pytest.raises(SystemExit) as ended:
        run_demo(tmp_path, SHORT, **FEW)
    assert ended.value.code == 75
    assert "saved at step 1 of 3; start the demo again" in capsys.readouterr().err
    assert not (tmp_path / "video_stage").exists()
