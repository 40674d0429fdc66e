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
# Below 32768, where the ports begin that connections are given by themselves.
export MASTER_ADDR MASTER_PORT=$((20000 + SLURM_JOB_ID % 12000))
# Since Slurm 22.05 srun does not take this over from sbatch, and a task would have one core.
cpus=${SLURM_CPUS_PER_TASK:-8}
# All cores but two read samples, unless the arguments say how many.
case " $* " in
  *" data.workers="*) ;;
  *) set -- "$@" "data.workers=$((cpus > 3 ? cpus - 2 : 1))" ;;
esac

# The first task that ends with another status than 0 makes srun kill the others, and srun ends
# with the highest status: 137 for those would hide the 75. So tasks end with 0 instead, and the
# first of them leaves a mark. Signals are for the command; bash waits for it.
mark="slurm-$SLURM_JOB_ID.again"
rm -f "$mark"
task='trap : TERM USR1
mark=$1; shift
"$@"
status=$?
[ "$status" -eq 75 ] || exit "$status"
[ "$SLURM_PROCID" -ne 0 ] || : >"$mark"'
srun --kill-on-bad-exit=1 --wait=0 --cpus-per-task="$cpus" bash -c "$task" task "$mark" \
  python -m "smolvlm2.training.$module" \
  --stop-after "${STOP_AFTER:-3h45m}" "$@"
status=$?
if [ -f "$mark" ]; then
  rm -f "$mark"
  status=75
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
