"""What a command line asks for."""

import pytest

from smolvlm2.data.download.selection import (
    apply_revisions,
    matches,
    read_recipe_entries,
    select,
)
from smolvlm2.errors import ConfigError


def names(selections):
    return [selection.source.name for selection in selections]


def test_a_stage_takes_its_sources_in_the_order_of_the_catalogue():
    assert names(select(stage="vision")) == ["the_cauldron", "docmatix", "llava_onevision"]
    assert len(select(stage="video")) == 10
    assert len(select(stage="all")) == 12
    assert all(selection.subsets is None for selection in select(stage="all"))


def test_sources_outside_the_stages_are_taken_when_named():
    chosen = select(stage="vision", sources=["finevision", "the_cauldron"])
    assert names(chosen) == ["the_cauldron", "docmatix", "llava_onevision", "finevision"]


def test_a_named_subset_narrows_its_source_and_leaves_the_others():
    chosen = select(stage="vision", subsets=["the_cauldron:ai2d", "the_cauldron:vqa*"])
    assert chosen[0].subsets == ("ai2d", "vqa*")
    assert chosen[0].known_subsets == ["ai2d", "vqarad", "vqav2"]
    assert chosen[1].subsets is None


def test_a_recipe_takes_only_the_subsets_of_its_mixture(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "data:\n  mixture:\n    entries:\n"
        "      - {source: llava_video_178k, subset: '2_3_m_*', weight: 2, take: 'random:10%'}\n"
        "      - {source: llava_video_178k, subset: sharegptvideo_qa_255k}\n"
        "      - {source: sharegpt4video, subset: [bdd100k, panda]}\n"
        "      - {source: docmatix}\n"
    )
    chosen = {s.source.name: s.subsets for s in select(entries=read_recipe_entries(str(recipe)))}
    assert chosen == {
        "docmatix": None,
        "llava_video_178k": ("2_3_m_*", "sharegptvideo_qa_255k"),
        "sharegpt4video": ("bdd100k", "panda"),
    }


def test_a_mixture_alone_is_a_recipe_too():
    assert ("the_cauldron", None) in read_recipe_entries("mixtures/vision_stage")


def test_a_recipe_without_a_mixture_is_refused():
    with pytest.raises(ConfigError, match=r"model_256m\.yaml: has no data\.mixture\.entries"):
        read_recipe_entries("model_256m")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sources": ["vrip"]}, "'vrip' is unknown; .* did you mean 'vript'"),
        ({"sources": ["m4_digits"]}, "not downloaded but drawn; make it with: smolvlm2 demo-data"),
        ({"subsets": ["vript"]}, "--subset 'vript': expected SOURCE:SUBSET"),
        ({"subsets": ["vript:"]}, "expected SOURCE:SUBSET"),
        ({"subsets": ["vript:shorts"]}, "no subset 'shorts'; expected .*; did you mean 'short'"),
        ({"subsets": ["mathwriting:x"]}, "expected no subset at all"),
    ],
)
def test_what_does_not_exist_is_refused_with_the_near_miss(arguments, message):
    with pytest.raises(ConfigError, match=message):
        select(**arguments)


def test_a_subset_may_be_named_with_glob_characters_of_its_own():
    assert matches("odd[1]", ["odd[1]"])
    assert matches("aokvqa(cauldron,llava_format)", ["aokvqa(cauldron,llava_format)"])
    assert not matches("aokvqa", ["AOKVQA"])


def test_revisions_are_given_by_source_or_by_hub_id():
    frames = "ShareGPTVideo/train_video_and_instruction"
    chosen, given = apply_revisions(
        select(sources=["llava_video_178k"]), ["llava_video_178k=abc", f"{frames}=v1"]
    )
    assert [repo.revision for repo in chosen[0].source.repos] == ["abc", "v1"]
    assert given == {"lmms-lab/LLaVA-Video-178K", frames}


@pytest.mark.parametrize("text", ["vript", "vript=", "docmatix=main"])
def test_a_wrong_revision_is_refused(text):
    with pytest.raises(ConfigError, match=r"expected NAME=REVISION with NAME one of vript"):
        apply_revisions(select(sources=["vript"]), [text])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: 3", "has no data.mixture.entries"),
        ("data: {mixture: {entries: [the_cauldron]}}", "entry 'the_cauldron' of the mixture"),
        ("data: {mixture: {entries: [{subset: ai2d}]}}", "names no source; expected a mapping"),
    ],
)
def test_a_recipe_of_another_form_is_one_line(tmp_path, text, message):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_recipe_entries(str(path))
