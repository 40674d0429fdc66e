"""Time, memory and disk of a stage on a named GPU, on paper.

Times come from useful FLOPs and elementwise traffic over the rates that a compiled step is assumed
to reach; docs/decisions/014-recipe.md says where each figure is from.
"""

import re
from dataclasses import dataclass

from smolvlm2.model.config import SmolVLMConfig
from smolvlm2.plan.cost import CostModel
from smolvlm2.plan.packs import Capacity
from smolvlm2.training.adapters import AdapterSettings
from smolvlm2.training.memory import Checkpointing, count_parameters, count_trained

FORWARD_GEMM, BACKWARD_GEMM, DECODER_GEMM = 0.80, 0.75, 0.57
"""Of the matmul ceiling that products reach: the encoder's in both passes, the narrower decoder's
and the head's in all. Predicted for Hopper, compiled."""
FORWARD_ATTENTION, BACKWARD_ATTENTION, DECODER_ATTENTION = 0.49, 0.35, 0.16
"""The same for attention at 64 features a head, over useful FLOPs."""
COPY_SHARE = 0.88
"""Of the copy rate that compiled elementwise kernels reach (assumed)."""
ENCODER_TENSORS = (16, 33)
"""Patch-wide tensors that a block reads and writes, forward and backward, without products."""
DECODER_TENSORS = 47
"""Token-wide tensors of a decoder layer likewise, forward and backward."""
OPTIMIZER_BYTES = 36
"""A parameter and step: AdamW over fp32 weight, gradient and moments, and the bf16 copy."""


@dataclass(kw_only=True, frozen=True)
class Gpu:
    """What a GPU can do; every rate is for bf16."""

    name: str
    """For people."""
    reported: str
    """Pattern of CUDA's whole name of the device: parts of a GPU, laptops' and other models have
    longer names, and other rates."""
    memory: float
    """GB."""
    bandwidth: float
    """Copy rate, TB/s."""
    matmul: float
    """Largest rate of a matmul, TFLOP/s."""
    peak: float
    """Rate on paper, TFLOP/s."""
    source: str
    """Where bandwidth and rates are from."""


GPUS = {
    "rtx4090": Gpu(
        name="RTX 4090 24 GB",
        reported=r"(NVIDIA )?GeForce RTX 4090",
        memory=24,
        bandwidth=0.92,
        matmul=155,
        peak=165,
        source="paper peak; bandwidth and matmul rate assumed",
    ),
    "a100-40": Gpu(
        name="A100 40 GB",
        reported=r"(NVIDIA )?A100(-(SXM4|PCIE)-[48]0GB| 80GB PCIe)",
        memory=40,
        bandwidth=1.3,
        matmul=265,
        peak=312,
        source="paper peak; bandwidth and matmul rate assumed",
    ),
    "h100": Gpu(
        name="H100 80 GB",
        reported=r"(NVIDIA )?H100 80GB HBM3",
        memory=80,
        bandwidth=2.95,
        matmul=790,
        peak=989.5,
        source="paper peak; matmul rate assumed to be the H200's, bandwidth assumed",
    ),
    "h200": Gpu(
        name="H200 141 GB",
        reported=r"(NVIDIA )?H200",
        memory=141,
        bandwidth=4.3,
        matmul=790,
        peak=989.5,
        source="paper peak; bandwidth and matmul rate measured",
    ),
}
"""By the name that ``smolvlm2 estimate --gpu`` takes."""


def gpu_key(device_name: str) -> str | None:
    """Key in `GPUS` of a device, by the name that CUDA reports; None: not known."""
    return next((key for key, gpu in GPUS.items() if re.fullmatch(gpu.reported, device_name)), None)


def peak_flops(device_name: str) -> float | None:
    """FLOP/s in bf16 on paper of a device, by the name that CUDA reports; None: not known."""
    key = gpu_key(device_name)
    return None if key is None else GPUS[key].peak * 1e12


@dataclass(kw_only=True, frozen=True)
class PackLoad:
    """What a mean pack holds."""

    tiles: float
    """Tiles."""
    tokens: float
    """Tokens."""
    squared: float
    """Sum of its documents' squared lengths, tokens squared."""
    supervised: float
    """Tokens with loss."""


