#!/usr/bin/env bash
# Scores a checkpoint:
#   ./scripts/evaluate_model.sh ./checkpoints/video_stage_256m "video-mme,mlvu,mvbench"
# The table goes to the terminal and beside the scores: CHECKPOINT/evaluation.json, .md.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: scripts/evaluate_model.sh CHECKPOINT BENCHMARKS [options of `smolvlm2 evaluate`]

  CHECKPOINT   a run, a checkpoint folder or a hub id
  BENCHMARKS   names with commas between: video-mme,mlvu,mvbench,docvqa,textvqa,chartqa
  DATA_DIR     environment: where `smolvlm2 download --benchmarks` put them (default: data)
  NPROC        environment: processes, one a GPU (default: 1)
TEXT
}

case "${1:-}" in -h | --help) usage; exit 0 ;; esac
[ $# -ge 2 ] || { usage >&2; exit 2; }
checkpoint="$1" benchmarks="$2"
shift 2

python=python3
here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
[ -x "$here/.venv/bin/python" ] && python="$here/.venv/bin/python"

output="evaluation.json"
[ -d "$checkpoint" ] && output="$checkpoint/evaluation.json"
start=("$python" -m)
[ "${NPROC:-1}" -gt 1 ] && start=("$python" -m torch.distributed.run --standalone --nproc-per-node "$NPROC" -m)
exec "${start[@]}" smolvlm2.cli.main evaluate "$checkpoint" --benchmarks "$benchmarks" \
  --data "${DATA_DIR:-data}" --output "$output" "$@"
