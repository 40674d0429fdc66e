#!/usr/bin/env bash
# Used by run_*_stage.sh: launch_stage.sh SIZE PROCESSES STAGE [arguments].
# A launcher ends with 1 whatever its processes ended with; the run folder knows better.
set -uo pipefail
size=$1 gpus=$2 stage=$3
shift 3
output="checkpoints/${stage}_stage_$size"
# Told here in a line: a launcher would print its usage or a traceback of its own.
case "$size" in 256m | 500m) ;; *) echo "error: size '$size', expected 256m or 500m" >&2; exit 2 ;; esac
case "$gpus" in '' | 0 | *[!0-9]*) echo "error: GPUs '$gpus', expected a number from 1" >&2; exit 2 ;; esac
export DATA_DIR="${DATA_DIR:-./data}"
[ -d .venv/bin ] && PATH="$PWD/.venv/bin:$PATH"

# The last --output-dir wins, as in the command itself.
arguments=("$@")
for ((i = 0; i < $#; i++)); do
  case "${arguments[i]}" in
    --output-dir) output="${arguments[i + 1]:-$output}" ;;
    --output-dir=*) output="${arguments[i]#*=}" ;;
  esac
done
rm -f "$output/exit_status"

# With GPUs all cores of a process but two read samples, at most 12: two would leave an H100 waiting.
readers=$(($(env -u OMP_NUM_THREADS nproc 2>/dev/null || echo 0) / gpus - 2))
case " $* " in
  *" data.workers="*) ;;
  *)
    if [ "$readers" -gt 2 ] && command -v nvidia-smi >/dev/null; then
      set -- "$@" "data.workers=$((readers < 12 ? readers : 12))"
    fi
    ;;
esac

# Ctrl-C reaches the launcher as well: wait until the run is saved. A script's background processes
# ignore it unless told otherwise: before the launcher listens, it would start a run nobody watches.
trap : INT
(
  trap - INT
  exec accelerate launch --config_file configs/accelerate_config.yaml --num_processes "$gpus" \
    -m "src.training.train_$stage" --model-size "$size" --output-dir "$output" "$@"
) &
launcher=$!
trap 'kill -TERM "$launcher" 2>/dev/null' TERM USR1
wait "$launcher"
status=$?
while kill -0 "$launcher" 2>/dev/null; do # a signal interrupted the waiting, not the launcher
  wait "$launcher"
  status=$?
done
if [ -f "$output/exit_status" ]; then
  status=$(cat "$output/exit_status")
elif [ "$status" -ne 0 ]; then
  echo "error: the run did not end in order; what it says itself stands above the launcher's traceback" >&2
fi
exit "$status"
