"""Which packs a rank gets."""

import pytest

from smolvlm2.plan.plan import Position
from smolvlm2.training.rank_share import RankShare


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_every_pack_goes_to_one_rank_and_all_have_equally_many(make_trainer, tmp_path, ranks):
    settings = ("training.gradient_accumulation_steps=4",)
    plan = make_trainer(tmp_path / "run", *settings).plan
    start = Position()
    expected, following = plan.step(start)
    seen, counts = {}, set()
    for rank in range(ranks):
        with RankShare(plan, rank=rank, ranks=ranks) as share:
            packs, after = share.step(start)
            numbers = share.numbers(start)
        assert after == following
        assert len(packs) == len(numbers) == share.packs_per_step
        counts.add(len(packs))
        for number, pack in zip(numbers, packs, strict=True):
            if number is None:
                assert (len(pack.samples), pack.tokens, pack.tiles) == (0, 0, 0)
            else:
                assert number not in seen
                seen[number] = pack
    assert counts == {-(-len(expected) // ranks)}
    assert [seen[number].tokens for number in sorted(seen)] == [pack.tokens for pack in expected]


def test_a_blank_pack_is_read_as_one_without_samples(make_trainer, tmp_path):
    trainer = make_trainer(tmp_path / "run")
    packs = trainer.plan.packs_per_step
    with RankShare(trainer.plan, rank=packs, ranks=packs + 1) as share:
        (blank,), _ = share.step(Position())
        assert share.numbers(Position()) == [None]
    batch, skips = trainer.reader.read(blank)
    assert (batch.sample_ids, batch.tokens, batch.tiles, skips) == ([], 0, 0, [])
    assert batch.loss_weights.sum() == 0
    assert len(batch.trimmed().pixel_values) == 1  # the encoder stays on the gradient's path