@dataclass(kw_only=True, frozen=True)
class StepEstimate:
    """One phase of a stage."""

    pack_seconds: float
    """Forward and backward pass of a mean pack."""
    step_seconds: float
    """An optimiser step on one device."""
    useful_flops: float
    """Of a mean pack; nothing recomputed."""
    mfu_peak: float
    """Useful FLOPs over the paper peak."""
    mfu_ceiling: float
    """Useful FLOPs over the matmul rate."""


def estimate_step(
    config: SmolVLMConfig,
    cost: CostModel,
    load: PackLoad,
    gpu: Gpu,
    *,
    frozen: bool,
    checkpointing: Checkpointing,
    packs_per_device: float,
) -> StepEstimate:
    """Time of a step.

    Args:
        config: Shapes of the model.
        cost: FLOPs by cause, from the same shapes.
        load: Of a mean pack.
        gpu: From `GPUS`.
        frozen: Whether the vision encoder is.
        checkpointing: Which blocks are computed twice.
        packs_per_device: Packs of a step on one device.
    """
    vision, text = config.vision, config.text
    attention = (
        load.tiles * 4 * vision.num_patches**2 * vision.hidden_size * vision.num_hidden_layers
    )
    products = load.tiles * cost.tile - attention
    decoder = load.tokens * cost.token + load.supervised * cost.supervised
    decoder += load.tiles * cost.connector * (2 if frozen else 3) / 3
    pairs = load.squared * cost.pair
    useful = cost.useful_flops(
        load.tiles, load.tokens, load.squared, load.supervised, frozen=frozen
    )
    # Matmul-ceiling FLOPs that take as long as everything that the encoder and the decoder compute.
    forward_pass = products / FORWARD_GEMM + attention / FORWARD_ATTENTION
    work = forward_pass + decoder / DECODER_GEMM + pairs / DECODER_ATTENTION
    if not frozen:
        work += 2 * (products / BACKWARD_GEMM + attention / BACKWARD_ATTENTION)
    patch_bytes = 2 * vision.num_patches * vision.hidden_size * vision.num_hidden_layers
    token_bytes = 2 * text.hidden_size * text.num_hidden_layers
    forward, backward = ENCODER_TENSORS
    moved = load.tiles * patch_bytes * (forward if frozen else forward + backward)
    moved += load.tokens * token_bytes * DECODER_TENSORS
    if checkpointing != "none" and not frozen:
        work += forward_pass
        moved += load.tiles * patch_bytes * forward
    if checkpointing == "all":
        work += (load.tokens * cost.token / DECODER_GEMM + pairs / DECODER_ATTENTION) / 3
        moved += load.tokens * token_bytes * DECODER_TENSORS / 3
    seconds = work / (gpu.matmul * 1e12) + moved / (COPY_SHARE * gpu.bandwidth * 1e12)
    counts = count_parameters(config)
    trained = counts.total - (counts.vision_encoder if frozen else 0)
    optimizer = trained * OPTIMIZER_BYTES / (COPY_SHARE * gpu.bandwidth * 1e12)
    return StepEstimate(
        pack_seconds=seconds,
        step_seconds=seconds * packs_per_device + optimizer,
        useful_flops=useful,
        mfu_peak=useful / seconds / (gpu.peak * 1e12),
        mfu_ceiling=useful / seconds / (gpu.matmul * 1e12),
    )


def checkpoint_bytes(
    config: SmolVLMConfig, *, vision_trains: bool, adapters: AdapterSettings | None = None
) -> int:
    """Of one step folder: fp32 weights, and two moments of what trains."""
    counts, trained = count_trained(config, adapters)
    moments = trained.total - (0 if vision_trains else trained.vision_encoder)
    return 4 * counts.total + 8 * moments


def typical_load(capacity: Capacity, *, fill: float = 0.98) -> PackLoad:
    """A full pack of the assumed mixture: documents of a length-weighted mean of 1,540 tokens,
    14.3 % of the tokens supervised."""
    tokens = fill * capacity.tokens
    return PackLoad(
        tiles=fill * capacity.tiles,
        tokens=tokens,
        squared=tokens * min(1540, capacity.tokens),
        supervised=0.143 * tokens,
    )
