"""The processes of one run: how they find each other, and what they tell each other.

Tensors of the model travel over NCCL (CUDA) or gloo (CPU); words between ranks always over gloo.
A single process is a world of one, and goes through the same code.
"""

import contextlib
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist

from smolvlm2.errors import ConfigError, SmolVLMError, TrainingError
from smolvlm2.training.launch import Launch, stay_on_this_mac

logger = logging.getLogger(__name__)

T = TypeVar("T")

ROLL_CALL_SECONDS = 10.0
"""After a failed exchange: how long the ranks that are left wait for each other's sign of life."""
HOOK_SECONDS = 7 * 86400.0
"""Longest wait for work between steps whose length nobody knows, such as an evaluation."""

_world: "World | None" = None


class World:
    """All ranks of a run, seen from one of them. Made by `connect`.

    Args:
        launch: Rank and number of ranks.
        device: Of this rank.
        store: Keys and values that all ranks see.
        timeout: Longest wait for another rank, seconds.
    """

    def __init__(
        self, launch: Launch, device: torch.device, store: dist.Store, *, timeout: float
    ) -> None:
        self.rank, self.size = launch.rank, launch.size
        self.local_size = launch.local_size
        self.device = device
        self.timeout = timeout
        self._store = store
        self._meetings = 0
        wait = timedelta(seconds=timeout)
        # Both: with offloaded weights, norms and exports are reduced from CPU memory.
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(
            backend,
            store=dist.PrefixStore("default", store),
            rank=self.rank,
            world_size=self.size,
            timeout=wait,
            device_id=device if device.type == "cuda" else None,
        )
        self.control = dist.new_group(backend="gloo", timeout=wait)
        # Of its own: a checkpoint written in the background exchanges words while a step does.
        self.saving = dist.new_group(backend="gloo", timeout=wait)

    @property
    def device_name(self) -> str:
        """What the device calls itself."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return self.device.type

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which writes the run's files and speaks to the user."""
        return self.rank == 0

    def gather(self, value: T, *, at: str) -> list[T]:
        """Every rank's ``value``, by rank, on every rank.

        Args:
            value: Of this rank; anything that pickles.
            at: Where in the run, for the message when a rank does not come.

        Raises:
            TrainingError: A rank did not arrive; names it.
        """
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        try:
            dist.all_gather_object(values, value, group=self.control)
        except RuntimeError as error:
            self.name_the_missing(at, error)
        return values

    def lead(self, work: Callable[[], T], *, at: str) -> T:
        """What ``work`` gives on rank 0, on every rank; an error meant for users reaches all.

        So does a file that cannot be read or written: the others would wait for rank 0 else.
        """
        outcome: list[Any] = [None, None]
        if self.leads:
            try:
                outcome[0] = work()
            except SmolVLMError as error:
                outcome[1] = error
            except OSError as error:
                where, why = error.filename or "a file", error.strerror or error
                outcome[1] = TrainingError(
                    f"{at}: {where}: {why}; free space, or give access, and start again"
                )
        if self.size > 1:
            try:
                dist.broadcast_object_list(outcome, src=0, group=self.control)
            except RuntimeError as error:
                self.name_the_missing(at, error)
        if outcome[1] is not None:
            raise shared(outcome[1])
        return outcome[0]

    def together(self, work: Callable[[], T], *, at: str) -> T:
        """Do ``work`` on every rank; if it fails with an error meant for users, all raise it."""
        result, failure = None, None
        try:
            result = work()
        except SmolVLMError as error:
            failure = error
        self.agree(failure, at=at)
        return result  # type: ignore[return-value]

    def agree(self, failure: SmolVLMError | None, *, at: str) -> None:
        """Raise the first rank's failure on all ranks, or on none."""
        for each in self.gather(failure, at=at):
            if each is not None:
                raise shared(each)

    def gather_late(self, value: T, *, at: str) -> list[T]:
        """`gather` after work of which one rank may have far more than another, in patience.

        Raises:
            TrainingError: A rank did not come back within `HOOK_SECONDS`.
        """
        self._meetings += 1
        keys = [f"late/{self._meetings}/{rank}" for rank in range(self.size)]
        self._store.set(keys[self.rank], "here")
        try:
            self._store.wait(keys, timedelta(seconds=HOOK_SECONDS))
        except RuntimeError as error:
            raise TrainingError(f"{at}: a rank did not come back ({error})") from error
        return self.gather(value, at=at)

    @contextmanager
    def watch(self, at: str) -> Iterator[None]:
        """Around computing and the exchanges that torch makes by itself.

        Raises:
            TrainingError: A rank was lost, named like in `gather`; or the device's memory was not
                enough.
        """
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise TrainingError(
                f"{at}: not enough memory on {self.device_name} ({str(error).splitlines()[0]}). In "
                f"this order: training.activation_checkpointing=auto (or all), "
                f"encoder.tile_chunk=16, parallel.sharding=full, or a smaller --batch-size with "
                f"--replan; `smolvlm2 estimate` and --dry-run=step tell what fits"
            ) from error
        except RuntimeError as error:
            # Gloo's complaints about a peer have no type of their own.
            lost = isinstance(error, dist.DistError) or "gloo" in str(error)
            if self.size == 1 or not lost:
                raise
            self.name_the_missing(at, error)

    def name_the_missing(self, at: str, error: Exception) -> NoReturn:
        """Say which ranks gave no sign of life after an exchange failed.

        Raises:
            TrainingError: Always.
        """
        missing = self._roll_call()
        names = ", ".join(map(str, missing))
        who = f"rank{'s' if missing[1:] else ''} {names} of {self.size}" if missing else "a rank"
        raise TrainingError(
            f"{at}: {who} did not arrive within {self.timeout:g} s, or ended; look at the end of "
            f"its output. The run goes on from its last checkpoint when it is started again"
        ) from error

    def _roll_call(self) -> list[int]:
        """Ranks that do not answer in time."""
        left: list[int] | None = None
        end = time.monotonic() + ROLL_CALL_SECONDS
        try:
            self._store.set(f"roll call/{self.rank}", "here")
            while left is None or (left and time.monotonic() < end):
                asked = range(self.size) if left is None else left
                left = [rank for rank in asked if not self._store.check([f"roll call/{rank}"])]
                time.sleep(0.05)
        except RuntimeError:
            # The meeting point went with rank 0: ended before us, or after it had answered.
            return [0] if left is None else left
        return left

    def close(self) -> None:
        """Leave; the process can connect again."""
        global _world
        dist.destroy_process_group()
        _world = None


