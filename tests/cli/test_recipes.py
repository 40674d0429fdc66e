"""What ``smolvlm2 recipes`` says."""

from smolvlm2.cli.recipes import COUNTERPARTS, diff_recipes
from smolvlm2.config import find_recipe


def test_every_difference_to_the_published_recipe_is_explained():
    blocks = diff_recipes().split("\n\n")
    differences = [block for block in blocks if "\n  a: " in block]
    assert len(differences) > 40
    assert [block for block in differences if "\n  why: " not in block] == []


def test_each_published_recipe_has_its_place_in_the_comparison():
    published = {name for names in COUNTERPARTS.values() for name in names}
    found = {
        f"published/{path.stem}"
        for path in find_recipe("published/model_256m").parent.glob("*.yaml")
    }
    assert found - published == {"published/model_500m"}


def test_a_stage_is_compared_with_all_its_published_sub_stages():
    text = diff_recipes("train_vision_stage")
    assert text.count("\nb: ") == 3
    assert "neftune_alpha" in text
    assert "no difference" in diff_recipes("model_256m", "model_256m")
