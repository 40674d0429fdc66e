"""What the GPU benchmark trains: models, packs from the planner, and their useful FLOPs."""

from dataclasses import dataclass

import numpy as np
import torch
from plan_mixtures import general

from smolvlm2.loading.micro_batch import MicroBatch
from smolvlm2.model.config import SmolVLMConfig, TextConfig, VisionConfig
from smolvlm2.plan.cost import CostModel
from smolvlm2.plan.packs import Capacity, Pack, PackSettings
from smolvlm2.plan.plan import Plan
from smolvlm2.plan.samples import SourceTable
from smolvlm2.training.generated import GeneratedIds, GeneratedSample, generate, lay_out

SIZES = {
    "256m": SmolVLMConfig(),
    "500m": SmolVLMConfig(
        text=TextConfig(
            hidden_size=960,
            intermediate_size=2560,
            num_hidden_layers=32,
            num_attention_heads=15,
            num_key_value_heads=5,
        )
    ),
    "tiny": SmolVLMConfig(
        vision=VisionConfig(
            hidden_size=32,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=64,
        ),
        text=TextConfig(
            hidden_size=48,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=3,
            num_key_value_heads=1,
            head_dim=16,
            vocab_size=512,
        ),
        scale_factor=2,
        image_token_id=500,
        eos_token_id=511,
    ),
}
"""By name; tiny is for the dry run."""
PACKS = 4
"""Of an optimiser step; one more is for the check alone."""
SHARES = (0.344, 0.33, 0.202, 0.124)
"""Of the sources of `plan_mixtures.general`."""


@dataclass(kw_only=True)
class GeneratedPack:
    """One pack, as its samples and as the loader would lay it out."""

    samples: list[GeneratedIds]
    """In order."""
    batch: MicroBatch
    """Of constant shape, in pinned memory where there is a GPU."""

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each sample."""
        return np.array([len(sample.input_ids) for sample in self.samples])

    @property
    def supervised(self) -> int:
        """Tokens with loss."""
        return sum(sample.supervised for sample in self.samples)

    def figures(self) -> dict[str, int]:
        """What useful FLOPs depend on."""
        return {
            "tiles": self.batch.tiles,
            "tokens": self.batch.tokens,
            "documents": len(self.samples),
            "sum_len_sq": int((self.lengths.astype(np.int64) ** 2).sum()),
            "supervised": self.supervised,
        }

    def useful_flops(self, cost: CostModel, *, frozen: bool) -> float:
        """Nothing padded, nothing recomputed."""
        counts = self.figures()
        columns = (
            np.array([counts[name]]) for name in ("tiles", "tokens", "sum_len_sq", "supervised")
        )
        useful = float(cost.cost(*columns, frozen=frozen)[0])
        # A frozen connector's input needs no gradient.
        return useful - counts["tiles"] * cost.connector / 3 if frozen else useful


def draw_packs(
    config: SmolVLMConfig, capacity: Capacity, *, count: int, every_token: bool = False
) -> list[GeneratedPack]:
    """Packs that the planner makes of the general mixture, their tiles and ids random.

    Args:
        config: Of the model.
        capacity: Of a pack; samples that do not fit are left out of the mixture.
        count: How many.
        every_token: Whether the head runs at every token, for comparison.
    """
    scale = config.tokens_per_tile / 64
    scaled = [_scaled(table, capacity, scale) for table in general((8, 32))]
    shares = [share for share, table in zip(SHARES, scaled, strict=True) if len(table)]
    tables = [table for table in scaled if len(table)]
    # Training's own window: packs of fewer samples are emptier, and filler is not useful work.
    window = PackSettings().window
    plan = Plan(tables, shares, capacity=capacity, packs_per_step=1, window=window, seed=0)
    packs = []
    for number, pack in enumerate(plan.packs_of_window(0)[:count]):
        made = [
            generate(config, sample, seed=1000 * number + place)
            for place, sample in enumerate(_lengths(pack, tables))
        ]
        if every_token:
            for ids in made:
                ids.supervised = len(ids.input_ids) - 1
        packs.append(GeneratedPack(samples=made, batch=_batch(config, made, capacity)))
    return packs


def _scaled(table: SourceTable, capacity: Capacity, scale: float) -> SourceTable:
    """The samples of a source that fit, with text in proportion to a tile's visual tokens."""
    visual = (64 * scale * table.tiles).astype(np.int32)
    text = np.maximum(4, (table.tokens - 64 * table.tiles) * scale).astype(np.int32)
    supervised = np.maximum(1, np.minimum(table.supervised * scale, text - 2)).astype(np.int32)
    fits = (table.tiles <= capacity.tiles) & (visual + text <= capacity.tokens)
    return SourceTable(
        name=table.name,
        rows=np.arange(int(fits.sum())),
        tiles=table.tiles[fits],
        tokens=(visual + text)[fits],
        supervised=supervised[fits],
        messages=table.messages[fits],
        modality=table.modality[fits],
        excluded={},
    )


def _lengths(pack: Pack, tables: list[SourceTable]) -> list[GeneratedSample]:
    columns = pack.samples.columns(tables, ("tokens", "tiles", "supervised"))
    return [
        GeneratedSample(tokens=tokens, tiles=tiles, supervised=supervised)
        for tokens, tiles, supervised in zip(
            *(columns[name].tolist() for name in ("tokens", "tiles", "supervised")), strict=True
        )
    ]


def _batch(config: SmolVLMConfig, made: list[GeneratedIds], capacity: Capacity) -> MicroBatch:
    arrays = lay_out(config, made, tokens=capacity.tokens, tiles=capacity.tiles)
    # The loader's bounds are of constant length: documents that are not there are empty.
    bounds = np.full(capacity.documents + 2, arrays["cu_seqlens"][-2], dtype=np.int32)
    bounds[: len(arrays["cu_seqlens"]) - 1] = arrays["cu_seqlens"][:-1]
    bounds[-1] = capacity.tokens
    arrays["cu_seqlens"] = bounds
    if torch.cuda.is_available():
        arrays = {
            name: torch.from_numpy(values).pin_memory().numpy() for name, values in arrays.items()
        }
    return MicroBatch(
        **arrays,
        sample_ids=[str(number) for number in range(len(made))],
        modalities=np.ones(len(made), dtype=np.uint8),
        tokens=sum(len(sample.input_ids) for sample in made),
        tiles=sum(len(sample.pixel_values) for sample in made),
    )
