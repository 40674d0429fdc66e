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
