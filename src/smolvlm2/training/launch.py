"""How this process was started, as the environment of its launcher tells.

``accelerate launch`` and ``torchrun`` start processes with RANK and WORLD_SIZE, ``srun`` with
SLURM_PROCID. Accelerate also exports its YAML (``FSDP_*``): it configures the run, whichever FSDP
version it was written for. No torch in this file.
"""

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from typing import Literal

from smolvlm2.errors import ConfigError

Sharding = Literal["full", "hybrid", "replicate"]

STRATEGIES: dict[str, tuple[Sharding, bool]] = {
    "FULL_SHARD": ("full", True),
    "SHARD_GRAD_OP": ("full", False),
    "NO_SHARD": ("replicate", False),
    "HYBRID_SHARD": ("hybrid", True),
    "HYBRID_SHARD_ZERO2": ("hybrid", False),
}
"""FSDP 1's strategies as what is sharded, and whether weights are freed after the forward pass."""
MEANINGFUL = (
    "FSDP_VERSION",
    "FSDP_SHARDING_STRATEGY",
    "FSDP_RESHARD_AFTER_FORWARD",
    "FSDP_OFFLOAD_PARAMS",
    "FSDP_ACTIVATION_CHECKPOINTING",
)
"""Keys of the launcher that configure a run; all other ``FSDP_*`` are listed and ignored."""


@dataclass(kw_only=True)
class ParallelSettings:
    """How the work is spread over processes; leaves the result of a run as it is."""

    sharding: Literal["auto", "full", "hybrid", "replicate"] = "auto"
    """``full``: weights, gradients and optimiser state over all ranks; ``hybrid``: inside groups
    of ``shard_size``; ``replicate``: whole on every rank; ``auto``: the first of replicate, hybrid,
    full that fits the memory. A launcher's YAML goes before a recipe's file."""
    shard_size: int | None = None
    """Ranks of a group of ``hybrid``; null: those of one machine."""
    reshard_after_forward: bool = True
    """Free gathered weights after the forward pass and gather them again for the backward pass."""
    offload: bool = False
    """Keep weights, gradients and optimiser state in CPU memory; CUDA only."""
    timeout_seconds: int = 1800
    """Longest wait for another rank, before the run stops and names it."""
    start_timeout_seconds: int = 600
    """Longest wait for all promised ranks at the start."""

    def __post_init__(self) -> None:
        if self.shard_size is not None and self.shard_size < 1:
            raise ConfigError(f"parallel.shard_size is {self.shard_size}, expected 1 or more")
        for name in ("timeout_seconds", "start_timeout_seconds"):
            if getattr(self, name) < 1:
                raise ConfigError(f"parallel.{name} is {getattr(self, name)}, expected at least 1")


