"""``smolvlm2 evaluate`` and ``compare``: what they print, write, and refuse before loading."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from smolvlm2.cli import evaluate as command
from smolvlm2.cli.main import app
from smolvlm2.errors import ConfigError, DataError, DataNotFoundError
from smolvlm2.evaluation.result_files import read_results
from smolvlm2.model.hub import resolve_checkpoint

Options = command.EvaluationOptions


@pytest.fixture
def mine(tmp_path):
    """A benchmark of two text questions, in a folder of its own."""
    rows = [
        {
            "question_id": i,
            "messages": [{"role": "user", "content": "?"}],
            "answer": answer,
            "question_type": answer,
        }
        for i, answer in enumerate(("", "no"))
    ]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    path = tmp_path / "mine.yaml"
    path.write_text("{name: mine, title: Mine, file: q.jsonl, modality: text, chance: 0.5}")
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A tiny model, saved."""
    from smolvlm2.model.config import SmolVLMConfig, TextConfig, VisionConfig
    from smolvlm2.model.smolvlm import SmolVLM
    from smolvlm2.processing.processor import Processor
    from smolvlm2.processing.tokenizer import extend_for_images
    from smolvlm2.processing.tokenizer_training import train_base_tokenizer

    folder = tmp_path_factory.mktemp("model")
    train_base_tokenizer(["User: Assistant: yes no"] * 4, folder / "base", vocab_size=300)
    tokenizer = extend_for_images(folder / "base")
    special = tokenizer.special
    config = SmolVLMConfig(
        vision=VisionConfig(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=16,
            patch_size=8,
        ),
        text=TextConfig(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
            vocab_size=tokenizer.vocab_size,
            max_position_embeddings=128,
        ),
        scale_factor=2,
        image_token_id=special.image,
        eos_token_id=special.end_of_utterance,
        pad_token_id=special.pad,
        bos_token_id=special.bos,
    )
    SmolVLM.from_random(config, seed=0).save_pretrained(folder)
    Processor.for_model(config, tokenizer).save_pretrained(folder)
    return str(folder)


def test_scores_are_printed_and_written_with_a_table(mine, tmp_path, capsys, checkpoint):
    output = tmp_path / "out" / "scores.json"
    (result,) = command.evaluate_checkpoint(
        checkpoint, [str(mine)], tmp_path, output=output, options=Options(control=True)
    )
    printed = capsys.readouterr().out
    assert printed.startswith(f"{command.summary_line(result)}\nmine on blank pictures: 0.0%")
    assert "| Mine | **0.0** |" in printed
    name, read = read_results(output)
    assert (name, read) == (checkpoint, {"mine": result})
    written = json.loads(output.read_text())
    assert written["versions"]["torch"]
    assert written["results"][0]["controls"] == {"blank_images": 0.0}
    run = written["results"][0]["run"]
    assert {"weights", "tokenizer", "tile_size", "split", "longest_edge", "dtype"} <= set(run)
    assert run["dtype"] == "float32"
    of_a_card = command.scores_of(output)
    low, high = result.interval
    assert f"| Mine | 0.0% | {low:.1%} to {high:.1%} | {result.n} | native |" in of_a_card
    assert f"Of `{Path(checkpoint).name}`" in of_a_card
    table = output.with_suffix(".md").read_text()
    assert "## Mine by type" in table
    assert "rule `exact_match`" in table
    for file in ("mine.jsonl", "mine.blank.jsonl"):
        assert len((tmp_path / "out" / "scores" / file).read_text().splitlines()) == 3


def test_earlier_answers_are_scored_again_to_the_digit(mine, tmp_path, checkpoint):
    output = tmp_path / "scores.json"
    (first,) = command.evaluate_checkpoint(checkpoint, [str(mine)], tmp_path, output=output)
    options = Options(rescore=True)
    (again,) = command.evaluate_checkpoint(
        "gone", [str(mine)], tmp_path, output=output, options=options
    )
    assert again.questions == first.questions
    assert read_results(output)[0] == checkpoint  # not "gone": those who answered
    assert (again.accuracy, again.interval, again.run) == (
        first.accuracy,
        first.interval,
        first.run,
    )


def test_two_evaluations_are_compared(mine, tmp_path, checkpoint):
    for name in ("a", "b"):
        command.evaluate_checkpoint(
            checkpoint, [str(mine)], tmp_path, output=tmp_path / f"{name}.json"
        )
    done = CliRunner().invoke(app, ["compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")])
    assert done.exit_code == 0
    assert f"A: {checkpoint}" in done.output
    assert "| Mine | 0.0 | 0.0 | +0.0 |" in done.output
    assert "only" not in done.output
    text = (tmp_path / "mine.yaml").read_text().replace("name: mine", "name: other")
    (tmp_path / "other.yaml").write_text(text)
    both = [str(mine), str(tmp_path / "other.yaml")]
    command.evaluate_checkpoint(checkpoint, both, tmp_path, output=tmp_path / "b.json")
    compared = command.compare_files(tmp_path / "a.json", tmp_path / "b.json")
    assert compared.endswith("\n- other: in B only, not compared\n")
    with pytest.raises(DataError, match="not a result of `smolvlm2 evaluate`"):
        command.compare_files(tmp_path / "a.json", tmp_path)
    (tmp_path / "c.json").write_text("{}")
    with pytest.raises(DataError, match=r"c\.json: not a result of `smolvlm2 evaluate`"):
        command.compare_files(tmp_path / "a.json", tmp_path / "c.json")
    with pytest.raises(DataNotFoundError, match=r"d\.json: no such file; `smolvlm2 evaluate"):
        command.compare_files(tmp_path / "a.json", tmp_path / "d.json")


