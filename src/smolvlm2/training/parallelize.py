"""What is applied to the model from outside, in one readable order.

Checkpointing first, then compilation, then sharding: the model knows nothing of it. A single
process is a mesh of one.
"""

import logging
import os
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint

from smolvlm2.errors import ConfigError
from smolvlm2.model.config import SmolVLMConfig
from smolvlm2.model.initialisation import empty_model
from smolvlm2.model.smolvlm import SmolVLM
from smolvlm2.training.adapters import adapter_scale, merge_adapters
from smolvlm2.training.distributed import World
from smolvlm2.training.launch import ParallelSettings, Sharding
from smolvlm2.training.memory import Checkpointing, MemoryEstimate
from smolvlm2.training.training_settings import TrainingSettings

logger = logging.getLogger(__name__)

FREE_SHARE = 0.9
"""Of a device's memory: what a run may plan to use; the runtime and fragments take the rest."""
GRAPHS = 32
"""Graphs that torch may compile of one function; past them ``fullgraph`` ends the run."""


@dataclass(kw_only=True, frozen=True)
class Layout:
    """How weights, gradients and optimiser state lie on the ranks."""

    sharding: Sharding
    """What is asked for."""
    replicas: int
    """Copies of the whole state."""
    shards: int
    """Ranks that share one copy."""

    def __str__(self) -> str:
        return f"{self.sharding}: {self.replicas} x {self.shards} ranks (copies x shards)"


def choose_layout(
    settings: ParallelSettings,
    *,
    ranks: int,
    ranks_a_machine: int,
    memory: int | None,
    estimate: MemoryEstimate,
) -> Layout:
    """The layout asked for, or with ``auto`` the least sharded one that fits.

    Args:
        settings: Of the recipe and the launcher.
        ranks: All.
        ranks_a_machine: Of them on one machine, where exchange is fast.
        memory: Of one device, bytes; None where it is not known (CPU).
        estimate: On one device without sharding.

    Raises:
        ConfigError: The ranks do not divide into groups of ``parallel.shard_size``.
    """
    group = min(settings.shard_size or ranks_a_machine, ranks)
    sharding = settings.sharding
    if sharding == "auto":
        room = None if memory is None else FREE_SHARE * memory - estimate.activations
        if room is None or estimate.states <= room:
            sharding = "replicate"
        elif group < ranks and ranks % group == 0 and estimate.states / group <= room:
            sharding = "hybrid"
        else:
            sharding = "full"
    if sharding == "replicate":
        return Layout(sharding=sharding, replicas=ranks, shards=1)
    if sharding == "full":
        return Layout(sharding=sharding, replicas=1, shards=ranks)
    if ranks % group:
        raise ConfigError(
            f"parallel.sharding=hybrid: {ranks} ranks do not divide into groups of {group}; set "
            f"parallel.shard_size to a divisor of {ranks}"
        )
    return Layout(sharding=sharding, replicas=ranks // group, shards=group)


def make_mesh(layout: Layout, device: torch.device) -> DeviceMesh:
    """The ranks as rows of copies and columns of shards."""
    if layout.replicas == 1:
        return init_device_mesh(device.type, (layout.shards,), mesh_dim_names=("shard",))
    shape = (layout.replicas, layout.shards)
    return init_device_mesh(device.type, shape, mesh_dim_names=("replicate", "shard"))


def parallelize(
    model: SmolVLM,
    world: World,
    training: TrainingSettings,
    settings: ParallelSettings,
    layout: Layout,
    *,
    checkpointing: Checkpointing | None = None,
    tile_chunk: int | None = None,
) -> DeviceMesh | None:
    """Apply checkpointing, compilation and sharding to a model on its device.

    Args:
        model: On its device.
        world: All ranks.
        training: Of the recipe.
        settings: Of the recipe and the launcher.
        layout: From `choose_layout`.
        checkpointing: From `memory.choose_checkpointing`; None: what the recipe asks for.
        tile_chunk: Tiles that go through an encoder block at a time; None: all.

    Returns:
        The mesh; None on devices that cannot shard (mps), which train in one process.
    """
    asked = training.checkpointing
    mode = checkpointing or ("none" if asked == "auto" else asked)
    if mode != "none":
        checkpoint_activations(model, decoder=mode == "all")
    if training.compile:
        compile_blocks(model)
    if tile_chunk is not None:
        chunk_tiles(model, tile_chunk)
    if world.device.type not in ("cpu", "cuda"):
        return None
    mesh = make_mesh(layout, world.device)
    # Weights that are whole anyway are not gathered twice.
    reshard = settings.reshard_after_forward and layout.shards > 1
    # One process on a CPU has nothing to gather or to free: hooks around every block would cost
    # 2 % of a small model's step (m).
    by_block = world.size > 1 or world.device.type == "cuda"
    shard_model(
        model,
        mesh,
        blocks_of(model) if by_block else [],
        policy=precision_policy(world.device, bf16=training.bf16),
        offload=_offload_policy(settings, world.device),
        reshard_after_forward=reshard,
    )
    return mesh


def choose_deterministic_kernels(device: torch.device) -> None:
    """Let every operation on CUDA give the same bits every time, or fail; a CPU's do anyway.

    Call it before the process's first product on the device. cuDNN's attention is left out: its
    backward pass adds in any order.
    """
    if device.type != "cuda":
        return
    # torch looks at it once, when the first product runs, and refuses all of them from then on.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cuda.enable_cudnn_sdp(False)


def blocks_of(model: SmolVLM) -> list[nn.Module]:
    """The units of checkpointing, compilation and sharding."""
    return [*model.vision_encoder.encoder.layers, *model.text_decoder.layers]


def checkpoint_activations(model: SmolVLM, *, decoder: bool = True) -> None:
    """Recompute each block's activations in the backward pass instead of keeping them.

    Args:
        model: Before it is compiled.
        decoder: Whether the decoder's blocks are recomputed too.
    """
    for layer in blocks_of(model) if decoder else model.vision_encoder.encoder.layers:
        _checkpoint_layer(layer)


def chunk_tiles(model: SmolVLM, size: int) -> None:
    """Let each encoder block take ``size`` tiles at a time.

    Around the checkpoint, so that what is recomputed is one chunk; inside the block, so that
    sharding gathers its weights once.
    """
    for layer in model.vision_encoder.encoder.layers:
        _chunk_layer(layer, size)


def _chunk_layer(layer: nn.Module, size: int) -> None:
    forward = layer.forward

    def chunked(x_TND: Tensor) -> Tensor:
        return torch.cat([forward(part) for part in x_TND.split(size)])

    layer.forward = chunked


def _checkpoint_layer(layer: nn.Module) -> None:
    forward = layer.forward

    def recomputed(*args: object) -> object:
        tensors = [*layer.parameters(), *(each for each in args if isinstance(each, Tensor))]
        # A frozen block keeps nothing anyway, and torch.compile refuses to recompute in one.
        if not torch.is_grad_enabled() or not any(each.requires_grad for each in tensors):
            return forward(*args)
        return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False)

    layer.forward = recomputed