def shared(error: SmolVLMError) -> SmolVLMError:
    """Mark an error that all ranks raise: only rank 0 prints it."""
    error.shared = True
    return error


def connect(
    launch: Launch,
    device: str | None = None,
    *,
    timeout: float = 1800.0,
    start_timeout: float = 600.0,
) -> World:
    """Find the other ranks.

    A process that is connected to the same device stays so: one run after another share a world.

    Args:
        launch: From `launch.read_launch`.
        device: ``cpu``, ``cuda``, ``mps``; None: CUDA where there is one, else the CPU.
        timeout: Longest wait for another rank, seconds.
        start_timeout: Longest wait for all promised ranks at the start, seconds.

    Raises:
        ConfigError: Fewer ranks or devices than promised; names both numbers.
    """
    global _world
    chosen = choose_device(launch, device)
    if _world is not None:
        if _world.device == chosen and _world.size == launch.size:
            return _world
        _world.close()
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    stay_on_this_mac(launch, os.environ, system=sys.platform)
    store = _open_store(launch, start_timeout)
    _count_ranks(launch, store, start_timeout, _identity(chosen))
    _world = World(launch, chosen, store, timeout=timeout)
    return _world


def choose_device(launch: Launch, name: str | None = None) -> torch.device:
    """The device of this rank: the named kind, else CUDA where there is one, else the CPU.

    Raises:
        ConfigError: No such device, more processes on this machine than GPUs, or several on one.
    """
    kind = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(kind)
    except RuntimeError as error:
        raise ConfigError(f"--device {kind}: unknown; expected cuda, cpu or mps") from error
    here = torch.cuda.device_count()
    if device.type == "cuda" and not here:
        raise ConfigError(f"--device {kind}: no GPU is visible here; leave it out, or give cpu")
    if device.type == "cuda" and device.index is None:
        if here == 1 and launch.launcher == "slurm":
            return torch.device("cuda", 0)  # its own, with --gpus-per-task=1; connect looks
        if launch.local_size > here:
            raise ConfigError(
                f"{launch.local_size} processes were started on this machine, but it has {here} "
                f"GPU{'s' if here != 1 else ''}; start {here} (--num_processes {here})"
            )
        return torch.device("cuda", launch.local_rank)
    if device.type == "cuda" and device.index >= here:
        raise ConfigError(f"--device {kind}: the GPUs here are cuda:0 to cuda:{here - 1}")
    if device.type == "cuda" and launch.local_size > 1:
        raise ConfigError(
            f"--device {kind}: one GPU for {launch.local_size} processes; give cuda, and each "
            f"takes one of its own"
        )
    if device.type not in ("cpu", "cuda") and launch.size > 1:
        raise ConfigError(f"--device {kind}: trains in one process, but {launch.size} were started")
    return device


