"""The list of sources."""

import pickle

import pytest

from smolvlm2.data.sources.catalogue import SOURCES, find_source
from smolvlm2.errors import ConfigError


def test_sources_are_found_by_name():
    assert find_source("m4_digits").raw_folder == "demo__m4_digits"


def test_an_unknown_source_lists_the_known():
    with pytest.raises(ConfigError, match=r"'m4' is unknown; expected one of .*m4_digits"):
        find_source("m4")


def test_adapters_can_be_sent_to_workers():
    for name, source in SOURCES.items():
        assert source.adapter.source == name
        assert pickle.loads(pickle.dumps(source.adapter)) == source.adapter