def compile_blocks(model: SmolVLM, *, mode: str | None = None) -> None:
    """Compile each block's forward; sharding hooks stay outside, around the compiled code.

    The patch embedding is compiled likewise: alone it would read and write all pixels five times.

    Args:
        model: Before it is sharded.
        mode: Of ``torch.compile``.
    """
    from torch._dynamo import config

    if hasattr(config, "skip_tensor_guards_with_matching_dict_tags"):
        # With torch 2.11 a block that begins to train would keep the graph of the frozen one, where
        # sharding does not set its parameters anew.
        config.skip_tensor_guards_with_matching_dict_tags = False
    # torch's 8 are not enough: a recomputed block is one function for both kinds of blocks, each
    # has graphs for training and validation, frozen and not, and for a shorter last chunk of tiles.
    config.recompile_limit = max(config.recompile_limit, GRAPHS)
    for layer in (model.vision_encoder.embeddings, *blocks_of(model)):
        layer.forward = torch.compile(layer.forward, mode=mode, fullgraph=True)


def shard_model(
    model: SmolVLM,
    mesh: DeviceMesh,
    blocks: list[nn.Module],
    *,
    policy: MixedPrecisionPolicy,
    offload: OffloadPolicy,
    reshard_after_forward: bool,
) -> None:
    """Shard each of ``blocks`` as a group of its own; all the rest is the root's group.

    Embedding, final norm and head stay together in the root, tied or not: a tied pair in two
    groups would lose half its gradient. Gradients are summed, never averaged: the loss is divided
    by the weight of the whole step before the backward pass.
    """
    for layer in blocks:
        fully_shard(
            layer,
            mesh=mesh,
            mp_policy=policy,
            offload_policy=offload,
            reshard_after_forward=reshard_after_forward,
        )
    fully_shard(
        model,
        mesh=mesh,
        mp_policy=policy,
        offload_policy=offload,
        reshard_after_forward=False,
    )
    for module in model.modules():
        if isinstance(module, FSDPModule):
            # Both, and on every group (they do not recurse). Without the factor a sum is divided by
            # the ranks; without forced sums the factor goes into the reduction, which gloo refuses.
            module.set_force_sum_reduction_for_comms(True)
            module.set_gradient_divide_factor(1.0)
    # Now, while all parameters train. The first forward pass would do it after the encoder was
    # frozen: groups without a trainable parameter get no type to reduce in, and keep none, so that
    # under bf16 the first backward pass behind the unfreezing ends the run.
    assert isinstance(model, FSDPModule)
    model._get_fsdp_state()._lazy_init()


