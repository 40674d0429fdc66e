"""The learning rate over a stage."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smolvlm2.errors import ConfigError
from smolvlm2.training.schedule import ScheduleSettings

KINDS = ("cosine", "linear", "wsd", "constant")


@given(
    kind=st.sampled_from(KINDS),
    steps=st.integers(1, 300),
    warmup=st.integers(0, 350),
    least=st.floats(0, 1),
    decay=st.floats(0, 1),
)
def test_it_rises_then_never_rises_again_and_ends_at_its_minimum(kind, steps, warmup, least, decay):
    settings = ScheduleSettings(
        type=kind, warmup_steps=warmup, min_fraction=least, decay_fraction=decay
    )
    factors = [settings.factor(step, steps) for step in range(steps)]
    assert all(0 <= factor <= 1 for factor in factors)
    rising, falling = factors[:warmup], factors[warmup:]
    assert rising == sorted(rising)
    assert all(factor > 0 for factor in rising)
    assert falling == sorted(falling, reverse=True)
    if warmup <= steps and warmup:
        assert rising[-1] == 1
    if falling:
        assert falling[-1] == pytest.approx(1 if kind == "constant" else least)


def test_known_values():
    assert ScheduleSettings(warmup_steps=0).factor(49, 100) == pytest.approx(0.5)
    linear = ScheduleSettings(type="linear", warmup_steps=10)
    assert [linear.factor(step, 20) for step in (0, 9, 14, 19)] == pytest.approx([0.1, 1, 0.5, 0])
    wsd = ScheduleSettings(type="wsd", warmup_steps=0, decay_fraction=0.2)
    assert [wsd.factor(step, 10) for step in (0, 7, 8, 9)] == pytest.approx([1, 1, 0.5, 0])


def test_warmup_is_a_number_of_steps_or_a_share():
    assert ScheduleSettings().warmup(50_000) == 1500
    assert ScheduleSettings(warmup_steps=7).warmup(50_000) == 7


def test_a_part_may_rise_by_itself():
    settings = ScheduleSettings(type="constant", warmup_steps=0, connector_warmup_steps=4)
    rates = [settings.factor(step, 10, "connector") for step in range(5)]
    assert rates == [0.25, 0.5, 0.75, 1, 1]
    assert settings.factor(0, 10, "text_decoder") == 1
    with pytest.raises(ConfigError, match=r"schedule\.connector_warmup_steps is -1"):
        ScheduleSettings(connector_warmup_steps=-1)


@pytest.mark.parametrize("name", ["warmup_fraction", "decay_fraction", "min_fraction"])
def test_shares_are_between_0_and_1(name):
    with pytest.raises(ConfigError, match=rf"schedule\.{name} is 1\.5"):
        ScheduleSettings(**{name: 1.5})


def test_negative_warmup_is_refused():
    with pytest.raises(ConfigError, match=r"schedule\.warmup_steps is -1"):
        ScheduleSettings(warmup_steps=-1)
