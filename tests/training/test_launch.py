"""What a launcher's environment means."""

from pathlib import Path

import pytest
import yaml

from smolvlm2.errors import ConfigError
from smolvlm2.training.command_line import parse_arguments, read_recipe
from smolvlm2.training.launch import (
    Launch,
    ParallelSettings,
    let_threads_sleep,
    read_launch,
    stay_on_this_mac,
)

REPO = Path(__file__).parents[2]
TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "node1",
    "MASTER_PORT": "1234",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
}
ACCELERATE = {
    "ACCELERATE_USE_FSDP": "true",
    "ACCELERATE_MIXED_PRECISION": "bf16",
    "FSDP_VERSION": "1",
    "FSDP_SHARDING_STRATEGY": "FULL_SHARD",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_OFFLOAD_PARAMS": "false",
}
SLURM = {
    "SLURM_PROCID": "9",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NUM_TASKS": "16",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_TASKS_PER_NODE": "8(x2)",
    "SLURM_JOB_ID": "41",
    "MASTER_ADDR": "node1",
}


def test_waiting_threads_sleep_unless_somebody_wants_them_to_spin():
    silent, spinning = {}, {"OMP_WAIT_POLICY": "ACTIVE"}
    for environment in (silent, spinning):
        let_threads_sleep(environment)
    assert silent == {"OMP_WAIT_POLICY": "PASSIVE"}
    assert spinning == {"OMP_WAIT_POLICY": "ACTIVE"}


@pytest.mark.parametrize(
    ("launch", "system", "before", "after"),
    [
        (Launch(), "darwin", {}, {"GLOO_SOCKET_IFNAME": "lo0"}),
        (Launch(size=2, local_size=2), "darwin", {}, {"GLOO_SOCKET_IFNAME": "lo0"}),
        (Launch(), "darwin", {"GLOO_SOCKET_IFNAME": "en0"}, {"GLOO_SOCKET_IFNAME": "en0"}),
        (Launch(size=2), "darwin", {}, {}),
        (Launch(), "linux", {}, {}),
    ],
)
def test_a_mac_with_all_ranks_asks_no_network(launch, system, before, after):
    stay_on_this_mac(launch, before, system=system)
    assert before == after


def test_without_a_launcher_there_is_one_process():
    launch = read_launch({"PATH": "/bin"})
    assert (launch.launcher, launch.rank, launch.size, launch.settings) == ("none", 0, 1, {})


def test_torchrun_is_read():
    launch = read_launch(TORCHRUN)
    assert (launch.launcher, launch.rank, launch.size) == ("torchrun", 5, 8)
    assert (launch.local_rank, launch.local_size) == (1, 4)
    assert (launch.address, launch.port, launch.agent_store) == ("node1", 1234, True)
    assert not launch.leads


def test_srun_is_read_and_a_batch_script_is_not():
    launch = read_launch(SLURM)
    assert (launch.launcher, launch.rank, launch.size) == ("slurm", 9, 16)
    assert (launch.local_rank, launch.local_size, launch.port) == (1, 8, 20041)
    batch = {"SLURM_PROCID": "0", "SLURM_NTASKS": "16", "SLURM_JOB_ID": "41"}
    assert read_launch(batch).size == 1


def test_nodes_without_a_meeting_point_are_refused():
    lost = {key: value for key, value in SLURM.items() if key != "MASTER_ADDR"}
    with pytest.raises(ConfigError, match="16 processes on 2 nodes, but MASTER_ADDR"):
        read_launch(lost)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, ("full", True)),
        ({"FSDP_SHARDING_STRATEGY": "2"}, ("full", False)),
        ({"FSDP_SHARDING_STRATEGY": "NO_SHARD"}, ("replicate", False)),
        ({"FSDP_SHARDING_STRATEGY": "HYBRID_SHARD"}, ("hybrid", True)),
        ({"FSDP_RESHARD_AFTER_FORWARD": "HYBRID_SHARD_ZERO2"}, ("hybrid", False)),
        ({"FSDP_VERSION": "2", "FSDP_RESHARD_AFTER_FORWARD": "false"}, ("full", False)),
        ({"FSDP_VERSION": "2", "FSDP_SHARDING_STRATEGY": "NO_SHARD"}, ("full", True)),
    ],
)
def test_both_versions_of_fsdp_are_read(keys, expected):
    settings = read_launch(ACCELERATE | keys).settings
    found = settings["parallel.sharding"], settings["parallel.reshard_after_forward"]
    assert found == expected
    assert settings["training.bf16"] is True
    assert settings["parallel.offload"] is False


