"""Which device a rank takes, and what is refused before any rank waits for another."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from smolvlm2.errors import ConfigError
from smolvlm2.training.distributed import _count_ranks, choose_device
from smolvlm2.training.launch import Launch


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match="8 processes were started on this machine, but it has 1"):
        choose_device(Launch(size=8, local_size=8), "cuda")
    with pytest.raises(ConfigError, match="--device mps: trains in one process, but 2"):
        choose_device(Launch(size=2, local_size=2), "mps")


def test_a_batch_system_may_show_each_process_its_own_gpu_alone(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    launch = Launch(launcher="slurm", size=8, local_size=4, local_rank=3)
    assert choose_device(launch, "cuda") == torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("gpus", "expected"),
    [
        (("a GPU-1", "a GPU-2", "b GPU-1"), None),
        (("", "", ""), None),  # no GPUs
        (
            ("a GPU-1", "a GPU-2", "a GPU-2"),
            "ranks 1 and 2 have the same GPU, GPU-2 of a; give each one of its own",
        ),
        (("a GPU-1", "", ""), "ranks 1, 2 of 3 would train on the CPU, the others on GPUs"),
        (("a GPU-1", "", "a GPU-2"), "rank 1 of 3 would train on the CPU, the others on GPUs"),
    ],
)
def test_ranks_whose_gpus_do_not_go_together_are_refused_by_all(gpus, expected):
    store = torch.distributed.HashStore()

    def start(rank: int) -> str:
        try:
            _count_ranks(Launch(rank=rank, size=3), store, 20, gpus[rank])
        except ConfigError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(3) as pool:
        told = list(pool.map(start, range(3)))
    assert all(expected in text if expected else not text for text in told), told


def test_a_gpu_of_a_number_is_one_that_is_here_and_not_shared(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device(Launch(), "cuda:1") == torch.device("cuda", 1)
    with pytest.raises(ConfigError, match="--device cuda:2: the GPUs here are cuda:0 to cuda:1"):
        choose_device(Launch(), "cuda:2")
    with pytest.raises(ConfigError, match="--device cuda:0: one GPU for 2 processes; give cuda"):
        choose_device(Launch(size=2, local_size=2), "cuda:0")


def test_a_device_that_is_not_here_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ConfigError, match="--device cuda: no GPU is visible here; leave it out"):
        choose_device(Launch(), "cuda")
    with pytest.raises(ConfigError, match="--device gpu: unknown; expected cuda, cpu or mps"):
        choose_device(Launch(), "gpu")
