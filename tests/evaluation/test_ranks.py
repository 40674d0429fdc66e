"""Processes that share an evaluation."""

from datetime import timedelta

from smolvlm2.evaluation.ranks import Ranks, launched_ranks


def test_ranks_wait_for_one_that_has_hours_of_work_left(monkeypatch):
    import torch.distributed as dist

    found = {}
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(dist, "is_initialized", lambda: False)  # by a test before this one
    monkeypatch.setattr(dist, "init_process_group", lambda kind, **how: found.update(how))
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    assert launched_ranks() == Ranks(1, 2)
    assert found["timeout"] > timedelta(days=1)