def begin_pack(model: SmolVLM, mesh: DeviceMesh, *, last: bool) -> None:
    """Say before a pack's passes what sharding has to do behind them.

    Gathered weights are kept from pack to pack where they lie in memory anyway, and let go after
    the step's last one, because the optimiser changes the shards. Without it a GPU alone would cast
    all weights to bf16 for every pack. Copies exchange gradients once a step, not once a pack.

    Args:
        model: Sharded over ``mesh``.
        mesh: From `make_mesh`.
        last: Whether the optimiser's step follows.
    """
    assert isinstance(model, FSDPModule)
    whole = mesh.size(-1) == 1
    model.set_reshard_after_backward(last, recurse=whole)  # the root's group alone, where sharded
    if "replicate" in (mesh.mesh_dim_names or ()):
        model.set_requires_all_reduce(last)


def precision_policy(device: torch.device, *, bf16: bool) -> MixedPrecisionPolicy:
    """bf16 products on CUDA where asked for; weights kept and gradients summed in fp32."""
    if device.type != "cuda" or not bf16:
        return MixedPrecisionPolicy(cast_forward_inputs=False)
    # GPUs before Ampere only emulate it: slower than fp32, and Triton has no bf16 for them.
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        logger.warning("training.bf16 is set, but %s has no bf16: computing in fp32", device)
        return MixedPrecisionPolicy(cast_forward_inputs=False)
    # Inputs stay as they are: loss weights must not lose digits.
    return MixedPrecisionPolicy(
        param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False
    )


def _offload_policy(settings: ParallelSettings, device: torch.device) -> OffloadPolicy:
    if not settings.offload:
        return OffloadPolicy()
    if device.type != "cuda":
        logger.info("parallel.offload has no effect on a %s: its memory is the CPU's", device.type)
        return OffloadPolicy()
    return CPUOffloadPolicy()


def device_memory(device: torch.device) -> int | None:
    """Bytes of a GPU; None elsewhere."""
    if device.type != "cuda":
        return None
    return int(torch.cuda.get_device_properties(device).total_memory)


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor, as a plain tensor on the same memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def gather_weights(
    model: SmolVLM, world: World, *, everywhere: bool = False
) -> dict[str, Tensor] | None:
    """Whole fp32 weights by name on rank 0, in CPU memory, adapters merged; None on the others.

    One tensor at a time, so that no device needs room for all.

    Args:
        model: Sharded, and not as a forward pass alone leaves it (see `validation.evaluating`); all
            ranks call this.
        world: All ranks.
        everywhere: Give them to every rank.
    """
    wanted = world.leads or everywhere
    weights: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        whole = parameter.detach().to(world.device)
        if isinstance(whole, DTensor):
            whole = whole.full_tensor()
        if wanted:
            weights[name] = whole.cpu()
    return merge_adapters(weights, adapter_scale(model)) if wanted else None


def whole_model(
    config: SmolVLMConfig,
    weights: dict[str, Tensor],
    device: torch.device,
    *,
    dtype: torch.dtype = torch.float32,
) -> SmolVLM:
    """An unsharded model for evaluation, from what `gather_weights` gave."""
    model = empty_model(config, dtype=dtype, device=device)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])
    return model.eval()
