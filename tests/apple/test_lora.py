"""LoRA end to end: the loss falls, files reload to the bit, a cut run goes on, fused equals."""

import json
import shutil

import numpy as np
import pytest

mx = pytest.importorskip("mlx.core", reason="needs mlx", exc_type=ImportError)
pytest.importorskip("mlx_vlm", reason="needs mlx-vlm")

from mlx.utils import tree_flatten  # noqa: E402

from smolvlm2.apple import adapters  # noqa: E402
from smolvlm2.apple import checkpoint as files  # noqa: E402
from smolvlm2.apple.lora_run import LoraRun  # noqa: E402
from smolvlm2.apple.lora_settings import AdapterSettings, LoraSettings  # noqa: E402
from smolvlm2.apple.samples import open_samples  # noqa: E402
from smolvlm2.apple.training import LoraTrainer  # noqa: E402
from smolvlm2.errors import (  # noqa: E402
    CheckpointError,
    CheckpointNotFoundError,
    ConfigError,
    ResumeError,
    TrainingError,
)

pytestmark = pytest.mark.mlx


@pytest.fixture
def make_trainer(checkpoint, drawn):
    """Builder of a trainer into a folder."""

    def make(folder, *, quantize=None, restart=False, kind="lora", **options):
        settings = LoraSettings(adapters=AdapterSettings(kind=kind, rank=4), **options)
        loaded = files.load(checkpoint, quantize=quantize)
        adapters.add(loaded.model, settings.adapters, seed=settings.seed)
        run = LoraRun(folder, settings, {"model": "tiny"}, restart=restart)
        return LoraTrainer(loaded, open_samples(drawn), settings, run)

    return make


def logits(model):
    return np.array(model(mx.array([[1, 5, 9, 33, 7, 21]]), None).logits)


def weights(folder):
    return mx.load(str(folder / adapters.WEIGHTS))


@pytest.mark.slow
@pytest.mark.parametrize(("quantize", "iters"), [(None, 60), (4, 20)])
def test_steps_lower_the_loss_reload_to_the_bit_and_fuse_equal(
    make_trainer, checkpoint, tmp_path, quantize, iters
):
    trainer = make_trainer(tmp_path / "run", quantize=quantize, iters=iters, learning_rate=1e-2)
    base = logits(trainer.model)
    trainer.train()
    log = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in log]
    assert len(losses) == iters
    assert np.mean(losses[-5:]) < (0.6 if iters == 60 else 0.9) * np.mean(losses[:5])
    trained = logits(trainer.model)
    assert np.abs(trained - base).max() > 0.1

    again = files.load(checkpoint)
    adapters.attach(again.model, tmp_path / "run")
    assert (logits(again.model) == trained).all()

    from mlx_vlm.trainer import load_adapters
    from mlx_vlm.utils import load_model

    upstream = load_adapters(load_model(checkpoint), tmp_path / "run")
    assert (logits(upstream) == trained).all()

    adapters.fuse(trainer.model)
    files.save(trainer.model, again.config, again.processor, tmp_path / "fused")
    transformers = pytest.importorskip("transformers")
    import torch

    theirs = transformers.AutoModelForImageTextToText.from_pretrained(
        tmp_path / "fused", dtype=torch.float32
    ).eval()
    with torch.no_grad():
        fused = theirs(input_ids=torch.tensor([[1, 5, 9, 33, 7, 21]])).logits.numpy()
    assert np.abs(fused - trained).max() < 1e-4


def test_accumulation_sums_what_one_batch_holds(make_trainer, tmp_path):
    one = make_trainer(tmp_path / "one", iters=1, batch_size=4).train_step()
    parts = make_trainer(tmp_path / "parts", iters=1, accumulate=4).train_step()
    assert one["supervised"] == parts["supervised"]
    assert abs(one["loss"] - parts["loss"]) < 1e-5
    assert abs(one["gradient_norm"] - parts["gradient_norm"]) < 1e-4


