"""The numbers of the log elsewhere."""

import importlib.util
import json
import logging
import sqlite3
import subprocess
import sys
import types

import pytest

from smolvlm2.config import load_config
from smolvlm2.errors import ConfigError, MissingDependencyError
from smolvlm2.training.recipe import Recipe
from smolvlm2.training.writers import WRITERS, numbers_of


def needs(name):
    return pytest.mark.skipif(
        importlib.util.find_spec(name) is None, reason=f"needs {name}: pip install {name}"
    )


def test_numbers_keep_their_names_and_nested_ones_get_a_path():
    line = {
        "step": 3,
        "loss": 0.5,
        "gradient_norm": None,
        "chain": "abc",
        "loss_by_modality": {"text": 1.0},
        "metrics": {"eval/digits": 0.25},
    }
    assert dict(numbers_of(line)) == {
        "loss": 0.5,
        "loss_by_modality/text": 1.0,
        "eval/digits": 0.25,
    }


@pytest.mark.parametrize("name", WRITERS)
def test_a_missing_package_is_named_with_its_command_before_the_run_starts(
    make_trainer, tmp_path, monkeypatch, name
):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingDependencyError, match=f"pip install {name}"):
        make_trainer(tmp_path / "run", f"logging.writers=[{name}]")
    assert not (tmp_path / "run").exists()


def test_a_writer_named_twice_is_refused():
    with pytest.raises(ConfigError, match="names one twice: wandb, wandb"):
        load_config(Recipe, overrides=["logging.writers=[wandb,wandb]"])


class Service(types.ModuleType):
    """A library with the calls of trackio and W&B that keeps what it was told, and may fail."""

    def __init__(self, name, fails_at=None):
        super().__init__(name)
        self.__spec__ = importlib.util.spec_from_loader(name, loader=None)
        self.runs, self.lines, self.fails_at, self.finished = [], [], fails_at, 0

    def init(self, **options):
        self.runs.append(options)
        return self

    def log(self, numbers, step):
        if step == self.fails_at:
            raise ConnectionError("the server is gone")
        self.lines.append((step, numbers))

    def finish(self):
        self.finished += 1


@pytest.mark.parametrize("name", ["trackio", "wandb"])
def test_a_run_goes_on_under_its_id_and_sends_no_step_twice(
    make_trainer, tmp_path, monkeypatch, name
):
    service = Service(name)
    monkeypatch.setitem(sys.modules, name, service)
    settings = (f"logging.writers=[{name}]", "training.max_steps=4")
    first = make_trainer(tmp_path / "run", *settings)
    first.progress = lambda line: exec("raise KeyboardInterrupt") if line["step"] == 2 else None
    with pytest.raises(KeyboardInterrupt):
        first.train()
    second = make_trainer(tmp_path / "run", *settings)
    assert second.state.step == 2
    second.train()
    assert [step for step, _ in service.lines] == [0, 1, 2, 3]
    known = [run.get("id") or run["name"] for run in service.runs]
    assert known[0] == known[1]
    assert service.finished == 2
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert service.lines[3][1] == dict(numbers_of(log[3]))


def test_a_writer_that_fails_costs_one_warning_and_not_the_run(
    make_trainer, tmp_path, monkeypatch, caplog, straight
):
    service = Service("wandb", fails_at=1)
    monkeypatch.setitem(sys.modules, "wandb", service)
    with caplog.at_level(logging.WARNING):
        make_trainer(tmp_path / "run", "logging.writers=[wandb]").train()
    assert [step for step, _ in service.lines] == [0]
    warnings = [each.getMessage() for each in caplog.records if "wandb" in each.getMessage()]
    assert len(warnings) == 1
    assert "off from now on (ConnectionError: the server is gone)" in warnings[0]
    weights = (tmp_path / "run" / "model.safetensors").read_bytes()
    assert weights == (straight / "model.safetensors").read_bytes()


@needs("tensorboard")
def test_tensorboard_reads_each_step_once_after_a_resume(make_trainer, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = ("logging.writers=[tensorboard]", "training.max_steps=4")
    first = make_trainer(tmp_path / "run", *settings)
    first.progress = lambda line: exec("raise KeyboardInterrupt") if line["step"] == 2 else None
    with pytest.raises(KeyboardInterrupt):
        first.train()
    make_trainer(tmp_path / "run", *settings).train()
    found = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    found.Reload()
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    losses = [(event.step, event.value) for event in found.Scalars("loss")]
    assert losses == [(line["step"], pytest.approx(line["loss"], rel=1e-6)) for line in log]
    assert set(found.Tags()["scalars"]) == {name for line in log for name, _ in numbers_of(line)}


WRITE = """
import sys
from pathlib import Path
from smolvlm2.training.recipe import Recipe
from smolvlm2.training.writers import LoggingSettings, Writers
for step, sent in ((0, None), (2, 2)):
    recipe = Recipe(logging=LoggingSettings(writers=[sys.argv[1]]))
    writers = Writers(recipe.logging, Path(sys.argv[2]), recipe, step=step, sent=sent)
    for number in range(step, step + 3):
        writers.write({"step": number, "loss": float(number)})
    assert writers._open
    writers.close()
"""


@needs("trackio")
def test_trackio_keeps_each_step_once(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    subprocess.run([sys.executable, "-c", WRITE, "trackio", tmp_path], check=True)
    with sqlite3.connect(tmp_path / "trackio" / "smolvlm2.db") as database:
        rows = database.execute("select step from metrics order by step").fetchall()
    assert rows == [(0,), (1,), (2,), (3,), (4,)]


@needs("wandb")
def test_wandb_writes_its_files_offline(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    subprocess.run([sys.executable, "-c", WRITE, "wandb", tmp_path], check=True)
    known = json.loads((tmp_path / "writers.json").read_text())
    assert known["sent"] == 2
    # Both starts of one second share a folder.
    assert list((tmp_path / "wandb").glob(f"offline-run-*-{known['id']}"))
