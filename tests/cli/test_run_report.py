"""One page of any run, finished or not."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from smolvlm2.cli.report_chart import COLUMNS, HEIGHT, WIDTH, Series, line_chart, short_number
from smolvlm2.cli.run_report import nearest_recipe, shipped_recipes, write_run_report
from smolvlm2.config import find_recipe, load_config, save_config
from smolvlm2.errors import CheckpointNotFoundError
from smolvlm2.training.recipe import Recipe

EVIL = "<script>alert('x')</script>"


def line_of(step: int, **more) -> dict:
    return {
        "step": step,
        "loss": 4 / (step + 1),
        "learning_rate": 1e-4,
        "connector_learning_rate": 2e-4,
        "vision_learning_rate": 0.0,
        "gradient_norm": 1.0,
        "samples": 8,
        "tokens": 1000,
        "tiles": 10,
        "loss_by_modality": {"text": 3 / (step + 1), "image": 5 / (step + 1)},
        "fill_tokens": 0.9,
        "fill_tiles": 0.8,
        "imbalance": 1.1,
        "seconds": 2.0,
        "load_seconds": 0.25,
        "wait_seconds": 0.25,
        "vision_seconds": 1.0,
        "text_seconds": 0.25,
        "optimizer_seconds": 0.125,
        "tokens_per_second": 500,
        "tiles_per_second": 5.0,
        "mfu": None,
        "chain": "abc",
    } | more


def write_lines(path, lines) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


@pytest.fixture
def run(tmp_path):
    """A run of 20 steps, half done."""
    folder = tmp_path / f"run {EVIL[:8]}"
    (folder / "plan").mkdir(parents=True)
    overrides = ["training.max_steps=20", "training.unfreeze_vision_after_steps=4"]
    recipe = load_config(Recipe, find_recipe("tiny/train_vision"), overrides=overrides)
    save_config(recipe, folder / "config.yaml")
    lines = [line_of(step) for step in range(10)]
    lines.insert(5, {"step": 4, "validation": {"loss": 2.5, "loss_by_modality": {"text": 2.0}}})
    lines.append({"step": 9, "metrics": {"eval/digits": 0.5, "eval/digits/low": 0.25}})
    lines.append({"step": 9, "metrics": {}, "evaluation_failure": f"OSError: {EVIL}"})
    write_lines(folder / "log.jsonl", lines)
    with (folder / "log.jsonl").open("a") as file:
        file.write('{"step": 10, "lo')
    skips = [
        {"step": n, "sample_id": f"a/{n}", "reason": "corrupt_media", "detail": EVIL, "epoch": 0}
        for n in range(5)
    ]
    write_lines(folder / "skips.jsonl", [*skips, skips[0] | {"during": "validation"}])
    step = folder / "checkpoints" / "step-00000008"
    step.mkdir(parents=True)
    (step / "weights").write_bytes(b"0" * 2_000_000)
    (folder / "checkpoints" / "latest").symlink_to(step.name)
    return folder


@pytest.fixture
def page(run):
    return write_run_report(run).read_text()


def titles(page: str) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", page)


def figures(page: str) -> list[str]:
    return re.findall(r"<figcaption><b>(.*?)</b>", page)


def test_it_lies_in_the_run_folder_and_needs_nothing_else(run, page):
    assert (run / "report.html").is_file()
    assert not re.search(r"https?://|url\(|@import|<script|<link|src=", page)
    assert "default-src 'none'" in page


def test_every_part_of_a_run_is_there(page):
    assert titles(page) == [
        *("So far", "Curves", "Where the time went", "Evaluation", "Skipped samples"),
        *("Checkpoints", "Recipe"),
    ]
    assert figures(page) == [
        *("Loss", "Loss by modality", "Held-out loss", "Evaluation", "Learning rates"),
        *("Gradient norm", "Time of a step", "Tokens a second", "Tiles a second"),
        *("Fill of packs", "Imbalance of ranks"),
    ]
    for text in (
        "vision stage, step 10 of 20, running, or ended without a word",
        "<td>vision</td><td>0 min 10 s</td><td>50.0%</td>",
        "<td>everything else</td><td>0 min 01 s</td><td>6.2%</td>",
        "<td>corrupt_media</td><td>training</td><td>5</td>",
        "<td>corrupt_media</td><td>validation</td><td>1</td>",
        "<td>step-00000008</td><td>2.0 MB</td><td>latest</td>",
        "<td>training.max_steps</td><td>2700</td><td>20</td>",
        "<td>digits</td><td>50.0%</td>",
        "after step 10",
    ):
        assert text in page, text


def test_text_of_the_run_is_escaped_and_tags_are_closed(page):
    open_tags: list[str] = []

    class Tags(HTMLParser):
        def handle_starttag(self, tag, attrs):
            if tag not in ("meta", "line", "polyline"):
                open_tags.append(tag)

        def handle_endtag(self, tag):
            assert open_tags.pop() == tag

        def handle_startendtag(self, tag, attrs):
            pass

    Tags().feed(page)
    assert open_tags == []
    assert page.count("&lt;script&gt;") >= 4


@pytest.mark.parametrize(
    ("code", "steps", "said"),
    [
        ("0", 10, "ended in order"),
        ("75", 10, "its time was over"),
        ("130", 10, "stopped by Ctrl-C"),
        ("0", 20, "stage, finished"),
    ],
)
def test_how_a_run_ended_is_said(run, code, steps, said):
    (run / "exit_status").write_text(f"{code}\n")
    write_lines(run / "log.jsonl", [line_of(step) for step in range(steps)])
    assert said in write_run_report(run).read_text()


def test_a_run_whose_sources_ended_is_finished(run):
    (run / "plan" / "plan.json").write_text(json.dumps({"steps": 10}))
    text = write_run_report(run).read_text()
    assert "vision stage, finished" in text
    assert "10 of 10" in text


def test_a_run_that_has_only_begun_has_a_page(run):
    for name in ("log.jsonl", "skips.jsonl"):
        (run / name).unlink()
    page = write_run_report(run).read_text()
    assert titles(page) == ["So far", "Checkpoints", "Recipe"]


def test_the_estimate_stands_beside_what_was_measured_on_a_known_gpu(run):
    hardware = {"device": "NVIDIA H200", "ranks": 1}
    (run / "plan" / "hardware.json").write_text(json.dumps(hardware))
    # The shapes of the model come from the run's own checkpoint, which this one does not have.
    page = write_run_report(run).read_text()
    assert "Estimated and measured" in titles(page)
    assert "No estimate: " in page


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(CheckpointNotFoundError, match=r"no config\.yaml in it; expected a run"):
        write_run_report(tmp_path)


def test_a_long_log_makes_a_small_page_with_every_spike(run):
    write_lines(
        run / "log.jsonl",
        [line_of(step, loss=9.0 if step == 7777 else 1.0) for step in range(20_000)],
    )
    page = write_run_report(run).read_text()
    assert len(page) < 500_000
    raw = re.search(r'class="raw" points="([^"]+)"', page)[1].split()
    assert len(raw) <= 2 * COLUMNS
    heights = {float(point.split(",")[1]) for point in raw}
    assert len(heights) == 2  # the spike, cut off at the top, and the rest


def test_each_column_of_pixels_keeps_its_least_and_largest_value():
    generator = np.random.default_rng(0)
    values = generator.normal(10, 1, 50_000)
    values[[100, 30_000]] = 0.5, 11.9
    steps = np.arange(50_000, dtype=np.float64)
    svg = line_chart([Series(steps=steps, values=values)], name="x")
    points = re.search(r'class="raw" points="([^"]+)"', svg)[1].split()
    pairs = [tuple(map(float, point.split(","))) for point in points]
    assert pairs == sorted(pairs, key=lambda pair: pair[0])
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in pairs)
    assert max(y for _, y in pairs) > 215  # the low one is not lost
    assert len(svg) < 30_000


@pytest.mark.parametrize(
    ("value", "label"),
    [(0.0, "0"), (0.25, "0.25"), (7.5e-5, "7.5e-5"), (1e-4, "1e-4"), (25_000, "25k"), (2e7, "20M")],
)
def test_labels_of_axes_are_short(value, label):
    assert short_number(value) == label


@pytest.mark.parametrize("stage", ["vision", "video"])
def test_shipped_recipes_are_found_and_nearest_to_themselves(stage):
    found = shipped_recipes(stage)
    assert [f"tiny/train_{stage}"] in found
    assert ["model_500m", f"train_{stage}_stage"] in found
    assert all(len(names) == 2 for names in found if "tiny" not in names[0])
    for names in ([f"tiny/train_{stage}"], ["model_500m", f"train_{stage}_stage"]):
        recipe = load_config(Recipe, *[find_recipe(name) for name in names])
        assert nearest_recipe(recipe) == (names, [])