def test_the_mesh_of_fsdp_2_is_read():
    keys = {"FSDP_VERSION": "2", "PARALLELISM_CONFIG_DP_REPLICATE_SIZE": "2"}
    assert read_launch(ACCELERATE | keys).settings["parallel.sharding"] == "replicate"
    settings = read_launch(ACCELERATE | keys | {"PARALLELISM_CONFIG_DP_SHARD_SIZE": "4"}).settings
    assert (settings["parallel.sharding"], settings["parallel.shard_size"]) == ("hybrid", 4)


def test_offload_recomputation_and_precision_are_read():
    keys = {
        "FSDP_OFFLOAD_PARAMS": "true",
        "FSDP_ACTIVATION_CHECKPOINTING": "true",
        "ACCELERATE_MIXED_PRECISION": "no",
    }
    settings = read_launch(ACCELERATE | keys).settings
    assert settings["parallel.offload"] is True
    assert settings["training.gradient_checkpointing"] is True
    assert settings["training.bf16"] is False


def test_keys_without_meaning_are_listed_and_the_wrap_policy_is_not():
    keys = {"FSDP_USE_ORIG_PARAMS": "true", "ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}
    ignored = read_launch(ACCELERATE | keys).ignored
    assert ignored == {"fsdp_use_orig_params": "true", "dynamo_backend": "INDUCTOR"}
    sized = read_launch(ACCELERATE | {"FSDP_AUTO_WRAP_POLICY": "SIZE_BASED_WRAP"}).ignored
    assert sized == {"fsdp_auto_wrap_policy": "SIZE_BASED_WRAP"}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"FSDP_SHARDING_STRATEGY": "SOME"}, "fsdp_sharding_strategy is SOME, expected one of"),
        ({"ACCELERATE_MIXED_PRECISION": "fp16"}, "mixed_precision is fp16, expected bf16 or 'no'"),
        ({"PARALLELISM_CONFIG_TP_SIZE": "2"}, "parallelism_config_tp_size is above 1"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "configured for DeepSpeed"),
        ({"RANK": "one", "WORLD_SIZE": "2"}, "RANK is 'one', expected a whole number"),
    ],
)
def test_what_cannot_be_done_is_refused(keys, message):
    with pytest.raises(ConfigError, match=message):
        read_launch(ACCELERATE | keys)


def test_processes_that_accelerate_did_not_start_are_missed():
    alone = {"MASTER_ADDR": "127.0.0.1", "ACCELERATE_MIXED_PRECISION": "no"}
    with pytest.raises(ConfigError, match=r"accelerate started 1 process, but .* several"):
        read_launch(alone)


def test_the_launcher_goes_before_the_recipe_and_behind_the_command_line():
    launcher = {"parallel.sharding": "full", "training.bf16": False}
    recipe = read_recipe("vision", parse_arguments("vision", []), launcher)
    assert (recipe.parallel.sharding, recipe.training.bf16) == ("full", False)
    arguments = ["parallel.sharding=hybrid", "--batch-size", "4"]
    recipe = read_recipe("vision", parse_arguments("vision", arguments), launcher)
    assert (recipe.parallel.sharding, recipe.training.bf16) == ("hybrid", False)


def test_the_shipped_yaml_has_the_specifications_values():
    values = yaml.safe_load((REPO / "configs/accelerate_config.yaml").read_text())
    assert values["distributed_type"] == "FSDP"
    assert values["mixed_precision"] == "bf16"
    assert values["num_processes"] == 8
    assert values["fsdp_config"]["fsdp_sharding_strategy"] == "FULL_SHARD"
    assert values["fsdp_config"]["fsdp_auto_wrap_policy"] == "TRANSFORMER_BASED_WRAP"
    assert "use_cpu" not in values  # accelerate would start processes that never meet


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match=r"parallel\.shard_size is 0, expected 1 or more"):
        ParallelSettings(shard_size=0)
    with pytest.raises(ConfigError, match=r"parallel\.timeout_seconds is 0, expected at least 1"):
        ParallelSettings(timeout_seconds=0)
