"""What padding costs in matrix products: transformers' over ours, on paper."""

import numpy as np
from plan_mixtures import general

from smolvlm2.model.config import SmolVLMConfig
from smolvlm2.plan.cost import CostModel
from smolvlm2.training.generated import GeneratedSample
from smolvlm2.training.model_cost import cost_of

HOW = {
    "unfrozen": {"frozen": False},
    "frozen": {"frozen": True},
    "unfrozen, checkpointing": {"frozen": False, "checkpointing": True},
}
"""What `products` needs to know of each comparison."""


def products(
    cost: CostModel,
    columns: dict[str, np.ndarray],
    *,
    batch: int,
    frozen: bool,
    checkpointing: bool = False,
) -> float:
    """Floating-point operations of transformers over ours, in matrix products alone."""
    names = ("tiles", "tokens", "supervised")
    tiles, tokens, supervised = (columns[name].astype(np.int64) for name in names)
    ours = cost.cost(tiles, tokens, tokens**2, supervised, frozen=frozen).sum()
    whole = len(tokens) // batch * batch
    longest = tokens[:whole].reshape(-1, batch).max(axis=1).repeat(batch)
    theirs = cost.cost(tiles[:whole], longest, longest**2, longest, frozen=frozen).sum()
    if checkpointing:  # one more forward pass of all blocks: a third of what they train with
        theirs += (tiles[:whole] * cost.tile).sum()
        theirs += ((longest * cost.token + longest**2 * cost.pair) // 3).sum()
    return float(theirs / ours * len(tokens) / whole)


def product_ratios(
    config: SmolVLMConfig, chosen: list[GeneratedSample], *, batch: int
) -> dict[str, dict[str, float]]:
    """`products` of each comparison: of the samples here, and of the 256M on the mixture."""
    cost = cost_of(config)
    names, tables = ("tiles", "tokens", "supervised"), general((8, 32))
    here = {name: np.array([getattr(sample, name) for sample in chosen]) for name in names}
    order = np.random.default_rng(0).permutation(sum(len(table) for table in tables))
    mixture = {
        name: np.concatenate([table.column(name) for table in tables])[order] for name in names
    }
    return {
        "here": {how: products(cost, here, batch=batch, **options) for how, options in HOW.items()},
        "256m": {
            how: products(CostModel(), mixture, batch=batch, **options)
            for how, options in HOW.items()
        },
    }
