"""The training commands, with what lies outside the training room."""

import pytest

from smolvlm2.cli.train import evaluation_hook
from smolvlm2.errors import ConfigError, DataNotFoundError
from smolvlm2.training.distributed import connect
from smolvlm2.training.launch import Launch
from smolvlm2.training.recipe import EvaluationSettings, Recipe
from smolvlm2.training.shared_work import SharedWork


@pytest.fixture
def work():
    return SharedWork(world=connect(Launch(), "cpu"))


def hook_for(work, **settings):
    return evaluation_hook(Recipe(evaluation=EvaluationSettings(**settings)), None, work)


def test_a_recipe_without_benchmarks_has_no_hook(work):
    assert hook_for(work) is None


def test_missing_questions_and_unknown_benchmarks_are_told_when_the_hook_is_made(work, tmp_path):
    with pytest.raises(DataNotFoundError, match="which_digit"):
        hook_for(work, benchmarks=["which_digit"], data_root=str(tmp_path))
    with pytest.raises(ConfigError, match="no_such"):
        hook_for(work, benchmarks=["no_such"], data_root=str(tmp_path))
