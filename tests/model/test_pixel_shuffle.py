"""The connector's channel order decides whether published weights fit."""

import pytest
import torch

from smolvlm2.model.pixel_shuffle import Connector, pixel_shuffle


@pytest.mark.parametrize("ratio", [2, 3, 4])
def test_pixel_shuffle_equals_transformers(ratio):
    from transformers.models.smolvlm.modeling_smolvlm import SmolVLMConnector

    patches = torch.randn(2, (ratio * 2) ** 2, 5, generator=torch.Generator().manual_seed(0))
    expected = SmolVLMConnector.pixel_shuffle(None, patches, ratio)
    assert torch.equal(pixel_shuffle(patches, ratio=ratio), expected)


def test_channels_run_over_row_then_column_then_feature():
    patches = torch.arange(16.0).view(1, 16, 1)
    shuffled = pixel_shuffle(patches, ratio=2)
    assert shuffled[0, 0].tolist() == [0, 1, 4, 5]
    assert shuffled[0, 1].tolist() == [2, 3, 6, 7]


@pytest.mark.parametrize("patches", [10, 9])
def test_a_ratio_that_does_not_fit_is_rejected(patches):
    with pytest.raises(ValueError, match="does not fit"):
        pixel_shuffle(torch.zeros(1, patches, 4), ratio=2)


def test_the_connector_has_no_bias(make_config):
    assert Connector(make_config()).proj.bias is None
