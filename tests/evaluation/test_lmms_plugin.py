"""Our score equals lmms-eval's own run of its own task code, where lmms-eval is installed."""

import importlib.util
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from PIL import Image

from smolvlm2.errors import PromptError
from smolvlm2.evaluation.answers import read_answers
from smolvlm2.evaluation.benchmark import load_benchmark
from smolvlm2.evaluation.runner import evaluate

installed = importlib.util.find_spec("lmms_eval") is not None

TASK = """
task: docvqa_small
dataset_path: parquet
dataset_kwargs:
  data_files: {{validation: {file}}}
test_split: validation
output_type: generate_until
doc_to_visual: !function docvqa_functions.visual
doc_to_text: !function docvqa_functions.text
doc_to_target: answers
generation_kwargs: {{max_new_tokens: 32, temperature: 0, do_sample: false}}
metric_list:
  - {{metric: anls, aggregation: mean, higher_is_better: true}}
"""
FUNCTIONS = """
from lmms_eval.tasks.docvqa.utils import docvqa_doc_to_text, docvqa_doc_to_visual
suffix = {"pre_prompt": "", "post_prompt": "\\nAnswer the question using a single word or phrase."}
visual = docvqa_doc_to_visual
def text(doc):
    return docvqa_doc_to_text(doc, suffix)
"""


@pytest.mark.slow
@pytest.mark.skipif(not installed, reason="needs lmms-eval: pip install smolvlm2[lmms]")
@pytest.mark.filterwarnings("ignore")
def test_our_score_equals_lmms_eval_s(model, processor, write, tmp_path):
    import datasets
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    from smolvlm2.evaluation.lmms_plugin import LmmsModel

    def write_rows(answers: list[str]) -> None:
        rows = [
            {
                "questionId": str(i),
                "question": f"What is in box {i}?",
                "image": {"bytes": write.picture(i), "path": None},
                "docId": i,
                "answers": [answer, "something else"],
            }
            for i, answer in enumerate(answers)
        ]
        # As on the hub: the file itself says that the column holds pictures.
        table = datasets.Dataset.from_list(rows).cast_column("image", datasets.Image())
        table.to_parquet(file)

    file, log = tmp_path / "validation-0.parquet", tmp_path / "log.jsonl"
    benchmark = load_benchmark("docvqa")
    write_rows(["?"] * 12)
    evaluate(model, processor, benchmark, tmp_path, style="lmms", answers_path=log)
    said = [answer.prediction for answer in read_answers(log)[1].values()]
    # References right, almost right, half right and wrong.
    write_rows([(x, x[1:], x[len(x) // 2 :], "no")[i % 4] or "-" for i, x in enumerate(said)])
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/docvqa_small.yaml").write_text(TASK.format(file=file))
    (tmp_path / "tasks/docvqa_functions.py").write_text(FUNCTIONS)
    theirs = simple_evaluate(
        model=LmmsModel(model=model, processor=processor, batch_size=4),
        tasks=["docvqa_small"],
        task_manager=TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False),
        batch_size=4,
    )
    ours = evaluate(model, processor, benchmark, tmp_path, style="lmms")
    assert ours.n == 12
    assert 0.2 < ours.accuracy < 0.9
    assert ours.accuracy == pytest.approx(theirs["results"]["docvqa_small"]["anls,none"])


@pytest.mark.skipif(installed, reason="lmms-eval is installed")
def test_without_lmms_eval_the_plug_in_names_the_extra():
    from smolvlm2.errors import MissingDependencyError

    with pytest.raises(MissingDependencyError, match=r'pip install "smolvlm2\[lmms\]"'):
        importlib.import_module("smolvlm2.evaluation.lmms_plugin")


@pytest.fixture
def plug_in(monkeypatch):
    """The module on stand-ins for lmms-eval, which need not be installed."""
    names = (
        "lmms_eval",
        "lmms_eval.api",
        "lmms_eval.api.model",
        "lmms_eval.models",
        "lmms_eval.models.registry_v2",
    )
    for name in names:
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setattr(sys.modules[names[2]], "lmms", object, raising=False)
    monkeypatch.setattr(sys.modules[names[4]], "ModelManifest", object, raising=False)
    module = importlib.import_module("smolvlm2.evaluation.lmms_plugin")
    monkeypatch.delitem(sys.modules, "smolvlm2.evaluation.lmms_plugin")
    return module


@pytest.mark.skipif(installed, reason="lmms-eval is installed")
@pytest.mark.parametrize(
    ("cuda", "asked", "expected"), [(1, {}, "cuda"), (1, {"device": "cpu"}, "cpu"), (0, {}, "cpu")]
)
def test_a_checkpoint_goes_to_the_gpu_unless_told_otherwise(
    plug_in, monkeypatch, caplog, cuda, asked, expected
):
    from smolvlm2.model.smolvlm import SmolVLM
    from smolvlm2.processing.processor import Processor

    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(cuda))
    found = {}
    monkeypatch.setattr(SmolVLM, "from_pretrained", lambda path, **how: found.update(how))
    monkeypatch.setattr(Processor, "from_pretrained", lambda path: None)
    with pytest.raises(PromptError, match="give pretrained=PATH, or model and processor"):
        plug_in.LmmsModel("run", **asked, max_batch_size=None, max_frames=32)
    assert found["device"] == expected
    assert "knows no model argument max_frames, so it has no effect" in caplog.text


@pytest.mark.skipif(installed, reason="lmms-eval is installed")
def test_what_cannot_be_asked_is_answered_by_nothing_and_the_rest_goes_on(
    plug_in, model, processor, tmp_path, caplog
):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    grey = Image.new("RGB", (40, 40), (90, 90, 90))
    docs = [
        {"text": "How bright?", "shown": [grey]},
        {"text": "why " * 2000, "shown": [grey]},
        {"text": "How bright?", "shown": [str(tmp_path / "bad.png")]},
        {"text": "How bright?", "shown": None},
    ]
    requests = [
        SimpleNamespace(
            args=(doc["text"], {"max_new_tokens": 4}, lambda doc: doc["shown"], i, "bright", "test")
        )
        for i, doc in enumerate(docs)
    ]
    ids = processor.tokenizer.encode_text("7").tolist()

    def generate(**inputs):
        return [ids for _ in model.generate(**inputs)]

    says = SimpleNamespace(generate=generate)
    found = plug_in.LmmsModel(model=says, processor=processor, batch_size=3)
    found.task_dict = {"bright": {"test": docs}}
    assert found.generate_until(requests) == ["7", "", "", "7"]
    assert "bright, document 1: answered by nothing: the longest prompt has" in caplog.text
    assert "bright, document 2: answered by nothing: " in caplog.text
