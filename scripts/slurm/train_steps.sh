#!/usr/bin/env bash
# Used by train_*.sbatch: train_steps.sh MODULE [arguments]. One process a GPU, started by srun.
set -uo pipefail
if [ $# -lt 1 ]; then
  echo "usage: sbatch scripts/slurm/train_node.sbatch train_vision|train_video [arguments]" >&2
  exit 2
fi
module=$1
shift
[ -d .venv/bin ] && PATH="$PWD/.venv/bin:$PATH"
export DATA_DIR="${DATA_DIR:-./data}"
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_ADDR MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
srun --kill-on-bad-exit=1 python -m "smolvlm2.training.$module" \
  --stop-after "${STOP_AFTER:-3h45m}" "$@"
status=$?
[ "$status" -eq 75 ] && scontrol requeue "$SLURM_JOB_ID"
exit "$status"
