"""Single operations of a step on the device: where its time could go, and at what rate."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from train_gpu_predicted import PREDICTED_TFLOPS
from train_gpu_shapes import GeneratedPack
from train_gpu_timing import timed

from smolvlm2.model.attention import DocumentAttention
from smolvlm2.model.config import SmolVLMConfig
from smolvlm2.model.vision_encoder import Embeddings

BRIEF = {"warm_up": 2, "least": 5, "seconds": 0.1}


def products(config: SmolVLMConfig, tiles: int, tokens: int, rows: int) -> dict[str, tuple]:
    """Rows, outputs and inputs of every matrix product of a forward pass."""
    vision, text = config.vision, config.text
    patches, width = tiles * vision.num_patches, vision.hidden_size
    inner = text.num_attention_heads * text.head_dim
    narrow = text.num_key_value_heads * text.head_dim
    return {
        "enc.qkv": (patches, 3 * width, width),
        "enc.out": (patches, width, width),
        "enc.fc1": (patches, vision.intermediate_size, width),
        "enc.fc2": (patches, width, vision.intermediate_size),
        "connector": (
            tiles * config.tokens_per_tile,
            text.hidden_size,
            width * config.scale_factor**2,
        ),
        "dec.qkv": (tokens, inner + 2 * narrow, text.hidden_size),
        "dec.out": (tokens, text.hidden_size, inner),
        "dec.gate_up": (tokens, 2 * text.intermediate_size, text.hidden_size),
        "dec.down": (tokens, text.hidden_size, text.intermediate_size),
        "head": (rows, text.vocab_size, text.hidden_size),
    }


def measure_products(shapes: dict[str, tuple], device: torch.device) -> Iterator[dict[str, Any]]:
    """Each product forward, towards its input, and towards its weight."""
    for name, (m, n, k) in shapes.items():
        x, w, g = (
            torch.randn(a, b, device=device).to(half(device)) for a, b in ((m, k), (n, k), (m, n))
        )
        for kind, work in {
            "fwd": lambda x=x, w=w: x @ w.t(),
            "dx": lambda g=g, w=w: g @ w,
            "dw": lambda g=g, x=x: g.t() @ x,
        }.items():
            entry = rate(f"{name}.{kind}", work, 2 * m * n * k, device)
            yield entry | {"m": m, "n": n, "k": k}


def half(device: torch.device) -> torch.dtype:
    """bf16; fp32 on a CPU, many of which have no fast product in bf16."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def rate(
    name: str, work: Callable[[], object], flops: float, device: torch.device
) -> dict[str, Any]:
    """Milliseconds and useful TFLOP/s of an operation, beside the prediction."""
    ms = timed(work, device, **BRIEF)["median"]
    found = {"name": name, "ms": round(ms, 4), "tflops": round(flops / ms / 1e9, 2)}
    return found | {"predicted_tflops": PREDICTED_TFLOPS.get(name)}


def both_passes(
    name: str,
    call: Callable[..., Tensor],
    inputs: tuple[Tensor, ...],
    flops: float,
    device: torch.device,
) -> list[dict[str, Any]]:
    """A forward pass, and a backward pass whose useful FLOPs are twice as many."""
    out = call(*inputs)
    grad = torch.randn_like(out)
    forward = rate(f"{name}.fwd", lambda: call(*inputs), flops, device)
    work = lambda: torch.autograd.grad(out, inputs, grad, retain_graph=True)  # noqa: E731
    return [forward, rate(f"{name}.bwd", work, 2 * flops, device)]