@dataclass(kw_only=True, frozen=True)
class Launch:
    """One process among those that a launcher promised."""

    launcher: Literal["none", "torchrun", "slurm"] = "none"
    """Who started it; accelerate starts its processes as torchrun does."""
    rank: int = 0
    """Number of this process, from 0."""
    size: int = 1
    """Processes promised."""
    local_rank: int = 0
    """Number of this process on its machine."""
    local_size: int = 1
    """Processes on this machine."""
    address: str = "127.0.0.1"
    """Where the processes find each other."""
    port: int = 29500
    """Likewise."""
    agent_store: bool = False
    """Whether the launcher itself keeps the meeting point, instead of rank 0."""
    attempt: int = 0
    """Restarts by the launcher so far."""
    settings: dict[str, bool | int | str] = field(default_factory=dict)
    """What the launcher's YAML sets, by key of the recipe."""
    ignored: dict[str, str] = field(default_factory=dict)
    """Keys of the launcher without meaning here."""

    @property
    def leads(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0


def let_threads_sleep(environment: MutableMapping[str, str]) -> None:
    """Let a CPU's threads sleep while they wait for each other, where nobody has said otherwise.

    By default they spin. A step of the demo on two threads takes as long either way on an idle
    machine, and twice as long spinning as soon as something else runs on one of its cores (m). Call
    it before torch is loaded, which reads the variable once.
    """
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def stay_on_this_mac(launch: Launch, environment: MutableMapping[str, str], *, system: str) -> None:
    """Let gloo use the loopback on a Mac that holds all ranks, where nobody has said otherwise.

    Else it asks for the address of the machine's name. Many networks do not know a Mac's: the start
    waits and warns. Where they do, the firewall asks whether Python may be reached from outside.

    Args:
        launch: Says where the ranks are.
        environment: Usually ``os.environ``; torch reads it when groups are made.
        system: As ``sys.platform`` names it.
    """
    if system == "darwin" and launch.size == launch.local_size:
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo0")


def read_launch(environment: Mapping[str, str]) -> Launch:
    """Read what a launcher left in the environment.

    Args:
        environment: Usually ``os.environ``.

    Raises:
        ConfigError: The launcher started fewer processes than it was asked for, or asks for
            something that this package does not do.
    """
    settings, ignored = _accelerate_settings(environment)
    address = environment.get("MASTER_ADDR", "127.0.0.1")
    common = Launch(address=address, settings=settings, ignored=ignored)
    if "RANK" in environment and "WORLD_SIZE" in environment:
        size = _number(environment, "WORLD_SIZE")
        return replace(
            common,
            launcher="torchrun",
            rank=_number(environment, "RANK"),
            size=size,
            local_rank=_number(environment, "LOCAL_RANK", "0"),
            local_size=_number(environment, "LOCAL_WORLD_SIZE", str(size)),
            port=_number(environment, "MASTER_PORT", "29500"),
            agent_store=environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
            attempt=_number(environment, "TORCHELASTIC_RESTART_COUNT", "0"),
        )
    # Set in a step that srun started, not in the batch script around it.
    if "SLURM_PROCID" in environment and "SLURM_STEP_NUM_TASKS" in environment:
        return _slurm(environment, common)
    if "MASTER_ADDR" in environment and "ACCELERATE_MIXED_PRECISION" in environment:
        raise ConfigError(
            "accelerate started 1 process, but its configuration asks for several "
            "(num_processes); set distributed_type: FSDP, as configs/accelerate_config.yaml has it"
        )
    return common


def _slurm(environment: Mapping[str, str], common: Launch) -> Launch:
    size = _number(environment, "SLURM_STEP_NUM_TASKS")
    nodes = _number(environment, "SLURM_STEP_NUM_NODES", "1")
    if nodes > 1 and "MASTER_ADDR" not in environment:
        raise ConfigError(
            f"srun started {size} processes on {nodes} nodes, but MASTER_ADDR does not say where "
            f"they meet; export the first node's name, as scripts/slurm/train_nodes.sbatch does"
        )
    # Two jobs on one node must not meet each other.
    default = 20000 + _number(environment, "SLURM_JOB_ID", "0") % 12000
    return replace(
        common,
        launcher="slurm",
        rank=_number(environment, "SLURM_PROCID"),
        size=size,
        local_rank=_number(environment, "SLURM_LOCALID", "0"),
        local_size=_local_tasks(environment.get("SLURM_STEP_TASKS_PER_NODE", str(size)), size),
        port=_number(environment, "MASTER_PORT", str(default)),
    )


def _local_tasks(text: str, size: int) -> int:
    """Tasks a node from Slurm's ``8(x4)``; an uneven list counts as its first node."""
    head = text.split(",")[0].split("(")[0]
    return int(head) if head.isdigit() else size


def _accelerate_settings(
    environment: Mapping[str, str],
) -> tuple[dict[str, bool | int | str], dict[str, str]]:
    """What ``accelerate launch`` exported: settings by key of the recipe, and what is left."""
    if environment.get("ACCELERATE_USE_DEEPSPEED") == "true":
        raise ConfigError(
            "accelerate was configured for DeepSpeed; this package shards with FSDP: use "
            "configs/accelerate_config.yaml"
        )
    if environment.get("ACCELERATE_USE_FSDP") != "true":
        return {}, {}
    settings: dict[str, bool | int | str] = {}
    strategy = environment.get("FSDP_SHARDING_STRATEGY", "FULL_SHARD")
    names = list(STRATEGIES)
    if strategy.isdigit() and 1 <= int(strategy) <= len(names):
        strategy = names[int(strategy) - 1]
    second = environment.get("FSDP_VERSION") == "2"
    reshard = environment.get("FSDP_RESHARD_AFTER_FORWARD", "true")
    if reshard in STRATEGIES:
        strategy = reshard
    if strategy not in STRATEGIES:
        raise ConfigError(
            f"accelerate: fsdp_sharding_strategy is {strategy}, expected one of {', '.join(names)}"
        )
    if second and reshard in ("true", "false"):
        settings["parallel.sharding"] = "full"
        settings["parallel.reshard_after_forward"] = reshard == "true"
    else:
        settings["parallel.sharding"], freed = STRATEGIES[strategy]
        settings["parallel.reshard_after_forward"] = freed
    settings |= _mesh_settings(environment)
    settings["parallel.offload"] = environment.get("FSDP_OFFLOAD_PARAMS") == "true"
    if environment.get("FSDP_ACTIVATION_CHECKPOINTING") == "true":
        settings["training.gradient_checkpointing"] = True
    precision = environment.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision not in ("no", "bf16"):
        raise ConfigError(
            f"accelerate: mixed_precision is {precision}, expected bf16 or 'no': fp32 weights with "
            f"{precision} products are not implemented"
        )
    settings["training.bf16"] = precision == "bf16"
    ignored = {
        key.lower(): value
        for key, value in sorted(environment.items())
        if key.startswith("FSDP_") and key not in MEANINGFUL
    }
    # Blocks are always the unit of sharding: this is what the policy asks for.
    if ignored.get("fsdp_auto_wrap_policy") == "TRANSFORMER_BASED_WRAP":
        del ignored["fsdp_auto_wrap_policy"]
    if environment.get("ACCELERATE_DYNAMO_BACKEND", "NO").upper() != "NO":
        ignored["dynamo_backend"] = environment["ACCELERATE_DYNAMO_BACKEND"]
    return settings, ignored


def _mesh_settings(environment: Mapping[str, str]) -> dict[str, bool | int | str]:
    """Accelerate's ``parallelism_config`` (FSDP 2): sizes of the mesh."""
    prefix = "PARALLELISM_CONFIG_"
    for name in ("TP", "CP", "SP"):
        if _number(environment, f"{prefix}{name}_SIZE", "1") > 1:
            raise ConfigError(
                f"accelerate: parallelism_config_{name.lower()}_size is above 1; models of this "
                f"size need data parallelism only, set it to 1"
            )
    if _number(environment, f"{prefix}DP_REPLICATE_SIZE", "1") == 1:
        return {}
    shard = _number(environment, f"{prefix}DP_SHARD_SIZE", "1")
    if shard == 1:
        return {"parallel.sharding": "replicate"}
    return {"parallel.sharding": "hybrid", "parallel.shard_size": shard}


def _number(environment: Mapping[str, str], key: str, default: str | None = None) -> int:
    text = environment.get(key, default)
    try:
        return int(str(text))
    except ValueError:
        raise ConfigError(f"environment: {key} is {text!r}, expected a whole number") from None
