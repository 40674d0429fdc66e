"""Mixture settings: what is accepted, and what is refused with a reason."""

import pytest

from smolvlm2.config import find_recipe, load_config
from smolvlm2.data.mixture import (
    MixtureEntry,
    MixtureSettings,
    check_overlap,
    load_mixture,
    match_subsets,
)
from smolvlm2.errors import ConfigError
from smolvlm2.training.recipe import Recipe


def test_a_mixture_is_read_from_yaml(tmp_path):
    path = tmp_path / "mixture.yaml"
    path.write_text(
        "entries:\n- {source: a, weight: 3}\n- {source: b, subset: 'x(y,z)', weight: 1.0}\n"
    )
    mixture = load_mixture(path)
    assert [entry.name for entry in mixture.entries] == ["a", "b:x(y,z)"]
    assert mixture.shares == [0.75, 0.25]


def test_a_misspelt_key_is_named(tmp_path):
    path = tmp_path / "mixture.yaml"
    path.write_text("entries:\n- {source: a, wieght: 3}\n")
    with pytest.raises(ConfigError, match="wieght"):
        load_mixture(path)


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf")])
def test_a_weight_must_be_above_zero(weight):
    with pytest.raises(ConfigError, match="weight of a"):
        MixtureEntry(source="a", weight=weight)


@pytest.mark.parametrize("source", ["", "a/b", "../a"])
def test_a_source_is_a_plain_name(source):
    with pytest.raises(ConfigError, match="no name"):
        MixtureEntry(source=source)


def test_an_empty_mixture_is_refused():
    with pytest.raises(ConfigError, match="at least one source"):
        MixtureSettings()


@pytest.mark.parametrize(
    "subsets", [(None, None), ("x", "x"), (None, "x"), ("x", None)], ids=lambda s: f"{s[0]}-{s[1]}"
)
def test_entries_must_not_overlap(subsets):
    with pytest.raises(ConfigError, match="overlaps"):
        MixtureSettings(entries=[MixtureEntry(source="a", subset=subset) for subset in subsets])


def test_two_subsets_of_a_source_are_fine():
    entries = [MixtureEntry(source="a", subset=subset) for subset in ("x", "y")]
    assert MixtureSettings(entries=entries).shares == [0.5, 0.5]


@pytest.mark.parametrize(
    ("take", "rows", "expected"),
    [
        ("all", 10, (0, 10, False)),
        ("first:3", 10, (0, 3, False)),
        ("first:30", 10, (0, 10, False)),
        ("end:3", 10, (7, 3, False)),
        ("random:12.87%", 617_871, (0, 79_520, True)),
        ("random:1.7%", 1_055_373, (0, 17_942, True)),
        ("random:100%", 7, (0, 7, True)),
    ],
)
def test_take_resolves_as_the_published_loader_does(take, rows, expected):
    taken = MixtureEntry(source="a", take=take).taken(rows)
    assert (taken.first, taken.count, taken.shuffled) == expected


@pytest.mark.parametrize(
    "take", ["some", "random:0%", "random:101%", "random:5", "first:0", "end:-1", "first:1.5", ""]
)
def test_other_ways_to_take_are_refused(take):
    with pytest.raises(ConfigError, match=r"take of a is .*expected all, random:12\.87%"):
        MixtureEntry(source="a", take=take)


@pytest.mark.parametrize("name", ["max_images", "max_turns", "samples"])
def test_counts_below_one_are_refused(name):
    with pytest.raises(ConfigError, match=f"{name} of a is 0"):
        MixtureEntry(source="a", **{name: 0})


@pytest.mark.parametrize("value", [-1, 65])
def test_an_impossible_number_of_orders_is_refused(value):
    with pytest.raises(ConfigError, match=f"turn_orders of a is {value}, expected 0"):
        MixtureEntry(source="a", turn_orders=value)
    assert MixtureEntry(source="a", turn_orders=0).turn_orders == 0


def test_no_subset_at_all_is_refused():
    with pytest.raises(ConfigError, match="subset of a is empty"):
        MixtureEntry(source="a", subset=[])


@pytest.mark.parametrize(("name", "value"), [("epochs", 0), ("group_by_media", 0)])
def test_settings_out_of_range_are_refused(name, value):
    with pytest.raises(ConfigError, match=rf"mixture\.{name} is 0"):
        MixtureSettings(entries=[MixtureEntry(source="a")], **{name: value})