def encoder_attention(
    config: SmolVLMConfig, tiles: int, device: torch.device, backend: str | None
) -> list[dict[str, Any]]:
    """By one backend of torch's; None: what torch chooses."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    vision = config.vision
    heads, n = vision.num_attention_heads, vision.num_patches
    joined = torch.randn(tiles, n, 3, heads, vision.hidden_size // heads, device=device)
    joined = joined.to(half(device)).requires_grad_()
    q, k, v = (part.transpose(1, 2) for part in joined.unbind(2))
    chosen = nullcontext() if backend is None else sdpa_kernel(getattr(SDPBackend, backend))
    name = (backend or "chosen").split("_")[0].lower()
    with chosen:
        return both_passes(
            f"enc.attention.{name}",
            F.scaled_dot_product_attention,
            (q, k, v),
            tiles * 4 * n * n * vision.hidden_size,
            device,
        )


def decoder_attention(
    config: SmolVLMConfig, pack: GeneratedPack, device: torch.device, backend: str
) -> list[dict[str, Any]]:
    """Inside the documents of a pack."""
    text, batch = config.text, pack.batch
    attention = DocumentAttention(
        torch.from_numpy(batch.cu_seqlens).to(device),
        max_length=len(batch.input_ids),
        dtype=torch.bfloat16,
        backend=backend,
        document_ids=torch.from_numpy(batch.document_ids).to(device),
    )
    heads = (text.num_attention_heads, text.num_key_value_heads, text.num_key_value_heads)
    q, k, v = (
        torch.randn(len(batch.input_ids), h, text.head_dim, device=device)
        .to(half(device))
        .requires_grad_()
        for h in heads
    )
    pairs = pack.figures()["sum_len_sq"] / 2
    flops = 4 * pairs * text.num_attention_heads * text.head_dim
    name = f"dec.attention.{backend}"
    return both_passes(name, partial(attention, 0), (q, k, v), flops, device)


def elementwise(config: SmolVLMConfig, tiles: int, device: torch.device) -> list[dict[str, Any]]:
    """LayerNorm and GELU eager and compiled, GELU in the product's epilogue, pixels to patches."""
    vision = config.vision
    rows, width, wide = tiles * vision.num_patches, vision.hidden_size, vision.intermediate_size
    x, h = (torch.randn(rows, n, device=device).to(half(device)) for n in (width, wide))
    weight, up, bias = (
        torch.randn(*s, device=device).to(half(device)) for s in ((width,), (wide, width), (wide,))
    )
    side = vision.image_size
    pixels = torch.randint(0, 256, (tiles, 3, side, side), dtype=torch.uint8, device=device)
    embeddings = Embeddings(vision).to(device, half(device)).requires_grad_(False)
    norm: Callable[[], Tensor] = lambda: F.layer_norm(x, (width,), weight, weight)  # noqa: E731
    gelu: Callable[[], Tensor] = lambda: F.gelu(h, approximate="tanh")  # noqa: E731
    embed: Callable[[], Tensor] = lambda: embeddings(pixels)  # noqa: E731
    cuda = device.type == "cuda"
    works = {"norm": (norm, 4 * rows * width), "gelu": (gelu, 4 * rows * wide)}
    works["embed"] = (embed, pixels.numel() + 2 * rows * width)
    found = []
    for name, (work, moved) in works.items():
        for how in ("eager", "compiled") if cuda else ("eager",):
            run = torch.compile(work) if how == "compiled" else work
            ms = timed(run, device, **BRIEF)["median"]
            found.append({"name": f"{name}.{how}", "ms": ms, "tbps": round(moved / ms / 1e9, 3)})
    if cuda:
        fused = lambda: torch._addmm_activation(bias, x, up.t(), use_gelu=True)  # noqa: E731
        apart = lambda: F.gelu(F.linear(x, up, bias), approximate="tanh")  # noqa: E731
        difference = float((fused().float() - apart().float()).abs().max())
        entry = rate("enc.fc1.fused_gelu", fused, 2 * rows * width * wide, device)
        found.append(entry | {"max_difference": difference})
    host = pixels.cpu().pin_memory() if cuda else pixels
    ms = timed(lambda: host.to(device, non_blocking=True, copy=True), device, **BRIEF)["median"]
    gbps = round(pixels.numel() / ms / 1e6, 2)
    found.append({"name": "host_to_device", "ms": ms, "gbps": gbps})
    return found
