"""What samples cost a model, from its shapes; without the packages that read data."""

from smolvlm2.model.config import SmolVLMConfig
from smolvlm2.plan.cost import CostModel, model_cost


def cost_of(config: SmolVLMConfig) -> CostModel:
    """What samples cost a model of these shapes."""
    vision, text = config.vision, config.text
    return model_cost(
        patches=vision.num_patches,
        patch_values=vision.num_channels * vision.patch_size**2,
        vision_width=vision.hidden_size,
        vision_feed_forward=vision.intermediate_size,
        vision_layers=vision.num_hidden_layers,
        tokens_per_tile=config.tokens_per_tile,
        text_width=text.hidden_size,
        text_feed_forward=text.intermediate_size,
        text_layers=text.num_hidden_layers,
        query_width=text.num_attention_heads * text.head_dim,
        key_value_width=text.num_key_value_heads * text.head_dim,
        vocabulary=text.vocab_size,
    )
