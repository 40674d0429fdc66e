"""Mixture settings: what is accepted, and what is refused with a reason."""

import pytest

from smolvlm2.data.mixture import MixtureEntry, MixtureSettings, load_mixture
from smolvlm2.errors import ConfigError


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
