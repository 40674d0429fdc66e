"""What is shown before a byte moves."""

import re

import pytest

from smolvlm2.data.download.preview import preview, show_size
from smolvlm2.data.download.selection import select
from smolvlm2.data.download.text import show_bytes, show_count, show_duration, show_table


def lines_of(text: str) -> dict[str, str]:
    return {line.split()[0]: line for line in text.splitlines() if line}


def test_both_stages_are_shown_with_sizes_rows_terms_and_licences(tmp_path):
    text = preview(select(stage="all"), tmp_path)
    lines = lines_of(text.partition("\n\n")[0])
    assert len(lines) == 13
    assert re.search(r"vision +~175 GB +1.88 M +each part under its own", lines["the_cauldron"])
    assert re.search(r"vision \+ video +~400 GB +3.72 M", lines["llava_onevision"])
    assert re.search(r"video +834 GB +420 k +research only +custom", lines["vript"])
    assert re.search(r"video +>892 GB +373 k +MIT", lines["vista_400k"])
    assert re.search(r"video +\? +800 +gated, research only +none stated", lines["moviechat"])
    assert "vision stage: ~1 TB in 3 sources\n" in text
    assert re.search(r"video stage: ~4.03 TB in 10 sources, without .* vista_400k, moviechat", text)
    assert re.search(r"free on the disk of .*: [\d.]+ [TGM]B", text)
    assert "smolvlm2 prepare --consume" in text


def test_gates_and_videos_to_bring_are_explained(tmp_path):
    text = preview(select(stage="video"), tmp_path)
    assert "finevideo: gated; accept the terms on https://huggingface.co/datasets/Hugging" in text
    assert "hf auth login" in text
    assert "Kinetics-700 into Kinetics700/" in text
    assert "research or non-commercial use only: llava_video_178k, vript, moviechat" in text


def test_one_source_is_shown_with_its_traps_and_doubts(tmp_path):
    text = preview(select(sources=["finevideo"]), tmp_path)
    assert "from HuggingFaceFV/finevideo at 84c74091 to raw/HuggingFaceFV__finevideo" in text
    assert "trap: Questions were asked to rely on the sound" in text
    assert "unverified: The pinned revision is known by its first eight digits only." in text
    assert "trap: " not in preview(select(stage="all"), tmp_path)


@pytest.mark.parametrize(
    ("subset", "size"),
    [
        ("vript:short", "12 GB"),
        ("vript:*_untrimmed", "676 GB"),
        ("the_cauldron:vqav2", "part of ~175 GB"),
        ("vista_400k:*", "part of >892 GB"),
        ("moviechat:breakpoints", "part of ?"),
        ("moviechat:descriptions", "?"),
        ("finevideo:qa", "~600 GB"),
        ("llava_video_178k:2_3_m_*", "part of ~1.28 TB"),
    ],
)
def test_a_part_has_a_size_where_all_its_parts_have_one(subset, size):
    assert show_size(select(subsets=[subset])[0]) == size


def test_totals_tell_the_known_from_the_parts_and_the_unknown(tmp_path):
    chosen = select(sources=["m4_instruct", "vript"], subsets=["llava_video_178k:2_3_m_*"])
    text = preview(chosen, tmp_path)
    assert (
        "together: ~834 GB and part of 1.28 TB in 3 sources, without what nobody knows of "
        "m4_instruct\n"
    ) in text
    assert "video stage: ? in 1 source" in preview(select(sources=["m4_instruct"]), tmp_path)


def test_numbers_are_short():
    assert [show_bytes(n) for n in (0, 999, 1_500, 25.85e9, 1.28e12)] == [
        *("0 B", "999 B", "1.5 kB", "25.9 GB", "1.28 TB")
    ]
    assert [show_count(n) for n in (None, 800, 43_751, 1_880_000)] == [
        *("?", "800", "43.8 k", "1.88 M")
    ]
    assert [show_duration(s) for s in (11_000, 90, 5.2)] == ["3 h 3 min", "1 min 30 s", "5 s"]


def test_columns_are_as_wide_as_their_cells():
    table = show_table(("a", "b", "c"), [("xx", "1", ""), ("x", "100", "z")], right={1})
    assert table == "a     b  c\nxx    1\nx   100  z"
