#!/usr/bin/env bash
# Used by run_*_stage.sh: launch_stage.sh PROCESSES OUTPUT MODULE [arguments].
# A launcher ends with 1 whatever its processes ended with; the run folder knows better.
set -uo pipefail
gpus=$1 output=$2 module=$3
shift 3
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

accelerate launch --config_file configs/accelerate_config.yaml --num_processes "$gpus" \
  -m "$module" --output-dir "$output" "$@" &
launcher=$!
trap 'kill -TERM "$launcher" 2>/dev/null' TERM USR1
wait "$launcher"
status=$?
while kill -0 "$launcher" 2>/dev/null; do # a signal interrupted the waiting, not the launcher
  wait "$launcher"
  status=$?
done
[ -f "$output/exit_status" ] && status=$(cat "$output/exit_status")
exit "$status"
