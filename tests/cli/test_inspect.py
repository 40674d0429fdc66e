"""The page and the text of ``smolvlm2 inspect``, read back."""

import re
from html.parser import HTMLParser

import pytest

from smolvlm2.cli.inspect import inspect, write_inspection
from smolvlm2.cli.inspect_pictures import Pictures
from smolvlm2.cli.inspect_sample_page import sample_article
from smolvlm2.cli.inspect_samples import draw_rows, find_rows, inspect_row
from smolvlm2.cli.opened_mixture import open_mixture
from smolvlm2.errors import DataError

ODD = "odd_pages/diagrams/train-00000-of-00001:0"
VOID = {"meta", "img", "br", "input"}


class Page(HTMLParser):
    """Elements by tag, each with its attributes, text and article; fails where nesting is wrong."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict]] = []
        self.articles: list[dict] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attributes = {**dict(attrs), "text": ""}
        self.found.append((tag, attributes))
        if tag == "article":
            self.articles.append({"chips": [], "tiles": 0, "images": 0, "text": ""})
        inside = self.articles[-1] if "article" in self.open else None
        names = (attributes.get("class") or "").split()
        if inside is not None:
            if tag == "span" and names[:1] == ["t"]:
                inside["chips"].append(attributes)
            inside["tiles"] += tag == "figure" and "tile" in names
            inside["images"] += tag == "img"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "article" in self.open:
            self.articles[-1]["text"] += data
        if self.found:
            self.found[-1][1]["text"] = self.found[-1][1].get("text", "") + data


@pytest.fixture(scope="module")
def opened(recipe_file):
    return open_mixture(recipe_file)


@pytest.fixture(scope="module")
def samples(opened):
    rows = [*draw_rows(opened, 8, seed=0), *find_rows(opened, [ODD])]
    return [inspect_row(opened, entry, row) for entry, row in rows]


@pytest.fixture(scope="module")
def html(opened, samples, tmp_path_factory):
    out = tmp_path_factory.mktemp("pages") / "page.html"
    return write_inspection(opened, samples, out).read_text()


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def test_every_sample_is_on_the_page_with_its_tiles_and_chips(page, samples):
    assert len(page.articles) == len(samples)
    for article, shown in zip(page.articles, samples, strict=True):
        assert shown.sample_id in article["text"]
        assert article["tiles"] == len(shown.sample.tiles)
        originals = sum(medium.kind == "image" for medium in shown.media)
        assert article["images"] == len(shown.sample.tiles) + originals
        covered = [(int(c["data-at"]), int(c["data-n"])) for c in article["chips"]]
        assert sum(count for _, count in covered) == len(shown.sample.input_ids)


def test_coloured_chips_are_exactly_the_supervised_positions(page, samples):
    for article, shown in zip(page.articles, samples, strict=True):
        coloured = {
            position
            for chip in article["chips"]
            if "sup" in chip["class"].split()
            for position in range(int(chip["data-at"]), int(chip["data-at"]) + int(chip["data-n"]))
        }
        assert coloured == set(shown.sample.supervised.nonzero()[0].tolist())


def test_hovering_tells_position_id_bytes_and_mask(page, samples):
    shown = samples[-1]
    for chip in page.articles[-1]["chips"]:
        at = int(chip["data-at"])
        assert f"id {shown.sample.input_ids[at]} " in chip["data-d"]
        mask = "supervised" if shown.sample.supervised[at] else "no loss"
        assert chip["data-d"].endswith(mask)


def test_runs_of_visual_tokens_are_one_chip(page, samples):
    visual = [c for c in page.articles[-1]["chips"] if "visual" in c["class"].split()]
    assert [int(chip["data-n"]) for chip in visual] == [4] * 7
    assert visual[0]["text"] == "<image> \u00d7 4"


def test_text_of_the_data_is_escaped(page, html):
    assert not any(tag == "script" for tag, _ in page.found)
    assert "</script><script>" not in html
    assert html.count("<article") == len(page.articles)


def test_everything_is_inside_the_file(page, html):
    assert not re.search(r"https?://|url\(|@import", html)
    sources = [found["src"] for _, found in page.found if "src" in found]
    assert sources
    assert all(source.startswith("data:image/") for source in sources)
    assert all(f["href"].startswith("#s") for _, f in page.found if "href" in f)
    policy = next(f["content"] for _, f in page.found if f.get("http-equiv"))
    assert policy.startswith("default-src 'none'")
    assert "script-src" not in policy


def test_it_fits_a_phone_and_the_dark(html):
    assert html.count("prefers-color-scheme: dark") == 2
    assert html.count("max-width: 520px") == 2


def test_links_lead_to_their_samples(page):
    targets = {found["id"] for tag, found in page.found if tag == "article"}
    links = {found["href"][1:] for _, found in page.found if "href" in found}
    assert links == targets


def test_histograms_subsets_and_ledger_surround_the_samples(page, html):
    assert sum(tag == "svg" for tag, _ in page.found) == 3
    for name in ("digits_one", "DigitPairs", "diagrams", "digit_text"):
        assert f"<th scope=row>{name}<small>" in html
    assert "<th scope=row>corrupt_media</th><td>1</td>" in html
    assert "<td class=left>too_long</td><td>1</td>" in html
    assert "<td class=left>turns cut</td><td>1</td>" in html


def test_the_page_says_how_training_resizes(html):
    assert "resize exact (training uses fast; --resample fast shows that)" in html


def test_long_samples_are_cut_unless_asked_for(opened, samples):
    short = Page(sample_article(samples[-1], opened.processor, Pictures(), number=1, most_chips=9))
    assert len(short.articles[0]["chips"]) == 9
    total = len(samples[-1].sample.input_ids)
    drawn = sum(int(chip["data-n"]) for chip in short.articles[0]["chips"])
    assert f"{total - drawn} more tokens" in short.articles[0]["text"]


def test_pictures_beyond_the_budget_are_empty_boxes(opened, samples):
    pictures = Pictures(budget=1)
    article = sample_article(samples[-1], opened.processor, pictures, number=1, most_chips=None)
    assert (article.count("<img"), article.count("class=blank")) == (1, 7)
    assert pictures.left_out == 7


def test_a_stale_geometry_is_told(opened, samples):
    shown = samples[-1]
    shown.planned.tokens += 1
    try:
        article = sample_article(shown, opened.processor, Pictures(), number=1, most_chips=0)
    finally:
        shown.planned.tokens -= 1
    assert "its geometry is stale, prepare the source again" in article


def test_a_sample_that_cannot_be_read_is_shown_with_its_error(lost_media, recipe_file, tmp_path):
    out = inspect(
        "m4_digits", recipes=[recipe_file], data=lost_media, count=3, output=tmp_path / "a.html"
    )
    page = Page(out.read_text())
    assert len(page.articles) == 3
    for article in page.articles:
        assert "missing_media: " in article["text"]
        assert "user" in article["text"]
        assert article["chips"] == []
    assert out.read_text().count("cannot be read</td>") == 3


def test_a_sample_asked_for_by_id_is_shown_whole(recipe_file, tmp_path):
    out = inspect(recipe_file, sample_ids=[ODD], output=tmp_path / "one.html")
    page = Page(out.read_text())
    assert [ODD in article["text"] for article in page.articles] == [True]
    with pytest.raises(DataError, match="the nearest are"):
        inspect(recipe_file, sample_ids=[ODD[:-1] + "77"], output=tmp_path / "none.html")
    assert not (tmp_path / "none.html").exists()


def test_the_page_has_a_name_of_its_own_by_default(recipe_file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    out = inspect("cauldron_digits:digits_page", recipes=[recipe_file], count=1)
    assert out.as_posix() == "runs/inspect/cauldron_digits-digits_page.html"
    assert out.is_file()
    assert "runs/inspect/cauldron_digits-digits_page.html" in capsys.readouterr().out


def test_a_source_without_rows_still_has_a_page(looked_at, recipe_file, tmp_path, empty_source):
    out = inspect("nothing", recipes=[recipe_file], data=empty_source, output=tmp_path / "0.html")
    text = out.read_text()
    Page(text)
    assert "Nothing to show" in text
    assert "<th scope=row>empty_answer</th><td>1</td>" in text
    assert text.count("No samples.") == 3


def test_text_prints_samples_tiles_and_ledger(recipe_file, capsys):
    assert inspect(recipe_file, sample_ids=[ODD], text=True) is None
    out = capsys.readouterr().out
    assert out.startswith(f"=== {ODD}\n")
    assert "tile   5  <row_2_col_3>" in out
    assert "1. image 96 x 64 px" in out
    assert "[[ No.<end_of_utterance>]]" in out
    assert "=== odd_pages: 6 rows read, 4 kept" in out
    assert re.search(r"1 corrupt_media\n +diagrams/train-00000-of-00001.parquet, row 4", out)
    assert "1 left out of odd_pages by the recipe: too_long" in out


def test_text_shows_frames_and_unreadable_samples(recipe_file, lost_media, capsys):
    inspect("video_digits", recipes=[recipe_file], count=1, text=True)
    assert re.search(
        r"tile   1  00:0\d \(\d\.\d\d s\) +4 x <image> at \d+-\d+", capsys.readouterr().out
    )
    inspect("m4_digits", recipes=[recipe_file], data=lost_media, count=1, text=True)
    assert "cannot be read: missing_media: " in capsys.readouterr().out