SUBSETS = ["2_3_m_youtube_v0_1_cap", "2_3_m_academic_v0_1_cap", "30_60_s_x", "ai2d(gpt4v)"]


def test_names_and_patterns_match_subsets():
    def matched(subset):
        return match_subsets(MixtureEntry(source="a", subset=subset), SUBSETS)

    assert matched(None) == [0, 1, 2, 3]
    assert matched("2_3_m_*") == [0, 1]
    assert matched(["ai2d(gpt4v)", "2_3_m_a*"]) == [1, 3]


def test_a_subset_that_is_not_there_names_the_nearest():
    with pytest.raises(ConfigError, match=r"'a' has no subset 'ai2d\(gpt4\)'; did you mean 'ai2d"):
        match_subsets(MixtureEntry(source="a", subset="ai2d(gpt4)"), SUBSETS)
    with pytest.raises(ConfigError, match="no subset 'zzz'; it has 2_3_m_youtube"):
        match_subsets(MixtureEntry(source="a", subset=["zzz", "2_3*"]), SUBSETS)


def test_patterns_that_share_a_subset_are_found_when_the_source_is_known():
    entries = [MixtureEntry(source="a", subset=subset) for subset in ("2_*", "*_cap")]
    mixture = MixtureSettings(entries=entries)
    with pytest.raises(ConfigError, match=r"a:\*_cap overlaps a:2_\* in subset '2_3_m_youtube"):
        check_overlap(mixture, {"a": SUBSETS})
    check_overlap(MixtureSettings(entries=entries[:1]), {"a": SUBSETS})


def published(name):
    return load_config(Recipe, find_recipe(f"mixtures/{name}")).data.mixture


@pytest.mark.parametrize(
    ("name", "entries", "samples", "shares"),
    [
        ("published_video_stage", 107, 3_027_050, (33.83, 33.12, 21.49, 11.56)),
        ("published_card_video_stage", 110, 3_353_849, (34.31, 33.08, 20.26, 12.35)),
    ],
)
def test_the_published_mixtures_add_up(name, entries, samples, shares):
    mixture = published(name)
    assert len(mixture.entries) == entries
    assert sum(entry.samples for entry in mixture.entries) == samples
    assert all(entry.weight == entry.samples for entry in mixture.entries)
    assert mixture.epochs == 1
    groups = dict.fromkeys(("image", "video", "text", "several"), 0)
    for entry in mixture.entries:
        groups[modality(entry)] += entry.samples
    assert [100 * n / samples for n in groups.values()] == pytest.approx(shares, abs=0.006)


def modality(entry):
    if entry.source == "m4_instruct" or entry.subset == "multi_image":
        return "several"
    if entry.source == "llava_onevision":
        text = str(entry.subset).startswith("magpie_pro") or entry.subset == "mathqa"
        return "text" if text else "image"
    return "image" if entry.subset == "image" else "video"


@pytest.mark.parametrize(
    ("subset", "available"),
    [
        ("FigureQA(MathV360K)", 17_587),
        ("magpie_pro(l3_80b_mt)", 299_988),
        ("0_30_s_*", 617_871),
        ("sharegptvideo_qa_255k", 255_000),
        ("starb", 134_091),
        ("long", 400_040),
        ("two_needle_niah_qa", 52_349),
    ],
)
def test_a_fixed_part_of_the_published_rows_is_as_large_as_published(subset, available):
    for name in ("published_video_stage", "published_card_video_stage"):
        (entry,) = [entry for entry in published(name).entries if entry.subset == subset]
        assert entry.taken(available).count == entry.samples


def test_published_names_are_kept_where_ours_differ():
    labels = {entry.label for entry in published("published_video_stage").entries}
    assert {"LlamaVideo178k-2-3-m", "m4_instruct_multiimage", "ShareGPT4Video"} <= labels


def test_the_public_stand_in_of_the_image_mixture_has_all_cauldron_configs():
    mixture = published("published_vision_stage3")
    cauldron = [entry for entry in mixture.entries if entry.source == "the_cauldron"]
    assert mixture.unit == "visits"
    assert len({entry.subset for entry in cauldron}) == len(cauldron) == 50
    weights = {entry.subset: entry.weight for entry in cauldron}
    assert (weights["vsr"], weights["okvqa"], weights["websight"]) == (1, 0.5, 1 / 4000)
    assert [entry.source for entry in mixture.entries[-2:]] == ["docmatix", "mathwriting"]
    assert mixture.entries[-2].taken(1_270_000).count == 250_000
