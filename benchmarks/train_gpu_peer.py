"""transformers' model at its best on the same samples and weights, and as its users train it."""

import contextlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from train_gpu_own import SEED, compilations
from train_gpu_shapes import GeneratedPack
from train_gpu_timing import LEAST, SECONDS, timed

from smolvlm2.model.config import SmolVLMConfig
from smolvlm2.model.hf_format import hf_name
from smolvlm2.model.smolvlm import SmolVLM

IGNORED = -100
VARIANTS = {
    "padded": {},
    "padded, checkpointing": {"checkpointing": True},
    "packed, flex": {"packed": True},
    "packed, flex, compiled": {"packed": True, "compile": True},
    "padded, autocast": {"autocast": True},
}
"""As users run it; the published way; one row with restarting positions; the same with every layer
compiled; the Trainer's default precision."""


def cast_weights(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Weights alone: with rotary frequencies in bf16 it would be another function than ours, and
    than what transformers itself makes of a checkpoint."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


@dataclass(kw_only=True)
class Peer:
    """transformers' model with our weights."""

    config: SmolVLMConfig
    frozen: bool
    device: torch.device
    packed: bool = False
    compile: bool = False
    autocast: bool = False
    checkpointing: bool = False
    model: Any = field(init=False)

    def __post_init__(self) -> None:
        from transformers import SmolVLMConfig as TheirConfig
        from transformers import SmolVLMForConditionalGeneration

        config = TheirConfig(**self.config.to_hf())
        config._attn_implementation = "sdpa"
        cuda = self.device.type == "cuda"
        dtype = torch.bfloat16 if cuda and not self.autocast else torch.float32
        with self.device:
            self.model = SmolVLMForConditionalGeneration(config)
        if self.packed and cuda:
            chosen = {"text_config": "flex_attention", "vision_config": "sdpa"}
            self.model.set_attn_implementation(chosen)
        self._copy_weights()
        cast_weights(self.model, dtype)
        self.model.train()
        if self.checkpointing:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
        if self.frozen:
            self.model.model.vision_model.requires_grad_(False)
        if self.compile:
            vision = self.model.model.vision_model.encoder.layers
            for layer in (*vision, *self.model.model.text_model.layers):
                layer.forward = torch.compile(layer.forward)

    def _copy_weights(self) -> None:
        ours = SmolVLM.from_random(self.config, seed=SEED, device=self.device)
        weights = {hf_name(name): p.detach() for name, p in ours.named_parameters()}
        self.model.load_state_dict(weights, strict=False)
        missing = {name for name, _ in self.model.named_parameters()} - weights.keys()
        if missing:
            raise RuntimeError(f"transformers has weights that we have not: {sorted(missing)[:4]}")

    def batches(self, pack: GeneratedPack) -> list[dict[str, Tensor]]:
        """The pack's samples as this variant is fed; pixels are on the device, normalised."""
        if self.packed:
            return [self._row(pack)]
        return [self._padded(pack)]

    def _pixels(self, tiles: np.ndarray) -> Tensor:
        dtype = next(self.model.parameters()).dtype
        return (torch.from_numpy(tiles).to(self.device).float() / 127.5 - 1).to(dtype)

    def _row(self, pack: GeneratedPack) -> dict[str, Tensor]:
        # Of constant length, as ours: for every new one flex attention would be compiled again.
        filler = len(pack.batch.input_ids) - int(pack.lengths.sum())
        ids = np.concatenate(
            [
                *(sample.input_ids for sample in pack.samples),
                np.full(filler, self.config.pad_token_id),
            ]
        )
        labels, starts = np.full_like(ids, IGNORED), np.cumsum([0, *pack.lengths])
        for sample, end in zip(pack.samples, starts[1:], strict=True):
            labels[end - sample.supervised : end] = ids[end - sample.supervised : end]
        pixels = np.concatenate([sample.pixel_values for sample in pack.samples])
        positions = np.concatenate([np.arange(length) for length in (*pack.lengths, filler)])
        arrays = {"input_ids": ids, "labels": labels, "position_ids": positions}
        row = {k: torch.from_numpy(v)[None].to(self.device) for k, v in arrays.items()}
        return row | {"pixel_values": self._pixels(pixels)[None]}

    def _padded(self, pack: GeneratedPack) -> dict[str, Tensor]:
        rows, length = len(pack.samples), int(pack.lengths.max())
        most = max(1, *(len(sample.pixel_values) for sample in pack.samples))
        ids = np.full((rows, length), self.config.pad_token_id, dtype=np.int64)
        labels, mask = np.full_like(ids, IGNORED), np.zeros_like(ids)
        side = self.config.vision.image_size
        pixels = torch.zeros(rows, most, 3, side, side, device=self.device)
        pixels = pixels.to(next(self.model.parameters()).dtype)
        for row, sample in enumerate(pack.samples):
            size, tiles = len(sample.input_ids), len(sample.pixel_values)
            ids[row, :size], mask[row, :size] = sample.input_ids, 1
            start = size - sample.supervised
            labels[row, start:size] = ids[row, start:size]
            if tiles:
                pixels[row, :tiles] = self._pixels(sample.pixel_values)
        arrays = {"input_ids": ids, "labels": labels, "attention_mask": mask}
        return {k: torch.from_numpy(v).to(self.device) for k, v in arrays.items()} | {
            "pixel_values": pixels
        }

    def passes(self, batches: list[dict[str, Tensor]], supervised: int) -> Tensor:
        """Forward and backward pass; the mean loss, on the device."""
        total = torch.zeros((), device=self.device)
        cast = (
            torch.autocast(self.device.type, dtype=torch.bfloat16)
            if self.autocast
            else contextlib.nullcontext()
        )
        for batch in batches:
            with cast:
                loss = self.model(**batch, num_items_in_batch=supervised, use_cache=False).loss
            loss.backward()
            total += loss.detach()
        return total

    def measure(
        self,
        packs: list[GeneratedPack],
        check: GeneratedPack,
        *,
        least: int = LEAST,
        seconds: float = SECONDS,
    ) -> dict[str, Any]:
        """Milliseconds a pack, memory, and the loss of the check's pack."""
        loss = float(self.passes(self.batches(check), check.supervised))
        self.model.zero_grad(set_to_none=True)
        fed = [(self.batches(pack), pack.supervised) for pack in packs]

        def step() -> None:
            for batches, supervised in fed:
                self.passes(batches, supervised)
            self.model.zero_grad(set_to_none=True)

        step()
        before, breaks = compilations()
        cuda = self.device.type == "cuda"
        if cuda:
            torch.cuda.reset_peak_memory_stats(self.device)
        # As many packs as of ours: a call goes through all of them.
        calls = -(-least // len(packs))
        ms = timed(step, self.device, warm_up=1, least=calls, seconds=seconds)
        for name in ("median", "p10", "p90"):
            ms[name] = round(ms[name] / len(packs), 4)
        found: dict[str, Any] = {"ms": ms, "loss": loss, "graph_breaks": breaks}
        found["recompiles"] = compilations()[0] - before
        if cuda:
            found["peak_gb"] = round(torch.cuda.max_memory_allocated(self.device) / 1e9, 2)
        return found
