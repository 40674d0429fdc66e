"""The report: one file, no network, nothing unescaped."""

import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from smolvlm2.cli.report import write_report
from smolvlm2.cli.report_chart import COLUMNS, loss_chart
from smolvlm2.errors import ConfigError

EVIL = "<script>alert('x')</script> & \"quotes\""
VOID = {"meta", "img", "wbr", "line", "polyline"}


class Tags(HTMLParser):
    """Collects start tags and fails where elements are not closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict]] = []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert tag in VOID or self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def count(self, tag: str, **attributes: str) -> int:
        return sum(
            tag == name and attributes.items() <= found.items() for name, found in self.found
        )


@pytest.fixture
def summary(tmp_path):
    picture, clip = tmp_path / "a.png", tmp_path / "b.mp4"
    Image.new("RGB", (4, 4), "red").save(picture)
    clip.write_bytes(b"not decoded here")
    log = [{"step": step, "loss": 4 / step, "learning_rate": 1e-3} for step in range(1, 1001)]
    return {
        "title": f"Demo {EVIL}",
        "subtitle": EVIL,
        "stages": [
            {"name": f"Vision {EVIL}", "log": log, "unfreeze_step": 300},
            {"name": "Video", "log": log[:1], "unfreeze_step": None},
            {"name": "Empty", "log": []},
        ],
        "scores": [
            {
                "name": EVIL,
                "stage": EVIL,
                "accuracy": 0.9,
                "control": 0.1,
                "chance": 0.125,
                "n": 200,
            },
            {"name": "open", "accuracy": 1, "control": None, "chance": None, "n": 3},
        ],
        "examples": [
            {"question": EVIL, "answer": "7", "truth": "7", "media": [picture], "benchmark": "one"},
            {"question": "?", "answer": EVIL, "truth": EVIL * 2, "media": [clip, clip]},
            {"question": "?", "answer": "", "truth": "7", "media": [tmp_path / "gone<b>.png"]},
            {"question": "?", "answer": "7", "truth": "6", "right": True},
        ],
        "facts": {EVIL: EVIL, "steps": 1200, "seconds": 12.345, "bf16": False, "gpu": None},
        "next": [{"text": EVIL, "command": "smolvlm2 generate 'a' && <b>"}],
    }


@pytest.fixture
def page(summary, tmp_path):
    return write_report(summary, tmp_path / "run" / "report.html").read_text()


@pytest.fixture
def tags(page):
    parser = Tags()
    parser.feed(page)
    assert parser.open == []
    return parser


def test_everything_is_inside_the_file(tags, page):
    assert not re.search(r"https?://|url\(|@import|src='(?!data:)", page)
    sources = [found[key] for _, found in tags.found for key in ("src", "href") if key in found]
    assert len(sources) == 3
    assert all(source.startswith("data:") for source in sources)
    policy = next(f["content"] for tag, f in tags.found if f.get("http-equiv"))
    assert policy.startswith("default-src 'none'")


def test_text_of_the_run_is_escaped(tags, page):
    assert tags.count("script") == 0
    assert "<b>.png" not in page
    assert page.count("&lt;script&gt;") >= 10


def test_it_fits_a_phone_and_the_dark(tags, page):
    assert tags.count("meta", name="viewport", content="width=device-width, initial-scale=1") == 1
    assert "prefers-color-scheme: dark" in page
    assert "max-width: 520px" in page


def test_every_part_is_there_once(tags, page):
    assert tags.count("section") == 5
    assert tags.count("svg") == 2
    assert tags.count("line", **{"class": "mark"}) == 1
    assert tags.count("tr") == 3
    assert tags.count("article") == 4
    assert tags.count("img") == 1
    assert tags.count("video") == 2
    assert "gone&lt;b&gt;.png: not found" in page
    for fact in ("1,200", "12.35", "<dd>no</dd>", "<dd>unknown</dd>"):
        assert fact in page


def test_clips_play_by_themselves_without_sound(tags):
    clip = next(found for tag, found in tags.found if tag == "video")
    assert {"autoplay", "loop", "muted", "playsinline", "controls"} <= clip.keys()
    assert clip["src"].startswith("data:video/mp4;base64,")


def test_right_and_wrong_are_told_in_words(page):
    assert page.count("&#10003; right") == 2
    assert page.count("&#10007; wrong") == 2
    assert page.count("<dt>expected</dt>") == 2
    assert "(nothing)" in page


def test_a_score_without_chance_has_no_mark(tags):
    assert tags.count("s", style="left:12.50%") == 1
    assert tags.count("s") == 1


def test_a_title_alone_is_a_page(tmp_path):
    page = write_report({"title": "Nothing yet"}, tmp_path / "report.html").read_text()
    assert page.count("<section>") == 1
    assert "smolvlm2 recipes diff" in page


def test_wrong_summaries_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="report: the run summary has no 'title'"):
        write_report({}, tmp_path / "report.html")
    with pytest.raises(ConfigError, match="report: 'score' is not known; expected"):
        write_report({"title": "a", "score": []}, tmp_path / "report.html")


def test_the_curve_falls_from_left_to_right_within_the_chart():
    svg = loss_chart([{"step": step, "loss": 1000 - step} for step in range(0, 1000)])
    raw = re.search(r'class="raw" points="([^"]+)"', svg)[1]
    points = [tuple(map(float, point.split(","))) for point in raw.split()]
    assert len(points) <= 2 * COLUMNS
    assert points == sorted(points)
    assert all(0 <= x <= 480 and 0 <= y <= 270 for x, y in points)


@pytest.mark.parametrize("losses", [[3.0], [0.0, 0.0], [float("nan"), 2.0, float("inf")], [1e-9]])
def test_odd_logs_are_drawn(losses):
    svg = loss_chart([{"step": i + 1, "loss": loss} for i, loss in enumerate(losses)])
    assert svg.startswith("<svg")
    assert "nan" not in svg
    assert "inf" not in svg


def test_a_log_without_a_finite_loss_says_so():
    assert "No finite loss" in loss_chart([{"step": 1, "loss": float("nan")}])