def test_a_run_that_was_cut_ends_with_the_same_bits(make_trainer, tmp_path):
    whole = make_trainer(tmp_path / "whole", iters=4, save_every=2)
    whole.train()
    make_trainer(tmp_path / "cut", iters=2, save_every=2).train()
    cut = make_trainer(tmp_path / "cut", iters=4, save_every=2)
    assert cut.step == 2
    # A step that was logged and not saved is done again.
    cut.train_step()
    cut = make_trainer(tmp_path / "cut", iters=4, save_every=2)
    cut.train()
    first, second = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert first.keys() == second.keys()
    assert all(mx.array_equal(first[name], second[name]) for name in first)
    logs = [
        [json.loads(line)["loss"] for line in path.read_text().splitlines()]
        for path in (tmp_path / "whole/log.jsonl", tmp_path / "cut/log.jsonl")
    ]
    assert logs[0] == logs[1]
    assert len(logs[0]) == 4


def test_other_settings_and_foreign_folders_are_refused(make_trainer, tmp_path):
    make_trainer(tmp_path / "run", iters=1).train()
    with pytest.raises(ResumeError, match=r"other settings: seed was 0 and is 1; repeat them"):
        make_trainer(tmp_path / "run", iters=1, seed=1)
    assert make_trainer(tmp_path / "run", iters=1, seed=1, restart=True).step == 0
    (tmp_path / "other").mkdir()
    (tmp_path / "other/thesis.txt").write_text("mine")
    with pytest.raises(ResumeError, match=r"no run\.json, so it is no LoRA run"):
        make_trainer(tmp_path / "other", iters=1, restart=True)


def test_a_loss_that_is_not_finite_stops_before_the_weights_change(make_trainer, tmp_path):
    trainer = make_trainer(tmp_path / "run", iters=1)
    norm = trainer.model.language_model.norm
    norm.weight = norm.weight * float("nan")
    before = dict(tree_flatten(trainer.model.trainable_parameters()))
    with pytest.raises(TrainingError, match=r"step 0: the loss is nan; samples drawn/"):
        trainer.train()
    after = dict(tree_flatten(trainer.model.trainable_parameters()))
    assert all(mx.array_equal(before[name], after[name]) for name in before)


def test_dora_trains_and_reloads(make_trainer, checkpoint, tmp_path):
    trainer = make_trainer(tmp_path / "run", kind="dora", iters=2)
    trainer.train()
    again = files.load(checkpoint)
    adapters.attach(again.model, tmp_path / "run")
    assert (logits(again.model) == logits(trainer.model)).all()
    adapters.fuse(again.model)
    assert np.abs(logits(again.model) - logits(trainer.model)).max() < 1e-4


def test_adapters_that_do_not_fit_are_refused(make_trainer, checkpoint, tmp_path):
    trainer = make_trainer(tmp_path / "run", iters=1)
    trainer.train()
    with pytest.raises(CheckpointNotFoundError, match=r"no adapters\.safetensors; expected"):
        adapters.attach(files.load(checkpoint).model, tmp_path / "none")
    broken = shutil.copytree(tmp_path / "run", tmp_path / "broken")
    config = json.loads((broken / adapters.SETTINGS).read_text())
    config["lora_parameters"]["rank"] = 5
    (broken / adapters.SETTINGS).write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"adapter .* expected \(\d+, 5\) and \(5, \d+\)"):
        adapters.attach(files.load(checkpoint).model, broken)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iters": 0}, "iters is 0; expected at least 1"),
        ({"learning_rate": 0}, "learning_rate is 0; expected more than 0"),
        ({"warmup": -1}, "must not be negative"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        LoraSettings(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "qlora"}, "kind is 'qlora'; expected 'lora' or 'dora'"),
        ({"rank": 0}, "rank 0 and alpha"),
        ({"targets": ["lm_head"]}, "target 'lm_head' is unknown; expected some of q_proj"),
        ({"targets": []}, "no targets given"),
    ],
)
def test_impossible_adapters_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        AdapterSettings(**options)
