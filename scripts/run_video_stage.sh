#!/usr/bin/env bash
# Train the video stage on one machine, from a vision stage.
#   ./scripts/run_video_stage.sh 256m 8 ./checkpoints/vision_stage_256m [flags and key=value]
# Data root: DATA_DIR, default ./data. Exit status as of run_vision_stage.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ $# -lt 3 ]; then
  echo "usage: $0 SIZE GPUS VISION_CHECKPOINT [flags and key=value]" >&2
  exit 2
fi
size=$1 gpus=$2 checkpoint=$3
shift 3
exec scripts/launch_stage.sh "$size" "$gpus" video --vision-checkpoint "$checkpoint" "$@"
