"""Our training step on generated packs: speed, silence, memory, and whether it is right."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch._dynamo
import torch._functorch.config
from torch import Tensor, nn
from train_gpu_shapes import GeneratedPack
from train_gpu_timing import LEAST, SECONDS, WARM_UP, Stopwatch, spread

from smolvlm2.loading.step_batch import StepBatch
from smolvlm2.model import text_decoder, vision_encoder
from smolvlm2.model.attention import Backend
from smolvlm2.model.config import SmolVLMConfig
from smolvlm2.model.smolvlm import SmolVLM
from smolvlm2.plan.plan import Position
from smolvlm2.training.distributed import World
from smolvlm2.training.freezing import apply_freezing
from smolvlm2.training.launch import ParallelSettings
from smolvlm2.training.memory import Checkpointing, estimate_memory
from smolvlm2.training.optimizer import OptimizerSettings
from smolvlm2.training.pack_copies import INPUTS
from smolvlm2.training.parallelize import Layout, compile_blocks, parallelize
from smolvlm2.training.training_settings import TrainingSettings
from smolvlm2.training.update import Updater

SEED = 0
LEARNING_RATE = 1e-4
KERNELS = {
    "attention": ("flash", "fmha", "sdpa", "attention", "mha_"),
    "gemm": ("gemm", "nvjet", "cutlass", "xmma", "cublas", "splitk"),
    "exchange": ("nccl",),
    "copy": ("memcpy", "memset"),
}
"""Parts of kernel names, by kind, the first that fits; everything else is elementwise."""


@dataclass(kw_only=True)
class Variant:
    """How our step is run; what is not said is the default of training."""

    compile: bool = True
    """Blocks by torch.compile."""
    bf16: bool = True
    """bf16 products on an fp32 master."""
    mode: str | None = None
    """Of torch.compile."""
    attention: Backend | None = None
    """Of the decoder."""
    encoder_attention: str | None = None
    """Name of the only backend that the encoder's attention may use."""
    fused_gelu: bool = False
    """GELU in the product's epilogue, frozen only."""
    separate_products: bool = False
    """No joined q, k, v and gate, up."""
    autocast: bool = False
    """Autocast from fp32 weights."""
    checkpointing: Checkpointing = "none"
    """Blocks that are computed twice."""
    deterministic: bool = False
    """The same bits every time: no cuDNN attention."""

    def chosen(self) -> dict[str, Any]:
        """What differs from the default."""
        default = Variant()
        return {name: value for name, value in vars(self).items() if value != vars(default)[name]}


@contextmanager
def settings_of(variant: Variant) -> Iterator[None]:
    """Global switches of a variant, put back at the end."""
    with ExitStack() as stack:
        only = "FLASH_ATTENTION" if variant.deterministic else variant.encoder_attention
        if only is not None:
            from torch.nn.attention import SDPBackend, sdpa_kernel

            stack.enter_context(sdpa_kernel(getattr(SDPBackend, only)))
            # torch's cache of compiled graphs does not know which attention was allowed: it would
            # give the default variant's.
            stack.enter_context(torch._functorch.config.patch(enable_autograd_cache=False))
        if variant.separate_products:
            for module in (text_decoder, vision_encoder):
                stack.callback(setattr, module, "fused_linear", module.fused_linear)
                module.fused_linear = lambda x, *layers: tuple(layer(x) for layer in layers)
        if variant.deterministic:
            stack.callback(torch.use_deterministic_algorithms, False)
            # Not a warning alone: then torch's attention keeps its other backward pass.
            torch.use_deterministic_algorithms(True)
        yield


