"""Benchmarks are fetched as data sets are."""

import pytest

from smolvlm2.cli.download import benchmark_source
from smolvlm2.data.download_datasets import run
from smolvlm2.errors import ConfigError
from smolvlm2.evaluation.benchmark import download_plan


def test_benchmarks_are_previewed_beside_data_sets(tmp_path, capsys):
    names = "docvqa,mvbench"
    arguments = ["--preview", "--benchmarks", names, "--data", str(tmp_path)]
    assert run(arguments, benchmark_source=benchmark_source) == 0
    shown = capsys.readouterr().out
    assert "docvqa" in shown
    assert "mvbench" in shown


def test_a_benchmarks_files_are_those_that_its_definition_names():
    hub = download_plan("video-mme")
    source = benchmark_source("video-mme")
    assert source.repos[0].hub_id == hub.repo
    assert source.repos[0].files == tuple(hub.patterns)


def test_a_benchmark_that_is_published_nowhere_says_so():
    with pytest.raises(ConfigError, match="is on no hub"):
        benchmark_source("which_digit")


def test_the_data_module_alone_points_at_the_command():
    with pytest.raises(ConfigError, match="use smolvlm2 download"):
        run(["--benchmarks", "docvqa", "--preview"])