def test_the_command_takes_the_specification_s_form(mine, tmp_path, checkpoint):
    arguments = ["evaluate", checkpoint, "--benchmarks", f"{mine}, ", "--data", str(tmp_path)]
    done = CliRunner().invoke(app, [*arguments, "--limit", "1", "--backend", "transformers"])
    assert done.exit_code == 0, done.output
    assert "mine: 0.0%" in done.output


def test_the_script_s_usage_names_the_benchmarks():
    text = (Path(__file__).parents[2] / "scripts/evaluate_model.sh").read_text()
    assert "video-mme,mlvu,mvbench,docvqa,textvqa,chartqa" in text


def test_what_is_missing_is_told_before_the_checkpoint_is_loaded(tmp_path):
    with pytest.raises(DataNotFoundError, match=r"which_digit\.jsonl: no such file"):
        command.evaluate_checkpoint("nowhere", ["which_digit"], tmp_path)
    with pytest.raises(ConfigError, match="--benchmarks names none"):
        command.evaluate_checkpoint("nowhere", [], tmp_path)
    with pytest.raises(ConfigError, match="--backend endpoint and --address belong together"):
        command.evaluate_checkpoint(
            "nowhere", ["mlvu"], tmp_path, options=Options(backend="endpoint")
        )
    with pytest.raises(ConfigError, match="--rescore needs --output"):
        command.evaluate_checkpoint("nowhere", ["mlvu"], tmp_path, options=Options(rescore=True))
    with pytest.raises(ConfigError, match="which_digit has no prompt of style 'lmms', only native"):
        command.evaluate_checkpoint(
            "nowhere", ["which_digit"], tmp_path, options=Options(style="lmms")
        )


@pytest.mark.parametrize("name", ["scores", "scores.md", "folder.json"])
def test_an_output_that_cannot_be_written_is_told_before_anything_is_asked(tmp_path, name):
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(ConfigError, match=r"expected the name of a file that ends in \.json"):
        command.evaluate_checkpoint("nowhere", ["mlvu"], tmp_path, output=tmp_path / name)


def test_a_longest_edge_that_nobody_would_follow_is_refused(mine, tmp_path, monkeypatch):
    options = Options(backend="endpoint", address="http://127.0.0.1:9/v1", longest_edge=512)
    with pytest.raises(ConfigError, match="--longest-edge has no effect at an endpoint"):
        command.evaluate_checkpoint("name", [str(mine)], tmp_path, options=options)
    monkeypatch.setattr(
        "smolvlm2.evaluation.transformers_models.load_transformers",
        lambda *_, **__: (torch.nn.Linear(1, 1), object()),
    )
    options = Options(backend="transformers", longest_edge=512)
    with pytest.raises(ConfigError, match="--longest-edge has no effect on other: it is"):
        command.evaluate_checkpoint("other", [str(mine)], tmp_path, options=options)


def test_a_run_that_still_trains_is_scored_by_the_step_that_it_had(mine, tmp_path, checkpoint):
    """`latest` moves on; every file is read from one step, and the result names it."""
    steps = tmp_path / "run" / "checkpoints"
    shutil.copytree(checkpoint, steps / "step-00000005")
    (steps / "latest").symlink_to("step-00000005")
    assert resolve_checkpoint(tmp_path / "run") == (steps / "step-00000005").resolve()
    (result,) = command.evaluate_checkpoint(str(tmp_path / "run"), [str(mine)], tmp_path)
    assert result.run["folder"] == "step-00000005"


@pytest.mark.parametrize(
    ("device", "rank", "expected"),
    [("auto", "1", "cuda:1"), ("auto", None, "cuda"), ("cpu", "1", "cpu")],
)
def test_each_process_of_a_launcher_takes_its_own_gpu(
    monkeypatch, tmp_path, device, rank, expected
):
    from smolvlm2.cli import checkpoint

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    found = []

    def load(name, *, device, dtype):
        found.append(checkpoint.choose_device(device))
        return torch.nn.Linear(1, 1), None

    monkeypatch.setattr(checkpoint, "load_checkpoint", load)
    (tmp_path / "tokenizer.json").touch()
    command._Backends(str(tmp_path), Options(device=device))
    assert found == [expected]


@pytest.mark.parametrize(("cores", "here", "expected"), [(2, 1, 2), (64, 8, 8), (64, 1, 16)])
def test_a_process_decodes_with_its_share_of_the_cores(monkeypatch, cores, here, expected):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(cores), raising=False)
    assert command.decode_threads({"LOCAL_WORLD_SIZE": str(here)}) == expected


def test_cores_are_counted_where_affinity_is_unknown(monkeypatch):
    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 10)
    assert command.decode_threads({}) == 10