@dataclass(kw_only=True)
class Own:
    """A random model set up as training sets it up, and packs on which it steps."""

    config: SmolVLMConfig
    frozen: bool
    variant: Variant
    world: World
    capacity: Any
    updater: Updater = field(init=False)
    training: TrainingSettings = field(init=False)

    def __post_init__(self) -> None:
        variant = self.variant
        self.training = TrainingSettings(
            bf16=variant.bf16 and not variant.autocast,
            compile=variant.compile and variant.mode is None,
            activation_checkpointing=variant.checkpointing,
        )
        model = SmolVLM.from_random(self.config, seed=SEED, device=self.world.device)
        model.attention_backend = variant.attention
        for layer in model.vision_encoder.encoder.layers:
            layer.mlp.fused_gelu = variant.fused_gelu
        if variant.compile and variant.mode is not None:
            compile_blocks(model, mode=variant.mode)
        mesh = parallelize(
            model,
            self.world,
            self.training,
            ParallelSettings(),
            Layout(sharding="replicate", replicas=1, shards=1),
        )
        apply_freezing(model, frozenset({"vision_encoder"} if self.frozen else ()))
        self.updater = Updater(
            model=model,
            mesh=mesh,
            world=self.world,
            settings=OptimizerSettings(),
            max_length=self.capacity.tokens,
        )
        for group in self.updater.optimizer.param_groups:
            group["lr"] = LEARNING_RATE

    def computing(self) -> AbstractContextManager[object]:
        """Autocast, where it is asked for."""
        if not self.variant.autocast:
            return nullcontext()
        return torch.autocast(self.world.device.type, dtype=torch.bfloat16)

    def gradients(self, packs: list[GeneratedPack]) -> tuple[float, float]:
        """What training does before the update: the mean loss, and the gradient's norm."""
        batch = StepBatch(packs=[pack.batch for pack in packs], position=Position())
        divisor = float(sum(pack.supervised for pack in packs))
        with self.computing():
            loss, norm = self.updater.gradients(
                batch, list(range(len(packs))), divisor, at="benchmark"
            )
        return loss.total / divisor, norm

    def step(self, packs: list[GeneratedPack]) -> float:
        """A whole optimiser step; its mean loss."""
        loss, _ = self.gradients(packs)
        self.updater.apply()
        return loss

    def measure(
        self, packs: list[GeneratedPack], *, least: int = LEAST, seconds: float = SECONDS
    ) -> dict[str, Any]:
        """Milliseconds a pack and an update, memory, compilations after the first steps."""
        watch, device = Stopwatch(self.world.device), self.world.device
        for _ in range(WARM_UP):
            start = watch.mark()
            self.step(packs)
            once = watch.between(start, watch.mark())
        steps = max(-(-least // len(packs)), round(1000 * seconds / max(once, 1e-3)))
        before, breaks = compilations()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        marks = []
        for _ in range(steps):
            begun = watch.mark()
            self.gradients(packs)
            half = watch.mark()
            self.updater.apply()
            marks.append((begun, half, watch.mark()))
        found = {
            "ms": spread([watch.between(a, b) / len(packs) for a, b, _ in marks]),
            "optimiser_ms": spread([watch.between(b, c) for _, b, c in marks])["median"],
            "recompiles": compilations()[0] - before,
            "graphs": before,
            "graph_breaks": breaks,
        }
        if device.type == "cuda":
            found["peak_gb"] = round(torch.cuda.max_memory_allocated(device) / 1e9, 2)
        estimate = estimate_memory(
            self.config, self.capacity, self.training, vision_trains=not self.frozen
        )
        return found | {"estimated_gb": round(estimate.total / 1e9, 2)}

    def first_pass(self, pack: GeneratedPack) -> float:
        """Seconds of the first pass, compilation included."""
        started = time.monotonic()
        self.gradients([pack])
        self.updater.discard()
        return round(time.monotonic() - started, 1)

    def silent(self, pack: GeneratedPack) -> int:
        """0 if neither pass over a pack waits for the device; else raises where it does."""
        device = self.world.device
        inputs = {name: torch.from_numpy(getattr(pack.batch, name)).to(device) for name in INPUTS}

        def passes() -> None:
            with self.computing():
                output = self.updater.model(**inputs, max_length=self.capacity.tokens)
                assert output.loss_sum is not None
                (output.loss_sum / pack.supervised).backward()

        if device.type != "cuda":
            passes()
        else:
            torch.cuda.synchronize(device)
            torch.cuda.set_sync_debug_mode("error")
            try:
                passes()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        for parameter in self.updater.model.parameters():
            parameter.grad = None
        return 0

    def check(self, pack: GeneratedPack, right: "Reference") -> dict[str, float]:
        """How far loss and gradient of a pack are from the reference's. Before any update."""
        loss, norm = self.gradients([pack])
        found = flat_gradient(self.updater)
        self.updater.discard()
        expected = right.gradient.to(found.device)
        cosine = nn.functional.cosine_similarity(found, expected, dim=0)
        return {
            "loss_error": abs(loss - right.loss) / right.loss,
            "grad_norm_error": abs(norm - right.norm) / right.norm,
            "grad_cosine": float(cosine),
        }

    def kernels(self, packs: list[GeneratedPack]) -> dict[str, float]:
        """Milliseconds a pack by kind of kernel, and without any."""
        if self.world.device.type != "cuda":
            return {}
        from torch.profiler import ProfilerActivity, profile

        watch = Stopwatch(self.world.device)
        with profile(activities=[ProfilerActivity.CUDA]) as traced:
            start = watch.mark()
            for _ in range(2):
                self.gradients(packs)
            whole = watch.between(start, watch.mark())
        sums: Counter[str] = Counter()
        for event in traced.key_averages():
            if getattr(event, "is_user_annotation", False):
                continue
            name = event.key.lower()
            kind = (k for k, parts in KERNELS.items() if any(part in name for part in parts))
            sums[next(kind, "elementwise")] += event.self_device_time_total / 1000
        count = 2 * len(packs)
        found = {kind: round(ms / count, 3) for kind, ms in sums.items()}
        return found | {"idle": round((whole - sum(sums.values())) / count, 3)}


@dataclass(kw_only=True, frozen=True)
class Reference:
    """Loss and gradient of the check's pack in fp32, eager."""

    loss: float
    norm: float
    gradient: Tensor
    """On the CPU, so that it does not count as a variant's memory."""


def reference(own: Own, pack: GeneratedPack) -> Reference:
    """What a model of the same weights gives; its blocks are computed twice to save memory."""
    loss, norm = own.gradients([pack])
    found = Reference(loss=loss, norm=norm, gradient=flat_gradient(own.updater).cpu())
    own.updater.discard()
    return found


def flat_gradient(updater: Updater) -> Tensor:
    """The whole gradient as one vector, after clipping; the direction is what is compared."""
    return torch.cat(
        [shard.grad.flatten() for shard in updater.shards.values() if shard.grad is not None]
    )


def compilations() -> tuple[int, int]:
    """Graphs compiled so far in this process, and breaks in them."""
    counters = torch._dynamo.utils.counters
    return counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())


REFERENCE = Variant(compile=False, bf16=False, checkpointing="all", attention="sdpa")
"""fp32, eager, all blocks computed twice; attention by none of the kernels that are measured."""
