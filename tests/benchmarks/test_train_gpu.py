"""The GPU benchmark on a CPU: its code, its packs, and that it needs few packages."""

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
RARE = (
    *("av", "PIL", "pyarrow", "omegaconf", "rich", "tokenizers", "typer", "huggingface_hub"),
    *("accelerate", "transformers", "sklearn", "torchvision", "torchcodec"),
)
"""Packages that the machine with the GPU may lack."""
BLOCKER = """
import runpy, sys
sys.modules.update(dict.fromkeys({rare!r}))  # an import of what is None there fails
sys.argv = ["train_gpu.py", *{arguments!r}]
sys.path.insert(0, {folder!r})
runpy.run_path({folder!r} + "/train_gpu.py", run_name="__main__")
"""


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def dry(tmp_path, sections, rare=()):
    out = tmp_path / "train_gpu.json"
    arguments = ["--dry", "--only", sections, "--out", str(out)]
    code = BLOCKER.format(rare=tuple(rare), arguments=arguments, folder=str(BENCHMARKS))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (entry,) = json.loads(out.read_text())
    assert json.loads(done.stdout.splitlines()[-1]) == entry
    assert not out.with_name(out.name + ".partial").exists()
    return entry, done.stdout


@pytest.mark.slow
def test_our_sections_need_no_package_beyond_torch_and_numpy(tmp_path):
    sections = "ceilings,ops,eager,compiled,options,500m,curves,again"
    entry, table = dry(tmp_path, sections, RARE)
    assert entry["errors"] == entry["skipped"] == []
    right = [step["right"] for step in entry["steps"] if "right" in step]
    assert len(right) > 12
    assert all(right)
    for step in entry["steps"]:
        assert step["recompiles"] == step["syncs"] == 0
        assert step["ms"]["median"] > 0
    assert {option["phase"] for option in entry["options"]} == {"frozen", "unfrozen"}
    assert entry["curves"]["bf16"] == entry["curves"]["fp32"]
    assert "% ceil." in table
    assert entry["verdicts"]["unfrozen"]["mfu_ceiling"] > 0


@pytest.mark.slow
def test_transformers_computes_the_same_loss_in_every_variant(tmp_path):
    entry, _ = dry(tmp_path, "compiled,peer")
    assert entry["errors"] == []
    theirs = [step for step in entry["steps"] if step["system"] == "transformers"]
    assert len(theirs) == 10
    for step in theirs:
        limit = 2e-3 if "autocast" in step["variant"] else 1e-5
        assert step["check"]["loss_error"] < limit, step["variant"]
    assert entry["verdicts"]["frozen"]["over_its_best"] > 0


@pytest.mark.slow
def test_an_error_is_kept_as_text_and_ends_nothing(tmp_path):
    entry, table = dry(tmp_path, "eager,peer", ["transformers"])
    (error,) = {error["error"] for error in entry["errors"]}
    assert error.startswith("ModuleNotFoundError: import of transformers halted")
    assert len(entry["steps"]) == 2
    assert "import of transformers halted" in table


def test_packs_hold_what_was_predicted_for_them():
    from train_gpu_shapes import SIZES, GeneratedPack

    from smolvlm2.training.model_cost import cost_of

    class Full(GeneratedPack):
        def figures(self):
            return {"tiles": 84, "tokens": 8192, "sum_len_sq": 12_615_680, "supervised": 1171}

    cost = cost_of(SIZES["256m"])
    pack = Full(samples=[], batch=None)
    assert pack.useful_flops(cost, frozen=True) == pytest.approx(24.8e12, rel=5e-3)
    assert pack.useful_flops(cost, frozen=False) == pytest.approx(60.7e12, rel=5e-3)


def test_packs_are_of_one_shape_and_full():
    from train_gpu_shapes import SIZES, draw_packs

    from smolvlm2.plan.packs import Capacity

    capacity = Capacity(tokens=512, tiles=40, documents=16)
    packs = draw_packs(SIZES["tiny"], capacity, count=3)
    for pack in packs:
        assert pack.batch.pixel_values.shape == (40, 3, 64, 64)
        assert pack.batch.cu_seqlens.shape == (18,)
        assert pack.batch.cu_seqlens[-1] == 512
        assert pack.batch.tiles >= 36
        assert pack.supervised == (pack.batch.loss_weights > 0).sum()
        assert np.diff(pack.batch.cu_seqlens[: len(pack.samples) + 1]).tolist() == list(
            pack.lengths
        )


