"""The list of sources."""

import pickle
import re
import subprocess
import sys
from dataclasses import replace

import pytest

from smolvlm2.data.sources.catalogue import (
    SOURCES,
    Source,
    find_source,
    load_catalogue,
    with_revision,
)
from smolvlm2.errors import ConfigError, DataError

# Size in GB, rows, start of the licence, gated, research only; collected from hub pages.
FACTS = {
    "the_cauldron": (175, 1_880_000, "each part under its own", False, False),
    "docmatix": (430, 1_270_000, "MIT", False, False),
    "llava_onevision": (400, 3_722_953, "apache-2.0", False, False),
    "mammoth_vl": (25.85, 12_000_000, "apache-2.0", False, False),
    "m4_instruct": (None, 615_000, "CC-BY-4.0", False, False),
    "llava_video_178k": (1280, 1_649_947, "Apache-2.0, and for academic", False, True),
    "finevideo": (600, 43_751, "CC-BY per clip", True, False),
    "video_star": (0.62, 1_192_800, "apache-2.0", False, False),
    "vript": (834, 420_000, "custom; academic use only", False, True),
    "vista_400k": (891.9, 373_405, "MIT", False, False),
    "moviechat": (None, 800, "none stated", True, True),
    "sharegpt4video": (None, 40_000, "CC-BY-NC-4.0", False, True),
}
EXTRA = {"finevision", "llava_onevision_1_5", "llava_onevision_json", "mathwriting"}
PUBLISHED = [source for source in SOURCES.values() if not source.made_locally]


@pytest.mark.parametrize("name", FACTS)
def test_the_table_states_what_the_hub_states(name):
    source = find_source(name)
    size, rows, licence, gated, research_only = FACTS[name]
    assert (source.size_gb, source.rows) == (size, rows)
    assert source.licence.startswith(licence)
    assert (source.gated, source.research_only) == (gated, research_only)


def test_the_specifications_twelve_sets_belong_to_a_stage_and_the_others_to_none():
    by_stage = {s.name: s.stages for s in PUBLISHED}
    assert {name for name, stages in by_stage.items() if stages} == set(FACTS)
    assert {name for name, stages in by_stage.items() if not stages} == EXTRA
    assert [n for n, stages in by_stage.items() if "vision" in stages] == [
        "the_cauldron",
        "docmatix",
        "llava_onevision",
    ]


@pytest.mark.parametrize("source", PUBLISHED, ids=lambda source: source.name)
def test_every_published_source_can_be_fetched(source):
    assert re.fullmatch(r"[\w.-]+__[\w.-]+", source.raw_folder)
    assert source.terms_url == f"https://huggingface.co/datasets/{source.repos[0].hub_id}"
    assert all(repo.files for repo in source.repos)
    for subset in source.subsets:
        assert subset.files or source.subset_rule
    assert (source.size_gb is None) == (source.size_is == "unknown")
    # A figure that nobody measured is listed among the uncertain facts.
    assert source.size_is in ("measured", "derived") or any(
        re.search("size", fact, re.IGNORECASE) for fact in source.unverified
    )


def test_unpinned_repositories_are_at_main():
    for source in PUBLISHED:
        for repo in source.repos:
            assert (repo.revision == "main") == (not repo.pinned), repo.hub_id
    assert find_source("finevideo").repos[0].abbreviated


@pytest.mark.parametrize(
    ("name", "path", "subset"),
    [
        ("the_cauldron", "ai2d/train-00000-of-00001-2ce340398c113b79.parquet", "ai2d"),
        ("llava_onevision", "magpie_pro(l3_80b_mt)/train-00000-of-00003.parquet", None),
        (
            "llava_video_178k",
            "2_3_m_youtube_v0_1/2_3_m_youtube_v0_1_cap_processed.json",
            "2_3_m_youtube_v0_1_cap",
        ),
        (
            "llava_video_178k",
            "llava_hound/sharegptvideo_qa_255k_processed.json",
            "sharegptvideo_qa_255k",
        ),
        ("m4_instruct", "HQ-Edit.zip", "HQ-Edit"),
        ("m4_instruct", "dreamsim_split.z01", "dreamsim"),
        ("vista_400k", "long_video_caption/long_video_caption_3.tar", "long_video_caption"),
    ],
)
def test_rules_find_the_subset_of_a_file(name, path, subset):
    rule = find_source(name).subset_rule
    match = re.fullmatch(rule.path, path)
    assert match["subset"] == (subset or path.partition("/")[0])


def test_known_subsets_of_the_published_mixture_have_their_rows():
    subsets = {subset.name: subset.rows for subset in find_source("llava_onevision").subsets}
    assert len(subsets) == 83
    assert subsets["magpie_pro(l3_80b_mt)"] == 299_988
    assert subsets["VisualWebInstruct(filtered)"] == 263_584
    assert sum(rows or 0 for rows in subsets.values()) == 3_722_953
    assert len(find_source("the_cauldron").subsets) == 50


def test_sources_are_found_by_name():
    assert find_source("m4_digits").raw_folder == "demo__m4_digits"


def test_an_unknown_source_lists_the_known():
    with pytest.raises(ConfigError, match=r"'m4' is unknown; expected one of .*m4_digits"):
        find_source("m4")
    with pytest.raises(ConfigError, match="did you mean 'the_cauldron'"):
        find_source("the_couldron")


@pytest.mark.parametrize("name", SOURCES)
def test_adapters_can_be_sent_to_workers(name):
    try:
        adapter = SOURCES[name].adapter
    except DataError as error:
        pytest.skip(str(error))
    assert adapter.source == name
    assert pickle.loads(pickle.dumps(adapter)) == adapter


@pytest.mark.parametrize("missing", ["nowhere:Reader", "llava:Nothing"])
def test_a_missing_reader_says_that_the_source_cannot_be_prepared(missing):
    source: Source = replace(find_source("m4_digits"), adapter_name=missing)
    with pytest.raises(DataError, match=r"no reader .*; it can be downloaded but not prepared"):
        _ = source.adapter


def test_a_revision_replaces_that_of_one_repository():
    source = with_revision(find_source("finevideo"), "HuggingFaceFV/finevideo", "0" * 40)
    assert source.repos[0].revision == "0" * 40
    assert not source.repos[0].abbreviated


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("titel: A set", "unexpected keyword argument 'titel'"),
        ("subset_rule: {path: '('}", r"missing \)"),
        ("licence: MIT", "missing 6 required"),
    ],
)
def test_a_wrong_entry_is_named(tmp_path, entry, message):
    path = tmp_path / "catalogue.yaml"
    path.write_text(
        f"sources:\n  a_set:\n    adapter: llava:LlavaVideo\n    repos: []\n    {entry}\n"
    )
    with pytest.raises(ConfigError, match=rf"sources\.a_set: .*{message}"):
        load_catalogue(path)


def test_reading_the_catalogue_loads_no_reader():
    code = "import sys, smolvlm2.data.sources.catalogue; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"numpy", "pyarrow", "smolvlm2.data.sources.llava"} & set(done.stdout.split())
