"""One rank of the no-hang matrix: ``matrix_worker.py LAYOUT``, under a launcher's environment.

Every assignment of {0, 1, k} images to the ranks, with the encoder frozen, then trained, then
frozen again: no exchange may hang, and loss, norm and gradients must equal one process's.
"""

import itertools
import os
import sys

import numpy as np
import pytest
import torch

from smolvlm2.errors import ConfigError
from smolvlm2.loading.micro_batch import PackBuffers, PackSample, PackShape, assemble
from smolvlm2.loading.step_batch import StepBatch
from smolvlm2.model.config import SmolVLMConfig, TextConfig, VisionConfig
from smolvlm2.model.smolvlm import SmolVLM
from smolvlm2.plan.packs import Capacity
from smolvlm2.plan.plan import Position
from smolvlm2.processing.processor import ProcessedSample
from smolvlm2.training.distributed import connect
from smolvlm2.training.freezing import apply_freezing
from smolvlm2.training.launch import ParallelSettings, read_launch
from smolvlm2.training.memory import MemoryEstimate
from smolvlm2.training.optimizer import OptimizerSettings
from smolvlm2.training.pack_copies import INPUTS
from smolvlm2.training.parallelize import choose_layout, gather_weights, parallelize
from smolvlm2.training.recipe import TrainingSettings
from smolvlm2.training.update import Updater

IMAGE, CAPACITY = 60, Capacity(tokens=24, tiles=3, documents=2)
FROZEN, NOTHING = frozenset({"vision_encoder"}), frozenset()


def tiny_model(*, tied: bool) -> SmolVLM:
    vision = VisionConfig(
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
    )
    text = TextConfig(
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=4,
        vocab_size=64,
    )
    config = SmolVLMConfig(
        vision=vision, text=text, scale_factor=2, image_token_id=IMAGE, tie_word_embeddings=tied
    )
    return SmolVLM.from_random(config, seed=0)


def make_pack(images: int | None):
    """A pack with so many images; None: a blank one."""
    samples = []
    if images is not None:
        generator = np.random.default_rng(images)
        ids = np.array([1, *[IMAGE] * images, *generator.integers(2, 50, 5 + 2 * images)], np.int32)
        tiles = generator.integers(0, 255, (images, 3, 16, 16), dtype=np.uint8)
        sample = ProcessedSample(
            input_ids=ids, supervised=np.arange(len(ids)) > 1 + images, tiles=tiles
        )
        samples = [
            PackSample(
                sample_id=str(images), sample=sample, tokens=len(ids), tiles=images, modality=0
            )
        ]
    buffers = PackBuffers.allocate(PackShape(capacity=CAPACITY, tile_size=16, tokens_per_tile=1))
    facts = assemble(samples, buffers, image_token_id=IMAGE, pad_token_id=0, loss_weight="token")
    return facts.batch(buffers)


def one_process(model, pack, frozen, mesh):
    """Loss sum in one process, its whole gradient, and this rank's part of it, as flat vectors."""
    apply_freezing(model, frozen)
    model.zero_grad()
    pack = pack.trimmed()
    inputs = {name: torch.from_numpy(getattr(pack, name)) for name in INPUTS}
    loss = model(**inputs, max_length=CAPACITY.tokens).loss_sum
    loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    whole = torch.cat([gradient.flatten() for gradient in gradients])
    mine = torch.cat([my_part(gradient, mesh).flatten() for gradient in gradients])
    return loss.item(), whole, mine


def my_part(tensor, mesh):
    """This rank's rows of a whole tensor."""
    shards, rank = mesh["shard"].size(), mesh["shard"].get_local_rank()
    parts = torch.chunk(tensor, shards)
    return parts[rank] if rank < len(parts) else tensor[:0]


def check(updater, packs, reference, assignment, rounds, rank, frozen):
    """One step; packs of rank r are ``assignment[r]`` in the first round, then blank ones."""
    what = f"{assignment}, {rounds} rounds, frozen: {sorted(frozen)}"
    divisor = sum(float(packs[images].loss_weights.sum()) for images in assignment)
    batch = StepBatch(
        packs=[packs[assignment[rank]], *[packs[None]] * (rounds - 1)], position=Position()
    )
    apply_freezing(updater.model, frozen)
    numbers = [rank, *[None] * (rounds - 1)]
    loss, norm = updater.gradients(batch, numbers, divisor, at=what)
    losses, wholes, mine = zip(*(reference[i, frozen] for i in assignment), strict=True)
    np.testing.assert_allclose(loss.losses, losses, rtol=1e-5, err_msg=what)
    np.testing.assert_allclose(norm, float(sum(wholes).norm()) / divisor, rtol=1e-5, err_msg=what)
    gradient = [shard.grad.flatten() for shard in updater.shards.values() if shard.grad is not None]
    torch.testing.assert_close(
        torch.cat(gradient),
        sum(mine) / divisor,
        rtol=1e-5,
        atol=1e-5,
        msg=lambda text: f"{what}: {text}",
    )
    updater.discard()


def fail_on_the_last(world):
    if world.rank == world.size - 1:
        raise ConfigError(f"rank {world.rank}")


def main(name: str) -> None:
    torch.set_num_threads(1)
    launch = read_launch(os.environ)
    world = connect(launch, "cpu", timeout=60)
    packs = {images: make_pack(images) for images in (None, 0, 1, 3)}
    tied = name == "full"
    model = tiny_model(tied=tied)
    settings = ParallelSettings(sharding=name, shard_size=2)
    layout = choose_layout(
        settings,
        ranks=world.size,
        ranks_a_machine=world.size,
        memory=None,
        estimate=MemoryEstimate(states=0, activations=0),
    )
    mesh = parallelize(
        model, world, TrainingSettings(gradient_checkpointing=world.size == 2), settings, layout
    )
    whole = tiny_model(tied=tied)
    reference = {
        (images, frozen): one_process(whole, packs[images], frozen, mesh)
        for images in (0, 1, 3)
        for frozen in (FROZEN, NOTHING)
    }
    updater = Updater(
        model=model,
        mesh=mesh,
        world=world,
        settings=OptimizerSettings(max_grad_norm=1e9),
        max_length=CAPACITY.tokens,
    )
    steps = 0
    for assignment in itertools.product((0, 1, 3), repeat=world.size):
        for frozen in (FROZEN, NOTHING):
            rounds = 2 if steps % 5 == 0 else 1
            check(updater, packs, reference, assignment, rounds, world.rank, frozen)
            steps += 1
    weights = gather_weights(updater.model, world)
    assert (weights is not None) is world.leads
    for key, value in whole.named_parameters():
        assert weights is None or torch.equal(weights[key], value), key
    assert world.gather_late(world.rank, at="end") == list(range(world.size))
    with pytest.raises(ConfigError, match=f"rank {world.size - 1}"):
        world.together(lambda: fail_on_the_last(world), at="end")
    print(f"{layout}: {steps} steps")
    world.close()


if __name__ == "__main__":
    main(sys.argv[1])