def test_packs_are_as_full_as_those_of_training():
    from train_gpu_shapes import SIZES, draw_packs

    from smolvlm2.plan.packs import Capacity

    capacity = Capacity(tokens=512, tiles=84, documents=64)
    packs = draw_packs(SIZES["tiny"], capacity, count=5)
    assert sum(pack.batch.tiles for pack in packs) > 0.98 * 5 * 84
    assert sum(pack.batch.tokens for pack in packs) > 0.94 * 5 * 512


def test_results_go_behind_those_of_earlier_runs(tmp_path):
    from train_gpu import Results

    path = tmp_path / "results.json"
    path.write_text(json.dumps([{"run": 1}]))
    results = Results(path=path, entry={"run": 2})
    results.write()
    results.entry["more"] = True
    results.write()
    assert json.loads(path.read_text()) == [{"run": 1}, {"run": 2, "more": True}]


def test_a_machine_without_git_is_described(monkeypatch):
    from train_gpu import environment

    monkeypatch.setenv("PATH", "")
    found = environment(torch.device("cpu"))
    assert found["commit"] is None
    assert found["torch"] == importlib.metadata.version("torch")


def test_every_measurement_is_on_disk_before_the_next(tmp_path):
    from train_gpu import Results, kept

    path = tmp_path / "results.json"
    entry = {"steps": [], "errors": [], "seconds": {}}
    results = Results(path=path, entry=entry)
    kept(results, "one", lambda: entry["steps"].append(1), entry)
    kept(results, "two", lambda: 1 / 0, entry)
    (found,) = json.loads(path.read_text())
    assert found["steps"] == [1]
    assert found["errors"][0]["section"] == "two"


def test_a_section_that_has_no_name_is_refused():
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "train_gpu.py"), "--only", "speed"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "no section speed; there are ceilings, ops" in done.stderr


@pytest.mark.parametrize("variant", [{"encoder_attention": "MATH"}, {"deterministic": True}])
def test_a_choice_of_attention_is_not_taken_from_the_cache_of_another(variant):
    from train_gpu_own import Variant, settings_of

    config = torch._functorch.config
    assert config.enable_autograd_cache
    with settings_of(Variant(**variant)):
        assert not config.enable_autograd_cache
    assert config.enable_autograd_cache


def test_global_switches_of_a_variant_are_put_back():
    from train_gpu_own import Variant, settings_of

    from smolvlm2.model import text_decoder

    before = text_decoder.fused_linear
    with settings_of(Variant(separate_products=True, deterministic=True)):
        assert text_decoder.fused_linear is not before
        assert torch.are_deterministic_algorithms_enabled()
        # With a warning alone torch's attention keeps its backward pass as it is.
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert text_decoder.fused_linear is before
    assert not torch.are_deterministic_algorithms_enabled()


def test_weights_are_cast_and_rotary_frequencies_are_not():
    from train_gpu_peer import cast_weights

    model = torch.nn.Linear(2, 2)
    model.register_buffer("inv_freq", torch.rand(2))
    cast_weights(model, torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.inv_freq.dtype == torch.float32


def test_transformers_is_timed_over_as_many_packs_as_we_are(monkeypatch):
    import train_gpu_peer as peer

    def timed(work, device, **how):
        work()
        asked.update(how)
        return {"median": 4.0, "p10": 4.0, "p90": 4.0, "n": 1}

    asked = {}
    monkeypatch.setattr(peer, "timed", timed)
    each = object.__new__(peer.Peer)
    each.device, each.model = torch.device("cpu"), torch.nn.Linear(1, 1)
    each.batches, each.passes = lambda pack: [], lambda *_: torch.zeros(())
    found = each.measure([SimpleNamespace(supervised=1)] * 4, SimpleNamespace(supervised=1))
    assert asked["least"] == 3  # of four packs
    assert found["ms"]["median"] == 1


def test_transformers_rows_are_of_one_length():
    from train_gpu_peer import Peer
    from train_gpu_shapes import SIZES, draw_packs

    from smolvlm2.plan.packs import Capacity

    each = object.__new__(Peer)
    each.config, each.device, each.model = SIZES["tiny"], torch.device("cpu"), torch.nn.Linear(1, 1)
    (pack,) = draw_packs(SIZES["tiny"], Capacity(tokens=512, tiles=40, documents=16), count=1)
    row = each._row(pack)
    used = int(pack.lengths.sum())
    assert used < 512
    assert {row[name].shape for name in ("input_ids", "labels", "position_ids")} == {(1, 512)}
    assert row["position_ids"][0, used:].tolist() == list(range(512 - used))
    assert (row["labels"] >= 0).sum() == pack.supervised