def _open_store(launch: Launch, seconds: float) -> dist.Store:
    if launch.size == 1:
        return dist.HashStore()
    try:
        store = dist.TCPStore(
            launch.address,
            launch.port,
            is_master=launch.leads and not launch.agent_store,
            wait_for_workers=False,
            multi_tenant=True,
            timeout=timedelta(seconds=seconds),
        )
    except RuntimeError as error:
        raise ConfigError(
            f"rank {launch.rank} of {launch.size}: nobody answers at {launch.address}:"
            f"{launch.port}, where rank 0 should be; was it started, and is the port open?"
        ) from error
    return dist.PrefixStore(f"smolvlm2/{launch.attempt}", store)


def _identity(device: torch.device) -> str:
    """Which GPU of all machines a device is, whatever number it has here; "" for others."""
    if device.type != "cuda":
        return ""
    return f"{socket.gethostname()} {torch.cuda.get_device_properties(device).uuid}"


def _count_ranks(launch: Launch, store: dist.Store, seconds: float, identity: str = "") -> None:
    """Wait until all promised ranks are there, each with a GPU of its own, or none with one."""
    end = time.monotonic() + seconds
    store.set(f"start/{launch.rank}", f"here {identity}")
    missing = list(range(launch.size))
    while missing := [rank for rank in missing if not store.check([f"start/{rank}"])]:
        if time.monotonic() > end:
            raise ConfigError(
                f"{launch.size} ranks were promised, but {launch.size - len(missing)} arrived "
                f"within {seconds:g} s; missing: {', '.join(map(str, missing))}. Start all of "
                f"them, or promise fewer (--num_processes, --num_machines)"
            )
        time.sleep(0.05)
    gpus = [store.get(f"start/{r}").decode().removeprefix("here ") for r in range(launch.size)]
    problem = _problem_of(gpus)
    if problem is None:
        return
    store.set(f"told/{launch.rank}", "")
    if launch.leads:  # the store ends with this process: let the others look, too
        with contextlib.suppress(RuntimeError):
            store.wait([f"told/{r}" for r in range(launch.size)], timedelta(seconds=10))
    raise ConfigError(problem)


def _problem_of(gpus: list[str]) -> str | None:
    """What is wrong with the GPUs of all ranks, "" for none: they would wait for each other."""
    without = [str(rank) for rank, gpu in enumerate(gpus) if not gpu]
    if without and any(gpus):
        return (
            f"rank{'s' if without[1:] else ''} {', '.join(without)} of {len(gpus)} would train on "
            f"the CPU, the others on GPUs; look at nvidia-smi on their machines, or give --device "
            f"cpu to all"
        )
    takers: dict[str, int] = {}
    for rank, gpu in enumerate(gpus):
        if gpu and takers.setdefault(gpu, rank) != rank:  # which NCCL does not allow
            host, number = gpu.split()
            return (
                f"ranks {takers[gpu]} and {rank} have the same GPU, {number} of {host}; give each "
                f"one of its own (--gpus-per-task=1), or start as many as there are GPUs"
            )
    return None
