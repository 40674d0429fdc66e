#!/usr/bin/env bash
# Train the vision stage on one machine.
#   ./scripts/run_vision_stage.sh 256m 8 [flags and key=value of train_vision]
# Data root: DATA_DIR, default ./data. Exit status: 0 done or stopped by SIGTERM, 75 stopped by
# --stop-after (start it again), 130 by Ctrl-C, anything else an error.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ $# -lt 2 ]; then
  echo "usage: $0 SIZE GPUS [flags and key=value], such as: $0 256m 8" >&2
  exit 2
fi
size=$1 gpus=$2
shift 2
exec scripts/launch_stage.sh "$size" "$gpus" vision "$@"
